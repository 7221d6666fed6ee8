// tram top: this user's guests, again and again.
import { EXIT, TramError } from "../errors.ts";
import { command } from "./command.ts";
import { writeAll } from "./console.ts";
import { JSON_ARG } from "./guest.ts";
import { JSON_SCHEMA } from "./report.ts";
import { Lookout, type TopGuest } from "./top-facts.ts";
import { screen, table } from "./top-rows.ts";
import { parseDuration } from "./units.ts";

const DEFAULT_DELAY_MS = 1000;
const DELAY_MS_MIN = 100;

export const top = command({
  name: "top",
  summary: "shows this user's guests, again and again: their memory, and how their moves go on",
  args: {
    delay: { type: "string", description: "between two looks (default 1s)", valueHint: "TIME" },
    once: { type: "boolean", description: "one look, as plain text: the default where standard output is no terminal" },
    json: { ...JSON_ARG, description: "one JSON object a look, one a line" },
  },
  examples: ["tram top", "tram top --once", "tram top --json --delay 10s >> guests.json"],
  async run(args) {
    const delayMs = args.delay === undefined ? DEFAULT_DELAY_MS : parseDuration(args.delay, "--delay");
    if (delayMs < DELAY_MS_MIN)
      throw new TramError("E_USAGE", "--delay is too short", { expected: "at least 100ms", found: args.delay });
    if (args.json) return report(delayMs, args.once === true);
    const isPlain = args.once || !process.stdout.isTTY || process.env.TERM === "dumb";
    if (!isPlain) return new Screen().show(delayMs);
    return writeAll(1, `${table(await new Lookout().read()).join("\n")}\n`) ? EXIT.done : EXIT.failed;
  },
});

async function report(delayMs: number, isOnce: boolean): Promise<number> {
  const lookout = new Lookout();
  for (;;) {
    const object = { schema: JSON_SCHEMA, at: new Date().toISOString(), guests: await lookout.read() };
    if (!writeAll(1, `${JSON.stringify(object)}\n`)) return EXIT.failed;
    if (isOnce) return EXIT.done;
    await Bun.sleep(delayMs);
  }
}

/** The alternate screen, without a cursor and without wrapping; and back. */
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const CTRL_C = "\x03";

/** A terminal that shows the guests until somebody has seen enough. */
class Screen {
  readonly #lookout = new Lookout();
  #guests: TopGuest[] | null = null;
  readonly #ended = Promise.withResolvers<number>();

  async show(delayMs: number): Promise<number> {
    const onSignal = () => this.#ended.resolve(EXIT.interrupted);
    const onKey = (keys: Buffer) => {
      const text = keys.toString("latin1");
      if (text.includes(CTRL_C)) this.#ended.resolve(EXIT.interrupted);
      else if (/q/i.test(text)) this.#ended.resolve(EXIT.done);
    };
    const draw = () => this.#draw();
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, onSignal);
    process.on("SIGWINCH", draw);
    if (process.stdin.isTTY) process.stdin.setRawMode(true).on("data", onKey);
    writeAll(1, ENTER);
    try {
      for (;;) {
        const look = this.#look().then(() => Bun.sleep(delayMs));
        const code = await Promise.race([look, this.#ended.promise]);
        if (code !== undefined) return code;
      }
    } finally {
      process.off("SIGWINCH", draw);
      writeAll(1, LEAVE);
      if (process.stdin.isTTY) process.stdin.off("data", onKey).setRawMode(false);
    }
  }

  async #look(): Promise<void> {
    this.#guests = await this.#lookout.read();
    this.#draw();
  }

  /** Over what is there: nothing is cleared before it is written anew, so nothing flickers. */
  #draw(): void {
    if (!this.#guests) return;
    const [width, height] = process.stdout.getWindowSize();
    const colour = !process.env.NO_COLOR;
    const lines = screen(this.#guests, { width, height, colour });
    const rest = lines.length < height ? "\r\n\x1b[J" : "";
    // A line is cleared first: behind its last character the terminal may have no place of its own.
    const text = lines.map((line) => `\x1b[K${line}`).join("\r\n");
    if (!writeAll(1, `\x1b[H${text}${rest}`)) this.#ended.resolve(EXIT.failed);
  }
}
