// Memory of which nothing is known but its bytes, for scripted guests.
import type { CarrierMemory } from "../../src/control/guest.ts";

export const plainPages: CarrierMemory = {
  splitUntouched: (_, count) => count,
  givenUp: () => ({ ballooned: 0, reported: 0 }),
  hinted: () => null,
  clearDirty() {},
};
