// Pages that leave without a copy, with QEMU at the other end: what it sends so is kept, and what we send so it loads.
import { describe, expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import { type Bed, freePort, inBed, type Result, TRAM } from "../support/bed.ts";
import { asNobody, whyNotLimited } from "../support/limited.ts";
import { QemuPeer, type QemuVersion, whyNoQemu } from "../support/qemu.ts";

const whyNot = whyNoQemu("7.2") ?? whyNoQemu("10.0");
const notLimited = whyNot ?? whyNotLimited();
const TICKS = 3;
const VERSIONS: QemuVersion[] = ["7.2", "10.0"];
const CHANNELS = [1, 2, 8];
const MACHINE = "pc";

interface Report {
  outcome: string;
  owner: string;
  sentPages: number;
  channels: { pages: number; systemCalls: number; zeroCopyBytes: number; fallbacks: number }[];
  error: { code: string } | null;
}

const sum = ({ channels }: Report, what: keyof Report["channels"][number]): number =>
  channels.reduce((total, channel) => total + channel[what], 0);

const parsed = (text: string): Report => JSON.parse(text.trim().split("\n").at(-1) as string);

function last({ code, stdout, stderr }: Result): Report {
  if (code !== 0) throw new Error(`exit ${code}: ${stderr}${stdout}`);
  return parsed(stdout);
}

/** A guest that runs in this QEMU, for as long as the action lasts. */
async function withPeer(bed: Bed, version: QemuVersion, action: (peer: QemuPeer) => Promise<void>): Promise<void> {
  await using peer = await QemuPeer.start(bed, { version, machine: MACHINE });
  await peer.goesOn(TICKS);
  await action(peer);
}

/** Waits for a guest over so many channels. */
async function waiting(bed: Bed, version: QemuVersion, channels: number): Promise<{ next: QemuPeer; to: string }> {
  const next = await QemuPeer.start(bed, { version, machine: MACHINE, incoming: "defer" });
  await next.setCapabilities({ multifd: true });
  await next.setParameters({ "multifd-channels": channels });
  const to = `tcp:127.0.0.1:${freePort()}`;
  await next.listen(to);
  return { next, to };
}

const suite = (text: string) => `${text}${whyNot ? ` (skipped: ${whyNot})` : ""}`;

describe.skipIf(whyNot !== null)(suite("what QEMU sends with zero-copy-send"), () => {
  test.each(VERSIONS.flatMap((version) => CHANNELS.map((channels) => [version, channels] as const)))(
    "QEMU %s, %d channels: tram receive keeps it, and the guest goes on from there",
    (version, channels) =>
      inBed(async (bed) => {
        const file = bed.path("kept.tram");
        let before = 0;
        await withPeer(bed, version, async (peer) => {
          await peer.setCapabilities({ "return-path": true, multifd: true, "zero-copy-send": true });
          await peer.setParameters({ "multifd-channels": channels, "max-bandwidth": 200 << 20, "downtime-limit": 100 });
          const to = `tcp:127.0.0.1:${freePort()}`;
          const events = bed.path("events");
          const receiver = bed.start(["receive", to, file, "--channels", `${channels}`, `--json=${events}`]);
          const listens = async () => (await Bun.file("/proc/net/tcp").text()).includes(portInHex(to));
          await bed.until(listens, "tram receive listens", receiver);
          const info = await peer.migrate(to);
          // The premise: it did ask for it. Over loopback the kernel copies all the same, and QEMU counts that.
          expect(info.ram?.["dirty-sync-missed-zero-copy"]).toBeGreaterThan(0);
          expect(await receiver.code).toBe(0);
          const report = parsed(await Bun.file(events).text());
          expect(report).toMatchObject({ outcome: "completed", owner: "file" });
          expect(report.channels).toHaveLength(channels);
          before = peer.ticks();
        });
        expect(await bed.tram("verify", file)).toMatchObject({ code: 0 });
        const { next, to } = await waiting(bed, version, channels);
        try {
          const options = ["--channels", `${channels}`, "--zero-copy", "on", "--qemu", version, "--json"];
          expect(last(await bed.tram("send", file, to, ...options))).toMatchObject({ outcome: "completed" });
          await next.goesOn(TICKS);
          expect(next.ticks()).toBeGreaterThan(before);
        } finally {
          await next.dispose();
        }
      }),
    120_000,
  );
});

/** The port of tcp:HOST:PORT as /proc/net/tcp has it, of a socket that listens. */
function portInHex(uri: string): string {
  const port = Number(uri.split(":").at(-1));
  return `:${port.toString(16).toUpperCase().padStart(4, "0")} 00000000:0000 0A`;
}

describe.skipIf(whyNot !== null)(suite("what tram send sends without a copy"), () => {
  test.each(VERSIONS)(
    "QEMU %s loads it, over 1, 2 and 8 channels, on and auto",
    (version) =>
      inBed(async (bed) => {
        const file = bed.path("kept.tram");
        let before = 0;
        await withPeer(bed, version, async (peer) => {
          last(await bed.tram("save", `unix:${peer.qmpPath}`, file, "--after", "pause", "--json"));
          before = peer.ticks();
        });
        for (const channels of CHANNELS)
          for (const mode of ["on", "auto"]) {
            const { next, to } = await waiting(bed, version, channels);
            try {
              const options = ["--channels", `${channels}`, "--zero-copy", mode, "--qemu", version, "--json"];
              const report = last(await bed.tram("send", file, to, ...options));
              expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
              expect(report.sentPages).toBeGreaterThan(0);
              expect(report.channels).toHaveLength(channels);
              expect(sum(report, "pages")).toBe(report.sentPages);
              // The premise: the kernel was asked not to copy; with on, for all of it.
              expect(sum(report, "zeroCopyBytes")).toBeGreaterThan(0);
              if (mode === "on") expect(sum(report, "zeroCopyBytes")).toBe(report.sentPages * 4096);
              await next.goesOn(TICKS);
              expect(next.ticks()).toBeGreaterThan(before);
            } finally {
              await next.dispose();
            }
          }
      }),
    180_000,
  );

  test.skipIf(notLimited !== null)(
    `needs memory of the kernel: without, on ends it, and auto copies${notLimited ? ` (skipped: ${notLimited})` : ""}`,
    () =>
      inBed(async (bed) => {
        const file = bed.path("kept.tram");
        await withPeer(bed, "7.2", async (peer) => {
          last(await bed.tram("save", `unix:${peer.qmpPath}`, file, "--after", "pause", "--json"));
        });
        for (const [path, mode] of [
          [bed.folder, 0o755],
          [file, 0o644],
        ] as const)
          chmodSync(path, mode);
        // Less than one packet's pages: whoever is refused has asked.
        const argv = asNobody(64 << 10);
        const send = async (mode: string) => {
          const { next, to } = await waiting(bed, "7.2", 2);
          const options = ["--channels", "2", "--zero-copy", mode, "--qemu", "7.2", "--json"];
          const result = await bed.exec([...argv, TRAM, "send", file, to, ...options]);
          return { next, result, report: parsed(result.stdout) };
        };
        const refused = await send("on");
        await refused.next.dispose();
        expect(refused.result.code).toBe(1);
        expect(refused.report).toMatchObject({ outcome: "failed", owner: "file", error: { code: "E_NO_BUFFERS" } });
        const copied = await send("auto");
        try {
          expect(copied.result.code).toBe(0);
          expect(sum(copied.report, "fallbacks")).toBeGreaterThan(0);
          await copied.next.goesOn(TICKS);
        } finally {
          await copied.next.dispose();
        }
      }),
    120_000,
  );
});
