// The story of a save with a scripted guest and file: when the guest goes on, what is undone at each failure, who owns it.
import { describe, expect, test } from "bun:test";
import type { PagesSent } from "../../src/control/channel.ts";
import type { DeviceState, Guest } from "../../src/control/guest.ts";
import { type Journal, MoveLog } from "../../src/control/journal.ts";
import { LiveLimits } from "../../src/control/limits.ts";
import { type After, type SaveContext, save } from "../../src/control/save.ts";
import { TramError } from "../../src/errors.ts";
import type { Bitmap } from "../../src/memory/bitmap.ts";
import { Ram } from "../../src/native/ram.ts";
import type { MachineDescription } from "../../src/stream/devices/machine.ts";
import { plainPages } from "../support/plain-pages.ts";

const PAGES = 64;
const description: MachineDescription = {
  name: "g",
  memoryBytes: PAGES * 4096,
  cpus: 1,
  tscKhz: 1,
  walker: false,
  balloon: false,
  pc: false,
  vsock: false,
  console: false,
  mac: null,
  disks: [],
  cpuid: [],
};

const STEPS = ["begin", "startCrew", "write", "last write", "finish", "awaitCommit", "leave"] as const;
type Step = (typeof STEPS)[number];

/** Everything that happens, in its order. Page 7 is dirtied after its first copy, page 9 while the guest stops. */
class Scene implements Guest {
  readonly pagemapFd = -1;
  readonly description = description;
  readonly ram = Ram.create(description.memoryBytes);
  readonly calls: string[] = [];
  readonly #failAt: Step | null;
  #syncs = 0;
  #paused = false;

  constructor(failAt: Step | null = null) {
    this.#failAt = failAt;
  }

  step(name: Step): void {
    this.calls.push(name);
    if (name === this.#failAt) throw new TramError("E_FILE", `failed at ${name}`);
  }

  startTracking(): void {
    this.calls.push("startTracking");
  }
  syncDirty(dirty: Bitmap): void {
    this.#syncs++;
    if (this.#syncs === 2) dirty.add(7);
    if (this.#paused) dirty.add(9);
  }
  readonly freePages = null;
  readonly pages = plainPages;
  stopTracking(): void {
    this.calls.push("stopTracking");
  }
  throttle(percent: number): void {
    if (percent > 0) this.calls.push(`throttle ${percent}`);
  }
  settle(): boolean {
    return false;
  }
  pause(): string {
    this.#paused = true;
    this.calls.push("pause");
    return "running";
  }
  unpause(was: string): void {
    this.calls.push(`unpause ${was}`);
  }
  letGo(): void {}

  saveDevices(): DeviceState[] {
    return [];
  }
  loadDevices(): void {}

  write(index: Uint32Array, count: number): PagesSent {
    this.calls.push(`pages ${count > 2 ? count : [...index.subarray(0, count)]}`);
    this.step(this.#paused ? "last write" : "write");
    return { pages: count, zeroPages: 0, bytes: count * 4096 };
  }

  run(after: After): Journal {
    let now = 0;
    const log = new MoveLog(
      "outgoing",
      "file",
      () => {},
      () => now++,
    );
    const context: SaveContext = {
      limits: LiveLimits.of({}),
      checkCancelled: () => {},
      sleep: () => {},
      startCrew: () => {
        this.step("startCrew");
        return null;
      },
      pages: () => this,
      awaitCommit: () => this.step("awaitCommit"),
      leave: (how) => {
        this.calls.push(how);
        this.step("leave");
      },
    };
    const file = {
      begin: () => this.step("begin"),
      finish: () => this.step("finish"),
      presentPages: () => PAGES,
    };
    save(this, file, { after, skipFree: true, recordsDisks: true }, context, log);
    return log.journal;
  }
}

const order = (calls: readonly string[], ...wanted: string[]) =>
  expect(calls.filter((call) => wanted.includes(call))).toEqual(wanted);

describe("the story of a save", () => {
  test("writes what was dirtied again, the last of it with the guest stopped", () => {
    const scene = new Scene();
    expect(scene.run("quit")).toMatchObject({ phase: "completed", owner: "file", error: null, resentPages: 2 });
    order(scene.calls, "pages 64", "pause", "pages 7,9", "finish");
  });

  test.each(["quit", "pause"] as const)("--after %s: the guest stands still until the file has its name", (after) => {
    const scene = new Scene();
    scene.run(after);
    order(scene.calls, "pause", "finish", "awaitCommit", "stopTracking", after);
    expect(scene.calls).not.toContain("unpause running");
  });

  test("--after resume: the guest goes on before anything waits for the disk", () => {
    const scene = new Scene();
    expect(scene.run("resume")).toMatchObject({ phase: "completed", owner: "source" });
    order(scene.calls, "pause", "pages 7,9", "unpause running", "stopTracking", "finish", "awaitCommit");
    expect(scene.calls).not.toContain("leave");
  });

  test.each(STEPS.slice(0, -1))("that fails at %s leaves the guest as it was", (step) => {
    for (const after of ["quit", "pause", "resume"] as const) {
      const scene = new Scene(step);
      const journal = scene.run(after);
      expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { message: `failed at ${step}` } });
      const paused = scene.calls.includes("pause");
      expect(scene.calls.filter((call) => call === "unpause running")).toHaveLength(paused ? 1 : 0);
      if (scene.calls.includes("startTracking")) expect(scene.calls.at(-1)).toBe("stopTracking");
    }
  });
});
