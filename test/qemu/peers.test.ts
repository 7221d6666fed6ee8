// The peers themselves, without tram: QEMU's guests really move from QEMU to QEMU, and notice when a page is lost.
import { describe, expect, test } from "bun:test";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { Bed } from "../support/bed.ts";
import { type PeerOptions, QemuPeer, type QemuVersion, whyNoQemu } from "../support/qemu.ts";

const VERSIONS: QemuVersion[] = ["7.2", "10.0"];
const reason = VERSIONS.map(whyNoQemu).find((why) => why !== null) ?? null;

async function withBed(action: (bed: Bed) => Promise<void>): Promise<void> {
  const bed = new Bed();
  try {
    await action(bed);
  } finally {
    await bed.dispose();
  }
}

/** Moves a running guest on, and lets its old process end: where it is now. */
async function moves(bed: Bed, source: QemuPeer, version: QemuVersion): Promise<QemuPeer> {
  const target = await QemuPeer.start(bed, { ...source.options, version, incoming: "defer" });
  const uri = `unix:${bed.path(`${target.name}.in`)}`;
  await target.listen(uri);
  await source.migrate(uri);
  expect(await source.status()).toBe("postmigrate");
  const left = source.ticks();
  await target.goesOn();
  expect(target.ticks()).toBeGreaterThan(left);
  await source.dispose();
  return target;
}

const MACHINES = ["pc", "q35", "microvm"];
const WITHIN = VERSIONS.flatMap((version) => MACHINES.map((machine) => ({ machine, path: [version, version] })));
const ACROSS = ["pc-i440fx-7.2", "pc-q35-7.2"].map((machine) => ({ machine, path: ["7.2", "10.0", "7.2"] as const }));

describe.skipIf(reason !== null)(`QEMU's guest${reason ? ` (skipped: ${reason})` : ""}`, () => {
  for (const { machine, path } of [...WITHIN, ...ACROSS])
    test(`${machine} moves live, ${path.join(" → ")}, and goes on`, () =>
      withBed(async (bed) => {
        const [first, ...rest] = path as readonly [QemuVersion, ...QemuVersion[]];
        let peer = await QemuPeer.start(bed, { version: first, machine });
        try {
          await peer.goesOn();
          for (const version of rest) peer = await moves(bed, peer, version);
        } finally {
          await peer.dispose();
        }
      }));

  // What tests of tram's may rely on: that a page which is lost was lost by tram.
  for (const version of VERSIONS)
    test(`that writes fast arrives as it left, ${version} → ${version}`, () =>
      withBed(async (bed) => {
        const options: PeerOptions = { version, machine: "pc", guest: { ms: 1, dirty: 1000 } };
        await using source = await QemuPeer.start(bed, options);
        await source.goesOn();
        await using target = await QemuPeer.start(bed, { ...options, incoming: "defer", paused: true });
        const uri = `unix:${bed.path("in")}`;
        await target.listen(uri);
        const { ram } = await source.migrate(uri);
        // The first pass, at least one in which the guest ran, and the last.
        expect(ram?.["dirty-sync-count"]).toBeGreaterThanOrEqual(3);
        await target.migrationEnds();
        expect(Buffer.compare(await source.readRam(), await target.readRam())).toBe(0);
        await target.execute("cont");
        await target.goesOn(50);
      }));

  test("notices pages that are lost, stale or spoilt", () =>
    withBed(async (bed) => {
      const ramFile = bed.path("ram");
      // It writes little, so that what is spoilt is looked at before it is written again.
      await using peer = await QemuPeer.start(bed, {
        version: "7.2",
        machine: "pc",
        ramFile,
        guest: { ms: 5, dirty: 16 },
      });
      await peer.goesOn();
      const earlier = await stopped(peer, () => findPages(ramFile));
      await peer.goesOn(40);
      await stopped(peer, () => {
        const pages = findPages(ramFile);
        const isStale = ({ index, at, page }: GuestPage) =>
          earlier.some((old) => old.index === index && old.at === at && !old.page.equals(page));
        const stale = pages.filter(isStale).slice(0, 8);
        const [lost, spoilt] = [pages.slice(-8), pages.slice(-16, -8)];
        expect([stale.length, lost.length, spoilt.length]).toEqual([8, 8, 8]);
        for (const { at } of stale) write(ramFile, at, earlier.find((old) => old.at === at)?.page as Buffer);
        for (const { at } of lost) write(ramFile, at, Buffer.alloc(4096));
        for (const { at, page } of spoilt) write(ramFile, at + 1234, Buffer.of((page[1234] as number) ^ 1));
      });
      await expect(peer.goesOn(100)).rejects.toThrow("BAD page");
      const says = (line: RegExp, times: number) =>
        bed.until(async () => [...peer.serial().matchAll(line)].length >= times, `${line}`, peer.running);
      for (const guess of ["zero", "stale", "other bytes"]) await says(new RegExp(`^BAD page .*: ${guess}`, "gm"), 1);
      await says(/^tick \d+ bad \d+$/gm, 3); // and goes on
    }));
});

interface GuestPage {
  index: number;
  at: number;
  page: Buffer;
}

const MAGIC = Buffer.from("6d61727420736920", "hex").reverse();

/** The guest's random pages that carry their index: guest/init.c calls them of the first kind. */
function findPages(ramFile: string): GuestPage[] {
  const ram = readFileSync(ramFile);
  const pages: GuestPage[] = [];
  for (let at = 0; at < ram.length; at += 4096) {
    const index = ram.readUInt32LE(at + 8);
    if (index % 4 === 0 && ram.subarray(at, at + 8).equals(MAGIC))
      pages.push({ index, at, page: ram.subarray(at, at + 4096) });
  }
  return pages.sort((a, b) => a.index - b.index);
}

function write(ramFile: string, at: number, bytes: Buffer): void {
  const fd = openSync(ramFile, "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

async function stopped<T>(peer: QemuPeer, action: () => T): Promise<T> {
  await peer.execute("stop");
  try {
    return action();
  } finally {
    await peer.execute("cont");
  }
}
