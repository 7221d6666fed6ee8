import { describe, expect, test } from "bun:test";
import { ByteWriter } from "../../src/stream/bytes.ts";
import { encodeHello, encodePong, encodeRefuse, encodeShut, encodeStarted } from "../../src/stream/return-path.ts";
import { TRAM_PING_HELLO } from "../../src/stream/wire.ts";
import { Replies } from "../../src/writer/replies.ts";
import { errorOf } from "../support/errors.ts";
import { Playback } from "../support/golden.ts";

const HELLO = { version: 1, name: "there", memoryBytes: null, cpus: null, cpuid: [] };

function replies(write: (out: ByteWriter) => void, pieceBytes = 1 << 20): Replies {
  const out = new ByteWriter();
  write(out);
  return new Replies(new Playback(out.done().slice(), "the target", { twoWay: true, pieceBytes }));
}

describe("the target's answers", () => {
  test.each([1, 3, 1 << 20])("are read whole, in pieces of %d bytes", (pieceBytes) => {
    const all = replies((out) => {
      encodeHello(out, HELLO);
      encodePong(out, TRAM_PING_HELLO);
      encodePong(out, 7);
      encodeShut(out, 0);
    }, pieceBytes);
    expect(all.awaitHello(100)).toMatchObject(HELLO);
    all.awaitPong(7, 100);
    expect(all.awaitLastWord(100)).toEqual({ startedAfterMs: null });
  });

  test("that come to no end are not waited for any longer than one", () => {
    const words = new ByteWriter().u16(7).u16(0).done().slice();
    let at = 0;
    const forever = new Playback(words, "the target", { twoWay: true });
    forever.read = (into) => {
      into[0] = words[at++ % words.length]; // one byte at a time, of words that mean nothing
      return 1;
    };
    expect(errorOf(() => new Replies(forever).awaitLastWord(50)).code).toBe("E_PEER_SILENT");
  });

  test("that nobody asked for are passed over", () => {
    const all = replies((out) => {
      out.u16(7).u16(0); // SWITCHOVER_ACK
      encodePong(out, 2);
      out.u16(7).u16(0);
      encodeShut(out, 0);
    });
    all.awaitPong(2, 100);
    expect(all.awaitLastWord(100)).toEqual({ startedAfterMs: null });
  });

  test("to the hand-over word may be when the guest went on, or why it never will; half of one is neither", () => {
    const started = replies((out) => {
      encodeStarted(out, 1250);
      encodeShut(out, 0);
    });
    expect(started.awaitLastWord(100)).toEqual({ startedAfterMs: 1.25 });
    expect(replies((out) => encodeShut(out, 1)).awaitLastWord(100)).toMatchObject({ code: "E_REFUSED" });
    expect(
      replies((out) => encodeRefuse(out, { message: "its disk is in use", code: "E_REFUSED" })).awaitLastWord(100),
    ).toMatchObject({
      code: "E_REFUSED",
      message: "the target refuses the guest: its disk is in use",
    });
    expect(errorOf(() => replies((out) => encodeStarted(out, 1)).awaitLastWord(100)).code).toBe("E_CHANNEL_CLOSED");
    expect(errorOf(() => replies((out) => encodePong(out, 7)).awaitLastWord(100)).code).toBe("E_STREAM");
  });

  test("of a tram that refuses are its reason", () => {
    const all = replies((out) => encodeRefuse(out, { message: "no room", code: "E_FILE" }));
    expect(errorOf(() => all.awaitPong(1, 100))).toMatchObject({
      code: "E_REFUSED",
      message: "the target refuses the guest: no room",
    });
  });

  test("of a QEMU that could not load the guest, where a PONG should be, are a refusal: its bytes are in order", () => {
    const all = replies((out) => encodeShut(out, 1));
    expect(errorOf(() => all.awaitPong(2, 100)).code).toBe("E_REFUSED");
  });

  test.each<[string, (out: ByteWriter) => void]>([
    ["nothing", () => undefined],
    ["half a message", (out) => out.u16(2).u16(4).u16(0)],
    ["half a long message", (out) => out.u16(0x7401).u16(0xffff).u8(0x7b)],
  ])("that end with %s are a closed channel", (_, write) => {
    expect(errorOf(() => replies(write).awaitPong(1, 100)).code).toBe("E_CHANNEL_CLOSED");
  });

  test.each<[string, (out: ByteWriter) => void]>([
    ["a PONG of no value", (out) => out.u16(2).u16(0)],
    ["a SHUT of 8 bytes", (out) => out.u16(1).u16(8).u64(0n)],
    ["a greeting that is no JSON", (out) => out.u16(0x7400).u16(1).u8(0x7b)],
  ])("with %s are refused", (_, write) => {
    expect(errorOf(() => replies(write).awaitPong(1, 100)).code).toBe("E_STREAM");
  });

  test("may be as long as a message can be", () => {
    const all = replies((out) => {
      out.u16(0x1234).u16(0xffff).bytes(new Uint8Array(0xffff));
      encodePong(out, 1);
    }, 4096);
    expect(all.next(100)).toMatchObject({ type: "other" });
    all.awaitPong(1, 100);
  });
});
