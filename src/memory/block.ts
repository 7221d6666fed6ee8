// The guest's RAM as the stream and KVM see it: one block, laid out around the hole below 4 GiB.

export const PAGE_BYTES = 4096;
const GIB = 2 ** 30;
/** RAM below this guest address is contiguous from 0; the rest of it starts at 4 GiB. */
export const LOW_BYTES_MAX = 3 * GIB;
export const HIGH_GPA = 4 * GIB;

export interface Slot {
  slot: number;
  gpa: number;
  /** Where the slot's memory lies in the block. */
  offset: number;
  bytes: number;
}

/** KVM's memory slots for a block of `bytes`: one, or two around the hole. */
export function layOut(bytes: number): Slot[] {
  const low = Math.min(bytes, LOW_BYTES_MAX);
  const slots = [{ slot: 0, gpa: 0, offset: 0, bytes: low }];
  if (bytes > low) slots.push({ slot: 1, gpa: HIGH_GPA, offset: low, bytes: bytes - low });
  return slots;
}
