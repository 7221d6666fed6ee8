// A running guest's free pages: it is asked for them just before the bulk pass, which leaves out what it names. Whether to wait for
// its answer, as a pure function: what comes later still counts, for pages that have not been sent.

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
/** Between two words of one that answers. */
const NEXT_WORD_MS = 50;
/** Of one that has much to say: the rest comes beside the bulk pass. */
const ALL_MS = 1000;

export function mustWait({ hasBegun, hasEnded }: Answer, waitedMs: number, silentMs: number): boolean {
  if (hasEnded || waitedMs >= ALL_MS) return false;
  return hasBegun ? silentMs < NEXT_WORD_MS : waitedMs < FIRST_WORD_MS;
}
