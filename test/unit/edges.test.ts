// Inputs at the edge, each of which once went wrong.
import { describe, expect, test } from "bun:test";
import { formatBytes, formatMs, parseRate, parseSize } from "../../src/cli/units.ts";
import { Ledger } from "../../src/control/journal.ts";
import { formatError, fromErrorData, TramError } from "../../src/errors.ts";
import { WALKER_WORDS, WalkerPorts } from "../../src/machine/devices/walker.ts";
import { Bitmap } from "../../src/memory/bitmap.ts";
import { net } from "../../src/native/net.ts";
import { PAGE_BYTES, Ram } from "../../src/native/ram.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { decodeBlockTable, decodePageWord } from "../../src/stream/ram.ts";
import { decodeReturnMessage } from "../../src/stream/return-path.ts";
import { RAM_BLOCKS_MAX, TRAM_RP_MSG_HELLO, TRAM_RP_MSG_REFUSE } from "../../src/stream/wire.ts";
import { parseAddress } from "../../src/transport/address.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { StreamWriter } from "../../src/writer/stream.ts";

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return error instanceof TramError ? error.code : `not a TramError: ${error}`;
  }
  return "nothing was thrown";
}

describe("bitmap", () => {
  test("goes on behind where it began, when the array is full in the middle of a word", () => {
    const bitmap = new Bitmap(64);
    for (const page of [3, 6, 7]) bitmap.add(page);
    const into = new Uint32Array(1);
    expect(bitmap.take(5, 64, into)).toEqual({ count: 1, next: 7 });
    expect(bitmap.take(5, 64, into)).toMatchObject({ count: 1 });
    expect([...into]).toEqual([7]);
    expect(bitmap.has(3)).toBe(true);
  });
});

describe("ledger", () => {
  test("adds up parts of the same name", () => {
    let now = 0;
    const ledger = new Ledger(() => now);
    for (const [name, at] of [
      ["a", 5],
      ["b", 9],
      ["a", 12],
    ] as const) {
      now = at;
      ledger.mark(name);
    }
    expect(ledger.parts).toEqual({ a: 8, b: 4 });
    expect(ledger.totalMs).toBe(12);
  });
});

describe("errors", () => {
  test("a code that is no code of ours is an internal error", () => {
    for (const code of ["toString", "E_NOTHING"])
      expect(fromErrorData({ code: code as "E_USAGE", message: "m" }).exitCode).toBe(1);
  });

  test("what a peer says does not steer the terminal", () => {
    const text = formatError({ code: "E_REFUSED", message: "no\x1b[31m\x07", found: "a\nb" });
    expect(text).toBe("no?[31m?\n  found: a\n    b");
  });
});

describe("return path", () => {
  const message = (type: number, json: string) => {
    const bytes = new TextEncoder().encode(json);
    return new ByteReader(new ByteWriter().u16(type).u16(bytes.length).bytes(bytes).done());
  };

  test("a reason that is no text is none", () => {
    const refusal = decodeReturnMessage(message(TRAM_RP_MSG_REFUSE, '{"reason":{"toString":1},"next":7}'));
    expect(refusal).toMatchObject({ type: "refuse", reason: "no reason given", details: {} });
  });

  test.each(['{"version":1,"cpuid":[],"memoryBytes":{"toString":1}}', '{"version":1,"cpuid":[[1]]}', "[]", "7", "{"])(
    "a greeting like %s is a bad stream",
    (json) => {
      expect(codeOf(() => decodeReturnMessage(message(TRAM_RP_MSG_HELLO, json)))).toBe("E_STREAM");
    },
  );
});

describe("addresses and descriptors", () => {
  test.each(["fd:4294967297", "fd:99999999999999999999", "fd:-1"])("%s is no descriptor", (text) => {
    expect(codeOf(() => parseAddress(text))).toBe("E_ADDRESS");
  });

  test("a number that C would cut to another is refused", () => {
    expect(codeOf(() => net.fdType(2 ** 32 + 1))).toBe("E_INTERNAL");
  });
});

describe("ram section", () => {
  test("a block table without end is refused at its limit", () => {
    const out = new ByteWriter();
    for (let i = 0; i <= RAM_BLOCKS_MAX; i++) out.pstr(`b${i}`).size(PAGE_BYTES);
    expect(codeOf(() => decodeBlockTable(new ByteReader(out.done()), 2 ** 51))).toBe("E_STREAM");
  });

  test.each([
    [5, 0x12345010],
    [0, 0x30],
    [0, 0x1010],
  ])("an end of section %d %d with more in it is refused", (high, low) => {
    expect(codeOf(() => decodePageWord(high, low, 0))).toBe("E_STREAM");
  });
});

describe("stream writer", () => {
  class Sink implements Transport {
    readonly name = "sink";
    readonly twoWay = false;
    bytes = 0;
    write(data: Uint8Array, bytes = data.length): void {
      this.bytes += bytes;
    }
    read(): number {
      return 0;
    }
    drain(): boolean {
      return true;
    }
    close(): void {}
  }

  test("counts every byte of the first write, and sends nothing for no pages", () => {
    const ram = Ram.create(4 * PAGE_BYTES);
    ram.write(0, new Uint8Array(4 * PAGE_BYTES).fill(7));
    const sink = new Sink();
    const writer = new StreamWriter(sink, ram);
    expect(writer.write(new Uint32Array(0), 0)).toEqual({ pages: 0, zeroPages: 0, bytes: 0 });
    expect(sink.bytes).toBe(0);
    const { bytes } = writer.write(Uint32Array.of(0, 1), 2);
    expect(bytes).toBe(sink.bytes);
    expect(writer.bytes).toBe(sink.bytes);
    ram.destroy();
  });
});

describe("walker ports", () => {
  test("a rate that was lowered does not make up for what was granted before", () => {
    const words = new Int32Array(WALKER_WORDS);
    WalkerPorts.reset(words, 1000);
    const ports = new WalkerPorts(words, 0, 1);
    for (let now = 0; now < 100_000; ) now += ports.grant(now).waitMs + 1;
    words[0] = 10;
    expect(ports.grant(100_000).waitMs).toBeLessThan(1000);
  });
});

describe("units", () => {
  test("are never more than the next larger one", () => {
    expect(formatMs(999.6)).toBe("1.00 s");
    expect(formatMs(59_999)).toBe("1 min 0 s");
    expect(formatMs(119_600)).toBe("2 min 0 s");
    expect(formatBytes(1048575)).toBe("1.00 MiB");
  });

  test.each(["5bib", "5bb", "5kk", "G", ""])("'%s' is no size", (text) => {
    expect(codeOf(() => parseSize(text, "--memory"))).toBe("E_USAGE");
  });

  test("a rate in Mb is neither bits nor bytes", () => {
    expect(codeOf(() => parseRate("100Mb/s", "--max-bandwidth"))).toBe("E_USAGE");
    expect(parseRate("100Mbit/s", "--max-bandwidth")).toBe(12_500_000);
    expect(parseRate("100MiB/s", "--max-bandwidth")).toBe(100 << 20);
  });
});
