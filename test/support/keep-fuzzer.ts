// Damages the captures of test/golden, one way after the other, and keeps what is left: a process of its own, so that a hang or
// a crash of one case is known by its name. Each line it prints is JSON.
import { existsSync, ftruncateSync, openSync, readFileSync, unlinkSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { TramError } from "../../src/errors.ts";
import { play } from "../../src/keep/play.ts";
import { MainChannel } from "../../src/reader/main-channel.ts";
import { MappedFile } from "../../src/reader/mapped.ts";
import { RamRecords } from "../../src/reader/ram-records.ts";
import { TransportSource } from "../../src/reader/source.ts";
import { decodePacket, INIT_BYTES, PACKET_BYTES } from "../../src/stream/multifd.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { Replies } from "../../src/writer/replies.ts";
import { type Capture, captures, golden, keepCapture, leftBeside, Playback, quietLog, seeded } from "./golden.ts";

export interface FuzzPlan {
  folder: string;
  seed: number;
  /** This process does every `parts`-th file, beginning with `part`. */
  part: number;
  parts: number;
  flips: number;
  cuts: number;
}

export interface FuzzResult {
  cases: number;
  /** How often each outcome was there. */
  outcomes: Record<string, number>;
  failures: string[];
  slowestMs: number;
  normalRss: number;
  peakRss: number;
}

const CODES: readonly string[] = ["E_STREAM", "E_STREAM_TRUNCATED", "E_CHANNEL_CLOSED"];
const RUN_MS_MAX = 2000;
const FAILURES_MAX = 40;

/** One file of a capture: how it is kept when it is other than it was, and where its records begin. */
interface Subject {
  name: string;
  bytes: Uint8Array;
  borders: number[];
  /** Bytes that are no page's: where a flip means something else than another page. */
  structure: number[];
  run(bytes: Uint8Array): void;
}

function peakRss(): number {
  const kib = /^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  return Number(kib) * 1024;
}

/** Borders of the main channel's records, those of each page included, and which bytes are pages. */
function mainBorders(bytes: Uint8Array, file?: FileTransport): { borders: number[]; isPage: Uint8Array } {
  const isPage = new Uint8Array(bytes.length);
  const borders = new Set<number>();
  const main = new MainChannel(new TransportSource(file ?? new Playback(bytes)));
  main.onMapped = ({ pagesOffset, bytes }) => isPage.fill(1, pagesOffset, pagesOffset + bytes);
  if (!(main.records instanceof RamRecords)) throw new Error("records cannot be watched");
  main.records.watch = (begin, end) => {
    borders.add(begin);
    if (end - begin >= 4096) isPage.fill(1, end - 4096, end);
  };
  const sink = { pages: 256, scatter() {}, clear() {}, read: () => new Uint8Array(4096) };
  const set = { has: () => false, add() {}, remove() {}, count: () => 0 };
  for (;;) {
    borders.add(main.source.offset);
    const record = main.next();
    if (record.kind === "blocks")
      main.into(record.blocks.map(({ name }) => ({ name, sink, present: set, told: set }) as never));
    if (record.kind === "device" || record.kind === "end") break;
  }
  return { borders: [...borders], isPage };
}

function channelBorders(bytes: Uint8Array): { borders: number[]; isPage: Uint8Array } {
  const isPage = new Uint8Array(bytes.length);
  const borders = [INIT_BYTES];
  for (let at = INIT_BYTES; at < bytes.length; ) {
    const { payloadBytes } = decodePacket(new DataView(bytes.buffer, bytes.byteOffset + at), at);
    borders.push(at, at + PACKET_BYTES);
    at += PACKET_BYTES;
    isPage.fill(1, at, at + payloadBytes);
    at += payloadBytes;
    borders.push(at);
  }
  return { borders, isPage };
}

const structureOf = (isPage: Uint8Array): number[] => [...isPage.keys()].filter((at) => isPage[at] === 0);

function ofCapture(folder: string, capture: Capture): Subject[] {
  const path = join(folder, `${capture.name}.tram`);
  const run = (changed: Omit<Capture, "name">): void => {
    try {
      keepCapture(path, changed);
    } catch (error) {
      const left = [path].filter((one) => existsSync(one)).concat(leftBeside(path));
      if (left.length) throw new Error(`${left} stayed after: ${error}`);
      throw error;
    }
    // What was accepted can be opened.
    const file = FileTransport.open(path);
    try {
      new MappedFile(file);
    } finally {
      file.close();
      unlinkSync(path);
    }
  };
  const { main, channels } = capture;
  const whole = (bytes: Uint8Array, found: { borders: number[]; isPage: Uint8Array }) => ({
    bytes,
    borders: found.borders,
    structure: structureOf(found.isPage),
  });
  return [
    {
      name: `${capture.name}${channels.length ? ".ch0" : ".bin"}`,
      ...whole(main, mainBorders(main)),
      run: (bytes) => run({ main: bytes, channels }),
    },
    ...channels.map((channel, i) => ({
      name: `${capture.name}.ch${i + 1}`,
      ...whole(channel, channelBorders(channel)),
      run: (bytes: Uint8Array) => run({ main, channels: channels.with(i, bytes) }),
    })),
  ];
}

/** A file with fixed offsets: opened, its pages read, and played. */
function ofMapped(folder: string, name: string): Subject {
  const bytes = golden(name);
  const path = join(folder, name);
  writeFileSync(path, bytes);
  const fd = openSync(path, "r+");
  const transport = FileTransport.open(path);
  const { borders, isPage } = mainBorders(bytes, transport);
  let last = bytes as Uint8Array;
  return {
    name,
    bytes,
    borders,
    structure: structureOf(isPage),
    run: (changed) => {
      replace(fd, last, changed, bytes);
      last = changed;
      const file = new MappedFile(transport);
      const out = new Playback(new Uint8Array(0));
      const options = { maxBandwidthBytesPerSec: 0, replyMs: 0, verbatim: true };
      const context = { checkCancelled: () => undefined, sleep: () => undefined, channels: null };
      play(file, out, new Replies(out), options, context, quietLog("outgoing"));
    },
  };
}

/** Makes the file that holds `from` hold `to`; both are `original`, cut or with one byte changed. */
function replace(fd: number, from: Uint8Array, to: Uint8Array, original: Uint8Array): void {
  if (from.length !== to.length) {
    ftruncateSync(fd, to.length);
    if (to.length > from.length) writeSync(fd, original, from.length, to.length - from.length, from.length);
  }
  for (const bytes of [from, to]) {
    const at = changedAt(bytes, original);
    if (at >= 0 && at < to.length) writeSync(fd, to, at, 1, at);
  }
}
const changes = new WeakMap<Uint8Array, number>();
const changedAt = (bytes: Uint8Array, original: Uint8Array): number =>
  bytes === original ? -1 : (changes.get(bytes) ?? -1);

/** Damaged bytes, and in which way. */
function* damages({ bytes, borders, structure }: Subject, plan: FuzzPlan, seed: number) {
  for (const at of borders) if (at < bytes.length) yield { what: `cut at border ${at}`, bytes: bytes.subarray(0, at) };
  const random = seeded(seed);
  for (let n = 0; n < plan.cuts; n++) {
    const at = random(bytes.length);
    yield { what: `cut at ${at}`, bytes: bytes.subarray(0, at) };
  }
  for (let n = 0; n < plan.flips; n++) {
    // Most of a stream is pages, where a flip is only another page.
    const at = n % 4 ? structure[random(structure.length)] : random(bytes.length);
    const value = n % 8 < 4 ? bytes[at] ^ (1 << random(8)) : (bytes[at] + 1 + random(255)) & 0xff;
    const damaged = bytes.slice();
    damaged[at] = value;
    changes.set(damaged, at);
    yield { what: `byte ${at} from ${bytes[at]} to ${value}`, bytes: damaged };
  }
}

function outcomeOf(run: () => void): string {
  try {
    run();
    return "kept";
  } catch (error) {
    if (!(error instanceof TramError)) return `! ${(error as Error)?.stack ?? error}`;
    if (!CODES.includes(error.code)) return `! ${error.code}: ${error.message}`;
    if (!error.details.where) return `! ${error.code} without a place: ${error.message}`;
    return error.code;
  }
}

function work(plan: FuzzPlan): FuzzResult {
  const subjects = [
    ...captures().flatMap((capture) => ofCapture(plan.folder, capture)),
    ofMapped(plan.folder, "qemu-10.2-mapped.bin"),
    ofMapped(plan.folder, "qemu-10.2-mapped-multifd.bin"),
  ];
  const result: FuzzResult = { cases: 0, outcomes: {}, failures: [], slowestMs: 0, normalRss: 0, peakRss: 0 };
  // The premise: undamaged they are all kept. How much memory that takes is the measure for the rest.
  for (let round = 0; round < 15; round++)
    for (const { name, bytes, run } of subjects) {
      const outcome = outcomeOf(() => run(bytes.slice()));
      if (outcome !== "kept") throw new Error(`${name}, undamaged: ${outcome}`);
    }
  result.normalRss = peakRss();
  const current = openSync(join(plan.folder, `case-${plan.part}`), "w");
  for (const [number, subject] of subjects.entries()) {
    if (number % plan.parts !== plan.part) continue;
    for (const { what, bytes } of damages(subject, plan, plan.seed * 1000 + number)) {
      const title = `${subject.name}: ${what}, seed ${plan.seed}`;
      writeSync(current, `${title.padEnd(200)}\n`, 0);
      const started = performance.now();
      const outcome = outcomeOf(() => subject.run(bytes));
      const ms = performance.now() - started;
      result.cases++;
      result.slowestMs = Math.max(result.slowestMs, ms);
      const failed = outcome.startsWith("!") || ms > RUN_MS_MAX;
      if (failed && result.failures.length < FAILURES_MAX)
        result.failures.push(`${title}: ${outcome}${ms > RUN_MS_MAX ? `, after ${Math.round(ms)} ms` : ""}`);
      const kind = failed ? "failed" : outcome;
      result.outcomes[kind] = (result.outcomes[kind] ?? 0) + 1;
    }
  }
  result.peakRss = peakRss();
  return result;
}

if (import.meta.main) process.stdout.write(`${JSON.stringify(work(JSON.parse(process.argv[2]) as FuzzPlan))}\n`);
