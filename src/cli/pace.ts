// tram pace: how evenly a walker goes on while something is done to it.
import { createReadStream } from "node:fs";
import { type Pace, paceOf } from "../control/pace.ts";
import { EXIT, TramError } from "../errors.ts";
import { net } from "../native/net.ts";
import { command } from "./command.ts";
import { print, writeAll } from "./console.ts";
import { JSON_ARG, VM_ARG, withGuest } from "./guest.ts";
import { JSON_SCHEMA, openOutput } from "./report.ts";
import { formatCount, formatMs, parseDuration } from "./units.ts";

const DEFAULT_FOR_MS = 1000;

export const pace = command({
  name: "pace",
  summary: "looks at a walker each millisecond: how evenly it goes on, and for how long it stood still",
  args: {
    vm: VM_ARG,
    for: { type: "string", description: "how long; less if it leaves (default 1s)", valueHint: "TIME" },
    samples: {
      type: "string",
      description: "each look into this file, one a line: milliseconds of the host's monotonic clock, pages written",
      valueHint: "PATH",
      names: "file",
    },
    json: JSON_ARG,
  },
  examples: ["tram pace a --for 10s & tram migrate a tcp:host2:4444", "tram pace a --samples a.txt --json"],
  async run(args) {
    const forMs = args.for === undefined ? DEFAULT_FOR_MS : parseDuration(args.for, "--for");
    const samplesFd = args.samples === undefined ? -1 : openOutput("--samples", args.samples);
    const looks = await watch(args.vm, forMs);
    if (samplesFd >= 0) writeAll(samplesFd, linesOf(looks));
    const found = paceOf(looks);
    print(
      args.json ? JSON.stringify({ schema: JSON_SCHEMA, name: args.vm, ...rounded(found) }) : paceText(args.vm, found),
    );
    return EXIT.done;
  },
});

/** Until the time is over, or its process has ended. */
async function watch(name: string, forMs: number): Promise<Float64Array> {
  const { read, write } = net.pipe();
  await withGuest(name, async (client) => {
    await client.execute("getfd", { fdname: "pace" }, write);
    await client.execute("tram-pace", { fdname: "pace", forMs });
  }).finally(() => net.close(write));
  const pieces: Buffer[] = [];
  for await (const piece of createReadStream("", { fd: read })) pieces.push(piece);
  const bytes = Buffer.concat(pieces);
  if (bytes.length > 0) return new Float64Array(Uint8Array.from(bytes).buffer, 0, Math.floor(bytes.length / 16) * 2);
  throw new TramError("E_STATE", `nothing was seen of '${name}'`, { next: "is another tram pace looking at it?" });
}

function linesOf(looks: Float64Array): string {
  const lines: string[] = [];
  for (let i = 0; i < looks.length; i += 2) lines.push(`${looks[i].toFixed(3)} ${looks[i + 1]}\n`);
  return lines.join("");
}

const round = (value: number): number => Math.round(value * 1000) / 1000;

function rounded({ stepsPerMs, steps, ...times }: Pace): Pace {
  const { p1, p50, p99, max } = stepsPerMs;
  const { forMs, stallMs, stallAtMs } = times;
  const perMs = { p1: round(p1), p50: round(p50), p99: round(p99), max: round(max) };
  return { forMs: round(forMs), steps, stepsPerMs: perMs, stallMs: round(stallMs), stallAtMs: round(stallAtMs) };
}

function paceText(name: string, { forMs, steps, stepsPerMs, stallMs, stallAtMs }: Pace): string {
  const { p1, p50, p99, max } = stepsPerMs;
  const [low, half, high, most] = [p1, p50, p99, max].map((value) => value.toFixed(1));
  return [
    `${name}: ${formatCount(steps)} pages written in ${formatMs(forMs)}`,
    `  in a millisecond  ${half} (p50), ${low} (p1), ${high} (p99), ${most} (most)`,
    `  stood still       for ${stallMs.toFixed(1)} ms at most, ${formatMs(stallAtMs)} after the first look`,
  ].join("\n");
}
