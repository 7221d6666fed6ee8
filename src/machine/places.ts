// Where the virtio devices of a machine are: registers in the hole below 4 GiB, each in a page of its own, and a line of the
// interrupt controller. It is a promise to guests that are moved: they have been told of it once.
import { MMIO_BYTES } from "./virtio/mmio.ts";

export interface Place {
  address: number;
  bytes: number;
  line: number;
}

const PAGE = 0x1000;
const FIRST = 0xd1000000;
const at = (page: number, line: number): Place => ({ address: FIRST + page * PAGE, bytes: MMIO_BYTES, line });

export const BALLOON_PLACE = at(0, 5);
/** Pages 1 to 8, lines 16 to 23. */
export const diskPlace = (disk: number): Place => at(1 + disk, 16 + disk);
export const RNG_PLACE = at(9, 7);
export const VSOCK_PLACE = at(10, 10);
export const NET_PLACE = at(11, 11);
export const CONSOLE_PLACE = at(12, 12);
