// The bare C loop.
import { outputOf, type Placement, type Sample, type Scheme } from "./measure.ts";

const BARE = process.env.BARE ?? "build/bench/bare";

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
