// The bare C loops that move.
import { outputOf, type Placement, type Sample, type Scheme } from "./measure.ts";

const BARE = process.env.BARE ?? "build/bench/bare";
const BARE_CHANNELS = process.env.BARE_CHANNELS ?? "build/bench/bare-channels";

export interface BareOptions {
  scheme: Scheme;
  placement: Placement;
  mib: number;
  iovMax?: number;
  cold?: boolean;
}

export async function moveBare({ scheme, placement, mib, iovMax, cold }: BareOptions): Promise<Sample> {
  return JSON.parse(await outputOf([BARE, scheme, `${mib}`, `${iovMax ?? 1024}`, cold ? "cold" : "warm", placement]));
}

export interface BareChannelsSample extends Sample {
  /** Of the sends that were to be without a copy, the share that the kernel copied after all. */
  copiedShare: number;
}

/** Over tcp; bytes: of pages. */
export async function moveBareChannels(mib: number, channels: number, zeroCopy: boolean): Promise<BareChannelsSample> {
  return JSON.parse(await outputOf([BARE_CHANNELS, `${mib}`, `${channels}`, zeroCopy ? "zero-copy" : "copy"]));
}
