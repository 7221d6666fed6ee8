// Files between tram and QEMU 10.0, which reads and writes them itself: at offsets, through descriptors, with direct I/O.
import { describe, expect, test } from "bun:test";
import { existsSync, openSync, statSync } from "node:fs";
import { Bed, TRAM } from "../support/bed.ts";
import { type PeerOptions, QemuPeer, whyNoQemu } from "../support/qemu.ts";

const whyNot = whyNoQemu("10.0");
const GUEST: PeerOptions = { version: "10.0", machine: "pc" };

async function withGuest(options: PeerOptions, action: (bed: Bed, guest: QemuPeer) => Promise<void>): Promise<void> {
  const bed = new Bed();
  const guest = await QemuPeer.start(bed, options);
  try {
    await guest.goesOn(3);
    await action(bed, guest);
  } finally {
    await guest.dispose();
    await bed.dispose();
  }
}

/** A QEMU that loads `uri` by itself goes on with the guest. */
async function loads(
  bed: Bed,
  uri: string,
  capabilities: Record<string, boolean>,
  parameters: Record<string, unknown>,
  prepare?: (peer: QemuPeer) => Promise<void>,
): Promise<void> {
  const next = await QemuPeer.start(bed, { ...GUEST, incoming: "defer" });
  try {
    await prepare?.(next);
    await next.setCapabilities({ "mapped-ram": true, ...capabilities });
    if (Object.keys(parameters).length) await next.setParameters(parameters);
    await next.listen(uri);
    expect((await next.migrationEnds()).status).toBe("completed");
    await next.goesOn(3);
  } finally {
    await next.dispose();
  }
}

describe.skipIf(whyNot !== null)(`QEMU 10.0 and files${whyNot ? ` (skipped: ${whyNot})` : ""}`, () => {
  test(
    "loads what save wrote at an offset, and what stood before it is untouched",
    () =>
      withGuest(GUEST, async (bed, guest) => {
        const path = bed.path("image");
        const before = "what was there before".padEnd(4660, "."); // 0x1234: not even aligned
        await Bun.write(path, before);
        await bed.expectDone("save", `unix:${guest.qmpPath}`, `file:${path},offset=0x1234`, "--after", "pause");
        expect(await Bun.file(path).slice(0, 0x1234).text()).toBe(before);
        await loads(bed, `file:${path},offset=0x1234`, {}, {});
        await bed.expectDone("check", `file:${path},offset=0x1234`);
      }),
    60_000,
  );

  test(
    "loads it through a set of descriptors, with channels and direct I/O",
    () =>
      withGuest(GUEST, async (bed, guest) => {
        const path = bed.path("k.tram");
        await bed.expectDone("save", `unix:${guest.qmpPath}`, path, "--after", "pause");
        const O_DIRECT = 0o40000;
        const files = [openSync(path, "r"), openSync(path, O_DIRECT)];
        await loads(
          bed,
          "file:/dev/fdset/7",
          { multifd: true },
          { "multifd-channels": 2, "direct-io": true },
          async (peer) => {
            for (const fd of files) await peer.addFd(7, fd);
          },
        );
      }),
    60_000,
  );

  test.each<[string, Record<string, boolean>, Record<string, unknown>, string]>([
    ["alone", {}, {}, ""],
    ["with channels", { multifd: true }, { "multifd-channels": 3 }, ""],
    ["with channels and direct I/O", { multifd: true }, { "multifd-channels": 2, "direct-io": true }, ""],
    ["at an offset", {}, {}, ",offset=0x1000"],
  ])(
    "wrote a file %s: send, inspect, check and extract take it",
    (_, capabilities, parameters, offset) =>
      withGuest(GUEST, async (bed, guest) => {
        const path = bed.path("q.mapped");
        const spec = `file:${path}${offset}`;
        await guest.setCapabilities({ "mapped-ram": true, ...capabilities });
        if (Object.keys(parameters).length) await guest.setParameters(parameters);
        await guest.migrate(spec);
        const ram = await guest.readRam(); // it is stopped: this is what the file must have

        const seen = JSON.parse(await bed.expectDone("inspect", spec, "--json"));
        expect(seen).toMatchObject({
          kind: "fixed",
          machine: "pc-i440fx-10.0",
          problem: null,
          bordersBy: "fields",
          runState: "running",
        });
        expect(seen.blocks.map((block: { name: string }) => block.name)).toContain("pc.ram");
        await bed.expectDone("check", spec);
        await bed.expectDone("extract", spec, bed.path("ram.bin"), "--ram");
        const extracted = await Bun.file(bed.path("ram.bin")).bytes();
        expect(extracted.length).toBe(ram.length);
        // What QEMU's monitor shows has ROM and devices in the hole below 1 MiB; the RAM block has the RAM under them.
        expect(Buffer.compare(extracted.subarray(1 << 20), ram.subarray(1 << 20))).toBe(0);

        const next = await QemuPeer.start(bed, { ...GUEST, incoming: `unix:${bed.path("in.sock")}` });
        await bed.expectDone("send", spec, `unix:${bed.path("in.sock")}`);
        await next.goesOn(3);
        await next.dispose();
      }),
    60_000,
  );

  test.each<[string, string, Record<string, boolean>, Record<string, unknown>]>([
    ["", "", {}, {}],
    [" at an offset", ",offset=0x1234000", {}, {}],
    [" with channels and direct I/O", "", { multifd: true }, { "multifd-channels": 2, "direct-io": true }],
  ])(
    "wrote a file%s: it is sealed, verified, and loaded by QEMU as before",
    (_, offset, capabilities, parameters) =>
      withGuest(GUEST, async (bed, guest) => {
        const path = bed.path("q.mapped");
        const spec = `file:${path}${offset}`;
        await guest.setCapabilities({ "mapped-ram": true, ...capabilities });
        if (Object.keys(parameters).length) await guest.setParameters(parameters);
        await guest.migrate(spec);
        const before = statSync(path).size;
        expect(await bed.expectDone("verify", spec)).toContain("unsealed");
        await bed.expectDone("seal", spec);
        expect(statSync(path).size).toBeGreaterThan(before);
        const { sealed, good, checkedBytes } = JSON.parse(await bed.expectDone("verify", spec, "--json"));
        expect({ sealed, good }).toEqual({ sealed: true, good: true });
        expect(checkedBytes).toBe(statSync(path).size - Number(/=(.*)/.exec(offset)?.[1] ?? 0));
        await loads(bed, spec, capabilities, parameters);
        expect(JSON.parse(await bed.expectDone("verify", spec, "--json")).good).toBe(true);
        await bed.expectDone("check", spec);
      }),
    60_000,
  );

  test(
    "loads what convert made of a plain stream, and the plain stream that convert makes of its file",
    () =>
      withGuest(GUEST, async (bed, guest) => {
        await guest.migrate(`exec:cat > ${bed.path("plain")}`);
        await bed.expectDone("convert", bed.path("plain"), bed.path("k.tram"));
        await loads(bed, `file:${bed.path("k.tram")}`, {}, {});
        await bed.expectDone("convert", bed.path("k.tram"), bed.path("again"));
        const next = await QemuPeer.start(bed, { ...GUEST, incoming: `exec:cat ${bed.path("again")}` });
        await next.goesOn(3);
        await next.dispose();
      }),
    60_000,
  );

  test(
    "is told a truth by check --against: another machine, another size, the right one",
    () =>
      withGuest(GUEST, async (bed, guest) => {
        const path = bed.path("k.tram");
        await bed.expectDone("save", `unix:${guest.qmpPath}`, path, "--after", "pause");
        for (const [options, reason] of [
          [{ machine: "q35" }, "another machine type"],
          [{ memoryMib: 128 }, "another size"],
        ] as const) {
          const other = await QemuPeer.start(bed, { ...GUEST, ...options, incoming: "defer" });
          const { code, stderr } = await bed.tram("check", path, "--against", `unix:${other.qmpPath}`);
          expect(code).toBe(7);
          expect(stderr).toContain(reason);
          await other.dispose();
        }
      }),
    60_000,
  );

  test.skipIf(Bun.which("gdb") === null)(
    "has a core that gdb opens, with the registers that its monitor shows (needs gdb)",
    async () => {
      await withGuest(GUEST, async (bed, guest) => {
        await guest.execute("stop");
        const shown = await guest.hmp("info registers");
        const rip = /RIP=([0-9a-f]+)/.exec(shown)?.[1] as string;
        const path = bed.path("k.tram");
        await bed.expectDone("save", `unix:${guest.qmpPath}`, path, "--after", "pause");
        await bed.expectDone("extract", path, bed.path("core"), "--elf");
        const { stdout } = await bed.exec([
          "gdb",
          "-batch",
          "-nx",
          "-ex",
          `core-file ${bed.path("core")}`,
          "-ex",
          "info registers rip",
          "-ex",
          "x/4xb 0xfe000",
        ]);
        expect(stdout.toLowerCase()).toContain(`0x${rip.replace(/^0+/, "")}`);
        expect(stdout).not.toContain("Cannot access memory");
      });
    },
    60_000,
  );
});

describe.skipIf(whyNoQemu("7.2") !== null)("QEMU 7.2 and pipes", () => {
  test(
    "is kept through exec:, and a file that QEMU 7.2 wrote to a pipe is converted and goes on",
    () =>
      withGuest({ version: "7.2", machine: "pc" }, async (bed, guest) => {
        await guest.migrate(`exec:${TRAM} receive - ${bed.path("k.tram")} 2> ${bed.path("said")}`);
        await bed.until(async () => existsSync(bed.path("k.tram")), "the file is there");
        expect(statSync(bed.path("k.tram")).size).toBeGreaterThan(96 << 20);
        const next = await QemuPeer.start(bed, {
          version: "7.2",
          machine: "pc",
          incoming: `unix:${bed.path("in.sock")}`,
        });
        await bed.expectDone("send", bed.path("k.tram"), `unix:${bed.path("in.sock")}`);
        await next.goesOn(3);
        await next.dispose();
      }),
    60_000,
  );
});
