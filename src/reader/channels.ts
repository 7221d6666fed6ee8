// The connections of a multi-channel move, as their first bytes tell what they are.
import { TramError } from "../errors.ts";
import { net, type StopWord } from "../native/net.ts";
import { decodeInit, INIT_BYTES } from "../stream/multifd.ts";
import { MULTIFD_MAGIC } from "../stream/wire.ts";

/** What the first four bytes of a connection, big-endian, make it. */
export const kindOfFirst = (first: number): "channel" | "main" => (first === MULTIFD_MAGIC ? "channel" : "main");

/** Reads each channel's init message; the descriptors by their channels' numbers. */
export function channelsInOrder(fds: readonly number[], silenceMs: number, stop: StopWord): number[] {
  const inOrder: number[] = [];
  for (const fd of fds) {
    const { channel } = decodeInit(readInit(fd, silenceMs, stop));
    if (channel >= fds.length || inOrder[channel] !== undefined)
      throw new TramError("E_STREAM", "the source's channels are not all there, or one is there twice", {
        expected: `channels 0 to ${fds.length - 1}, once each`,
        found: `${inOrder[channel] === undefined ? "" : "a second "}channel ${channel} of ${fds.length}`,
      });
    inOrder[channel] = fd;
  }
  return inOrder;
}

function readInit(fd: number, silenceMs: number, stop: StopWord): Uint8Array {
  const bytes = new Uint8Array(INIT_BYTES);
  for (let done = 0; done < INIT_BYTES; ) {
    const count = net.read(fd, bytes.subarray(done), silenceMs, stop);
    if (count === 0) throw new TramError("E_CHANNEL_CLOSED", "a channel was closed before it said which it is");
    done += count;
  }
  return bytes;
}
