import { describe, expect, test } from "bun:test";
import { LiveLine } from "../../src/cli/console.ts";
import { cut, type Environment, fit, type Part, showable, type Terminal, terminalOf } from "../../src/cli/terminal.ts";

const PLAIN: Terminal = { isLive: true, isUnicode: true, hasColours: false, reflows: true };
const ASCII: Terminal = { ...PLAIN, isUnicode: false };

describe("a terminal", () => {
  test.each<[boolean, Environment, Partial<Terminal>]>([
    [true, { TERM: "xterm-256color", LANG: "en_US.UTF-8" }, { isLive: true, isUnicode: true, hasColours: true, reflows: true }], // biome-ignore format: one row
    [false, { TERM: "xterm-256color", LANG: "en_US.UTF-8" }, { isLive: false, isUnicode: true, hasColours: false }],
    [true, { TERM: "dumb", LANG: "C.utf8" }, { isLive: false, hasColours: false }],
    [true, {}, { isLive: false, isUnicode: false }],
    [true, { TERM: "" }, { isLive: false }],
    [true, { TERM: "xterm", NO_COLOR: "1" }, { isLive: true, hasColours: false }],
    [true, { TERM: "xterm", NO_COLOR: "" }, { hasColours: true }],
    [true, { TERM: "xterm", LC_ALL: "C", LANG: "en_US.UTF-8" }, { isUnicode: false }],
    [true, { TERM: "xterm", LC_ALL: "", LC_CTYPE: "C.UTF-8" }, { isUnicode: true }],
    [true, { TERM: "xterm", LC_CTYPE: "de_DE@euro", LANG: "C.UTF-8" }, { isUnicode: false }],
    [true, { TERM: "linux" }, { reflows: false }],
    [true, { TERM: "xterm", XTERM_VERSION: "XTerm(379)" }, { reflows: false }],
    [true, { TERM: "screen", STY: "1.pts" }, { reflows: false }],
    [true, { TERM: "tmux", TMUX: "/tmp/t", XTERM_VERSION: "XTerm(379)" }, { reflows: true }],
  ])("%p with %j is %j", (isTerminal, env, expected) => {
    expect(terminalOf(isTerminal, env)).toMatchObject(expected);
  });
});

describe("a text", () => {
  test.each([
    ["short", 10, "short"],
    ["exactly 10", 10, "exactly 10"],
    ["one too many", 11, "one too ma…"],
    ["日本語", 6, "日本語"],
    ["日本語", 5, "日本…"],
    ["日本語", 4, "日…"], // a wide one does not go by halves
    ["e\u0301e\u0301e\u0301", 2, "e\u0301…"],
    ["👨‍👩‍👧👨‍👩‍👧", 3, "👨‍👩‍👧…"],
    ["abc", 1, "…"],
    ["abc", 0, ""],
  ])("%p in %d columns is %p", (text, columns, expected) => {
    expect(cut(text, columns, "…")).toBe(expected);
    expect(Bun.stringWidth(cut(text, columns, "…"))).toBeLessThanOrEqual(columns);
  });

  test.each([
    ["a\x1b[2Jb\r\nc\x07", true, "a?[2Jb??c?"],
    ["\u202eevil", true, "?evil"],
    ["grün — …", true, "grün — …"],
    ["grün — …", false, "gr?n - ..."],
    ["日本", false, "??"],
  ])("%p on a terminal (Unicode: %p) is %p", (text, isUnicode, expected) => {
    expect(showable(text, isUnicode)).toBe(expected);
  });
});

describe("a line", () => {
  const parts: Part[] = [
    { text: "50%", rank: 0 },
    { text: "1.00 GiB", rank: 2 },
    { text: "20 MiB/s", rank: 1 },
    { text: "why — so", rank: 0, warns: true },
  ];
  test.each([
    [80, "50%  1.00 GiB  20 MiB/s  why — so"],
    [33, "50%  1.00 GiB  20 MiB/s  why — so"],
    [32, "50%  20 MiB/s  why — so"],
    [22, "50%  why — so"],
    [12, "50%  why — …"],
    [3, "50…"],
    [0, ""],
  ])("in %d columns is %p", (columns, expected) => {
    expect(fit(parts, columns, PLAIN)).toEqual({ text: expected, columns: Bun.stringWidth(expected) });
  });

  test("without Unicode is ASCII, and is cut by it", () => {
    expect(fit(parts, 80, ASCII).text).toBe("50%  1.00 GiB  20 MiB/s  why - so");
    expect(fit(parts, 12, ASCII).text).toBe("50%  why ...");
  });

  test("has colours that take no columns, and none when it is cut", () => {
    const { text, columns } = fit(parts, 33, { ...PLAIN, hasColours: true });
    expect({ text, columns }).toEqual({ text: "50%  1.00 GiB  20 MiB/s  \x1b[33mwhy — so\x1b[39m", columns: 33 });
    expect(fit(parts, 12, { ...PLAIN, hasColours: true }).text).toBe("50%  why — …");
  });
});

describe("the live line", () => {
  function liveLine(terminal: Terminal = PLAIN) {
    const state = { columns: 80, written: [] as string[] };
    const line = new LiveLine(terminal, () => state.columns, (text) => void state.written.push(text)); // biome-ignore format: one line
    const show = (text: string) => line.show([{ text, rank: 0 }]);
    const take = () => state.written.splice(0).join("");
    return { state, line, show, take };
  }

  test("is rewritten where it stands, erased behind it, and only if it is another one", () => {
    const { show, take, line } = liveLine();
    show("long line");
    expect(take()).toBe("\r\x1b[?7llong line\x1b[?7h\x1b[K");
    show("long line");
    expect(take()).toBe("");
    show("short");
    expect(take()).toBe("\r\x1b[?7lshort\x1b[?7h\x1b[K");
    line.clear();
    expect(take()).toBe("\r\x1b[K");
    line.clear();
    expect(take()).toBe("");
  });

  test("leaves room for ^C", () => {
    const { show, state, take } = liveLine();
    state.columns = 20;
    show("x".repeat(40));
    expect(Bun.stringWidth(take())).toBe(17);
  });

  test("follows the window, and takes back what that has wrapped", () => {
    const { show, state, take, line } = liveLine();
    show("x".repeat(70));
    take();
    state.columns = 30; // three rows now, and the cursor in the last
    show("y");
    expect(take()).toBe("\x1b[2A\r\x1b[?7ly\x1b[?7h\x1b[J");
    state.columns = 200;
    show("y");
    expect(take()).toBe("\r\x1b[?7ly\x1b[?7h\x1b[K");
    show("z".repeat(150));
    take();
    state.columns = 75;
    line.clear();
    expect(take()).toBe("\x1b[1A\r\x1b[J");
  });

  test("does not go up where a narrower window wraps nothing", () => {
    const { show, state, take } = liveLine({ ...PLAIN, reflows: false });
    show("x".repeat(70));
    take();
    state.columns = 30;
    show("y");
    expect(take()).toBe("\r\x1b[?7ly\x1b[?7h\x1b[K");
  });

  test("is none where nothing can be rewritten", () => {
    const { show, take, line } = liveLine({ ...PLAIN, isLive: false });
    show("x");
    line.clear();
    expect(take()).toBe("");
  });
});
