// --net: a guest's network as a person names it.
import { randomBytes } from "node:crypto";
import { TramError } from "../errors.ts";
import { randomMac } from "../machine/virtio/net.ts";
import { openTap } from "../native/tap.ts";
import { formatMac, MAC_BYTES, parseMac } from "../stream/devices/mac.ts";

export interface NetWish {
  /** Null: the cable is unplugged. */
  tap: string | null;
  /** Null: nothing was said of it. */
  mac: string | null;
}

/** tap:NAME, tap:NAME,mac=ADDRESS or none; null: nothing was said. */
export function parseNet(text: string | undefined): NetWish | null {
  if (text === undefined) return null;
  if (text === "none") return { tap: null, mac: null };
  const [, tap, address] = /^tap:([^,]+)(?:,mac=(.*))?$/.exec(text) ?? [];
  if (!tap)
    throw new TramError("E_USAGE", `--net: '${text}' is no network`, {
      expected: "tap:NAME, tap:NAME,mac=ADDRESS or none",
    });
  if (tap.length > 15)
    throw new TramError("E_USAGE", `--net: '${tap}' is too long for an interface`, {
      expected: "at most 15 characters",
    });
  const mac = address === undefined ? null : parseMac(address);
  if (address !== undefined && (!mac || mac[0] & 1 || mac.every((byte) => byte === 0)))
    throw new TramError("E_USAGE", `--net: '${address}' is no card's address`, { expected: "as 52:54:00:12:34:56" });
  return { tap, mac: mac && formatMac(mac) };
}

/** -1: none. */
export const openNet = (wish: NetWish | null): number => (wish?.tap ? openTap(wish.tap) : -1);

export const macOf = ({ mac }: NetWish): string => mac ?? formatMac(randomMac(randomBytes(MAC_BYTES)));
