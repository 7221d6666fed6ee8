// The two stories of a move with a scripted guest and peer: what is undone at each failure, what is refused, who owns it.
import { describe, expect, test } from "bun:test";
import { noCounts } from "../../src/control/barrier.ts";
import type { Incoming, MoveReader, MoveWriter } from "../../src/control/channel.ts";
import type { DeviceState, Guest } from "../../src/control/guest.ts";
import type { Answer, FreePages } from "../../src/control/hints.ts";
import { type Journal, MoveLog } from "../../src/control/journal.ts";
import { LiveLimits } from "../../src/control/limits.ts";
import { type ReceivingCrew, receive } from "../../src/control/receive.ts";
import type { Crew } from "../../src/control/rounds.ts";
import { type SendOptions, send } from "../../src/control/send.ts";
import { TramError } from "../../src/errors.ts";
import { Ram } from "../../src/native/ram.ts";
import type { MachineDescription } from "../../src/stream/devices/machine.ts";
import { kvmclock } from "../../src/stream/devices/x86.ts";
import { HELLO_VERSION, type Hello } from "../../src/stream/return-path.ts";
import { plainPages } from "../support/plain-pages.ts";

const PAGES = 64;
const description: MachineDescription = {
  name: "g",
  memoryBytes: PAGES * 4096,
  cpus: 1,
  tscKhz: 1,
  walker: false,
  balloon: false,
  pc: false,
  vsock: false,
  console: false,
  mac: null,
  disks: [],
  cpuid: [],
};
const hello: Hello = { version: HELLO_VERSION, name: "t", memoryBytes: null, cpus: null, cpuid: [] };
const clock = (instance: number): DeviceState => ({ table: kvmclock, instance, state: { clock: 0n } });

/** Notes what is asked of it; dirties page 7 after its first copy was sent. */
class ScriptedGuest implements Guest {
  readonly description = description;
  readonly ram = Ram.create(description.memoryBytes);
  readonly pagemapFd = -1;
  readonly calls: string[] = [];
  syncs = 0;
  startTracking(): void {
    this.calls.push("startTracking");
  }
  syncDirty(dirty: { add(page: number): void }): void {
    if (++this.syncs === 2) dirty.add(7);
  }
  freePages: FreePages | null = null;
  pages = plainPages;
  stopTracking(): void {
    this.calls.push("stopTracking");
  }
  throttle(percent: number): void {
    if (percent > 0) this.calls.push(`throttle ${percent}`);
  }
  settle(): boolean {
    return false;
  }
  pause(): string {
    this.calls.push("pause");
    return "running";
  }
  unpause(was: string): void {
    this.calls.push(`unpause ${was}`);
  }
  letGo(): void {}

  saveDevices(): DeviceState[] {
    return [clock(0)];
  }
  loadDevices(devices: readonly DeviceState[]): void {
    this.calls.push(`load ${devices.length}`);
  }
}

const STEPS = [
  "begin",
  "awaitHello",
  "machine",
  "awaitMachine",
  "startRam",
  "beginRound",
  "write",
  "endRound",
  "untouched",
  "devices",
  "awaitReady",
  "handOver",
  "describe",
  "awaitConfirmation",
] as const;
/** Only with --verify. */
const VERIFY_STEPS = ["verifyPages", "differingPages", "endRounds"] as const;
/** Only with --channels. */
const CHANNEL_STEPS = ["openChannels"] as const;
type Step = (typeof STEPS)[number] | (typeof VERIFY_STEPS)[number] | (typeof CHANNEL_STEPS)[number];

function scriptedWriter(
  failAt: Step | null,
  confirms = true,
  differing: number[][] = [],
): MoveWriter & { calls: string[] } {
  const calls: string[] = [];
  const step = (name: Step) => {
    calls.push(name);
    if (name === failAt) throw new TramError("E_CHANNEL_CLOSED", `failed at ${name}`);
  };
  return {
    calls,
    name: "scripted",
    twoWay: true,
    bytes: 1_000_000,
    begin: () => step("begin"),
    awaitHello: () => {
      step("awaitHello");
      return hello;
    },
    machine: () => step("machine"),
    awaitMachine: () => step("awaitMachine"),
    openChannels: () => step("openChannels"),
    startRam: () => step("startRam"),
    verifyPages: () => step("verifyPages"),
    differingPages: () => {
      step("differingPages");
      return Uint32Array.from(differing.shift() ?? []);
    },
    beginRound: () => step("beginRound"),
    write: (_, count) => {
      step("write");
      return { pages: count, zeroPages: 0, bytes: count * 4104 };
    },
    endRound: () => step("endRound"),
    endRounds: () => step("endRounds"),
    untouched: () => step("untouched"),
    devices: () => step("devices"),
    awaitReady: () => step("awaitReady"),
    handOver: () => step("handOver"),
    describe: () => step("describe"),
    awaitConfirmation: () => {
      if (failAt === "awaitConfirmation") return null;
      return confirms ? { startedAfterMs: null } : null;
    },
    explain: (error) => error,
    close: () => void calls.push("close"),
  };
}

const options: SendOptions = {
  replyMs: 1000,
  channels: 0,
  verify: false,
  skipFree: true,
  rehearse: false,
};

function run(
  guest: Guest,
  writer: MoveWriter,
  context: Partial<Parameters<typeof send>[3]> = {},
  wanted = options,
): Journal {
  let now = 0;
  const log = new MoveLog(
    "outgoing",
    "peer",
    () => {},
    () => now++,
  );
  const whole: Parameters<typeof send>[3] = {
    limits: LiveLimits.of({}),
    checkCancelled: () => {},
    time: () => {},
    isOverdue: false,
    unsentBytes: () => 0,
    sleep: () => {},
    openChannels: () => {
      throw new Error("no channels here");
    },
    passHandover: () => true,
    handedOver: () => {},
    ...context,
  };
  send(guest, writer, wanted, whole, log);
  return log.journal;
}

describe("the source's story", () => {
  const verifying = { ...options, verify: true };
  const verifies: Hello = { ...hello, verifies: true };

  test("rehearsed: ends where the guest would be stopped, and never stops it", () => {
    const guest = new ScriptedGuest();
    const writer = scriptedWriter(null);
    const journal = run(guest, writer, {}, { ...options, rehearse: true });
    expect(journal).toMatchObject({
      phase: "completed",
      owner: "source",
      error: null,
      downtimeMs: null,
      roundsDone: 1,
    });
    expect(guest.calls).toEqual(["startTracking", "stopTracking"]);
    expect(writer.calls).toContain("write");
    expect(writer.calls).not.toContain("devices");
    expect(writer.calls.at(-1)).toBe("close");
  });

  test("stops the guest only when what is sent has arrived, or nearly, and sends what it writes meanwhile", () => {
    const guest = new ScriptedGuest();
    let unsent = 1_000_000;
    let unsentAtStop = -1;
    let slept = 0;
    const sleep = (ms: number) => {
      slept += ms;
      unsent = Math.max(0, unsent - 50_000);
    };
    const pause = guest.pause.bind(guest);
    guest.pause = () => {
      unsentAtStop = unsent;
      return pause();
    };
    guest.syncDirty = (dirty) => {
      if (unsent < 500_000) dirty.add(9);
    };
    const limits = LiveLimits.of({ maxDowntimeMs: 2 });
    const journal = run(guest, scriptedWriter(null), { limits, sleep, unsentBytes: () => unsent });
    expect(journal).toMatchObject({ phase: "completed", owner: "target" });
    expect(journal.resentPages).toBeGreaterThan(0);
    expect(slept).toBeGreaterThan(0);
    expect(unsentAtStop).toBeLessThan(100_000);
  });

  test("does not go on with who takes nothing more, though there is room for what little it has to send", () => {
    const guest = new ScriptedGuest();
    guest.syncDirty = (dirty) => dirty.add(9);
    const limits = LiveLimits.of({ maxDowntimeMs: 2 });
    let unsent = 5_000_000;
    const unsentBytes = () => {
      unsent += 10;
      return unsent;
    };
    const writer = scriptedWriter(null);
    Object.defineProperty(writer, "bytes", { get: () => 1_000_000 + unsent });
    const journal = run(guest, writer, { limits, unsentBytes });
    expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_PEER_SILENT" } });
    expect(journal.elapsedMs).toBeGreaterThan(options.replyMs);
    expect(guest.calls).toEqual(["startTracking", "stopTracking"]); // it never stood still
  });

  test("slowed down, and then given more time: runs at its full speed again, and says why it does not end", () => {
    const guest = new ScriptedGuest();
    const limits = LiveLimits.of({ timeoutMs: 1, onTimeout: "throttle", maxDowntimeMs: 0 });
    const percents: number[] = [];
    guest.throttle = (percent) => void percents.push(percent);
    let syncs = 0;
    guest.syncDirty = (dirty) => {
      for (let page = 0; page < 30; page++) dirty.add(page);
      if (++syncs === 6) limits.set({ timeoutMs: 0 });
      if (syncs === 12) limits.set({ maxDowntimeMs: 1_000_000 });
    };
    const journal = run(guest, scriptedWriter(null), { limits });
    expect(journal).toMatchObject({ phase: "completed", throttlePercent: 0, stall: null });
    expect(percents[0]).toBe(20);
    expect(percents.at(-1)).toBe(0);
  });

  describe("held", () => {
    /** Holds; at `atSleep` it writes to 60 pages, which is more than may be left; at `offAtSleep` it may switch over. */
    function held(atSleep: number, offAtSleep: number) {
      const guest = new ScriptedGuest();
      const limits = LiveLimits.of({ hold: true, maxDowntimeMs: 1 });
      let sleeps = 0;
      let left = 60;
      guest.syncDirty = (dirty) => {
        if (sleeps >= atSleep) for (; left > 0; left--) dirty.add(left);
      };
      const sleep = () => {
        if (++sleeps === offAtSleep) limits.set({ hold: false });
      };
      const journal = run(guest, scriptedWriter(null), { limits, sleep });
      return { journal, guest, sleeps, phases: journal.trace.map(({ phase }) => phase) };
    }

    test("keeps what is left small without stopping the guest, and switches over when it may", () => {
      const { journal, guest, sleeps, phases } = held(30, 400);
      expect(journal).toMatchObject({
        phase: "completed",
        owner: "target",
        error: null,
        resentPages: 60,
        roundsDone: 3,
      });
      expect(phases).toEqual(["setup", "active", "held", "device", "handover", "completed"]);
      expect(guest.calls).toEqual(["startTracking", "pause", "stopTracking"]);
      expect(sleeps).toBe(400);
    });

    test("for longer than its time: that counts from when it is let go", () => {
      const limits = LiveLimits.of({ hold: true, timeoutMs: 200 });
      let sleeps = 0;
      const sleep = () => {
        if (++sleeps === 300) limits.set({ hold: false });
      };
      const times: (number | null)[] = [];
      const time = (sinceMs: number | null) => void times.push(sinceMs);
      const journal = run(new ScriptedGuest(), scriptedWriter(null), { limits, sleep, time });
      expect(journal).toMatchObject({ phase: "completed", owner: "target", error: null });
      expect(journal.trace.find(({ phase }) => phase === "device")?.atMs).toBeGreaterThan(200);
      expect(times.map((one) => one !== null)).toEqual([true, false, true]); // nobody else may end it meanwhile
    });

    test("and let go while more is left than fits: goes on as it would have without", () => {
      const { journal, phases } = held(5, 5);
      expect(journal).toMatchObject({ phase: "completed", resentPages: 60 });
      expect(phases).toEqual(["setup", "active", "held", "active", "device", "handover", "completed"]);
    });
  });

  test("with --verify: what arrived otherwise is sent again, and compared again", () => {
    const writer = { ...scriptedWriter(null, true, [[3, 5], []]), awaitHello: () => verifies };
    const journal = run(new ScriptedGuest(), writer, {}, verifying);
    expect(journal).toMatchObject({ phase: "completed", owner: "target", differingPages: 2, error: null });
    expect(writer.calls.filter((call) => call === "differingPages")).toHaveLength(2);
    expect(writer.calls.indexOf("verifyPages")).toBeLessThan(writer.calls.indexOf("startRam"));
    expect(writer.calls.lastIndexOf("differingPages")).toBeLessThan(writer.calls.indexOf("devices"));
  });

  test("with --verify: what is wrong twice gives the guest back", () => {
    const guest = new ScriptedGuest();
    const writer = { ...scriptedWriter(null, true, [[3, 5], [5]]), awaitHello: () => verifies };
    const journal = run(guest, writer, {}, verifying);
    expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_HASH", where: "pages 5" } });
    expect(guest.calls).toEqual(["startTracking", "pause", "unpause running", "stopTracking"]);
    expect(writer.calls).not.toContain("handOver");
  });

  test("with --verify: a target that cannot say is refused before anything is sent", () => {
    const guest = new ScriptedGuest();
    const journal = run(guest, scriptedWriter(null), {}, verifying);
    expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_REFUSED" } });
    expect(guest.calls).toEqual([]);
  });

  test("waits for the rest of a restored guest's memory, and then sends what was written meanwhile", () => {
    const guest = new ScriptedGuest();
    let waits = 1;
    guest.settle = () => waits-- > 0;
    const writer = scriptedWriter(null);
    expect(run(guest, writer)).toMatchObject({ phase: "completed", owner: "target" });
    expect(guest.syncs).toBe(4); // bulk, after it, after the wait, and with the guest stopped
  });

  test("goes through all its steps once, and re-sends what was written meanwhile", () => {
    const guest = new ScriptedGuest();
    const writer = scriptedWriter(null);
    const journal = run(guest, writer);
    expect(journal).toMatchObject({
      phase: "completed",
      owner: "target",
      error: null,
      resentPages: 1,
      sentPages: PAGES + 1,
    });
    expect(guest.calls).toEqual(["startTracking", "pause", "stopTracking"]);
    const order = writer.calls.filter((call, i) => writer.calls.indexOf(call) === i);
    expect(order).toEqual([...STEPS.slice(0, -1), "close"]);
    const sum = Object.values(journal.downtimePartsMs).reduce((a, b) => a + b, 0);
    expect(sum).toBe(journal.downtimeMs as number);
  });

  test.each(STEPS.slice(0, STEPS.indexOf("describe")))(
    "that fails at %s leaves the guest as it was, at the source",
    (failAt) => {
      const guest = new ScriptedGuest();
      const writer = scriptedWriter(failAt);
      const journal = run(guest, writer);
      expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_CHANNEL_CLOSED" } });
      const count = (call: string) => guest.calls.filter((one) => one === call).length;
      expect(count("stopTracking")).toBe(count("startTracking"));
      expect(count("unpause running")).toBe(count("pause"));
      expect(writer.calls.at(-1)).toBe("close");
    },
  );

  test("without a confirmation nobody runs the guest here, and nobody says where it is", () => {
    const guest = new ScriptedGuest();
    const journal = run(guest, scriptedWriter("awaitConfirmation"));
    expect(journal).toMatchObject({ phase: "failed", owner: "unconfirmed", error: { code: "E_HANDOVER_UNKNOWN" } });
    expect(guest.calls).toEqual(["startTracking", "pause", "stopTracking"]);
  });

  test("a target that cannot have the machine costs the guest nothing: it is not even tracked", () => {
    const guest = new ScriptedGuest();
    const refusal = new TramError("E_REFUSED", "its disk is not there");
    const awaitMachine = () => {
      throw refusal;
    };
    const journal = run(guest, { ...scriptedWriter(null), awaitMachine });
    expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_REFUSED" }, sentPages: 0 });
    expect(guest.calls).toEqual([]);
  });

  test("a target that says that it does not take the guest gives it back", () => {
    const guest = new ScriptedGuest();
    const refusal = new TramError("E_REFUSED", "its disk is in use there");
    const journal = run(guest, { ...scriptedWriter(null), awaitConfirmation: () => refusal });
    expect(journal).toMatchObject({
      phase: "failed",
      owner: "source",
      error: { code: "E_REFUSED", message: refusal.message },
    });
    expect(guest.calls).toEqual(["startTracking", "pause", "unpause running", "stopTracking"]);
  });

  test("a channel that breaks just behind the hand-over word decides nothing: a confirmation does", () => {
    const two = run(new ScriptedGuest(), scriptedWriter("describe"));
    expect(two).toMatchObject({ phase: "completed", owner: "target" });
    const guest = new ScriptedGuest();
    const one = run(guest, { ...scriptedWriter("describe"), twoWay: false });
    expect(one).toMatchObject({ phase: "failed", owner: "unconfirmed", error: { code: "E_HANDOVER_UNKNOWN" } });
    expect(guest.calls).not.toContain("unpause running");
  });

  test("a guest that stopped by itself is not moved", () => {
    const guest = new ScriptedGuest();
    guest.pause = () => {
      throw new TramError("E_GUEST", "it crashed");
    };
    expect(run(guest, scriptedWriter(null))).toMatchObject({ phase: "failed", error: { code: "E_GUEST" } });
    expect(guest.calls).toEqual(["startTracking", "stopTracking"]);
  });

  test("what cannot be undone does not keep the rest from being undone, nor hides the cause", () => {
    const guest = new ScriptedGuest();
    guest.unpause = () => {
      throw new Error("no");
    };
    const journal = run(guest, scriptedWriter("devices"));
    expect(journal).toMatchObject({ phase: "failed", error: { code: "E_CHANNEL_CLOSED" } });
    expect(guest.calls.at(-1)).toBe("stopTracking");
  });

  test("a cancel that comes before the hand-over word gives the guest back", () => {
    const guest = new ScriptedGuest();
    const writer = scriptedWriter(null);
    const journal = run(guest, writer, { passHandover: () => false });
    expect(journal).toMatchObject({ phase: "cancelled", owner: "source" });
    expect(guest.calls).toEqual(["startTracking", "pause", "unpause running", "stopTracking"]);
    expect(writer.calls).not.toContain("handOver");
  });

  /** Threads that carry everything in no time. */
  const scriptedCrew = (calls: string[], failAt: string | null = null): Crew => {
    const step = (name: string) => {
      calls.push(name);
      if (name === failAt) throw new TramError("E_CHANNEL_CLOSED", `failed at ${name}`);
    };
    return {
      begin: () => step("crew begin"),
      finish: () => step("crew finish"),
      counts: () => [{ ...noCounts(), pages: 1, bytes: 4096 }],
      end: () => step("crew end"),
    };
  };
  const takesChannels: Hello = { ...hello, channels: true };

  test("with --channels: the target has them before it is told of RAM, and no page goes over the main one", () => {
    const writer = { ...scriptedWriter(null), awaitHello: () => takesChannels };
    const opened: number[] = [];
    const journal = run(
      new ScriptedGuest(),
      writer,
      {
        openChannels(count) {
          opened.push(count);
          return scriptedCrew(writer.calls);
        },
      },
      { ...options, channels: 3 },
    );
    expect(journal).toMatchObject({ phase: "completed", owner: "target", multifd: true, error: null });
    expect(opened).toEqual([3]);
    expect(writer.calls).not.toContain("write");
    expect(writer.calls.indexOf("openChannels")).toBeLessThan(writer.calls.indexOf("startRam"));
    // Each round is theirs between the section's beginning and its end.
    const rounds = writer.calls.filter((call) => /Round$|^crew/.test(call));
    expect(rounds.slice(0, 4)).toEqual(["beginRound", "crew begin", "crew finish", "endRound"]);
    expect(rounds.at(-1)).toBe("crew end");
    expect(writer.calls.indexOf("crew end")).toBeGreaterThan(writer.calls.indexOf("handOver"));
  });

  test.each(["crew begin", "crew finish"])("with --channels: one that fails at %s gives the guest back", (failAt) => {
    const guest = new ScriptedGuest();
    const writer = { ...scriptedWriter(null), awaitHello: () => takesChannels };
    const openChannels = () => scriptedCrew(guest.calls, failAt);
    const journal = run(guest, writer, { openChannels }, { ...options, channels: 2 });
    expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_CHANNEL_CLOSED" } });
    // Nobody clears the dirty log any more when it goes.
    expect(guest.calls.slice(-2)).toEqual(["crew end", "stopTracking"]);
  });

  test("with --channels: a target that does not take them is refused before anything of the guest is sent", () => {
    const writer = scriptedWriter(null);
    const journal = run(new ScriptedGuest(), writer, {}, { ...options, channels: 2 });
    expect(journal).toMatchObject({ phase: "failed", owner: "source", error: { code: "E_REFUSED" } });
    expect(writer.calls).toEqual(["begin", "awaitHello", "close"]);
  });

  describe("with a guest that names its free pages", () => {
    const HINTED = [3, 4, 5, 31, 32, 40];
    const isHinted = (page: number) => HINTED.includes(page);
    const OTHERS = PAGES - HINTED.length;

    /**
     * Names them, one more at each look while anybody sleeps, and the end behind the last; writes to page 4 again when its log is
     * looked at the second time. `habit`: what becomes of its answer.
     */
    function forthcoming(habit: "tells" | "stops half way" | "is silent" = "tells") {
      const guest = new ScriptedGuest();
      const writer = scriptedWriter(null);
      const calls: string[] = [];
      const sent: number[][] = [];
      const cleared: { first: number; pages: number; except: number[] }[] = [];
      let asked = false;
      let looks = 0;
      let isOver = false;
      const named = () => (asked ? HINTED.slice(0, Math.max(0, looks - 2)) : []);
      const answer = (): Answer => ({
        hasBegun: habit !== "is silent" && looks >= 2,
        hasEnded: habit === "tells" && looks >= 3 + HINTED.length,
        pages: named().length,
      });
      guest.freePages = {
        ask() {
          calls.push("ask");
          asked = true;
        },
        end() {
          calls.push("end");
          isOver = true;
        },
        get answer() {
          return answer();
        },
      };
      guest.pages = {
        ...plainPages,
        hinted(first, pages) {
          if (isOver) throw new Error("nobody knows any more what is free");
          const words = new Uint32Array(Math.ceil(pages / 32));
          for (const page of named()) if (page >= first) words[(page - first) >>> 5] |= 1 << ((page - first) & 31);
          return named().length > 0 ? words : null;
        },
        clearDirty(first, pages, except) {
          calls.push("clear");
          const pagesOf = (words: Uint32Array) =>
            Array.from({ length: pages }, (_, i) => i).filter((i) => words[i >>> 5] & (1 << (i & 31)));
          cleared.push({ first, pages, except: except ? pagesOf(except).map((i) => first + i) : [] });
        },
      };
      guest.syncDirty = (dirty) => {
        calls.push("sync");
        if (++guest.syncs === 2) dirty.add(4);
      };
      const write = writer.write;
      writer.write = (index, count) => {
        calls.push("write");
        sent.push([...index.subarray(0, count)]);
        return write(index, count);
      };
      const untouched: { first: number; pages: number }[] = [];
      writer.untouched = (ranges) => void untouched.push(...ranges);
      const sleep = () => {
        const stuck = habit === "is silent" || (habit === "stops half way" && looks === 5);
        if (asked && !stuck) looks++;
      };
      return { guest, writer, calls, sent, cleared, untouched, sleep };
    }

    test("sends none of them, takes none of them back, and sends what was written to since", () => {
      const { guest, writer, calls, sent, cleared, untouched, sleep } = forthcoming();
      const journal = run(guest, writer, { sleep });
      expect(journal).toMatchObject({
        phase: "completed",
        owner: "target",
        error: null,
        hintedPages: HINTED.length,
        sentPages: OTHERS + 1,
        resentPages: 0, // page 4 went once
        hints: { hasBegun: true, hasEnded: true, pages: HINTED.length },
      });
      const bulk = Array.from({ length: PAGES }, (_, page) => page).filter((page) => !isHinted(page));
      expect(sent).toEqual([bulk, [4]]);
      expect(cleared).toEqual([{ first: 0, pages: PAGES, except: HINTED }]); // the last round takes nothing back
      expect(calls).toEqual(["sync", "ask", "clear", "write", "end", "sync", "sync", "write"]);
      expect(untouched.flatMap(({ first, pages }) => Array.from({ length: pages }, (_, i) => first + i))).toEqual(
        HINTED.filter((page) => page !== 4),
      );
    });

    test("asks once, before the bulk pass, however many rounds there are", () => {
      const { guest, writer, calls, sent, cleared, sleep } = forthcoming();
      const syncDirty = guest.syncDirty;
      guest.syncDirty = (dirty) => {
        syncDirty(dirty);
        if (guest.syncs > 1 && guest.syncs < 5) for (let page = 0; page < PAGES; page++) dirty.add(page);
      };
      const limits = LiveLimits.of({ maxDowntimeMs: 0 });
      run(guest, writer, { sleep, limits, checkCancelled: () => void (guest.syncs === 6 && limits.set({ maxDowntimeMs: 1_000_000 })) }); // biome-ignore format: one line
      expect(sent.map((pages) => pages.length)).toEqual([OTHERS, PAGES, PAGES, PAGES]);
      expect(cleared.map(({ except }) => except.length)).toEqual([HINTED.length, 0, 0, 0]);
      expect(calls.filter((call) => call === "ask" || call === "end")).toEqual(["ask", "end"]);
      expect(calls.indexOf("ask")).toBeLessThan(calls.indexOf("write"));
    });

    test.each(["stops half way", "is silent"] as const)("that %s: goes on with what it has", (habit) => {
      const { guest, writer, sent, sleep, calls } = forthcoming(habit);
      const journal = run(guest, writer, { sleep });
      const pages = habit === "is silent" ? 0 : 3;
      expect(journal).toMatchObject({ phase: "completed", hintedPages: pages, hints: { hasEnded: false, pages } });
      expect(sent[0]).toHaveLength(PAGES - pages);
      expect(calls.slice(0, 2)).toEqual(["sync", "ask"]);
      expect(calls.indexOf("end")).toBeLessThan(calls.indexOf("sync", 1));
      expect(journal.hints?.waitedMs).toBeGreaterThanOrEqual(50); // it was waited for
    });

    test("is not asked where that is not wanted", () => {
      const { guest, writer, calls, sent, sleep } = forthcoming();
      const journal = run(guest, writer, { sleep }, { ...options, skipFree: false });
      expect(journal).toMatchObject({ phase: "completed", hintedPages: 0 });
      expect(journal.hints).toBeUndefined();
      expect(sent[0]).toHaveLength(PAGES);
      expect(calls.filter((call) => call === "ask" || call === "end")).toEqual([]);
    });

    test.each(["is waited for", "is sent"])("that is cancelled while it %s: nothing is looked at any more", (when) => {
      const { guest, writer, calls, sleep } = forthcoming();
      const stopTracking = guest.stopTracking.bind(guest);
      guest.stopTracking = () => {
        calls.push("stop");
        stopTracking();
      };
      const journal = run(guest, writer, {
        sleep,
        checkCancelled() {
          if (calls.at(-1) === (when === "is sent" ? "write" : "ask")) throw new TramError("E_CANCELLED", "cancelled");
        },
      });
      expect(journal).toMatchObject({ phase: "cancelled", owner: "source" });
      // The guest itself hears the end of it when it is tracked no more.
      expect(calls).toEqual(when === "is sent" ? ["sync", "ask", "clear", "write", "stop"] : ["sync", "ask", "stop"]);
    });
  });

  test("a cancel in the middle of a round gives the guest back, which was never stopped", () => {
    const guest = new ScriptedGuest();
    const journal = run(guest, scriptedWriter(null), {
      checkCancelled: () => {
        throw new TramError("E_CANCELLED", "cancelled");
      },
    });
    expect(journal).toMatchObject({ phase: "cancelled", owner: "source" });
    expect(guest.calls).toEqual(["startTracking", "stopTracking"]);
  });
});

const machine: Incoming = { kind: "machine", description };
const blocks: Incoming = { kind: "blocks", blocks: [{ name: "ram", bytes: description.memoryBytes }] };
const device = (instance: number): Incoming => ({ kind: "device", device: clock(instance) });
const ready: Incoming = { kind: "ready-wanted" };
const end: Incoming = { kind: "end" };

function take(
  script: Incoming[],
  pagesKnown = PAGES,
  given: Hello = hello,
  crew: ReceivingCrew | null = null,
  wanted: number | null = null,
  received = { pages: 0, zeroPages: 0 },
) {
  const calls: string[] = [];
  const left = [...script];
  const reader: MoveReader = {
    name: "scripted",
    bytes: 0,
    received,
    pagesKnown: () => pagesKnown,
    next() {
      const next = left.shift();
      if (!next) throw new TramError("E_CHANNEL_CLOSED", "closed");
      return next;
    },
    into: () => {},
    marks: { present: new SharedArrayBuffer(0), told: new SharedArrayBuffer(0), hashes: null },
    sendChannels: () => void calls.push("channels"),
    sendHello: () => void calls.push("hello"),
    sendReady: () => void calls.push("ready"),
    confirm: () => void calls.push("confirm"),
    refuse: () => void calls.push("refuse"),
    close: () => void calls.push("close"),
  };
  const log = new MoveLog(
    "incoming",
    "peer",
    () => {},
    () => 0,
  );
  const owned = receive(
    reader,
    {
      hello: given,
      channels: wanted,
      createGuest: () => new ScriptedGuest(),
      openChannels(count) {
        calls.push(`open ${count}`);
        if (!crew) throw new TramError("E_STREAM", "no channels here");
        return crew;
      },
      start: (state) => void calls.push(`start ${state}`),
    },
    log,
  );
  return { owned, calls, journal: log.journal };
}

describe("the target's story", () => {
  const channels: Incoming = { kind: "channels-wanted", count: 2 };
  const flush: Incoming = { kind: "flush" };
  const receiving = (calls: string[], failAt: number): ReceivingCrew => {
    let meetings = 0;
    return {
      meet() {
        calls.push("meet");
        if (++meetings === failAt) throw new TramError("E_STREAM", "a channel has failed");
      },
      counts: () => [],
      end: () => void calls.push("end"),
    };
  };

  test("takes pages over other channels, which have ended before the devices are loaded", () => {
    const seen: string[] = [];
    const script = [{ kind: "hello-wanted" } as const, machine, channels, blocks, flush, flush, device(0), ready, end];
    const { owned, calls } = take(script, PAGES, hello, receiving(seen, 0));
    expect(owned).toBe(true);
    expect(calls).toEqual(["hello", "open 2", "channels", "ready", "start running", "confirm", "close"]);
    expect(seen.slice(0, 3)).toEqual(["meet", "meet", "end"]);
  });

  test("refuses the guest when one of them fails, and none touches it any more", () => {
    const seen: string[] = [];
    const { owned, calls, journal } = take([machine, channels, blocks, flush, flush], PAGES, hello, receiving(seen, 2));
    expect(owned).toBe(false);
    expect(journal.error?.code).toBe("E_STREAM");
    expect(calls).toEqual(["open 2", "channels", "refuse", "close"]);
    expect(seen).toEqual(["meet", "meet", "end"]);
  });

  test.each<[wanted: number | null, found: Incoming[], owned: boolean]>([
    [null, [channels], true],
    [2, [channels], true],
    [0, [], true],
    [1, [channels], false],
    [0, [channels], false],
    [2, [], false],
  ])("told to take %p channels, meets %j", (wanted, found, owned) => {
    const script = [machine, ...found, blocks, device(0), ready, end];
    const taken = take(script, PAGES, hello, receiving([], 0), wanted);
    expect(taken.owned).toBe(owned);
    if (!owned) expect(taken.journal.error).toMatchObject({ code: "E_REFUSED", expected: `--channels ${wanted}` });
  });

  test.each<[string, Incoming[]]>([
    ["channels before the machine", [channels]],
    ["channels twice", [machine, channels, channels]],
    ["channels behind the RAM's beginning", [machine, blocks, channels]],
    ["channels behind the devices", [machine, device(0), ready, channels, end]],
    ["a meeting without channels", [machine, blocks, flush]],
  ])("refuses %s", (_, script) => {
    expect(take(script, PAGES, hello, receiving([], 0))).toMatchObject({
      owned: false,
      journal: { error: { code: "E_STREAM" } },
    });
  });

  test("refuses pages on the main channel beside others", () => {
    const script: Incoming[] = [machine, channels, blocks, flush, { kind: "pages" }, device(0), ready, end];
    const { owned, journal } = take(script, PAGES, hello, receiving([], 0), null, { pages: 1, zeroPages: 0 });
    expect(owned).toBe(false);
    expect(journal.error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining("main channel") });
  });

  test("answers in turn, and runs the guest only at the hand-over word", () => {
    const { owned, calls, journal } = take([
      { kind: "hello-wanted" },
      machine,
      blocks,
      device(0),
      { kind: "run-state", runState: "paused" },
      ready,
      end,
    ]);
    expect(owned).toBe(true);
    expect(calls).toEqual(["hello", "ready", "start paused", "confirm", "close"]);
    expect(journal).toMatchObject({ phase: "completed", owner: "target" });
  });

  test.each<[string, Incoming[], number, string]>([
    ["has no machine", [end], PAGES, "without a machine"],
    ["has no RAM at all", [machine, device(0), end], 0, "without all of its RAM"],
    ["lacks a page", [machine, blocks, device(0), ready], PAGES - 1, "without all of its RAM"],
    [
      "has other RAM",
      [machine, { kind: "blocks", blocks: [{ name: "ram", bytes: 4096 }] }],
      PAGES,
      "not this machine's",
    ],
    ["has RAM before its machine", [blocks], PAGES, "not this machine's"],
    ["has two machines", [machine, machine], PAGES, "two machines"],
    ["has a device twice", [machine, blocks, device(0), device(0)], PAGES, "twice"],
    ["has a device after the last", [machine, blocks, device(0), ready, device(1)], PAGES, "after the last"],
    ["ends before the hand-over word", [machine, blocks, device(0), ready], PAGES, "closed"],
  ])("a stream that %s is refused, and nothing runs", (_, script, known, words) => {
    const { owned, calls, journal } = take(script, known);
    expect(owned).toBe(false);
    expect(calls.some((call) => call.startsWith("start"))).toBe(false);
    expect(calls.slice(-2)).toEqual(["refuse", "close"]);
    expect(journal).toMatchObject({ phase: "failed", owner: "source" });
    expect(journal.error?.message).toContain(words);
  });

  test("a machine that was not asked for is refused before there is one", () => {
    const { journal } = take([machine], PAGES, { ...hello, cpus: 2 });
    expect(journal.error?.code).toBe("E_REFUSED");
  });
});
