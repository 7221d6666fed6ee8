// Shows how far something has come while it goes on: a live line on a terminal, events for a program, nothing in a log.
import { isOver, type Journal } from "../control/journal.ts";
import { type LiveLine, liveLine } from "./console.ts";
import type { Events, Progress, TramEvent } from "./events.ts";
import { Meter, progressOf, progressParts, type Way } from "./progress.ts";

/** A line that changes more often cannot be read. */
const SHOWN_MS = 100;
const TOLD_MS = 500;

/** What it is called for programs. */
export interface Naming {
  phase(journal: Journal): TramEvent;
  progress(progress: Progress, journal: Journal): TramEvent;
}

export class ProgressView {
  readonly #way: Way;
  readonly #events: Events | null;
  readonly #naming: Naming;
  readonly #line: LiveLine;
  readonly #clock: () => number;
  readonly #meter = new Meter();
  #journal: Journal | null = null;
  #phase = "";
  #shownMs = Number.NEGATIVE_INFINITY;
  #toldMs = 0;
  #told = "";
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor(
    way: Way,
    events: Events | null,
    naming: Naming,
    line: LiveLine = liveLine,
    clock: () => number = () => performance.now(),
  ) {
    this.#way = way;
    this.#events = events;
    this.#naming = naming;
    this.#line = line;
    this.#clock = clock;
  }

  /** Somebody sees a line that is rewritten in place. */
  get isLive(): boolean {
    return this.#line.terminal.isLive && !this.#events?.replacesText;
  }

  update(journal: Journal): void {
    this.#journal = journal;
    if (journal.phase !== this.#phase) this.#events?.tell(this.#naming.phase(journal));
    this.#phase = journal.phase;
    if (!this.#events && !this.isLive) return;
    if (!this.#timer) {
      this.#toldMs = this.#clock();
      // A window changes its width, and what is in the way its name, while no journal comes.
      this.#timer = setInterval(() => this.look(), SHOWN_MS).unref();
    }
    this.look();
  }

  /** Shows what is there, unless it was shown a moment ago. */
  look(): void {
    const nowMs = this.#clock();
    if (!this.#journal || isOver(this.#journal.phase) || nowMs - this.#shownMs < SHOWN_MS) return;
    this.#shownMs = nowMs;
    const journal = this.#journal;
    const progress = progressOf(journal, this.#way, this.#meter.measure(journal, nowMs));
    if (this.isLive) this.#line.show(progressParts(progress, journal, this.#way));
    if (!this.#events || nowMs - this.#toldMs < TOLD_MS) return;
    this.#toldMs = nowMs;
    const event = this.#naming.progress(progress, journal);
    const text = JSON.stringify(event);
    if (text !== this.#told) this.#events.tell(event); // who waits for a source for hours says so once
    this.#told = text;
  }

  /** It is over, or something else is to be said. */
  clear(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    this.#line.clear();
  }
}
