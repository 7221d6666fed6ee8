// A network card: packets as its driver puts them into its queues, each behind a header. A thread of its own carries them.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.1.
//
//   packet   u8 flags, u8 segmentation, le16 × 4 of it, le16 buffers; then a frame
import { MAC_BYTES } from "../../stream/devices/mac.ts";
import type { VirtioDevice } from "./mmio.ts";

export const NET_QUEUE = { toGuest: 0, fromGuest: 1 } as const;
const QUEUE_SIZES = [256, 256];
export const NET_QUEUES = QUEUE_SIZES.length;
/** Where a header has how many buffers the packet takes. */
export const BUFFERS_AT = 10;
/** The host completes sums and cuts packets that the guest leaves as they are. */
const FEATURE = {
  hostSums: 1n << 0n,
  mac: 1n << 5n,
  hostCutsTcp4: 1n << 11n,
  hostCutsTcp6: 1n << 12n,
  status: 1n << 16n,
} as const;
const STATUS_AT = MAC_BYTES;
const LINK_UP = 1;

/** Its registers. Its queues are another thread's. */
export class Net implements VirtioDevice {
  readonly id = 1;
  readonly features = Object.values(FEATURE).reduce((all, one) => all | one, 0n);
  readonly queueSizes = QUEUE_SIZES;
  readonly #config = new DataView(new ArrayBuffer(STATUS_AT + 2));
  readonly #wake: () => void;

  /** `wake`: whoever carries its packets is to look. */
  constructor(mac: Uint8Array, hasLink: boolean, wake: () => void) {
    mac.forEach((byte, i) => {
      this.#config.setUint8(i, byte);
    });
    this.#config.setUint16(STATUS_AT, hasLink ? LINK_UP : 0, true);
    this.#wake = wake;
  }

  readConfig(at: number, bytes: number): number {
    if (at + bytes > this.#config.byteLength || bytes > 2) return 0;
    return bytes === 1 ? this.#config.getUint8(at) : this.#config.getUint16(at, true);
  }

  writeConfig(): void {}

  serve(): boolean {
    this.#wake();
    return false;
  }

  /** Nothing of a packet is kept. */
  reset(): void {}
}

/** What says where this address is now to every switch: "who am I", in RARP's words, to everybody (RFC 903). */
export function announcement(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(60);
  const view = new DataView(frame.buffer);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  [0x8035, 1, 0x0800, 0x0604, 3].forEach((value, i) => {
    view.setUint16(12 + 2 * i, value);
  });
  frame.set(mac, 22);
  frame.set(mac, 32);
  return frame;
}

/** One that nobody was given by its maker: locally administered, and no group's. */
export function randomMac(random: Uint8Array): Uint8Array {
  const mac = random.slice(0, MAC_BYTES);
  mac[0] = (mac[0] & 0xfc) | 2;
  return mac;
}
