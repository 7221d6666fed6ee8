import { describe, expect, test } from "bun:test";
import { type Journal, Ledger, MoveLog, type Phase, type Round } from "../../src/control/journal.ts";

/** Every way through a move, and every phase one may be in. */
const WAYS: Record<Phase, Phase[]> = {
  none: ["cache", "setup", "waiting", "cancelled", "failed"],
  cache: ["setup", "waiting", "cancelled", "failed"],
  waiting: ["setup", "cancelled", "failed"],
  setup: ["active", "device", "cancelled", "failed", "completed"],
  active: ["held", "device", "completed", "cancelled", "failed"],
  held: ["active", "device", "completed", "cancelled", "failed"],
  device: ["handover", "cancelled", "failed"],
  handover: ["completed", "cancelled", "failed"],
  completed: [],
  failed: [],
  cancelled: [],
};
const PHASES = Object.keys(WAYS) as Phase[];

/** A legal way to each phase. */
const PATHS: Record<Phase, Phase[]> = {
  none: [],
  cache: ["cache"],
  waiting: ["waiting"],
  setup: ["setup"],
  active: ["setup", "active"],
  held: ["setup", "active", "held"],
  device: ["setup", "active", "device"],
  handover: ["setup", "active", "device", "handover"],
  completed: ["setup", "active", "device", "handover", "completed"],
  failed: ["setup", "failed"],
  cancelled: ["setup", "cancelled"],
};

function logIn(phase: Phase): MoveLog {
  const log = new MoveLog(
    "outgoing",
    "tcp:b:1",
    () => {},
    () => 0,
  );
  for (const step of PATHS[phase]) log.setPhase(step);
  return log;
}

const round = (number: number): Round => ({
  round: number,
  pages: 1,
  zeroPages: 0,
  bytes: 4104,
  durationMs: 1,
  dirtyPages: 0,
});

describe("MoveLog", () => {
  test.each(PHASES)("goes from '%s' where a move may go and nowhere else", (from) => {
    for (const to of PHASES) {
      const log = logIn(from);
      if (WAYS[from].includes(to)) {
        log.setPhase(to);
        expect(log.journal.phase).toBe(to);
      } else {
        expect(() => log.setPhase(to)).toThrow(`no move goes from '${from}' to '${to}'`);
        expect(log.journal.phase).toBe(from);
      }
    }
    expect(logIn(from).isOver).toBe(WAYS[from].length === 0);
  });

  test("publishes at once for a phase and a round, and between them every 50 ms", () => {
    let nowMs = 1000;
    const elapsed: number[] = [];
    const log = new MoveLog(
      "incoming",
      "-",
      (journal) => elapsed.push(journal.elapsedMs),
      () => nowMs,
    );
    log.refresh();
    nowMs += 49;
    log.refresh();
    expect(elapsed).toEqual([0]);
    nowMs += 1;
    log.refresh();
    expect(elapsed).toEqual([0, 50]);
    nowMs += 1;
    log.setPhase("setup");
    nowMs += 1;
    log.finishRound(round(1));
    nowMs += 10;
    log.refresh();
    expect(elapsed).toEqual([0, 50, 51, 52]);
  });

  test("publishes the journal itself, owned by the source until somebody says otherwise", () => {
    const seen: Journal[] = [];
    const log = new MoveLog(
      "outgoing",
      "tcp:b:1",
      (journal) => seen.push(journal),
      () => 0,
    );
    log.setPhase("setup");
    expect(seen[0]).toBe(log.journal);
    expect(seen[0]).toMatchObject({
      direction: "outgoing",
      peer: "tcp:b:1",
      owner: "source",
      error: null,
      downtimeMs: null,
    });
  });

  test("keeps the last 200 rounds and counts them all", () => {
    const log = logIn("active");
    for (let i = 1; i <= 450; i++) log.finishRound(round(i));
    expect(log.journal.rounds.map((one) => one.round)).toEqual(Array.from({ length: 200 }, (_, i) => i + 251));
    expect(log.journal.roundsDone).toBe(450);
  });
});

describe("Ledger", () => {
  test("gives each part the time since the one before", () => {
    let nowMs = 100;
    const ledger = new Ledger(() => nowMs);
    nowMs = 103;
    ledger.mark("stop");
    nowMs = 110;
    ledger.mark("send");
    ledger.mark("nothing");
    expect(ledger.parts).toEqual({ stop: 3, send: 7, nothing: 0 });
    expect(ledger.totalMs).toBe(10);
    ledger.take("send", "elsewhere", 2.4); // by another clock
    expect(ledger.parts).toEqual({ stop: 3, send: 5, nothing: 0, elsewhere: 2 });
    ledger.take("stop", "more than there is", 50);
    expect(ledger.parts).toMatchObject({ stop: 0, "more than there is": 3 });
    expect(Object.values(ledger.parts).reduce((sum, ms) => sum + ms, 0)).toBe(10);
  });

  test.each(Array.from({ length: 30 }, (_, i) => i + 1))(
    "has whole parts that sum to the rounded total, seed %d",
    (seed) => {
      let nowMs = 12345.678 * seed;
      const startedMs = nowMs;
      const ledger = new Ledger(() => nowMs);
      for (let i = 0; i < 20; i++) {
        nowMs += Number(Bun.hash.wyhash(`${i}`, BigInt(seed)) % 3000n) / 700;
        ledger.mark(`part ${i}`);
        const parts = Object.values(ledger.parts);
        expect(parts.every((ms) => Number.isInteger(ms) && ms >= 0)).toBe(true);
        expect(parts.reduce((sum, ms) => sum + ms, 0)).toBe(ledger.totalMs);
      }
      expect(ledger.totalMs).toBe(Math.round(nowMs - startedMs));
    },
  );
});
