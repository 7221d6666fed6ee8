// The bare C loop.
import type { Placement, Sample, Scheme } from "./measure.ts";

const BARE = process.env.BARE ?? "build/bench/bare";

export interface BareOptions {
  scheme: Scheme;
  placement: Placement;
  mib: number;
  iovMax?: number;
  cold?: boolean;
}

export async function moveBare({ scheme, placement, mib, iovMax, cold }: BareOptions): Promise<Sample> {
  const bare = Bun.spawn([BARE, scheme, `${mib}`, `${iovMax ?? 1024}`, cold ? "cold" : "warm", placement]);
  const text = await bare.stdout.text();
  if ((await bare.exited) !== 0) throw new Error("bare: failed");
  return JSON.parse(text);
}
