import { describe, expect, test } from "bun:test";
import { type GuestMove, moveFacts } from "../../src/cli/guest-facts.ts";
import { memoryFacts, type TopGuest } from "../../src/cli/top-facts.ts";
import { moveText, screen, table } from "../../src/cli/top-rows.ts";
import type { Journal } from "../../src/control/journal.ts";
import { MoveLog } from "../../src/control/journal.ts";

const MIB = 2 ** 20;

const guest = (name: string, more: Partial<TopGuest> = {}): TopGuest => ({
  name,
  status: "running",
  cpus: 2,
  memoryBytes: 512 * MIB,
  pid: 1,
  residentBytes: 300 * MIB,
  sharedBytes: 40 * MIB,
  unverifiedPages: null,
  balloonBytes: null,
  dirtyBytesPerSec: null,
  move: null,
  ...more,
});
const move = (more: Partial<GuestMove> = {}): GuestMove => ({
  direction: "outgoing",
  peer: "tcp:b:4444",
  phase: "active",
  round: 3,
  percent: 97,
  bytesPerSec: 800 * MIB,
  expectedDowntimeMs: 120,
  ...more,
});
const moving = guest("c", { dirtyBytesPerSec: 20 * MIB, move: move() });
const restored = guest("b", { status: "paused", unverifiedPages: 12345 });

describe("a move", () => {
  test("is told with what matters first", () => {
    expect(moveText(moving)).toBe(
      "active, round 3 at 97%, 800 MiB/s, writes 20 MiB/s, downtime ~120 ms, to tcp:b:4444",
    );
    const waiting = move({
      phase: "waiting",
      direction: "incoming",
      percent: null,
      bytesPerSec: 0,
      expectedDowntimeMs: null,
    });
    expect(moveText(guest("d", { move: waiting }))).toBe("waiting, from tcp:b:4444");
    expect(moveText(guest("d"))).toBe("");
  });

  const journal = (phase: Journal["phase"], more: Partial<Journal>): Journal => ({
    ...new MoveLog("outgoing", "tcp:b:4444", () => {}, () => 0).journal,
    phase,
    ...more,
  }); // biome-ignore format: one line
  const speed = { bytesPerSec: 2 * MIB, pagesPerSec: 512, silentMs: 0 };
  const round = { round: 1, pages: 0, zeroPages: 0, bytes: 0 };

  test("that is over, or never was, is none", () => {
    expect(moveFacts(null, null)).toEqual({ dirtyBytesPerSec: null, move: null });
    for (const phase of ["completed", "failed", "cancelled"] as const)
      expect(moveFacts(journal(phase, {}), speed)).toEqual({ dirtyBytesPerSec: null, move: null });
  });

  test("tells what the guest wrote in the last round of which that is known", () => {
    const rounds = [
      { ...round, durationMs: 500, dirtyPages: 256 },
      { ...round, durationMs: 100, dirtyPages: 0 },
    ];
    const counts = { totalPages: 1000, remainingPages: 251, roundsDone: 2, bytes: MIB, elapsedMs: 500 };
    expect(moveFacts(journal("active", { rounds, ...counts }), speed)).toEqual({
      dirtyBytesPerSec: 2 * 256 * (4096 + 8), // with the stream's word before each page, as a move's own line has it
      move: move({ round: 3, percent: 74, bytesPerSec: 2 * MIB, expectedDowntimeMs: null }),
    });
    expect(moveFacts(journal("active", { ...counts, direction: "incoming" }), speed)).toMatchObject({
      dirtyBytesPerSec: null,
      move: { percent: null },
    });
  });
});

test("a process's memory is what the kernel sums up", () => {
  const smaps = `55d8-7ffc ---p 00000000 00:00 0    [rollup]
Rss:              131072 kB
Pss:                 900 kB
Shared_Clean:      30000 kB
Shared_Dirty:       2768 kB
Private_Clean:         0 kB
`;
  expect(memoryFacts(smaps)).toEqual({ residentBytes: 128 * MIB, sharedBytes: 32 * MIB });
});

test("the table for a pipe has a line for each guest", () => {
  expect(table([guest("a", { balloonBytes: 0 }), restored, moving])).toEqual([
    "NAME  STATE    CPUS      RAM  RESIDENT  SHARED  UNVERIFIED  BALLOON  MOVE",
    "a     running     2  512 MiB   300 MiB  40 MiB           -      0 B  -",
    "b     paused      2  512 MiB   300 MiB  40 MiB      12,345        -  -",
    "c     running     2  512 MiB   300 MiB  40 MiB           -        -  active, round 3 at 97%, 800 MiB/s, writes 20 MiB/s, downtime ~120 ms, to tcp:b:4444",
  ]); // biome-ignore format: as it is seen
  expect(table([])).toEqual(["NAME  STATE  CPUS  RAM  RESIDENT  SHARED  UNVERIFIED  BALLOON  MOVE"]);
});

describe("the terminal", () => {
  const plain = { width: 80, height: 24, colour: false };
  const many = [guest("a"), restored, moving, guest("d", { status: "no answer", cpus: 0, memoryBytes: 0 })];

  test("has a move in a line of its own", () => {
    expect(screen(many, plain)).toEqual([
      "4 guests, 2 running, 1 moving                                             q ends",
      "NAME  STATE      CPUS      RAM  RESIDENT  SHARED  UNVERIFIED  BALLOON           ",
      "a     running       2  512 MiB   300 MiB  40 MiB           -        -",
      "b     paused        2  512 MiB   300 MiB  40 MiB      12,345        -",
      "c     running       2  512 MiB   300 MiB  40 MiB           -        -",
      "  active, round 3 at 97%, 800 MiB/s, writes 20 MiB/s, downtime ~120 ms, to tcp:…",
      "d     no answer     -        -   300 MiB  40 MiB           -        -",
    ]);
  });

  test("cuts names where it is narrow, and leaves columns out that have nothing", () => {
    expect(screen([guest("a".repeat(63)), restored], { ...plain, width: 64 }).slice(1)).toEqual([
      "NAME             STATE   CPUS     RAM RESIDENT SHARED UNVERIFIED",
      "aaaaaaaaaaaaaaa… running    2 512 MiB  300 MiB 40 MiB          -",
      "b                paused     2 512 MiB  300 MiB 40 MiB     12,345",
    ]); // biome-ignore format: as it is seen
  });

  test("has what fits its height, whole", () => {
    const lines = (height: number) => screen(many, { ...plain, height }).map((line) => line.slice(0, 8).trimEnd());
    expect(lines(7)).toHaveLength(7);
    expect(lines(6)).toEqual(["4 guests", "NAME  ST", "a     ru", "b     pa", "and 2 mo"]); // c's two lines do not fit
    expect(lines(3)).toEqual(["4 guests", "NAME  ST", "and 4 mo"]);
    expect(lines(1)).toEqual(["4 guests"]);
  });

  test.each([1, 8, 20, 40, 61, 62, 79, 80, 81, 200])("%p columns wide, no line is longer", (width) => {
    for (const height of [1, 2, 3, 5, 24]) {
      const lines = screen([guest("x".repeat(63), { move: move() }), ...many], { width, height, colour: false });
      expect(lines.length).toBeLessThanOrEqual(height);
      expect(lines.filter((line) => line.length > width)).toEqual([]);
    }
  });

  test("has colours only where they are wanted, and none that runs on", () => {
    expect(screen(many, plain).join("")).not.toContain("\x1b");
    const coloured = screen(many, { ...plain, colour: true });
    for (const line of coloured) expect(line.includes("\x1b[")).toBe(line.endsWith("\x1b[0m"));
    const begins = coloured.map((line) =>
      ["\x1b[7m", "\x1b[33m", "\x1b[31m"].find((colour) => line.startsWith(colour)),
    );
    expect(begins).toEqual([undefined, "\x1b[7m", undefined, "\x1b[33m", undefined, undefined, "\x1b[31m"]);
  });
});
