// Has a guest give up its page cache before it moves, so that what it has cached is free, and is not sent. The way is its balloon:
// inflated, it takes what is free, and for more the guest gives up clean cache; deflated, all of that is free.
//
// The guest does not run out of memory by it: no more is asked for than it says is available, less a reserve, in steps, each behind
// a new word of the guest; and its driver must have agreed to take pages back out of the balloon before anything is killed for them.
import { TramError } from "../errors.ts";
import { PAGE_BYTES } from "../memory/block.ts";

export const PAGE_CACHE = ["keep", "drop"] as const;
export type PageCache = (typeof PAGE_CACHE)[number];

/** What a guest with a balloon has said of its memory. */
export interface MemoryFacts {
  isDriven: boolean;
  deflatesOnOom: boolean;
  tellsStats: boolean;
  /** What it is to give up, and has. */
  wantedBytes: number;
  actualBytes: number;
  /** How often it has told what stats says. */
  statsTold: number;
  stats: { freeBytes?: number; availableBytes?: number; cacheBytes?: number };
}

export interface BalloonedGuest {
  facts(): MemoryFacts;
  wantStats(): void;
  /** To give up so much. */
  resize(bytes: number): void;
}

/** What came of it. */
export interface CacheDrop {
  elapsedMs: number;
  /** How far the balloon was inflated beyond what it had. */
  inflatedBytes: number;
  freeBeforeBytes: number;
  freeAfterBytes: number;
}

export interface DropContext {
  checkStop(): void;
  sleep(ms: number): void;
  now(): number;
}

const LOOK_MS = 5;
/** A guest that has not done anything for this long does no more. */
const STILL_MS = 300;
const STATS_MS = 1000;
const ALL_MS = 10_000;
const STEPS = 8;
/** What it keeps, whatever it says: for what it has to do meanwhile. */
const RESERVE_BYTES = 16 << 20;
const RESERVE_SHARE = 0.1;

export function dropPageCache(guest: BalloonedGuest, context: DropContext): CacheDrop {
  const startedMs = context.now();
  const endMs = startedMs + ALL_MS;
  checkAble(guest.facts());
  const before = askStats(guest, context);
  if (!before) throw cannotDrop(`it has not told how much memory it has within ${STATS_MS} ms`);
  const { actualBytes: had, wantedBytes: wanted } = guest.facts();
  const available = before.availableBytes ?? (before.freeBytes ?? 0) + (before.cacheBytes ?? 0);
  const room = roomOf(available);
  let reached = had;
  let asked = wanted;
  try {
    for (let step = 1; step <= STEPS && room > 0 && context.now() < endMs; step++) {
      const target = had + Math.floor((room * step) / STEPS / PAGE_BYTES) * PAGE_BYTES;
      asked = target;
      guest.resize(target);
      reached = awaitActual(guest, context, (actual) => actual >= target, endMs);
      const left = askStats(guest, context);
      const isShort = (left?.availableBytes ?? Number.POSITIVE_INFINITY) < reserveOf(available);
      if (reached < target || !left || isShort) break;
    }
  } finally {
    if (guest.facts().wantedBytes === asked) guest.resize(wanted); // else somebody has given it another size meanwhile
  }
  awaitActual(guest, context, (actual) => actual <= Math.max(had, guest.facts().wantedBytes), context.now() + ALL_MS);
  const after = askStats(guest, context);
  return {
    elapsedMs: Math.round(context.now() - startedMs),
    inflatedBytes: reached - had,
    freeBeforeBytes: before.freeBytes ?? 0,
    freeAfterBytes: after?.freeBytes ?? 0,
  };
}

const reserveOf = (availableBytes: number): number => Math.max(RESERVE_BYTES, availableBytes * RESERVE_SHARE);

/** How much a guest may be asked for that has so much. */
export const roomOf = (availableBytes: number): number => Math.max(0, availableBytes - reserveOf(availableBytes));

function checkAble({ isDriven, deflatesOnOom, tellsStats }: MemoryFacts): void {
  const lacks = !isDriven
    ? "its balloon has no driver"
    : !tellsStats
      ? "its driver does not tell how much memory it has (F_STATS_VQ)"
      : !deflatesOnOom
        ? "its driver does not deflate the balloon when memory runs out (F_DEFLATE_ON_OOM)"
        : null;
  if (lacks) throw cannotDrop(lacks);
}

export const cannotDrop = (found: string): TramError =>
  new TramError("E_REFUSED", "--page-cache drop: the guest cannot be asked to give up its cache", {
    expected: "a running guest with a balloon, whose driver tells its statistics and deflates it in need",
    found,
    next: "leave --page-cache out",
  });

/** Its newest word; null: it says nothing. */
function askStats(guest: BalloonedGuest, { checkStop, sleep, now }: DropContext): MemoryFacts["stats"] | null {
  const { statsTold } = guest.facts();
  guest.wantStats();
  for (const endMs = now() + STATS_MS; now() < endMs; sleep(LOOK_MS)) {
    checkStop();
    const facts = guest.facts();
    if (facts.statsTold !== statsTold) return facts.stats;
  }
  return null;
}

/** What the balloon has when that is enough, or does not change any more. */
function awaitActual(
  guest: BalloonedGuest,
  { checkStop, sleep, now }: DropContext,
  isEnough: (bytes: number) => boolean,
  endMs: number,
): number {
  let { actualBytes } = guest.facts();
  for (let changedMs = now(); !isEnough(actualBytes) && now() < endMs && now() - changedMs < STILL_MS; ) {
    sleep(LOOK_MS);
    checkStop();
    const facts = guest.facts();
    if (facts.actualBytes !== actualBytes) changedMs = now();
    actualBytes = facts.actualBytes;
  }
  return actualBytes;
}
