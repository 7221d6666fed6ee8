// A guest's page cache dropped by its balloon: guests that follow, and that do not. The balloon is set back in every case.
import { describe, expect, test } from "bun:test";
import { type BalloonedGuest, dropPageCache, type MemoryFacts, roomOf } from "../../src/control/page-cache.ts";
import { TramError } from "../../src/errors.ts";

const MIB = 1 << 20;
const PAGE = 4096;

interface Habits {
  free?: number;
  cache?: number;
  /** What lies in its balloon before anybody asks, and is wanted of it. */
  had?: number;
  /** It gives up no more than this. */
  most?: number;
  /** Of each look: what goes into the balloon, or out of it. */
  speed?: number;
  answers?: boolean;
  /** Looks before it answers. */
  slowness?: number;
  tellsAvailable?: boolean;
  facts?: Partial<MemoryFacts>;
}

/** Its balloon takes what is free, and then its cache; what comes out of it is free. */
class ScriptedGuest implements BalloonedGuest {
  readonly habits: Required<Habits>;
  readonly asked: number[] = [];
  nowMs = 0;
  cancelAtMs = Number.POSITIVE_INFINITY;
  /** The most that was in the balloon. */
  peak = 0;
  free: number;
  cache: number;
  actual: number;
  wanted: number;
  #told = 7;
  /** What it has said last. */
  #stats: MemoryFacts["stats"] = {};
  #statsInLooks = -1;

  constructor(habits: Habits) {
    this.habits = {
      free: 100 * MIB,
      cache: 900 * MIB,
      had: 0,
      most: Number.POSITIVE_INFINITY,
      speed: 64 * MIB,
      answers: true,
      slowness: 1,
      tellsAvailable: true,
      facts: {},
      ...habits,
    };
    this.free = this.habits.free;
    this.cache = this.habits.cache;
    this.actual = this.wanted = this.habits.had;
  }

  facts(): MemoryFacts {
    return {
      isDriven: true,
      deflatesOnOom: true,
      tellsStats: true,
      wantedBytes: this.wanted,
      actualBytes: this.actual,
      statsTold: this.#told,
      stats: this.#stats,
      ...this.habits.facts,
    };
  }
  wantStats(): void {
    this.#statsInLooks = this.habits.slowness;
  }
  resize(bytes: number): void {
    this.asked.push(bytes);
    this.wanted = bytes;
  }

  /** Some time goes by. */
  #look(): void {
    const { most, speed, answers, tellsAvailable } = this.habits;
    const goal = Math.min(this.wanted, this.habits.had + most);
    const change = Math.max(-speed, Math.min(speed, goal - this.actual));
    const ofFree = Math.min(change, this.free);
    this.free -= ofFree;
    this.cache -= change - ofFree;
    this.actual += change;
    this.peak = Math.max(this.peak, this.actual);
    if (this.cache < 0) throw new Error("it was asked for more than it had, and has run out of memory");
    if (answers && --this.#statsInLooks === 0) {
      const available = tellsAvailable ? { availableBytes: this.free + this.cache } : { cacheBytes: this.cache };
      this.#stats = { freeBytes: this.free, ...available };
      this.#told++;
    }
  }

  run() {
    return dropPageCache(this, {
      now: () => this.nowMs,
      sleep: (ms) => {
        this.nowMs += ms;
        this.#look();
      },
      checkStop: () => {
        if (this.nowMs >= this.cancelAtMs) throw new TramError("E_CANCELLED", "cancelled");
      },
    });
  }
}

/** Nothing else is wanted of it than before, and it was never asked for more than was to be had. */
function isAsBefore(guest: ScriptedGuest): void {
  const { had, free, cache } = guest.habits;
  expect(guest.wanted).toBe(had);
  for (const bytes of guest.asked) expect(bytes).toBeLessThanOrEqual(had + roomOf(free + cache));
  expect(guest.peak).toBeLessThanOrEqual(had + roomOf(free + cache));
}

describe("what a guest may be asked for", () => {
  test.each([
    [0, 0],
    [16 * MIB, 0],
    [16 * MIB + 1, 1],
    [100 * MIB, 84 * MIB],
    [160 * MIB, 144 * MIB],
    [1000 * MIB, 900 * MIB],
  ])("of %d available bytes: %d", (available, room) => {
    expect(roomOf(available)).toBeCloseTo(room, 3);
  });
});

describe("a guest that drops its cache", () => {
  test("follows, step by step, and has all of it free", () => {
    const guest = new ScriptedGuest({});
    const drop = guest.run();
    isAsBefore(guest);
    const steps = guest.asked.slice(0, -1);
    expect(steps).toHaveLength(8);
    expect(steps).toEqual([...steps].sort((a, b) => a - b));
    expect(steps.at(-1)).toBe(900 * MIB);
    expect(guest.peak).toBe(900 * MIB);
    expect([guest.actual, guest.free, guest.cache]).toEqual([0, 900 * MIB, 100 * MIB]);
    expect(drop).toMatchObject({
      inflatedBytes: 900 * MIB,
      freeBeforeBytes: 100 * MIB,
      freeAfterBytes: 900 * MIB,
      elapsedMs: guest.nowMs,
    });
  });

  test("keeps what its balloon had before, and what was wanted of it", () => {
    const guest = new ScriptedGuest({ had: 300 * MIB });
    const drop = guest.run();
    isAsBefore(guest);
    expect([guest.actual, guest.peak, drop.inflatedBytes]).toEqual([300 * MIB, 1200 * MIB, 900 * MIB]);
  });

  test("says what is free and cached, where it does not say what is available", () => {
    const guest = new ScriptedGuest({ tellsAvailable: false });
    expect(guest.run()).toMatchObject({ inflatedBytes: 900 * MIB });
    isAsBefore(guest);
  });

  test("follows half way: no further step is asked for", () => {
    const guest = new ScriptedGuest({ most: 450 * MIB });
    const drop = guest.run();
    isAsBefore(guest);
    expect(guest.asked.slice(0, -1).every((bytes, i, all) => i === all.length - 1 || bytes <= 450 * MIB)).toBe(true);
    expect(guest.asked).toHaveLength(5 + 1);
    expect(drop.inflatedBytes).toBe(450 * MIB);
    expect(guest.actual).toBe(0);
  });

  test("takes none of it", () => {
    const guest = new ScriptedGuest({ most: 0 });
    expect(guest.run()).toMatchObject({ inflatedBytes: 0, freeBeforeBytes: 100 * MIB, freeAfterBytes: 100 * MIB });
    isAsBefore(guest);
    expect(guest.asked).toHaveLength(2);
  });

  test("uses its memory meanwhile: what it has left is looked at behind each step", () => {
    const guest = new ScriptedGuest({});
    const resize = guest.resize.bind(guest);
    guest.resize = (bytes) => {
      resize(bytes);
      if (bytes > 0) guest.cache = Math.max(0, guest.cache - 200 * MIB); // somebody there needs it
    };
    guest.run();
    // 1000 MiB, less 112.5 and 200 a step: the third leaves less than the reserve of 100 MiB.
    expect(guest.asked.map((bytes) => bytes / MIB)).toEqual([112.5, 225, 337.5, 0]);
    isAsBefore(guest);
  });

  test("has nothing to give: is not asked for anything", () => {
    const guest = new ScriptedGuest({ free: 10 * MIB, cache: 5 * MIB });
    expect(guest.run()).toMatchObject({ inflatedBytes: 0 });
    expect(guest.asked.filter((bytes) => bytes !== 0)).toEqual([]);
    isAsBefore(guest);
  });

  test("is too slow: it ends all the same, and is given its memory back", () => {
    const guest = new ScriptedGuest({ speed: PAGE });
    const drop = guest.run();
    isAsBefore(guest);
    expect(guest.nowMs).toBeGreaterThanOrEqual(10_000); // it was waited for
    expect(guest.nowMs).toBeLessThan(25_000);
    expect(drop.inflatedBytes).toBeGreaterThan(0);
  });
});

describe("a guest that cannot be asked", () => {
  test.each<[string, Partial<MemoryFacts>]>([
    ["has no driver", { isDriven: false }],
    ["does not tell how much memory it has", { tellsStats: false }],
    ["does not deflate the balloon when memory runs out", { deflatesOnOom: false }],
  ])("%s, and is left alone", (_, facts) => {
    const guest = new ScriptedGuest({ facts });
    let wants = 0;
    guest.wantStats = () => void wants++;
    expect(() => guest.run()).toThrow(expect.objectContaining({ code: "E_REFUSED" }));
    expect([guest.asked, wants, guest.nowMs]).toEqual([[], 0, 0]);
  });

  test("never says how much it has: it is not asked for any", () => {
    const guest = new ScriptedGuest({ answers: false });
    expect(() => guest.run()).toThrow(expect.objectContaining({ code: "E_REFUSED" }));
    expect([guest.asked, guest.nowMs]).toEqual([[], 1000]);
  });

  test("says it too late, each time", () => {
    const guest = new ScriptedGuest({ slowness: 201 });
    expect(() => guest.run()).toThrow(expect.objectContaining({ code: "E_REFUSED" }));
    expect(guest.asked).toEqual([]);
  });

  test("falls silent in the middle: its balloon is set back", () => {
    const guest = new ScriptedGuest({ had: 50 * MIB });
    const resize = guest.resize.bind(guest);
    guest.resize = (bytes) => {
      resize(bytes);
      if (guest.asked.length === 3) guest.habits.answers = false;
    };
    expect(guest.run()).toMatchObject({ freeBeforeBytes: 100 * MIB, freeAfterBytes: 0 });
    expect(guest.asked).toHaveLength(4); // no step behind the one that it said nothing of
    expect(guest.peak).toBeGreaterThan(50 * MIB);
    isAsBefore(guest);
  });
});

test("a size that somebody else gives the balloon meanwhile stays", () => {
  const guest = new ScriptedGuest({});
  const resize = guest.resize.bind(guest);
  guest.resize = (bytes) => {
    resize(bytes);
    if (guest.asked.length === 3) guest.wanted = 10 * MIB;
  };
  guest.run();
  expect([guest.wanted, guest.actual, guest.asked.length]).toEqual([10 * MIB, 10 * MIB, 3]);
});

test("a cancel at any time sets the balloon back", () => {
  const whole = new ScriptedGuest({ had: 50 * MIB, slowness: 3 });
  whole.run();
  let inflated = 0;
  for (let cancelAtMs = 0; cancelAtMs < whole.nowMs; cancelAtMs += 5) {
    const guest = new ScriptedGuest({ had: 50 * MIB, slowness: 3 });
    guest.cancelAtMs = cancelAtMs;
    expect(() => guest.run()).toThrow(expect.objectContaining({ code: "E_CANCELLED" }));
    if (guest.peak > 50 * MIB) inflated++;
    expect(guest.nowMs).toBeLessThanOrEqual(cancelAtMs + 5);
    isAsBefore(guest);
  }
  expect(inflated).toBeGreaterThan(10);
});
