// QEMU's own guests, by their monitor: the commands that steer tram's guests steer these.
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { Bed, freePort } from "../support/bed.ts";
import { Qmp } from "../support/qmp.ts";

const QEMU = Bun.which("qemu-system-x86_64");
const reason = QEMU ? null : "qemu-system-x86_64 is not installed";

describe.skipIf(reason !== null)(`a QEMU guest${reason ? ` (skipped: ${reason})` : ""}`, () => {
  async function withQemu(args: string[], action: (bed: Bed, vm: string) => Promise<void>): Promise<void> {
    const bed = new Bed();
    const socket = bed.path("q.qmp");
    const common = ["-M", "none", "-m", "16", "-accel", "tcg", "-nographic", "-nodefaults", "-name", "q"];
    const child = Bun.spawn([QEMU as string, ...common, "-qmp", `unix:${socket},server=on,wait=off`, ...args], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    try {
      await bed.until(async () => existsSync(socket), "QEMU's socket");
      await action(bed, `unix:${socket}`);
    } finally {
      child.kill("SIGKILL");
      await child.exited;
      await bed.dispose();
    }
  }

  test("shows its status, is resumed, paused, and ends", () =>
    withQemu(["-S"], async (bed, vm) => {
      expect(await bed.status(vm)).toMatchObject({ name: "q", status: "prelaunch" });
      await bed.expectDone("resume", vm);
      expect(await bed.status(vm)).toMatchObject({ status: "running" });
      await bed.expectDone("pause", vm);
      expect(await bed.status(vm)).toMatchObject({ status: "paused" });
      await bed.expectDone("quit", vm);
    }));

  test("a monitor that another client holds is named as such", () =>
    withQemu([], async (bed, vm) => {
      const holder = await Qmp.connect(vm.slice(5));
      const { code, stderr } = await bed.tram("status", vm);
      expect(code).toBe(1);
      expect(stderr).toContain("serves one client at a time");
      holder.close();
    }));

  test("as a target for tram's guest is refused before anything is sent, and as a source for tram's target too", () =>
    withQemu(["-incoming", "defer"], async (bed, vm) => {
      await bed.walker("a", "--memory", "16M", "--working-set", "4M");
      const port = freePort();
      const qemu = await Qmp.connect(vm.slice(5));
      await qemu.execute("migrate-incoming", { uri: `tcp:127.0.0.1:${port}` });
      const { code, stderr } = await bed.tram("migrate", "a", `tcp:127.0.0.1:${port}`);
      qemu.close();
      // QEMU refuses a machine called 'tram' by itself, and closes: either way the guest never left.
      expect([1, 7]).toContain(code);
      expect(stderr).toContain("owner     source");
      await bed.goesOn("a");
    }));

  test("that is sent to a waiting tram is refused by name", () =>
    withQemu([], async (bed, vm) => {
      const target = await bed.target("b", "unix:in.sock");
      const qemu = await Qmp.connect(vm.slice(5));
      await qemu.execute("migrate", { uri: `unix:${bed.path("in.sock")}` });
      expect(await target.code).toBe(3);
      expect(target.stderr).toContain("machine 'none'");
      qemu.close();
    }));
});
