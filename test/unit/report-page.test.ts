// The page of a report, from fixed journals: what is in it, what adds up, and that other people's strings stay text.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { page } from "../../src/cli/page/page.ts";
import type { Story } from "../../src/cli/page/story.ts";
import { Recording } from "../../src/cli/recording.ts";
import { type ChannelCounts, noCounts } from "../../src/control/barrier.ts";
import { type Journal, MoveLog, type Round } from "../../src/control/journal.ts";
import { DEFAULT_LIMITS } from "../../src/control/limits.ts";
import { figure, type ParsedPage, parsePage } from "../support/parsed-page.ts";

const fresh = (): Journal =>
  new MoveLog(
    "outgoing",
    "tcp:b:1",
    () => {},
    () => 0,
  ).journal;

const round = (number: number, pages: number, dirtyPages: number, durationMs: number): Round => ({
  round: number,
  pages,
  zeroPages: number === 1 ? 100 : 0,
  bytes: pages * 4104,
  durationMs,
  dirtyPages,
});

const counts = (pages: number): ChannelCounts => ({
  ...noCounts(),
  packets: pages / 100,
  pages,
  bytes: pages * 4104,
  systemCalls: pages / 50,
  zeroCopyBytes: pages * 2048,
  copiedBytes: pages * 1024,
  fallbacks: 3,
  flushWaitMs: 7,
});

const ENVIRONMENT = {
  version: "1.2.3",
  kernel: "6.18.0",
  cpu: "A CPU",
  cpus: 2,
  memoryBytes: 24 * 2 ** 30,
  date: new Date("2026-11-22T01:02:03Z"),
};

const storyOf = (recording: Recording, changes: Partial<Story> = {}): Story => ({
  kind: "migrate",
  isQemu: false,
  vm: "a",
  where: "tcp:b:1",
  outcome: "completed",
  owner: "target",
  error: null,
  recording,
  options: [["--channels", "2"]],
  environment: ENVIRONMENT,
  ...changes,
});

const BULK = { pages: 700, zeroPages: 100, untouchedPages: 80, hintedPages: 60, balloonedPages: 40, reportedPages: 20 };

/** A move of 1000 pages with 2 channels, whose bandwidth was limited meanwhile, seen every 20 ms for 2 seconds. */
function completed(): Recording {
  const recording = new Recording();
  const journal: Journal = {
    ...fresh(),
    phase: "active",
    totalPages: 1000,
    remainingPages: 1000,
    multifd: true,
    channels: [counts(400), counts(500)],
    limits: DEFAULT_LIMITS,
    trace: [
      { phase: "waiting", atMs: 0 },
      { phase: "setup", atMs: 5 },
      { phase: "active", atMs: 10 },
    ],
  };
  for (let ms = 20; ms <= 1900; ms += 20) {
    const rounds = ms >= 1500 ? [round(1, 700, 200, 1490)] : [];
    const limits = ms > 1000 ? { ...DEFAULT_LIMITS, maxBandwidthBytesPerSec: 2 ** 20 } : DEFAULT_LIMITS;
    const throttlePercent = ms > 1200 ? 20 : 0;
    recording.note({
      ...journal,
      elapsedMs: ms,
      bytes: ms * 1000,
      remainingPages: 1000 - ms / 2,
      rounds,
      limits,
      throttlePercent,
    });
  }
  recording.note({
    ...journal,
    ...BULK,
    phase: "completed",
    owner: "target",
    elapsedMs: 2000,
    bytes: 3_693_600,
    remainingPages: 0,
    sentPages: 900,
    resentPages: 170,
    roundsDone: 2,
    rounds: [round(1, 700, 200, 1490), round(2, 200, 0, 12)],
    limits: { ...DEFAULT_LIMITS, maxBandwidthBytesPerSec: 2 ** 20 },
    downtimeMs: 40,
    downtimePartsMs: { stopCpus: 1, deviceState: 4, lastPages: 12, targetReady: 15, handOver: 5, firstInstruction: 3 },
    hints: { hasBegun: true, hasEnded: true, pages: 60, waitedMs: 9 },
    cacheDrop: { elapsedMs: 90, inflatedBytes: 2 ** 20, freeBeforeBytes: 2 ** 20, freeAfterBytes: 2 ** 21 },
    forecast: { converges: true, rounds: 4, elapsedMs: 1000, bytes: 3_693_600, downtimeMs: 20, atMs: 0 },
    trace: [
      ...journal.trace,
      { phase: "device", atMs: 1965 },
      { phase: "handover", atMs: 1990 },
      { phase: "completed", atMs: 2005 },
    ],
  });
  return recording;
}

const told = (story: Story): ParsedPage => parsePage(page(story));
function tableOf(parsed: ParsedPage, caption: string) {
  const found = parsed.tables.find((one) => one.caption.startsWith(caption));
  if (!found) throw new Error(`no table '${caption}', but ${parsed.tables.map((one) => one.caption).join("; ")}`);
  return found;
}
const rowOf = (parsed: ParsedPage, caption: string, name: string): string[] => {
  const row = tableOf(parsed, caption).rows.find(([first]) => first.trim() === name);
  if (!row) throw new Error(`no row '${name}' in '${caption}'`);
  return row.slice(1);
};
const summed = (rows: string[][], column: number) => rows.reduce((sum, row) => sum + figure(row[column]), 0);

describe("the page of a completed move", () => {
  const text = page(storyOf(completed()));
  const parsed = parsePage(text);

  test("says what moved where, what it took, and who has it", () => {
    expect(parsed.heading).toBe("a moved to tcp:b:1");
    expect(parsed.title).toBe(parsed.heading);
    for (const words of ["completed", "owner: target", "2.00 s", "3.52 MiB", "1.76 MiB/s", "40 ms", "3.91 MiB"])
      expect(parsed.text).toContain(words);
  });

  test("sums all of RAM in the bulk pass", () => {
    const { rows, total } = tableOf(parsed, "The bulk pass");
    expect(rows.map((row) => figure(row[1]))).toEqual([700, 100, 80, 60, 40, 20]);
    expect(summed(rows, 1)).toBe(1000);
    expect(total.slice(1)).toEqual(["1,000", "3.91 MiB", "100.0%"]);
    expect(summed(rows, 3)).toBeCloseTo(100, 5);
    expect(parsed.pictures.find(({ title }) => title.startsWith("All of RAM"))?.description).toContain(
      "free, as the guest said 60 pages",
    );
  });

  test("sums all rounds' pages, and says which of them went again and why", () => {
    const { rows, total } = tableOf(parsed, "All rounds");
    expect(rows.map((row) => row[1])).toEqual(["900", "100"]);
    expect(total[1]).toBe("1,000");
    expect(parsed.text).toContain("170 pages were sent again, because the guest wrote to them");
    expect(parsed.text).toContain("30 pages had been left out, and the guest wrote to them since");
    expect(parsed.text).toContain("The guest named 60 free pages; it was waited for 9 ms.");
    expect(parsed.text).toContain("It gave up its page cache in 90 ms");
  });

  test("sums the downtime", () => {
    const { rows, total } = tableOf(parsed, "While the guest stood still");
    expect(summed(rows, 1)).toBe(40);
    expect(total.slice(1)).toEqual(["40 ms", "100.0%"]);
  });

  test("sums the channels", () => {
    const { heads, rows, total } = tableOf(parsed, "What each has carried");
    expect(rows.map(([name]) => name)).toEqual(["channel 0", "channel 1"]);
    for (const head of ["pages", "packets", "system calls", "fell back", "flush wait"]) {
      const column = heads.indexOf(head);
      expect({ head, sum: summed(rows, column) }).toEqual({ head, sum: figure(total[column]) });
    }
  });

  test("has the limits, and what became of them meanwhile", () => {
    expect(rowOf(parsed, "Limits", "max-bandwidth")).toEqual(["none", "1 MiB/s from 1.02 s on"]);
    expect(rowOf(parsed, "Limits", "max-downtime")).toEqual(["300 ms", "no"]);
  });

  test("has each round, the forecast beside what came of it, and the phases", () => {
    expect(tableOf(parsed, "Each round").rows.map(([first]) => first)).toEqual(["1", "2"]);
    expect(rowOf(parsed, "Each round", "1").at(-1)).toBe("800 KiB");
    expect(rowOf(parsed, "What was foretold", "rounds")).toEqual(["4", "2", "× 0.50"]);
    expect(rowOf(parsed, "What was foretold", "downtime")).toEqual(["20 ms", "40 ms", "× 2.00"]);
    expect(rowOf(parsed, "Each phase", "active")).toEqual(["rounds beside the running guest", "10 ms", "1.96 s"]);
    expect(tableOf(parsed, "Each phase").rows).toHaveLength(6);
  });

  test("says under what conditions it was so", () => {
    expect(rowOf(parsed, "The host", "CPU")).toEqual(["A CPU, 2 of them"]);
    expect(rowOf(parsed, "The host", "--channels")).toEqual(["2"]);
    expect(rowOf(parsed, "The host", "date")).toEqual(["2026-11-22 01:02:03 UTC"]);
  });

  test("draws what went over time twice: for wide windows and for narrow ones", () => {
    const titles = parsed.pictures.map(({ title }) => title);
    for (const title of ["Rate, MiB/s", "Still to send, MiB", "The guest is slowed down, %"])
      expect({ title, drawn: titles.filter((one) => one === title).length }).toEqual({ title, drawn: 2 });
  });

  test("has words for each picture, and each id once", () => {
    expect(new Set(parsed.ids).size).toBe(parsed.ids.length);
    for (const { title, description, labelledBy } of parsed.pictures) {
      expect(title).not.toBe("");
      expect(description).not.toBe("");
      expect(parsed.ids).toEqual(expect.arrayContaining(labelledBy));
    }
  });

  test("needs nothing but itself", () => {
    expect(parsed.active).toEqual([]);
    expect(text).not.toMatch(/https?:|@import|url\((?!#)/);
    const charts = text.slice(text.indexOf("<body"));
    expect(charts).not.toMatch(/<style|#[0-9a-f]{6}/); // colours are the reader's scheme's
    expect(text.length).toBeLessThan(200_000);
  });
});

describe("the page", () => {
  test("of what failed before it began has the error and what to do next", () => {
    const error = { code: "E_CONNECT", message: "cannot connect", expected: "a target", next: "start one" } as const;
    const parsed = told(storyOf(new Recording(), { outcome: "failed", owner: "source", error }));
    expect(parsed.heading).toBe("The move of a to tcp:b:1 failed");
    for (const words of ["cannot connect", "E_CONNECT", "a target", "start one", "It failed before it had begun"])
      expect(parsed.text).toContain(words);
    expect(parsed.pictures).toEqual([]);
  });

  test.each(["failed", "cancelled"] as const)(
    "of a move that %s in its bulk pass counts what was not reached",
    (phase) => {
      const recording = new Recording();
      const journal = { ...fresh(), totalPages: 1000, sentPages: 300, zeroPages: 50, untouchedPages: 100 };
      recording.note({ ...journal, phase: "active", elapsedMs: 50, bytes: 1, remainingPages: 1000 });
      recording.note({ ...journal, phase, elapsedMs: 300, bytes: 1_231_200, remainingPages: 550 });
      const parsed = told(storyOf(recording, { outcome: phase, owner: "source" }));
      expect(parsed.heading).toContain(phase === "failed" ? "failed" : "was cancelled");
      const { rows, total } = tableOf(parsed, "The bulk pass");
      expect(
        rows
          .at(-1)
          ?.slice(0, 2)
          .map((cell) => cell.trim()),
      ).toEqual(["not reached", "550"]);
      expect(summed(rows, 1)).toBe(figure(total[1]));
      expect(parsed.text).toContain("It did not come to an end");
      expect(parsed.text).not.toContain("NaN");
    },
  );

  test("of a save has its file and its threads", () => {
    const recording = completed();
    const journal = {
      ...(recording.journal as Journal),
      multifd: false,
      downtimePartsMs: { stopCpus: 10, durable: 30 },
    };
    recording.note(journal);
    const file = {
      fileBytes: 2 ** 22,
      allocatedBytes: 2 ** 21,
      machine: "tram",
      blocks: [{ name: "ram", bytes: 2 ** 22, present: 900 }],
    };
    const parsed = told(storyOf(recording, { kind: "save", where: "a.tram", file }));
    expect(parsed.heading).toBe("a was saved into a.tram");
    expect(rowOf(parsed, "Blocks of RAM", "ram")).toEqual(["4 MiB", "900"]);
    expect(tableOf(parsed, "What each has carried").heads).toContain("past the page cache");
    expect(rowOf(parsed, "While the guest stood still", "the file is made durable")[0]).toBe("30 ms");
    expect(parsed.text).toContain("4 MiB long, 2 MiB on disk, machine tram");
  });

  test("of a QEMU guest's save says what nobody knows", () => {
    const recording = new Recording();
    const journal: Journal = { ...fresh(), direction: "incoming", totalPages: 1000, sentPages: 900, zeroPages: 500 };
    for (const elapsedMs of [100, 200, 300])
      recording.note({ ...journal, phase: "active", elapsedMs, bytes: elapsedMs * 1e4 });
    recording.note({ ...journal, phase: "completed", elapsedMs: 400, bytes: 4e6 });
    const parsed = told(
      storyOf(recording, { kind: "save", isQemu: true, downtimeMs: 17, channels: [counts(500), counts(400)] }),
    );
    expect(parsed.text).toContain("QEMU says 17 ms");
    expect(parsed.text).toContain("QEMU sends its pages itself");
    expect(tableOf(parsed, "Pages, each time that they came").total[1]).toBe("1,400");
    expect(parsed.tables.some(({ caption }) => caption.startsWith("Each round"))).toBe(false);
    expect(parsed.pictures.map(({ title }) => title)).toEqual(["Rate, MiB/s", "Rate, MiB/s"]);
  });

  test("of a rehearsal reckons the last round, and says why a move would not end", () => {
    const recording = completed();
    const journal = recording.journal as Journal;
    const last = { remainingPages: 100, expectedDowntimeMs: 25, downtimeMs: null, downtimePartsMs: {} };
    recording.note({ ...journal, ...last, elapsedMs: 2001 });
    const parsed = told(storyOf(recording, { kind: "rehearse", owner: "source" }));
    expect(parsed.heading).toBe("A move of a was rehearsed");
    expect(rowOf(parsed, "What was foretold", "rounds")).toEqual(["4", "3", "× 0.75"]);
    expect(rowOf(parsed, "What was foretold", "downtime")).toEqual(["20 ms", "25 ms", "× 1.25"]);

    const remedy = { knob: "max-downtime", ms: 900 } as const;
    const stall = {
      sinceRound: 2,
      leftBytes: 2 ** 20,
      dirtyBytesPerSec: 2 ** 20,
      bandwidthBytesPerSec: 2 ** 20,
      remedy,
    };
    recording.note({ ...journal, ...last, phase: "cancelled", elapsedMs: 2002, stall });
    const stalled = told(storyOf(recording, { kind: "rehearse", owner: "source" }));
    expect(stalled.text).toContain("It does not converge");
    expect(stalled.text).toContain("tram set a max-downtime=900ms");
    expect(rowOf(stalled, "What was foretold", "downtime")).toEqual(["20 ms", "none", ""]);
  });

  test("keeps other people's strings text", () => {
    const evil = `</style></title><script>alert(1)</script><img src=x onerror=alert(2)>"'&\u202e\u0007`;
    const code = "E_QMP" as const;
    const recording = completed();
    const journal = recording.journal as Journal;
    recording.note({ ...journal, elapsedMs: 2001, downtimePartsMs: { [evil]: 40 } });
    const text = page(
      storyOf(recording, {
        vm: evil,
        where: evil,
        owner: evil,
        outcome: "failed",
        error: { code, message: evil, where: evil, expected: evil, found: evil, next: evil },
        options: [[evil, evil]],
        environment: { ...ENVIRONMENT, cpu: evil, kernel: evil, version: evil },
        file: { fileBytes: 1, allocatedBytes: 1, machine: evil, blocks: [{ name: evil, bytes: 1, present: 1 }] },
      }),
    );
    const parsed = parsePage(text);
    expect(parsed.active).toEqual([]);
    expect(text).not.toMatch(/<script|<img/i);
    expect(text).not.toContain("\u0007");
    const seen = evil.replace("\u0007", "?");
    expect(parsed.heading).toBe(`The move of ${seen} to ${seen} failed`);
    expect(parsed.text.split(seen).length - 1).toBeGreaterThanOrEqual(12);
    expect(new Set(parsed.ids).size).toBe(parsed.ids.length);
    // What turns the direction of writing around does so in its own place.
    expect(text.match(/<bdi>[^<]*\u202e/g)?.length).toBeGreaterThanOrEqual(8);
  });
});

describe("a recording", () => {
  const long = (looks: number, everyMs: number): Recording => {
    const recording = new Recording();
    for (let i = 1; i <= looks; i++) {
      const rounds = Array.from({ length: 200 }, (_, at) => round(Math.floor(i / 10) - 199 + at, 50, 40, 9)).filter(
        (one) => one.round > 0,
      );
      const state = { roundsDone: Math.floor(i / 10), rounds, totalPages: 1000, remainingPages: 10 + (i % 100) };
      recording.note({ ...fresh(), ...state, phase: "active", elapsedMs: i * everyMs, bytes: i * 5000 });
    }
    return recording;
  };

  test("is thinned out evenly where it becomes much, and has its first and last look", () => {
    const { samples, rounds } = long(30_000, 20);
    expect(samples.length).toBeGreaterThan(500);
    expect(samples.length).toBeLessThanOrEqual(2000);
    expect(samples[0].atMs).toBe(20);
    expect(samples.at(-1)).toMatchObject({ atMs: 600_000, bytes: 150_000_000 });
    const gaps = samples.slice(1).map(({ atMs }, i) => atMs - samples[i].atMs);
    expect(Math.min(...gaps)).toBeGreaterThan(0);
    expect(Math.max(...gaps)).toBeLessThan(600_000 / 400);
    expect(rounds.length).toBeLessThanOrEqual(1001);
    expect(rounds[0].round).toBe(1);
    expect(rounds.at(-1)?.round).toBe(3000);
  });

  test("that is long makes no long page, and says which rounds are gone", () => {
    const text = page(storyOf(long(30_000, 20)));
    expect(text.length).toBeLessThan(300_000);
    expect(parsePage(text).text).toContain("2,800 rounds behind the first are not shown");
  }, 30_000);

  test("has what a round left once that is known, and no look at what did not change", () => {
    const recording = new Recording();
    const first = { ...fresh(), phase: "active" as const, elapsedMs: 100, rounds: [round(1, 700, 0, 90)] };
    recording.note(first);
    recording.note(first);
    recording.note({ ...first, elapsedMs: 150, rounds: [round(1, 700, 55, 90)] });
    expect(recording.samples.map(({ atMs }) => atMs)).toEqual([100, 150]);
    expect(recording.rounds).toMatchObject([{ round: 1, dirtyPages: 55, endMs: 100 }]);
  });

  test("does not begin before the move does", () => {
    const recording = new Recording();
    for (const phase of ["none", "cache", "waiting"] as const) recording.note({ ...fresh(), phase, elapsedMs: 70 });
    expect(recording.samples).toEqual([]);
    expect(recording.journal?.phase).toBe("waiting");
  });
});

describe("the page's colours", () => {
  const css = readFileSync(join(import.meta.dir, "../../src/cli/page/page.css"), "utf8");
  const schemes = css.split("@media screen and (prefers-color-scheme").slice(0, 2);
  const luminance = (colour: string): number => {
    const [r, g, b] = [1, 3, 5]
      .map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one: string, other: string): number => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };

  test.each([0, 1])("can be told apart from what is behind them (scheme %d)", (scheme) => {
    const colours = Object.fromEntries(
      [...schemes[scheme].matchAll(/--([\w-]+): (#[0-9a-f]{6})/g)].map(([, ...pair]) => pair),
    );
    const behind = [colours.paper, colours.card];
    for (const name of ["ink", "muted", "good", "bad"])
      for (const paper of behind)
        expect({ name, enough: contrast(colours[name], paper) >= 4.5 }).toEqual({ name, enough: true });
    const drawn = Object.keys(colours).filter((name) => /^c\d$|^(rate|dirty|limit|throttle|stopped-mark)$/.test(name));
    expect(drawn.length).toBe(14);
    for (const name of drawn)
      expect({ name, enough: contrast(colours[name], colours.paper) >= 3 }).toEqual({ name, enough: true });
  });
});
