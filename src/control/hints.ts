// A running guest's free pages: it is asked for them just before the bulk pass, which leaves out what it names. What it names later
// still counts, for pages that have not been sent.

/** What a guest says of pages that it has no use for now. */
export interface FreePages {
  /** From here on what it names counts, until end; what it said before does not. It may use such a page at any time again. */
  ask(): void;
  end(): void;
  readonly answer: Answer;
}

export interface Answer {
  hasBegun: boolean;
  /** It has named all. */
  hasEnded: boolean;
  /** Named so far. */
  pages: number;
}

/** What came of it. */
export interface Hints extends Answer {
  waitedMs: number;
}

/** A guest that does not care costs its move no more than this. */
const FIRST_WORD_MS = 50;
/** Between two words of one that answers: each saves 4 MiB, and one whose processors are busy takes its time. */
const NEXT_WORD_MS = 200;
/** Of one that has much to say: the rest comes beside the bulk pass. */
const ALL_MS = 1000;

/** Pure: whether the rest of its answer is worth waiting for. */
export function mustWait({ hasBegun, hasEnded }: Answer, waitedMs: number, silentMs: number): boolean {
  if (hasEnded || waitedMs >= ALL_MS) return false;
  return hasBegun ? silentMs < NEXT_WORD_MS : waitedMs < FIRST_WORD_MS;
}

export interface AskContext {
  checkStop(): void;
  sleep(ms: number): void;
  now(): number;
}

/** Between two looks at what the guest has named. */
const LOOK_MS = 2;

/** Asks, and waits as long as that may be worth it. */
export function askForFreePages(free: FreePages, { checkStop, sleep, now }: AskContext): Hints {
  free.ask();
  const askedMs = now();
  let answer = free.answer;
  for (let newsMs = askedMs; mustWait(answer, now() - askedMs, now() - newsMs); ) {
    sleep(LOOK_MS);
    checkStop();
    const before = answer;
    answer = free.answer;
    if (answer.pages !== before.pages || answer.hasBegun !== before.hasBegun) newsMs = now();
  }
  return { ...answer, waitedMs: Math.round(now() - askedMs) };
}
