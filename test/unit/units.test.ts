import { describe, expect, test } from "bun:test";
import {
  formatBytes,
  formatCount,
  formatMs,
  formatRate,
  parseCount,
  parseDuration,
  parseMemory,
  parseRate,
  parseSize,
} from "../../src/cli/units.ts";
import { TramError } from "../../src/errors.ts";

const K = 1024;

/** A refusal names the option and repeats what was typed. */
function expectRefused(parse: () => unknown, text: string): void {
  let error: unknown;
  try {
    parse();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(TramError);
  expect(error).toMatchObject({ code: "E_USAGE", details: { expected: expect.any(String) } });
  expect((error as TramError).message).toStartWith(`--x: '${text}' is no `);
}

describe("a size", () => {
  test.each([
    ["0", 0],
    ["65536", 65536],
    ["1b", 1],
    ["1k", K],
    ["1K", K],
    ["1KiB", K],
    ["1kb", K],
    ["512M", 512 * K * K],
    ["512MiB", 512 * K * K],
    ["4GiB", 4 * K ** 3],
    ["1.5G", 1.5 * K ** 3],
    ["2T", 2 * K ** 4],
    [" 4 M ", 4 * K * K],
  ])("%p is %d bytes", (text, bytes) => {
    expect(parseSize(text, "--x")).toBe(bytes);
  });

  test.each([
    "",
    "M",
    "-1",
    "+1",
    "1e3",
    "0x10",
    "1P",
    "1 2",
    "1.",
    ".5",
    "0.3",
    "1.0001k",
    "99999999T",
    "NaN",
    "4GiB/s",
  ])("%p is refused", (text) => {
    expectRefused(() => parseSize(text, "--x"), text);
  });
});

describe("a memory size", () => {
  test.each([
    ["4096", 4096],
    ["4k", 4096],
    ["3G", 3 * K ** 3],
  ])("%p is %d bytes", (text, bytes) => {
    expect(parseMemory(text, "--x")).toBe(bytes);
  });

  test.each(["0", "1", "4095", "4097", "6k", "x"])("%p is refused", (text) => {
    expectRefused(() => parseMemory(text, "--x"), text);
  });
});

describe("a rate", () => {
  test.each([
    ["800MiB/s", 800 * K * K],
    ["800M", 800 * K * K],
    ["1G", K ** 3],
    ["10Gbit/s", 1_250_000_000],
    ["8bit/s", 1],
    ["1bit/s", 1],
    ["100 Mbit/s", 12_500_000],
    ["2.5gbit/s", 312_500_000],
    ["4096/s", 4096],
  ])("%p is %d bytes a second", (text, rate) => {
    expect(parseRate(text, "--x")).toBe(rate);
  });

  test.each(["", "0", "0M", "fast", "-1M", "/s", "10Gbit", "10Gbit/m"])("%p is refused", (text) => {
    expectRefused(() => parseRate(text, "--x"), text);
  });
});

describe("a time", () => {
  test.each([
    ["300ms", 300],
    ["10s", 10_000],
    ["1.5s", 1500],
    ["2m", 120_000],
    ["2min", 120_000],
    ["1h", 3_600_000],
    ["0ms", 0],
    ["0.6ms", 1],
    ["2S", 2000],
    ["2147483647ms", 2 ** 31 - 1],
  ])("%p is %d ms", (text, ms) => {
    expect(parseDuration(text, "--x")).toBe(ms);
  });

  test.each(["", "300", "s", "-1s", "1d", "1 s 2", "2147483648ms", "597h", "infinity"])("%p is refused", (text) => {
    expectRefused(() => parseDuration(text, "--x"), text);
  });
});

describe("a count", () => {
  test.each([
    ["1", 1],
    ["16", 16],
    [" 7 ", 7],
    ["007", 7],
  ])("%p is %d", (text, value) => {
    expect(parseCount(text, "--x", 1, 16)).toBe(value);
  });

  test.each(["", "0", "17", "1.5", "-1", "1e1", "0x1", "99999999999999999999"])(
    "%p is refused where 1 to 16 are allowed",
    (text) => {
      expectRefused(() => parseCount(text, "--x", 1, 16), text);
    },
  );
});

describe("numbers for people", () => {
  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1536, "1.50 KiB"],
    [10 * K + 512, "10.5 KiB"],
    [512 * K * K, "512 MiB"],
    [3 * K ** 4, "3 TiB"],
    [5000 * K ** 4, "5000 TiB"],
  ])("%d bytes are %p, and so is the rate", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
    expect(formatRate(bytes)).toBe(`${text}/s`);
  });

  test.each([
    [0, "0 ms"],
    [12.4, "12 ms"],
    [999, "999 ms"],
    [1000, "1.00 s"],
    [1234, "1.23 s"],
    [59_000, "59.00 s"],
    [60_000, "1 min 0 s"],
    [90_400, "1 min 30 s"],
    [3_600_000, "60 min 0 s"],
  ])("%d ms are %p", (ms, text) => {
    expect(formatMs(ms)).toBe(text);
  });

  test("counts have commas", () => {
    expect(formatCount(1234567)).toBe("1,234,567");
  });

  test.each([1, 4096, 512 * K * K, 4 * K ** 3, 7 * K ** 4])("%d bytes are read again as they are written", (bytes) => {
    expect(parseSize(formatBytes(bytes), "--x")).toBe(bytes);
  });
});
