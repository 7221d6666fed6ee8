// tram save against real monitors: what becomes of the guest, what is refused, and that a failure leaves it as it was.
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { Bed } from "../support/bed.ts";
import { QemuPeer, type QemuVersion, whyNoQemu, withGuest } from "../support/qemu.ts";

const VERSIONS: QemuVersion[] = ["7.2", "10.0"];
const whyNot = whyNoQemu("7.2") ?? whyNoQemu("10.0");

/** All that a migration's settings are: what tram changes for its own, it puts back. */
async function settings(guest: QemuPeer): Promise<string> {
  const [capabilities, parameters] = [
    await guest.execute("query-migrate-capabilities"),
    await guest.execute("query-migrate-parameters"),
  ];
  return JSON.stringify({ capabilities, parameters });
}

const nothingKept = (bed: Bed): string[] => readdirSync(bed.folder).filter((name) => name.includes("k.tram"));

describe.skipIf(whyNot !== null)(`tram save${whyNot ? ` (skipped: ${whyNot})` : ""}`, () => {
  test.each(VERSIONS)(
    "leaves a QEMU %s as asked: gone, paused, or running with its settings as they were",
    (version) =>
      withGuest({ version }, async (bed, guest, vm) => {
        await guest.setParameters({ "max-bandwidth": 12345678 });
        const before = await settings(guest);
        await bed.expectDone("save", vm, bed.path("a.tram"), "--after", "resume");
        expect(await settings(guest)).toBe(before);
        expect(await guest.status()).toBe("running");
        await guest.goesOn(3);

        await bed.expectDone("save", vm, bed.path("b.tram"), "--after", "pause", "--channels", "2");
        expect(await guest.status()).toBe("postmigrate");
        expect(await settings(guest)).toBe(before);
        const again = await bed.tram("save", vm, bed.path("c.tram"));
        expect(again.code).toBe(1);
        expect(again.stderr).toContain("tram resume");
        await bed.expectDone("resume", vm);
        await guest.goesOn(3);

        await bed.expectDone("save", vm, bed.path("c.tram"));
        await bed.until(async () => guest.running.hasEnded, "QEMU ends");
      }),
    60_000,
  );

  test("with --after resume refuses a writable disk, and takes it when that is meant", async () => {
    const bed = new Bed();
    await Bun.write(bed.path("disk.img"), new Uint8Array(1 << 20));
    const drive = [
      "-drive",
      `file=${bed.path("disk.img")},if=none,id=d0,format=raw`,
      "-device",
      "virtio-blk-pci,drive=d0",
    ];
    try {
      await withGuest({ extraArgs: drive }, async (own, guest, vm) => {
        const { code, stderr } = await own.tram("save", vm, own.path("k.tram"), "--after", "resume");
        expect(code).toBe(7);
        expect(stderr).toContain("disk.img");
        expect(stderr).toContain("--disks none");
        expect(await guest.migration()).toEqual({} as never); // nothing was begun
        await own.expectDone("save", vm, own.path("k.tram"), "--after", "resume", "--disks", "none");
        await guest.goesOn(3);
      });
    } finally {
      await bed.dispose();
    }
  }, 60_000);

  test(
    "cut off at any moment either keeps the guest's file and says so, or leaves what was there",
    () =>
      withGuest({}, async (bed, guest, vm) => {
        const old = "an older file of that name";
        const kept = { done: 0, cutOff: 0 };
        const startedMs = performance.now();
        await bed.expectDone("save", vm, bed.path("k.tram"), "--after", "resume");
        const wholeMs = performance.now() - startedMs;
        for (let i = 1; i <= 24; i++) {
          const ms = Math.ceil((wholeMs * i) / 16);
          await Bun.write(bed.path("k.tram"), old);
          const { code, stderr } = await bed.tram(
            "save",
            vm,
            bed.path("k.tram"),
            "--timeout",
            `${ms}ms`,
            "--after",
            "resume",
          );
          const isOld = (await Bun.file(bed.path("k.tram")).slice(0, 64).text()) === old;
          expect({ code, isOld, stderr }).toEqual({ code: isOld ? 6 : 0, isOld, stderr });
          if (isOld) kept.cutOff++;
          else kept.done++;
          await bed.until(async () => (await guest.status()) === "running", "the guest goes on");
        }
        expect(kept.done).toBeGreaterThan(0);
        expect(kept.cutOff).toBeGreaterThan(0);
        await guest.goesOn(3);
      }),
    120_000,
  );

  test.each(["SIGINT", "SIGKILL"] as const)(
    "ended by %s in the middle leaves the guest running, and no file",
    (signal) =>
      withGuest({}, async (bed, guest, vm) => {
        const saving = bed.start(["save", vm, bed.path("k.tram"), "--max-bandwidth", "4MiB/s"]);
        await bed.until(async () => (await guest.migration()).status === "active", "the migration runs", saving);
        saving.kill(signal);
        const code = await saving.code;
        await guest.migrationEnds();
        await guest.goesOn(3);
        expect(await guest.status()).toBe("running");
        expect(existsSync(bed.path("k.tram"))).toBe(false);
        if (signal === "SIGKILL") return; // what is left of it has another name, and check tells of it
        expect(code).toBe(130);
        expect(nothingKept(bed)).toEqual([]);
        expect(
          (await guest.execute<{ state: boolean; capability: string }[]>("query-migrate-capabilities")).find(
            ({ capability }) => capability === "return-path",
          )?.state,
        ).toBe(false);
      }),
    60_000,
  );

  test(
    "that takes longer than its limit ends, and the guest goes on",
    () =>
      withGuest({}, async (bed, guest, vm) => {
        const { code } = await bed.tram("save", vm, bed.path("k.tram"), "--max-bandwidth", "4MiB/s", "--timeout", "1s");
        expect(code).toBe(6);
        await guest.goesOn(3);
        expect(nothingKept(bed)).toEqual([]);
      }),
    60_000,
  );

  test.skipIf(process.getuid?.() !== 0)(
    "to a full disk (which only root can make) fails, QEMU hears so, and the guest goes on",
    () =>
      withGuest({}, async (bed, guest, vm) => {
        mkdirSync(bed.path("small"));
        const mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", bed.path("small")];
        expect((await bed.exec(mount)).code).toBe(0);
        try {
          const { code, stderr } = await bed.tram("save", vm, bed.path("small/k.tram"));
          expect(code).toBe(1);
          expect(stderr).toContain("ENOSPC");
          expect((await guest.migration()).status).toBe("failed");
          expect(readdirSync(bed.path("small"))).toEqual([]);
          await guest.goesOn(3);
        } finally {
          await bed.exec(["umount", bed.path("small")]);
        }
      }),
    60_000,
  );

  test(
    "is refused while the monitor is somebody else's, while a migration runs, and before a guest has arrived",
    () =>
      withGuest({}, async (bed, guest, vm) => {
        await guest.setParameters({ "max-bandwidth": 4 << 20 });
        await guest.startMigrate(`exec:cat > ${bed.path("slow")}`);
        const busy = await bed.tram("save", vm, bed.path("k.tram"));
        expect(busy.code).toBe(1);
        expect(busy.stderr).toContain("being migrated already");
        await guest.execute("migrate_cancel");
        const waiting = await QemuPeer.start(bed, { version: "7.2", machine: "pc", incoming: "defer" });
        const early = await bed.tram("save", `unix:${waiting.qmpPath}`, bed.path("k.tram"));
        expect(early.code).toBe(1);
        expect(early.stderr).toContain("has not arrived");
        await waiting.dispose();
        expect(nothingKept(bed)).toEqual([]);
      }),
    60_000,
  );

  test.each([
    ["cont", "resume"],
    ["quit", "quit"],
  ])(
    "whose monitor refuses '%s' at the end says that the file is complete, and where the guest stands",
    (command, after) =>
      withGuest({}, async (bed, guest) => {
        // Between the two: everything goes through but the one command. (No descriptor does, so it is done with a channel.)
        const proxy = createServer((client) => {
          const monitor = connect(guest.qmpPath);
          monitor.on("data", (bytes) => void client.write(bytes));
          monitor.on("close", () => client.destroy());
          client.on("close", () => monitor.destroy());
          client.on("data", (bytes) => {
            if (!bytes.includes(`"execute":"${command}"`)) monitor.write(bytes);
            else client.write('{"error":{"class":"GenericError","desc":"not today"}}\r\n');
          });
        });
        await new Promise<void>((listens) => proxy.listen(bed.path("proxy.qmp"), listens));
        try {
          const vm = `unix:${bed.path("proxy.qmp")}`;
          const options = ["--after", after, "--channels", "1", "--json"];
          const { code, stdout, stderr } = await bed.tram("save", vm, bed.path("k.tram"), ...options);
          expect(code).toBe(4);
          expect(stderr).toContain("complete and on disk");
          const report = JSON.parse(stdout.trim().split("\n").at(-1) as string);
          expect(report).toMatchObject({ outcome: "failed", owner: "file", error: { code: "E_HANDOVER_UNKNOWN" } });
          expect(await guest.status()).toBe("postmigrate");
          await bed.expectDone("check", bed.path("k.tram"));
        } finally {
          proxy.close();
        }
      }),
    60_000,
  );
});
