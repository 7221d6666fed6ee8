// The captures in test/golden, and what keeps them as tram receive does, with all channels in one thread.
import { closeSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { MoveLog } from "../../src/control/journal.ts";
import { TramError } from "../../src/errors.ts";
import { type Kept, keep } from "../../src/keep/keep.ts";
import { openDirect, PageFile } from "../../src/native/file.ts";
import { MainChannel } from "../../src/reader/main-channel.ts";
import { MultifdReader } from "../../src/reader/multifd.ts";
import type { BlockSink } from "../../src/reader/pages.ts";
import { TransportSource } from "../../src/reader/source.ts";
import { TARGET_PAGE_BYTES } from "../../src/stream/wire.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { MappedSink, MappedWriter } from "../../src/writer/mapped.ts";
import { type FileTarget, OutputFile } from "../../src/writer/output-file.ts";

const FOLDER = join(import.meta.dir, "../golden");

/** One of the files, decompressed: no Buffer, whose slices are not copies. */
export const golden = (name: string): Uint8Array =>
  new Uint8Array(Bun.zstdDecompressSync(readFileSync(join(FOLDER, name.endsWith(".zst") ? name : `${name}.zst`))));

export interface Capture {
  name: string;
  main: Uint8Array;
  /** In the order in which they were accepted. */
  channels: Uint8Array[];
}

const multifd = (name: string): Capture => ({
  name,
  main: golden(`${name}.ch0`),
  channels: [golden(`${name}.ch1`), golden(`${name}.ch2`)],
});
const plain = (name: string): Capture => ({ name, main: golden(`${name}.bin`), channels: [] });

/** Everything that came over channels; the files with fixed offsets are apart. */
export const captures = (): Capture[] => [
  plain("qemu-7.2-stream"),
  plain("qemu-10.2-stream"),
  ...["7.2", "10.2"].flatMap((version) =>
    ["", "-zlib", "-zstd"].map((method) => multifd(`qemu-${version}-multifd${method}`)),
  ),
];

export const GOLDEN_PAGES = 256;

/** The RAM of the guest that was captured, as test/golden/README.md has it. */
export function goldenRam(): Uint8Array {
  const ram = new Uint8Array(GOLDEN_PAGES * TARGET_PAGE_BYTES);
  const view = new DataView(ram.buffer);
  const mask = (1n << 64n) - 1n;
  let x = 0x2545f4914f6cdd1dn;
  for (let i = 0; i < GOLDEN_PAGES; i++) {
    const at = i * TARGET_PAGE_BYTES;
    if (i % 4 === 1) ram.fill(i & 0xff, at, at + TARGET_PAGE_BYTES);
    else if (i % 4 === 2) {
      for (let word = 0; word < TARGET_PAGE_BYTES; word += 8) {
        x ^= (x << 13n) & mask;
        x ^= x >> 7n;
        x ^= (x << 17n) & mask;
        view.setBigUint64(at + word, x, true);
      }
    } else if (i % 4 === 3) {
      const text = `page ${String(i).padStart(8, "0")} of the fixture guest. `;
      ram.set(new TextEncoder().encode(text.repeat(200)).subarray(0, TARGET_PAGE_BYTES), at);
    }
  }
  return ram;
}

/** Bytes that are all there, given out in pieces. Whoever reads on and on behind the end would hang on a real channel. */
export class Playback implements Transport {
  readonly name: string;
  readonly twoWay: boolean;
  readonly written: Uint8Array[] = [];
  readonly #bytes: Uint8Array;
  readonly #pieceBytes: number;
  #at = 0;
  #ends = 0;

  constructor(bytes: Uint8Array, name = "playback", { twoWay = false, pieceBytes = 1 << 20 } = {}) {
    this.#bytes = bytes;
    this.name = name;
    this.twoWay = twoWay;
    this.#pieceBytes = pieceBytes;
  }

  read(out: Uint8Array): number {
    const count = Math.min(out.length, this.#pieceBytes, this.#bytes.length - this.#at);
    if (count === 0 && ++this.#ends > 100) throw new Error("read again and again behind the end");
    out.set(this.#bytes.subarray(this.#at, this.#at + count));
    this.#at += count;
    return count;
  }
  write(data: Uint8Array, bytes = data.length): void {
    this.written.push(data.slice(0, bytes));
  }
  drain(): boolean {
    return true;
  }
  close(): void {}
}

export const quietLog = (direction: "incoming" | "outgoing" = "incoming"): MoveLog => {
  const log = new MoveLog(
    direction,
    "test",
    () => undefined,
    () => performance.now(),
  );
  log.setPhase("waiting");
  return log;
};

/**
 * What the keeper's thread and the channels' threads do, one after the other: at each barrier every channel is read up to its
 * next SYNC. The file is there when this returns, and not there when it throws.
 */
export function keepCapture(
  target: string | FileTarget,
  { main, channels }: Omit<Capture, "name">,
  pieceBytes = 1 << 20,
): Kept {
  const output = new OutputFile(typeof target === "string" ? { path: target } : target);
  const directFd = openDirect(output.fd);
  const pages = new PageFile(output.fd, { fd: directFd, only: false });
  const readers: MultifdReader[] = [];
  try {
    const file = new MappedWriter(output.fd, output.offset);
    const transport = new Playback(main, "the source", { twoWay: true, pieceBytes });
    const channel = new MainChannel(new TransportSource(transport));
    let sinks = new Map<string, BlockSink>();
    let barriers = 0;
    const kept = keep(
      channel,
      file,
      {
        openReturnPath: () => undefined,
        untouched: () => undefined,
        answerPing: () => undefined,
        begin: () => {
          const list = file.targets.map((target) => new MappedSink(pages, target));
          sinks = new Map(list.map((sink) => [sink.name, sink]));
          channel.into(list);
        },
        barrier: () => {
          if (barriers++ === 0)
            for (const [i, bytes] of channels.entries()) {
              const reader = new MultifdReader(new Playback(bytes, `channel ${i}`, { pieceBytes }), `channel ${i}`);
              readers.push(reader);
              reader.init();
            }
          for (const [i, reader] of readers.entries()) untilSync(reader, sinks, `channel ${i}`);
        },
        channelCounts: () => ({ pages: 0, zeroPages: 0, bytes: 0 }),
        checkCancelled: () => undefined,
      },
      quietLog(),
    );
    output.commit();
    return kept;
  } catch (error) {
    output.discard();
    throw error;
  } finally {
    for (const reader of readers) reader.close();
    pages.close();
    if (directFd >= 0) closeSync(directFd);
  }
}

function untilSync(reader: MultifdReader, sinks: ReadonlyMap<string, BlockSink>, name: string): void {
  for (;;) {
    const packet = reader.next(sinks);
    if (packet?.sync) return;
    if (!packet)
      throw new TramError("E_CHANNEL_CLOSED", `${name} was closed before the move was over`, { where: name });
  }
}

/** What lies beside `path` that is not it: a temporary file that stayed. */
export const leftBeside = (path: string): string[] =>
  readdirSync(dirname(path)).filter((one) => one.includes(basename(path)) && one !== basename(path));

/** The same numbers on every run. */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}
