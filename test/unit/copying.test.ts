// When pages are sent without a copy, and when it is no use to ask.
import { describe, expect, test } from "bun:test";
import { CopyPolicy, type ZeroCopyMode } from "../../src/control/copying.ts";

const PACKET = 512 << 10;
const MIB = 1 << 20;

/** A kernel that is done with a packet `lag` packets later, and copies a share of them. */
class Kernel {
  zeroCopyBytes = 0;
  copiedBytes = 0;
  inFlightBytes = 0;
  readonly #lag: number;
  readonly #copies: (packet: number) => boolean;
  #sent = 0;
  readonly #held: boolean[] = [];

  constructor(lag: number, copies: (packet: number) => boolean) {
    this.#lag = lag;
    this.#copies = copies;
  }

  take(): void {
    this.zeroCopyBytes += PACKET;
    this.inFlightBytes += PACKET;
    this.#held.push(this.#copies(this.#sent++));
    if (this.#held.length <= this.#lag) return;
    this.inFlightBytes -= PACKET;
    if (this.#held.shift()) this.copiedBytes += PACKET;
  }
}

/** What becomes of so many packets: MiB asked for without a copy, and the modes in their order, repetitions left out. */
function send(mode: ZeroCopyMode, kernel: Kernel, packets: number) {
  const policy = new CopyPolicy(mode);
  const modes: ZeroCopyMode[] = [];
  for (let i = 0; i < packets; i++) {
    const now = policy.next(PACKET, () => kernel);
    if (modes.at(-1) !== now) modes.push(now);
    if (now !== "off") kernel.take();
  }
  return { askedMib: kernel.zeroCopyBytes / MIB, modes };
}

const always = () => true;
const never = () => false;

describe("whether a packet is sent without a copy", () => {
  test("on and off are what they say, whatever the kernel does", () => {
    expect(send("on", new Kernel(4, always), 1000)).toEqual({ askedMib: 500, modes: ["on"] });
    expect(send("off", new Kernel(4, never), 1000)).toEqual({ askedMib: 0, modes: ["off"] });
  });

  test("auto goes on where nothing is copied", () => {
    expect(send("auto", new Kernel(4, never), 4000)).toEqual({ askedMib: 2000, modes: ["auto"] });
  });

  test("auto goes on where less than half is copied", () => {
    expect(send("auto", new Kernel(4, (packet) => packet % 3 === 0), 4000).modes).toEqual(["auto"]);
  });

  test("auto stops where everything is copied, and asks again later", () => {
    const { askedMib, modes } = send("auto", new Kernel(4, always), 8192); // 4 GiB
    expect(modes).toEqual(["auto", "off", "auto", "off", "auto", "off", "auto", "off"]);
    expect(askedMib).toBeLessThan(4 * 24);
  });

  test("auto waits for answers before it decides, however late they come", () => {
    const { askedMib, modes } = send("auto", new Kernel(100, always), 200);
    expect(modes).toEqual(["auto", "off"]);
    expect(askedMib).toBeGreaterThanOrEqual(66);
  });

  test("auto begins anew where the kernel has stopped copying", () => {
    // The first 16 MiB are copied, nothing later: after the rest it asks, and goes on asking.
    const { modes } = send("auto", new Kernel(0, (packet) => packet < 32), 8192);
    expect(modes).toEqual(["auto", "off", "auto"]);
  });
});
