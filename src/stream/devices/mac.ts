// A network card's address: six bytes, and as people write them.
export const MAC_BYTES = 6;

/** Null: it is none. */
export const parseMac = (text: string): Uint8Array | null =>
  /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)
    ? Uint8Array.from(text.split(":"), (byte) => Number.parseInt(byte, 16))
    : null;

export const formatMac = (mac: Uint8Array): string =>
  Array.from(mac, (byte) => byte.toString(16).padStart(2, "0")).join(":");
