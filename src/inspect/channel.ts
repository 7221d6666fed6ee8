// A capture of one multifd channel, looked at by itself.
import { type ErrorData, TramError, toErrorData } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { MultifdReader } from "../reader/multifd.ts";
import type { BlockSink } from "../reader/pages.ts";
import type { Method } from "../stream/multifd.ts";
import { RAM_BYTES_MAX } from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";

export interface ChannelSurvey {
  channel: number;
  uuid: string;
  packets: number;
  syncs: number;
  pages: number;
  zeroPages: number;
  methods: Method[];
  blocks: string[];
  bytes: number;
  problem: ErrorData | null;
}

/** A channel names blocks, and does not say how large they are: any page is accepted, and none is kept. */
class AnyBlocks extends Map<string, BlockSink> {
  override get(name: string): BlockSink {
    const known = super.get(name);
    if (known) return known;
    const pages = RAM_BYTES_MAX / 4096 - 1; // their count is a number of 32 bits
    const sink = {
      pages,
      scatter: () => undefined,
      clear: () => undefined,
      read: (_: number, bytes: number) => new Uint8Array(bytes),
    };
    const block = { name, sink, present: new NoBitmap(0), told: new NoBitmap(0) };
    this.set(name, block);
    return block;
  }
}

class NoBitmap extends Bitmap {
  override add(): void {}
  override addAll(): number {
    return 0;
  }
  override remove(): void {}
  override removeAll(): number {
    return 0;
  }
  override has(): boolean {
    return false;
  }
}

export function surveyChannel(transport: Transport): ChannelSurvey {
  const reader = new MultifdReader(transport, "the channel");
  const { channel, uuid } = reader.init();
  const blocks = new AnyBlocks();
  const methods = new Set<Method>();
  let syncs = 0;
  let problem: ErrorData | null = null;
  try {
    for (let packet = reader.next(blocks); packet; packet = reader.next(blocks)) {
      if (packet.sync) syncs++;
      if (packet.normal) methods.add(packet.method);
    }
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    problem = toErrorData(error);
  }
  const { packets, pages, zeroPages, bytes } = reader.counts;
  return {
    channel,
    uuid: Buffer.from(uuid).toString("hex"),
    packets,
    syncs,
    pages,
    zeroPages,
    methods: [...methods],
    blocks: [...blocks.keys()],
    bytes,
    problem,
  };
}
