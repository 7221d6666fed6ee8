import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tryLock } from "../../src/native/file.ts";
import { type FileTarget, OutputFile } from "../../src/writer/output-file.ts";
import { errorOf } from "../support/errors.ts";
import { golden, goldenRam, keepCapture } from "../support/golden.ts";

let folder: string;
let open: number[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tram-output-"));
  open = [];
});
afterEach(() => {
  for (const fd of open) closeSync(fd);
  rmSync(folder, { recursive: true });
});
const path = (name: string): string => join(folder, name);
const opened = (name: string, flags: string): number => {
  const fd = openSync(path(name), flags);
  open.push(fd);
  return fd;
};
const text = (name: string): string => readFileSync(path(name), "latin1");
const written = (target: FileTarget, bytes: string): OutputFile => {
  const output = new OutputFile(target);
  writeSync(output.fd, bytes, output.offset);
  return output;
};

describe("a file that is written", () => {
  test("is there when it is whole, and not before", () => {
    const output = written({ path: path("vm") }, "new");
    expect(existsSync(path("vm"))).toBe(false);
    output.commit();
    expect(text("vm")).toBe("new");
    expect(statSync(path("vm")).mode & 0o777).toBe(0o600); // a guest's memory is nobody else's business
    expect(readdirSync(folder)).toEqual(["vm"]);
  });

  test("does not take the name of one that somebody writes to, but of one that somebody reads", () => {
    writeFileSync(path("vm"), "old");
    const held = opened("vm", "r+");
    expect(tryLock(held, "exclusive")).toBe(true);
    expect(errorOf(() => new OutputFile({ path: path("vm") }))).toMatchObject({
      code: "E_REFUSED",
      message: expect.stringContaining("is in use"),
    });
    expect(text("vm")).toBe("old");
    expect(tryLock(held, "shared")).toBe(true);
    written({ path: path("vm") }, "new").commit();
    expect(text("vm")).toBe("new");
  });

  test("leaves what was there before until it is whole", () => {
    writeFileSync(path("vm"), "old");
    const output = written({ path: path("vm") }, "new");
    expect(text("vm")).toBe("old");
    output.commit();
    expect(text("vm")).toBe("new");
  });

  test("leaves what was there before when it is given up", () => {
    writeFileSync(path("vm"), "old");
    written({ path: path("vm") }, "new").discard();
    expect(text("vm")).toBe("old");
    expect(readdirSync(folder)).toEqual(["vm"]);
  });

  test("leaves nothing when it is given up and nothing was there", () => {
    written({ path: path("vm") }, "new").discard();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("at an offset leaves nothing, too, when it is given up and nothing was there", () => {
    written({ path: path("vm"), offset: 0 }, "new").discard();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("through a symbolic link is where that points, and the link stays", () => {
    writeFileSync(path("real"), "old");
    symlinkSync("real", path("link"));
    written({ path: path("link") }, "new").commit();
    expect(lstatSync(path("link")).isSymbolicLink()).toBe(true);
    expect(text("real")).toBe("new");
  });

  test("may have the longest name there is", () => {
    const name = "v".repeat(255);
    written({ path: path(name) }, "new").commit();
    expect(text(name)).toBe("new");
  });

  test("at an offset keeps what stands before it", () => {
    writeFileSync(path("vm"), "HEADER and more");
    const output = written({ path: path("vm"), offset: 6 }, "new");
    output.commit();
    expect(text("vm")).toStartWith("HEADERnew");
  });

  test("in a folder that is not there is an error that says so", () => {
    expect(errorOf(() => new OutputFile({ path: path("no/vm") }))).toMatchObject({ code: "E_FILE" });
  });

  test("that is a device is an error, and no defect", () => {
    const write = () => keepCapture("/dev/full", { main: golden("qemu-10.2-stream.bin"), channels: [] });
    expect(errorOf(write)).toMatchObject({ code: expect.stringMatching(/^E_(FILE|USAGE)$/) });
  });
});

describe("a descriptor that is written to", () => {
  test("is one that may be", () => {
    writeFileSync(path("vm"), "as it was");
    expect(errorOf(() => new OutputFile({ fd: opened("vm", "r") }))).toMatchObject({ code: "E_USAGE" });
    expect(text("vm")).toBe("as it was");
  });

  const main = Buffer.from(golden("qemu-10.2-stream.bin"));
  const ramIn = (name: string, at = 1 << 20) => readFileSync(path(name)).subarray(at, at + (1 << 20));

  test("is written from where it stands", () => {
    const fd = opened("vm", "w");
    writeSync(fd, "HEADER");
    keepCapture({ fd }, { main, channels: [] });
    expect(text("vm")).toStartWith("HEADERQEVM");
    expect(Buffer.compare(ramIn("vm"), goldenRam())).toBe(0);
  });

  test("of >> is written where its end is, and every page at its place, or it is refused", () => {
    writeFileSync(path("vm"), "HEADER");
    const fd = opened("vm", "a");
    try {
      keepCapture({ fd }, { main, channels: [] });
    } catch (error) {
      expect(error).toMatchObject({ code: expect.stringMatching(/^E_(FILE|USAGE)$/) });
      return;
    }
    expect(text("vm")).toStartWith("HEADERQEVM");
    expect(Buffer.compare(ramIn("vm"), goldenRam())).toBe(0);
  });

  test("of > takes a page that comes as what changed in it", () => {
    // The capture with one more record at the end of its last section: byte 0 of page 1 becomes 0x45.
    const end = Buffer.of(3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0, 0, 1);
    const at = main.lastIndexOf(end) + 5;
    expect(at).toBeGreaterThan(5);
    const record = Buffer.of(0, 0, 0, 0, 0, 0, 0x10, 0x40, 3, 0x72, 0x61, 0x6d, 1, 0, 3, 0, 1, 0x45);
    const stream = Buffer.concat([main.subarray(0, at), record, main.subarray(at)]);
    keepCapture(path("by-name"), { main: stream, channels: [] });
    expect(ramIn("by-name")[4096]).toBe(0x45);
    keepCapture({ fd: opened("by-redirection", "w") }, { main: stream, channels: [] });
    expect(Buffer.compare(readFileSync(path("by-redirection")), readFileSync(path("by-name")))).toBe(0);
  });
});
