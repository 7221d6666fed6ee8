// What people and programs see of a move, from a script of journals and the times at which they were looked at.
import { describe, expect, test } from "bun:test";
import { LiveLine } from "../../src/cli/console.ts";
import { type FinalReport, JSON_SCHEMA, type TramEvent } from "../../src/cli/events.ts";
import { hashParts } from "../../src/cli/hashing.ts";
import { etaMs, type Left, Meter, progressOf, progressParts, type Way } from "../../src/cli/progress.ts";
import { ProgressView } from "../../src/cli/progress-view.ts";
import { finalReport, formatReport, roundLine } from "../../src/cli/report.ts";
import { type Environment, fit, terminalOf } from "../../src/cli/terminal.ts";
import { PAGE_RECORD_BYTES, type Stall } from "../../src/control/convergence.ts";
import { type Journal, MoveLog, type Phase, type Round } from "../../src/control/journal.ts";
import { whyNot } from "../support/schema.ts";

const MIB_PAGES = 256;

function journalOf(changes: Partial<Journal> = {}): Journal {
  const { journal } = new MoveLog("outgoing", "tcp:host2:4444", () => {}, () => 0); // biome-ignore format: one line
  return { ...journal, totalPages: 1024 * MIB_PAGES, remainingPages: 1024 * MIB_PAGES, ...changes };
}

/** A round that carried and left so many MiB, within so many milliseconds. */
const round = (number: number, mib: number, leftMib: number, durationMs: number): Round => ({
  round: number,
  pages: mib * MIB_PAGES,
  zeroPages: 0,
  bytes: mib * MIB_PAGES * PAGE_RECORD_BYTES,
  durationMs,
  dirtyPages: leftMib * MIB_PAGES,
});

/** In the middle of the first pass: so many MiB are there, of 1 GiB, and that went at 100 MiB/s. */
const bulk = (mib: number): Partial<Journal> => ({
  phase: "active",
  sentPages: mib * MIB_PAGES,
  remainingPages: (1024 - mib) * MIB_PAGES,
  bytes: mib * MIB_PAGES * PAGE_RECORD_BYTES,
  elapsedMs: mib * 10,
});

/** In a later round, with so many MiB to go. */
const later = (rounds: Round[], leftMib: number, changes: Partial<Journal> = {}): Partial<Journal> => {
  const mib = rounds.reduce((sum, { pages }) => sum + pages / MIB_PAGES, 0) + (rounds.at(-1)?.dirtyPages ?? 0) / MIB_PAGES - leftMib; // biome-ignore format: one line
  return {
    ...bulk(mib),
    remainingPages: leftMib * MIB_PAGES,
    rounds,
    roundsDone: rounds.length,
    expectedDowntimeMs: 640,
    ...changes,
  };
};

const STALL: Stall = {
  sinceRound: 2,
  leftBytes: 100 << 20,
  dirtyBytesPerSec: 110 << 20,
  bandwidthBytesPerSec: 100 << 20,
  remedy: { knob: "max-downtime", ms: 1200 },
};

const CONVERGING = [round(1, 1024, 64, 10_240), round(2, 64, 16, 640)];
const DIVERGING = [round(1, 1024, 100, 10_240), round(2, 100, 110, 1000)];

/** A move from its beginning to its end, as it is looked at. */
const SCRIPT: [ms: number, journal: Partial<Journal>][] = [
  [0, { phase: "waiting" }],
  [100, { phase: "setup" }],
  [200, { phase: "cache" }],
  [300, { phase: "active", asksForFreePages: true }],
  [400, bulk(10)],
  [1300, bulk(100)],
  [5300, bulk(500)],
  [7000, bulk(500)], // nothing is taken any more
  [10_000, bulk(800)],
  [12_000, later(CONVERGING.slice(0, 1), 32)],
  [12_400, later(CONVERGING, 8)],
  [13_000, later(DIVERGING, 55)],
  [13_500, later(DIVERGING, 20, { stall: STALL, throttlePercent: 30 })],
  [14_000, later(CONVERGING, 2, { phase: "held", trace: [{ phase: "held", atMs: 1 }] })],
  [14_500, later(CONVERGING, 2, { phase: "device" })],
  [14_600, later(CONVERGING, 0, { phase: "handover" })],
];

const LANG = { TERM: "xterm", LANG: "en_US.UTF-8" };

/** What a terminal is sent, a piece for each look. */
function frames(columns: number, env: Environment, way: Way = "move", script = SCRIPT): string[] {
  const written: string[] = [];
  let piece = "";
  const line = new LiveLine(terminalOf(true, env), () => columns, (text) => { piece += text; }); // biome-ignore format: one line
  const meter = new Meter();
  for (const [ms, changes] of script) {
    const journal = journalOf(changes);
    line.show(progressParts(progressOf(journal, way, meter.measure(journal, ms)), journal, way));
    written.push(piece);
    piece = "";
  }
  line.clear();
  return [...written, piece];
}

/** As bytes that can be read. */
const seen = (written: string[]): string => written.join("\n").replaceAll("\r", "␍").replaceAll("\x1b", "␛");

describe("a terminal", () => {
  test("of 80 columns", () => {
    expect(seen(frames(80, { ...LANG, NO_COLOR: "1" }))).toMatchInlineSnapshot(`
      "␍␛[?7lconnecting to tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lgreeting tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lthe guest gives up its page cache␛[?7h␛[K
      ␍␛[?7lasks the guest for its free pages␛[?7h␛[K
      ␍␛[?7l0%  10.0 MiB  100.2 MiB/s  1014 MiB left  ETA 11 s␛[?7h␛[K
      ␍␛[?7l9%  100.2 MiB  100.2 MiB/s  924 MiB left  ETA 10 s␛[?7h␛[K
      ␍␛[?7l48%  501.0 MiB  100.2 MiB/s  524 MiB left  ETA 6 s␛[?7h␛[K
      ␍␛[?7l48%  501.0 MiB  70.3 MiB/s  524 MiB left  ETA —  waits for the target␛[?7h␛[K
      ␍␛[?7l78%  801.6 MiB  100.2 MiB/s  224 MiB left  ETA 3 s␛[?7h␛[K
      ␍␛[?7l96%  111.4 MiB/s  32 MiB left  dirty 6.26 MiB/s  downtime 640 ms  ETA 1 s␛[?7h␛[K
      ␍␛[?7l99%  110.6 MiB/s  8 MiB left  dirty 25.0 MiB/s  downtime 640 ms  ETA 1 s␛[?7h␛[K
      ␍␛[?7l94%  waits for the guest to write less: dirty 110.2 MiB/s of 100.2 MiB/s␛[?7h␛[K
      ␍␛[?7l98%  waits for the guest to write less: dirty 110.2 MiB/s of 100.2 MiB/s␛[?7h␛[K
      ␍␛[?7l99%  round 3  1.08 GiB  75.6 MiB/s  2 MiB left  downtime 640 ms  held␛[?7h␛[K
      ␍␛[?7l99%  round 3  1.08 GiB  67.2 MiB/s  2 MiB left  ETA 1 s  switching over␛[?7h␛[K
      ␍␛[?7l100%  round 3  1.08 GiB  66.2 MiB/s  0 B left  waits for the target␛[?7h␛[K
      ␍␛[K"
    `);
  });

  test("of 200 columns, with colours", () => {
    expect(seen(frames(200, LANG))).toMatchInlineSnapshot(`
      "␍␛[?7lconnecting to tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lgreeting tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lthe guest gives up its page cache␛[?7h␛[K
      ␍␛[?7lasks the guest for its free pages␛[?7h␛[K
      ␍␛[?7l0%  10.0 MiB  100.2 MiB/s  1014 MiB left  ETA 11 s␛[?7h␛[K
      ␍␛[?7l9%  100.2 MiB  100.2 MiB/s  924 MiB left  ETA 10 s␛[?7h␛[K
      ␍␛[?7l48%  501.0 MiB  100.2 MiB/s  524 MiB left  ETA 6 s␛[?7h␛[K
      ␍␛[?7l48%  501.0 MiB  70.3 MiB/s  524 MiB left  ETA —  waits for the target␛[?7h␛[K
      ␍␛[?7l78%  801.6 MiB  100.2 MiB/s  224 MiB left  ETA 3 s␛[?7h␛[K
      ␍␛[?7l96%  round 2  1.03 GiB  111.4 MiB/s  32 MiB left  dirty 6.26 MiB/s  downtime 640 ms  ETA 1 s␛[?7h␛[K
      ␍␛[?7l99%  round 3  1.07 GiB  110.6 MiB/s  8 MiB left  dirty 25.0 MiB/s  downtime 640 ms  ETA 1 s␛[?7h␛[K
      ␍␛[?7l94%  round 3  1.15 GiB  126.6 MiB/s  55 MiB left  downtime 640 ms  ETA —  ␛[33mwaits for the guest to write less: dirty 110.2 MiB/s of 100.2 MiB/s␛[39m␛[?7h␛[K
      ␍␛[?7l98%  round 3  1.19 GiB  118.5 MiB/s  20 MiB left  downtime 640 ms  throttled 30%  ETA —  ␛[33mwaits for the guest to write less: dirty 110.2 MiB/s of 100.2 MiB/s␛[39m␛[?7h␛[K
      ␍␛[?7l99%  round 3  1.08 GiB  75.6 MiB/s  2 MiB left  downtime 640 ms  held␛[?7h␛[K
      ␍␛[?7l99%  round 3  1.08 GiB  67.2 MiB/s  2 MiB left  ETA 1 s  switching over␛[?7h␛[K
      ␍␛[?7l100%  round 3  1.08 GiB  66.2 MiB/s  0 B left  waits for the target␛[?7h␛[K
      ␍␛[K"
    `);
  });

  test("of 40 columns, that shows ASCII only", () => {
    const written = frames(40, { TERM: "xterm", LC_ALL: "C", LANG: "en_US.UTF-8", NO_COLOR: "1" });
    expect(seen(written)).toMatchInlineSnapshot(`
      "␍␛[?7lconnecting to tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lgreeting tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lthe guest gives up its page cache␛[?7h␛[K
      ␍␛[?7lasks the guest for its free pages␛[?7h␛[K
      ␍␛[?7l0%  1014 MiB left  ETA 11 s␛[?7h␛[K
      ␍␛[?7l9%  924 MiB left  ETA 10 s␛[?7h␛[K
      ␍␛[?7l48%  524 MiB left  ETA 6 s␛[?7h␛[K
      ␍␛[?7l48%  waits for the target␛[?7h␛[K
      ␍␛[?7l78%  224 MiB left  ETA 3 s␛[?7h␛[K
      ␍␛[?7l96%  32 MiB left  ETA 1 s␛[?7h␛[K
      ␍␛[?7l99%  110.6 MiB/s  8 MiB left  ETA 1 s␛[?7h␛[K
      ␍␛[?7l94%  waits for the guest to write ...␛[?7h␛[K
      ␍␛[?7l98%  waits for the guest to write ...␛[?7h␛[K
      ␍␛[?7l99%  75.6 MiB/s  2 MiB left  held␛[?7h␛[K
      ␍␛[?7l99%  2 MiB left  switching over␛[?7h␛[K
      ␍␛[?7l100%  0 B left  waits for the target␛[?7h␛[K
      ␍␛[K"
    `);
    expect(Buffer.from(written.join("")).every((byte) => byte < 0x7f)).toBe(true);
  });

  test("that is dumb is sent nothing", () => {
    expect(frames(80, { TERM: "dumb" }).join("")).toBe("");
  });

  test("is never sent more columns than it has", () => {
    for (let columns = 1; columns < 130; columns++)
      for (const frame of frames(columns, { ...LANG, NO_COLOR: "1" }))
        expect(Bun.stringWidth(frame)).toBeLessThanOrEqual(Math.max(0, columns - 3));
  });

  test("sees a save, a stream that comes, a file that is sent, and one that is verified", () => {
    const waits: [number, Partial<Journal>][] = [[0, { phase: "waiting" }], [100, { phase: "setup" }]]; // biome-ignore format: one row
    const goes: [number, Partial<Journal>][] = [[200, bulk(100)], [1200, bulk(200)], [2500, bulk(200)], [2600, { ...bulk(1024), phase: "handover" }]]; // biome-ignore format: one row
    const plain = { ...LANG, NO_COLOR: "1" };
    expect(seen(frames(120, plain, "save", [...waits.slice(1), ...goes]))).toMatchInlineSnapshot(`
      "␍␛[?7lwriting tcp:host2:4444␛[?7h␛[K
      ␍␛[?7l9%  100.2 MiB  100.2 MiB/s  924 MiB left  ETA 10 s␛[?7h␛[K
      ␍␛[?7l19%  200.4 MiB  100.2 MiB/s  824 MiB left  ETA 9 s␛[?7h␛[K
      ␍␛[?7l19%  200.4 MiB  43.6 MiB/s  824 MiB left  ETA —  waits for the disk␛[?7h␛[K
      ␍␛[?7l100%  1.00 GiB  385.8 MiB/s  0 B left  waits for the disk␛[?7h␛[K
      ␍␛[K"
    `);
    expect(seen(frames(120, plain, "keep", [...waits, ...goes]))).toMatchInlineSnapshot(`
      "␍␛[?7lwaiting on tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lgreeting tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lreceiving  100.2 MiB  100.2 MiB/s  25,600 pages␛[?7h␛[K
      ␍␛[?7lreceiving  200.4 MiB  100.2 MiB/s  51,200 pages␛[?7h␛[K
      ␍␛[?7lreceiving  200.4 MiB  43.6 MiB/s  51,200 pages  waits for the source␛[?7h␛[K
      ␍␛[?7lreceiving  1.00 GiB  385.8 MiB/s  262,144 pages  waits for the disk␛[?7h␛[K
      ␍␛[K"
    `);
    expect(seen(frames(120, plain, "send", [...waits, ...goes]))).toMatchInlineSnapshot(`
      "␍␛[?7lconnecting to tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lgreeting tcp:host2:4444␛[?7h␛[K
      ␍␛[?7lsending  9%  100.2 MiB  100.2 MiB/s  924 MiB left  ETA 10 s␛[?7h␛[K
      ␍␛[?7lsending  19%  200.4 MiB  100.2 MiB/s  824 MiB left  ETA 9 s␛[?7h␛[K
      ␍␛[?7lsending  19%  200.4 MiB  43.6 MiB/s  824 MiB left  waits for the target␛[?7h␛[K
      ␍␛[?7lsending  100%  1.00 GiB  385.8 MiB/s  0 B left  waits for the target␛[?7h␛[K
      ␍␛[K"
    `);
    expect(fit(hashParts("verifying", 0.25, 1 << 30, 2000), 80, terminalOf(true, plain)).text).toMatchInlineSnapshot(
      `"verifying  25%  256 MiB  128 MiB/s  ETA 6 s"`,
    );
    expect(fit(hashParts("verifying", 0, 1 << 30, 0), 80, terminalOf(true, plain)).text).toMatchInlineSnapshot(
      `"verifying  0%  0 B  0 B/s"`,
    );
  });
});

describe("a log", () => {
  test("has a line for each round, and the report", () => {
    const journal = journalOf({
      ...later(CONVERGING, 0),
      phase: "completed",
      owner: "target",
      elapsedMs: 11_000,
      downtimeMs: 40,
      downtimePartsMs: { stopCpus: 1, lastPages: 39 },
    });
    expect([...CONVERGING.map(roundLine), formatReport(finalReport("a", journal))].join("\n")).toMatchInlineSnapshot(`
      "round=1 pages=262144 zero=0 bytes=1075838976 ms=10240 rate=105062400 dirty=16384
      round=2 pages=16384 zero=0 bytes=67239936 ms=640 rate=105062400 dirty=4096
        owner     target
        pages     282,624 sent, 0 zero, 0 of these re-sent, in 2 rounds
        left out  no pages
        bytes     1.08 GiB in 11.00 s, 100.6 MiB/s
        downtime  40 ms (stopCpus 1, lastPages 39)"
    `);
  });
});

describe("a program", () => {
  /** What is told of the script, as lines; each journal is there until the next one. */
  function told(
    script: typeof SCRIPT,
    replacesText = true,
    show = (_: string): void => {
      throw new Error("a line");
    },
  ): TramEvent[] {
    const events: TramEvent[] = [];
    let nowMs = 0;
    const view = new ProgressView(
      "move",
      { tell: (event) => void events.push(event), replacesText },
      {
        phase: ({ phase, owner }) => ({
          schema: JSON_SCHEMA,
          event: "move.phase",
          vm: "a",
          owner,
          phase,
          elapsedMs: 0,
        }),
        progress: (progress, { owner }) => ({
          schema: JSON_SCHEMA,
          event: "move.progress",
          vm: "a",
          owner,
          ...progress,
        }),
      },
      new LiveLine(terminalOf(true, LANG), () => 80, show),
      () => nowMs,
    );
    for (const [i, [ms, changes]] of script.entries()) {
      const journal = journalOf(changes);
      nowMs = ms;
      view.update(journal);
      for (const endMs = script[i + 1]?.[0] ?? ms; nowMs < endMs; nowMs += 20) view.look();
    }
    view.clear();
    return events;
  }

  test("is told what the line shows, as the schema has it, and no more than twice a second", () => {
    const events = told(SCRIPT);
    expect(events.map((event) => whyNot(event))).toEqual(events.map(() => null));
    const progress = events.filter((event) => event.event === "move.progress");
    expect(progress.length).toBeGreaterThan(10);
    expect(progress.length).toBeLessThanOrEqual(14_600 / 500);
    expect(progress.map((event) => event.waitsFor)).toContain("target");
    const short = (event: TramEvent) => JSON.stringify(event).replace('{"schema":"tram/1",', "{");
    expect(told(SCRIPT.slice(10, 13)).map(short)).toMatchInlineSnapshot(`
      [
        "{"event":"move.phase","vm":"a","owner":"source","phase":"active","elapsedMs":0}",
        "{"event":"move.progress","vm":"a","owner":"source","phase":"active","percent":99,"bytes":1151483904,"rateBytesPerSec":0,"remainingBytes":8388608,"dirtyBytesPerSec":26265600,"expectedDowntimeMs":640,"etaMs":107,"throttlePercent":0,"elapsedMs":10960,"waitsFor":null}",
        "{"event":"move.progress","vm":"a","owner":"source","phase":"active","percent":94,"bytes":1238685696,"rateBytesPerSec":87201792,"remainingBytes":57671680,"dirtyBytesPerSec":115568640,"expectedDowntimeMs":640,"etaMs":null,"throttlePercent":0,"elapsedMs":11790,"waitsFor":"guest-writes"}",
      ]
    `);
  });

  test("hears the same while a person sees the line beside it", () => {
    let shown = "";
    expect(
      told(SCRIPT, false, (text) => {
        shown += text;
      }),
    ).toEqual(told(SCRIPT));
    expect(shown).toContain("dirty ");
  });

  test("hears of what does not change once", () => {
    const events = told([[0, { phase: "waiting" }], [3_600_000, { phase: "waiting" }]]); // biome-ignore format: one row
    expect(events.map(({ event }) => event)).toEqual(["move.phase", "move.progress"]);
  });

  test("is told nothing of a move that is over", () => {
    expect(told([[0, { phase: "failed" }], [5000, { phase: "failed" }]]).map(({ event }) => event)).toEqual(["move.phase"]); // biome-ignore format: one row
  });
});

describe("the time that is left", () => {
  const left: Left = { pages: 1000, pagesPerSec: 100, dirtyPagesPerSec: null, isBulk: true };
  test.each<[string, Partial<Left>, number | null]>([
    ["of the first pass is what is left at that speed", {}, 10_000],
    ["whatever the guest writes", { dirtyPagesPerSec: 500 }, 10_000],
    ["is not known where nothing goes on", { pagesPerSec: 0 }, null],
    ["is none where nothing is left", { pages: 0, pagesPerSec: 0, isBulk: false }, 0],
    ["of a later round is not known without what the guest writes", { isBulk: false }, null],
    ["of a later round counts what comes behind it", { isBulk: false, dirtyPagesPerSec: 50 }, 20_000],
    ["is that of the round alone where the guest writes nothing", { isBulk: false, dirtyPagesPerSec: 0 }, 10_000],
    ["is long where it only just converges", { isBulk: false, dirtyPagesPerSec: 90 }, 100_000],
    ["is none that anybody should wait for beyond that", { isBulk: false, dirtyPagesPerSec: 91 }, null],
    ["is none where it does not converge", { isBulk: false, dirtyPagesPerSec: 200 }, null],
  ])("%s", (_, changes, expected) => {
    expect(etaMs({ ...left, ...changes })).toBe(expected);
  });

  test("is about what it turns out to be, if rounds go on as the last one", () => {
    // 1000 pages to go at 100 a second, while 50 a second are written: 10 s, 5 s, 2.5 s, …
    let [pages, ms] = [1000, 0];
    while (pages > 1) [pages, ms] = [pages / 2, ms + pages * 10];
    expect(etaMs({ ...left, isBulk: false, dirtyPagesPerSec: 50 })! / ms).toBeCloseTo(1, 2);
  });
});

describe("what is waited for", () => {
  const waitsFor = (changes: Partial<Journal>, way: Way = "move", silentMs = 0) =>
    progressOf(journalOf(changes), way, { bytesPerSec: 1, pagesPerSec: 1, silentMs }).waitsFor;

  test.each<[Phase, Way, string | null]>([
    ["none", "move", "connection"],
    ["none", "save", null],
    ["waiting", "keep", "connection"],
    ["cache", "save", "page-cache"],
    ["setup", "move", "target"],
    ["setup", "save", null],
    ["setup", "keep", "source"],
    ["active", "move", null],
    ["held", "move", "hold"],
    ["device", "move", null],
    ["handover", "move", "target"],
    ["handover", "save", "disk"],
    ["handover", "keep", "disk"],
    ["completed", "move", null],
    ["failed", "send", null],
  ])("in phase '%s' of a %s is %p", (phase, way, expected) => {
    expect(waitsFor({ phase }, way)).toBe(expected as never);
  });

  test("is the other side when nothing has changed for a while", () => {
    expect(waitsFor(bulk(10), "move", 999)).toBe(null);
    expect(waitsFor(bulk(10), "move", 1000)).toBe("target");
    expect(waitsFor(bulk(10), "save", 1000)).toBe("disk");
    expect(waitsFor(bulk(10), "keep", 1000)).toBe("source");
  });

  test("is the guest, once a round leaves as much as it carried", () => {
    expect(waitsFor(later(CONVERGING, 8))).toBe(null);
    expect(waitsFor(later(DIVERGING, 8))).toBe("guest-writes");
    expect(waitsFor(later(CONVERGING, 8, { stall: STALL }))).toBe("guest-writes");
  });

  test("a round of which nobody knows yet what it left says nothing", () => {
    const ended = { ...round(3, 16, 0, 160) };
    expect(progressOf(journalOf(later([...CONVERGING, ended], 0)), "move", { bytesPerSec: 1, pagesPerSec: 1, silentMs: 0 }).dirtyBytesPerSec).toBe(25 * MIB_PAGES * PAGE_RECORD_BYTES); // biome-ignore format: one line
  });
});

describe("the meter", () => {
  test("tells the speed of the last seconds, by the clock of who looks", () => {
    const meter = new Meter();
    const look = (mib: number, ms: number) => {
      const { bytesPerSec, silentMs } = meter.measure(journalOf(bulk(mib)), ms);
      return [Math.round(bytesPerSec / PAGE_RECORD_BYTES / MIB_PAGES), silentMs];
    };
    expect(look(0, 10_000)).toEqual([0, 0]);
    expect(look(10, 10_100)).toEqual([100, 0]); // too early: what the journal says of all its time
    for (let ms = 10_200; ms <= 14_000; ms += 100) look((ms - 10_000) / 10, ms);
    expect(look(410, 14_100)).toEqual([100, 0]);
    expect(look(410, 15_600)).toEqual([50, 1500]);
    expect(look(410, 18_600)).toEqual([0, 4500]);
    expect(look(420, 18_700)[1]).toBe(0);
  });

  test("does not count the time before there was anything to carry", () => {
    const meter = new Meter();
    for (let ms = 0; ms < 5000; ms += 100) meter.measure(journalOf({ phase: "waiting" }), ms);
    meter.measure(journalOf(bulk(0)), 5000);
    expect(meter.measure(journalOf(bulk(100)), 6000).pagesPerSec).toBe(100 * MIB_PAGES);
  });
});

describe("the schema", () => {
  const report: FinalReport = finalReport(
    "a",
    journalOf({ ...later(DIVERGING, 3, { stall: STALL }), phase: "cancelled" }),
  );
  test("has the report, with what it may have", () => {
    expect(whyNot(report, "move.finished")).toBe(null);
    expect(whyNot({ ...report, error: { code: "E_CANCELLED", message: "cancelled", next: "again" } })).toBe(null);
  });

  test.each<[string, object]>([
    ["an unknown event", { ...report, event: "move.ended" }],
    ["no owner", { ...report, owner: undefined }],
    ["another owner", { ...report, owner: "both" }],
    ["half a byte", { ...report, bytes: 0.5 }],
    ["a negative time", { ...report, elapsedMs: -1 }],
    ["a number as text", { ...report, rounds: "7" }],
    ["another version", { ...report, schema: "tram/2" }],
    ["an error that is only text", { ...report, error: "cancelled" }],
    ["an error without its code", { ...report, error: { message: "cancelled" } }],
    ["a field that nobody has described", { ...report, mood: "good" }],
    ["a phase that there is not", { schema: JSON_SCHEMA, event: "move.phase", vm: "a", owner: "source", phase: "warm", elapsedMs: 1 }], // biome-ignore format: one row
    ["nothing to wait for that it knows", { ...told1(), waitsFor: "luck" }],
    ["a time that nobody can say as text", { ...told1(), etaMs: "—" }],
  ])("does not have %s", (_, value) => {
    expect(whyNot(JSON.parse(JSON.stringify(value)))).not.toBe(null);
  });

  function told1(): object {
    const progress = progressOf(journalOf(bulk(1)), "move", { bytesPerSec: 1, pagesPerSec: 1, silentMs: 0 });
    const event = { schema: JSON_SCHEMA, event: "move.progress", vm: "a", owner: "source", ...progress };
    expect(whyNot(event)).toBe(null);
    return event;
  }
});
