// A guest gives up memory and takes it back: what that does to its process, to the file that it came from, and to its moves.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { Bed, residentKib, whyNoKvm } from "../support/bed.ts";
import { arrived, FreeGuest, found, isAsked } from "../support/free-guest.ts";
import { anatomyOf, contentOf, restoreOf, saved } from "../support/snapshots.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

const MIB = 1 << 20;
const PAGES_PER_MIB = 256;
const WALKER = ["--memory", "64M", "--working-set", "4M", "--free", "48M", "--fill", "random"];
/** Its pages of the file, its own of them included. */
const fileKib = (pid: number, path: string): number => {
  const maps = readFileSync(`/proc/${pid}/smaps`, "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return maps
    .filter((one) => one.split("\n", 1)[0].endsWith(path))
    .reduce((sum, one) => sum + Number(/^Rss:\s+(\d+)/m.exec(one)?.[1] ?? 0), 0);
};

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

const resize = (mib: number, ...options: string[]) => bed.tram("balloon", "a", `${mib}M`, "--json", ...options);
const resized = async (name: string, mib: number) => {
  const told = JSON.parse(await bed.expectDone("balloon", name, `${mib}M`, "--json", "--timeout", "30s"));
  expect(told).toMatchObject({ name, wantedGuestBytes: mib * MIB, guestBytes: mib * MIB });
};
const restored = async (name: string, ...options: string[]): Promise<FreeGuest> => {
  const guest = await FreeGuest.at(bed, name, bed.start(["restore", "vm.tram", "--name", name, ...options]));
  await guest.until(async () => ["running", "paused"].includes(await guest.status()), "is there");
  return guest;
};
const isHere = (guest: FreeGuest) =>
  guest.until(async () => (await restoreOf(bed, guest.name)).phase === "done", "all of it is here");
/** It uses so many of the pages that it had given up. */
const uses = (guest: FreeGuest, pages: number) =>
  found(async () => ((await guest.check()).reused > pages ? true : null), `${guest.name} uses its pages again`);

kvm(title("tram balloon"), () => {
  test("takes memory from a guest, which its process gives back, and gives it to it again", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    const { pid } = guest.running;
    const before = residentKib(pid).anon;
    await resized("a", 24);
    expect(before - residentKib(pid).anon).toBeGreaterThan(32 << 10); // the process itself has grown a little
    expect(await bed.expectDone("balloon", "a")).toBe("a: 24 MiB of 64 MiB; 40 MiB in its balloon\n");
    const { balloon } = JSON.parse(await bed.expectDone("status", "a", "--json"));
    expect(balloon).toMatchObject({ isDriven: true, wantedBytes: 40 * MIB, actualBytes: 40 * MIB });
    expect(await bed.expectDone("status", "a")).toContain("balloon: 40 MiB given up");
    await guest.goesOn();
    await resized("a", 48);
    await resized("a", 64);
    expect(await bed.expectDone("balloon", "a")).toBe("a: 64 MiB, all of its memory\n");
    await guest.goesOn();
    await resized("a", 32);
    await guest.goesOn();
  });

  test("and a guest that uses what it has free: each page that it takes back holds what it wrote there last", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "reuse", "--dirty-rate", "4000");
    for (const mib of [60, 44, 52, 40, 64]) {
      await bed.expectDone("balloon", "a", `${mib}M`, "--timeout", "0s");
      await guest.goesOn();
    }
    await guest.until(async () => (await guest.balloon()).actualBytes === 0, "has all of its memory");
    await uses(guest, 1000);
  });

  test("asks for more than there is: exit 2; for more than it can give: exit 6, and it goes on with it", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    expect(await resize(65)).toMatchObject({ code: 2, stderr: expect.stringContaining("at most 64 MiB") });
    expect(await guest.balloon()).toMatchObject({ wantedBytes: 0, actualBytes: 0 });
    await resized("a", 16);
    const { code, stdout, stderr } = await resize(8, "--timeout", "500ms");
    expect({ code, stderr }).toEqual({ code: 6, stderr: expect.stringContaining("has not followed in") });
    expect(JSON.parse(stdout).guestBytes).toBe(16 * MIB);
    expect(await guest.balloon()).toMatchObject({ wantedBytes: 56 * MIB, actualBytes: 48 * MIB });
    await guest.goesOn();
    await resized("a", 64);
    for (const size of ["many", "-1", "0"]) expect((await bed.tram("balloon", "a", size)).code).toBe(2);
  });

  test("and a guest that stands still: exit 6; it follows when it goes on", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    await guest.ask("stop");
    expect((await resize(32, "--timeout", "200ms")).code).toBe(6);
    expect((await resize(32, "--timeout", "0s")).code).toBe(0); // asked, and not waited for
    await guest.ask("cont");
    await guest.until(async () => (await guest.balloon()).actualBytes === 32 * MIB, "it follows");
  });

  test("and a guest without a balloon, or without KVM: exit 1, and what would help", async () => {
    for (const options of [[], ["--accel", "none"]]) {
      const running = await bed.walker("a", "--memory", "16M", ...options);
      for (const size of [[], ["8M"]])
        expect(await bed.tram("balloon", "a", ...size)).toMatchObject({
          code: 1,
          stderr: expect.stringContaining("--balloon"),
        });
      await bed.expectDone("quit", "a");
      await running.code;
    }
  });

  test("and a guest that has no driver for it: exit 1, and status says so", async () => {
    await bed.walker("a", "--memory", "16M", "--balloon"); // nothing of it is free, and the walker looks for none
    expect((await resize(8, "--timeout", "200ms")).code).toBe(1);
    expect(await bed.expectDone("status", "a")).toContain("the guest has no driver for it");
  });
});

kvm(title("a guest with a part of its memory in the balloon"), () => {
  test.each([
    ["one connection", []],
    ["two channels", ["--channels", "2"]],
    ["hashes compared", ["--verify"]],
  ])("moves without that part, and keeps its size: %s", async (_, options) => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "silent");
    await resized("a", 24);
    const { report, to } = await arrived(bed, guest, "b", { options });
    expect(report.balloonedPages).toBe(40 * PAGES_PER_MIB);
    expect(report.bytes).toBeLessThan(25 * MIB);
    expect(await to.balloon()).toMatchObject({ wantedBytes: 40 * MIB, actualBytes: 40 * MIB });
    await to.goesOn();
    const { to: back } = await arrived(bed, to, "a", { options });
    await resized("a", 64);
    await back.goesOn();
    await resized("a", 32);
    await back.goesOn();
  });

  test("gives up more, and takes some back, while it moves", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "reuse", "--dirty-rate", "4000");
    await bed.expectDone("balloon", "a", "54M", "--timeout", "0s");
    const { to } = await arrived(bed, guest, "b", {
      options: ["--max-bandwidth", "30MiB/s"],
      async during(from) {
        await isAsked(from);
        for (const mib of [44, 60, 40]) {
          await from.ask("balloon", { value: mib * MIB }).catch(() => {}); // it may have left
          await Bun.sleep(150);
        }
      },
    });
    await to.goesOn();
    await bed.expectDone("balloon", "b", "64M");
    await uses(to, 1000);
  });

  test("inflates what was sent before it was given up: then it is nobody's, and no page of another's", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "silent");
    const { report, to } = await arrived(bed, guest, "b", {
      options: ["--hold"],
      async during(from) {
        await from.until(async () => (await from.move()).phase === "held", "all is sent");
        await from.ask("balloon", { value: 32 * MIB });
        await from.until(async () => (await from.balloon()).actualBytes === 32 * MIB, "it has given up half");
        await from.ask("tram-set", { hold: false });
      },
    });
    expect(report.balloonedPages).toBe(0);
    expect(await to.balloon()).toMatchObject({ wantedBytes: 32 * MIB, actualBytes: 32 * MIB });
    await bed.expectDone("balloon", "b", "64M");
    await to.goesOn();
  });

  test("is saved without it, and has as much when it is restored", async () => {
    await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "silent");
    await resized("a", 24);
    const report = await saved(bed, "a", "vm.tram");
    expect(report.balloonedPages).toBe(40 * PAGES_PER_MIB);
    expect(report.allocatedBytes).toBeLessThan(26 * MIB);
    await bed.expectDone("verify", "vm.tram");
    for (const [name, options] of [
      ["b", []],
      ["c", ["--eager"]],
      ["d", ["--verify", "first"]],
    ] as const) {
      const guest = await restored(name, ...options);
      expect(await guest.balloon()).toMatchObject({ wantedBytes: 40 * MIB, actualBytes: 40 * MIB });
      await guest.goesOn();
      await bed.expectDone("balloon", name, "64M");
      await guest.goesOn();
    }
  });
});

kvm(title("a guest out of a snapshot"), () => {
  const busy = ["--habit", "reuse", "--dirty-rate", "4000"];

  test.each([
    ["lazily", [], true],
    ["lazily, and not read ahead", ["--no-prefetch"], false],
    ["with --verify first", ["--verify", "first"], true],
    ["with --verify first, and not all of it here", ["--verify", "first", "--no-prefetch"], false],
    ["eagerly", ["--eager"], true],
  ] as const)(
    "restored %s gives up memory, and does not see the file's there when it takes it back",
    async (_, mode, all) => {
      await FreeGuest.walker(bed, "a", ...WALKER, ...busy);
      await saved(bed, "a", "vm.tram", "--no-skip-free"); // so that the file has all of them
      const before = contentOf(bed.path("vm.tram"));
      const guest = await restored("b", ...mode);
      const other = await restored("c", ...mode);
      if (all) await isHere(guest);
      await bed.expectDone("balloon", "b", "44M", "--timeout", "20s");
      await guest.goesOn();
      await other.goesOn();
      await bed.expectDone("balloon", "b", "64M");
      await uses(guest, 1000);
      await isTaken(guest);
      for (const one of [guest, other]) {
        await one.goesOn();
        expect((await restoreOf(bed, one.name)).error).toBeNull();
      }
      expect(contentOf(bed.path("vm.tram"))).toBe(before);
      // And once more through a move, which brings the rest of the file's pages in.
      const { to } = await arrived(bed, guest, "d", { options: ["--max-bandwidth", "80MiB/s"] });
      await to.goesOn();
      await other.goesOn();
    },
  );

  /** Both directions, and again. */
  async function isTaken(guest: FreeGuest): Promise<void> {
    await guest.ask("balloon", { value: 48 * MIB });
    await guest.until(async () => (await guest.balloon()).actualBytes === 16 * MIB, "it gives up some again");
    await guest.check();
    await guest.ask("balloon", { value: 64 * MIB });
    await guest.until(async () => (await guest.balloon()).actualBytes === 0, "it has all again");
  }

  test("lazily gives back the file's pages that it has given up, and its own of them", async () => {
    await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "keep");
    await saved(bed, "a", "vm.tram", "--no-skip-free");
    const guest = await restored("b");
    await isHere(guest);
    const { pid } = guest.running;
    const path = bed.path("vm.tram");
    const before = fileKib(pid, path);
    expect(before).toBeGreaterThan(56 << 10);
    await bed.expectDone("balloon", "b", "24M");
    expect(before - fileKib(pid, path)).toBeGreaterThan(36 << 10);
    await guest.goesOn();
    await bed.expectDone("verify", "vm.tram");
    // What it has given up, the last of its memory, reads as nothing: not as what the file has there.
    expect(anatomyOf(path).present.filter(isBallooned)).toHaveLength(40 * PAGES_PER_MIB);
    await saved(bed, "b", "again.tram", "--no-skip-free", "--after", "resume");
    expect(anatomyOf(bed.path("again.tram")).present.filter(isBallooned)).toEqual([]);
  });
  const isBallooned = (page: number) => page >= 24 * PAGES_PER_MIB;

  test("lazily gives up memory while it is read ahead, and while somebody else wants to write to its file", async () => {
    await FreeGuest.walker(bed, "a", ...WALKER, ...busy);
    await saved(bed, "a", "vm.tram", "--no-skip-free");
    const guest = await restored("b");
    await guest.ask("balloon", { value: 44 * MIB }); // at once
    await isHere(guest);
    const writer = bed.exec(["sh", "-c", "exec 7<>vm.tram"]); // waits until the guest has taken a copy
    await guest.ask("balloon", { value: 40 * MIB });
    await guest.goesOn();
    expect((await writer).code).toBe(0);
    await guest.until(async () => (await restoreOf(bed, "b")).mapped === false, "its memory is its own");
    await guest.ask("balloon", { value: 64 * MIB });
    await guest.until(async () => (await guest.balloon()).actualBytes === 0, "it has all again");
    await uses(guest, 1000);
  });
});
