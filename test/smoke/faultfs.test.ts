// The file system with faults does what tests ask of it, and goes away however they end.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  linkSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { FaultFs, whyNoFaultFs } from "../support/faultfs.ts";
import { readRecording } from "../support/power-cut.ts";

const PAGE = 4096;
const LIMIT_MS = 30_000;
const reason = whyNoFaultFs();
const isMounted = (path: string): boolean => readFileSync("/proc/self/mounts", "utf8").includes(` ${path} `);

/** The code of the error that this ends with. */
function codeOf(action: () => unknown): string | undefined {
  try {
    action();
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
}

describe.skipIf(reason !== null)(`a file system with faults${reason ? ` (skipped: ${reason})` : ""}`, () => {
  let fs: FaultFs;
  let beside: string;
  beforeEach(async () => {
    fs = await FaultFs.mount();
    beside = mkdtempSync(join(tmpdir(), "tram-faultfs-test-"));
  });
  afterEach(async () => {
    await fs.stop();
    rmSync(beside, { recursive: true });
    expect([isMounted(fs.folder), existsSync(fs.folder)]).toEqual([false, false]);
  });

  /** `page` of the file, read as a program does that opens it now, if `fd` is not given. */
  function readPage(name: string, page: number, fd?: number): number {
    const own = fd ?? openSync(fs.path(name), "r");
    try {
      const bytes = new Uint8Array(PAGE);
      readSync(own, bytes, 0, PAGE, page * PAGE);
      return bytes[0];
    } finally {
      if (fd === undefined) closeSync(own);
    }
  }
  /** Each page is filled with its number and one. */
  const numbered = (pages: number): Uint8Array =>
    Uint8Array.from({ length: pages * PAGE }, (_, i) => Math.floor(i / PAGE) + 1);

  test("is a file system", () => {
    writeFileSync(fs.path("one"), numbered(300), { mode: 0o640 }); // more than one request takes
    expect(Buffer.compare(readFileSync(fs.path("one")), numbered(300))).toBe(0);
    expect((statSync(fs.path("one")).mode & 0o777).toString(8)).toBe("640");
    linkSync(fs.path("one"), fs.path("two"));
    expect(statSync(fs.path("one")).nlink).toBe(2);
    renameSync(fs.path("two"), fs.path("three"));
    unlinkSync(fs.path("one"));
    expect(readdirSync(fs.folder)).toEqual(["three"]);
    truncateSync(fs.path("three"), PAGE + 1);
    expect(readFileSync(fs.path("three")).subarray(PAGE - 1)).toEqual(Buffer.of(1, 2));
    expect(codeOf(() => openSync(fs.path("three"), "wx"))).toBe("EEXIST");
    expect(codeOf(() => openSync(fs.path("one"), "r"))).toBe("ENOENT");
  });

  test("has a file that stays when its name goes", () => {
    const fd = openSync(fs.path("one"), "wx+");
    unlinkSync(fs.path("one"));
    writeSync(fd, "still there");
    expect(readFileSync(`/proc/self/fd/${fd}`, "utf8")).toBe("still there");
    closeSync(fd);
    expect(readdirSync(fs.folder)).toEqual([]);
  });

  test("fails to read the bytes that it is told to, and no others", async () => {
    writeFileSync(fs.path("vm"), numbered(100));
    await fs.eio("vm", 50 * PAGE, 51 * PAGE);
    expect([0, 49, 51, 99].map((page) => readPage("vm", page))).toEqual([1, 50, 52, 100]);
    expect(codeOf(() => readPage("vm", 50))).toBe("EIO");
    renameSync(fs.path("vm"), fs.path("vm2"));
    writeFileSync(fs.path("vm"), numbered(100));
    expect(readPage("vm", 50)).toBe(51);
    expect(codeOf(() => readPage("vm2", 50))).toBe("EIO");
    await fs.eioOff();
    expect(readPage("vm2", 50)).toBe(51);
  });

  test("has what was read cached until it is dropped", async () => {
    writeFileSync(fs.path("vm"), numbered(10));
    const fd = openSync(fs.path("vm"), "r");
    expect(readPage("vm", 5, fd)).toBe(6);
    await fs.eio("vm", 0, 10 * PAGE);
    expect(readPage("vm", 5, fd)).toBe(6);
    await fs.drop("vm");
    expect(codeOf(() => readPage("vm", 5, fd))).toBe("EIO");
    closeSync(fd);
  });

  test(
    "has files that can be mapped, and pages in them that are not there",
    async () => {
      writeFileSync(fs.path("vm"), numbered(100));
      // Says for each page that it is asked for what comes of writing that page, as it lies in the mapping, to another file.
      const script = `
        import { openSync, writeSync } from "node:fs";
        const map = Bun.mmap(${JSON.stringify(fs.path("vm"))}, { shared: false });
        const out = openSync(${JSON.stringify(join(beside, "out"))}, "w");
        for await (const line of console) {
          try { console.log(writeSync(out, map, Number(line) * ${PAGE}, ${PAGE}, 0)); } catch (error) { console.log(error.code); }
        }`;
      await Bun.write(join(beside, "map.ts"), script);
      const child = Bun.spawn([process.execPath, join(beside, "map.ts")], { stdin: "pipe", stdout: "pipe", timeout: 20_000, killSignal: "SIGKILL" }); // biome-ignore format: one line
      const reader = child.stdout.getReader();
      const touch = async (page: number): Promise<string> => {
        child.stdin.write(`${page}\n`);
        child.stdin.flush();
        return new TextDecoder().decode((await reader.read()).value).trim();
      };
      try {
        expect(await touch(10)).toBe("4096");
        await fs.eio("vm", 10 * PAGE, 11 * PAGE);
        await fs.eio("vm", 80 * PAGE, 81 * PAGE);
        expect(await touch(10)).toBe("4096");
        expect([await touch(79), await touch(80), await touch(81)]).toEqual(["4096", "EFAULT", "4096"]);
        await fs.drop("vm");
        expect([await touch(9), await touch(10), await touch(11)]).toEqual(["4096", "EFAULT", "4096"]);
        await fs.eioOff();
        expect(await touch(10)).toBe("4096");
      } finally {
        child.kill("SIGKILL");
        await child.exited;
      }
    },
    LIMIT_MS,
  );

  test("is full when it is told to be, and the last write is cut short", async () => {
    await fs.enospc(10_000);
    const fd = openSync(fs.path("vm"), "w");
    expect([writeSync(fd, numbered(2)), writeSync(fd, numbered(2))]).toEqual([8192, 1808]);
    expect(codeOf(() => writeSync(fd, "more"))).toBe("ENOSPC");
    expect(statSync(fs.path("vm")).size).toBe(10_000);
    await fs.enospcOff();
    expect(writeSync(fd, "more")).toBe(4);
    closeSync(fd);
  });

  test("fails to do what it is told to fail in", async () => {
    writeFileSync(fs.path("vm"), "content");
    await fs.fail("rename");
    expect(codeOf(() => renameSync(fs.path("vm"), fs.path("other")))).toBe("EIO");
    await fs.fail("unlink");
    expect(codeOf(() => unlinkSync(fs.path("vm")))).toBe("EIO");
    await fs.failOff();
    expect(readdirSync(fs.folder)).toEqual(["vm"]);
  });

  test("records what was changed, in its order", async () => {
    writeFileSync(fs.path('there "before"'), "older");
    await fs.record();
    const fd = openSync(fs.path("vm"), "wx");
    writeSync(fd, "0123456789", 5);
    expect(Bun.spawnSync(["fallocate", "-p", "-o", "6", "-l", "2", fs.path("vm")]).exitCode).toBe(0);
    truncateSync(fs.path("vm"), 12);
    closeSync(fd);
    expect(Bun.spawnSync(["sync", fs.path("vm")]).exitCode).toBe(0);
    expect(Bun.spawnSync(["sync", "-d", fs.path("vm")]).exitCode).toBe(0);
    linkSync(fs.path("vm"), fs.path("vm2"));
    renameSync(fs.path("vm2"), fs.path("vm3"));
    unlinkSync(fs.path("vm"));
    writeFileSync(fs.path("vm3"), "");
    expect(Bun.spawnSync(["sync", fs.folder]).exitCode).toBe(0);
    await fs.recordOff();
    unlinkSync(fs.path("vm3"));
    const text = (data: Uint8Array) => new TextDecoder().decode(data);
    expect(readRecording(fs.recording).map((one) => ("data" in one ? { ...one, data: text(one.data) } : one))).toEqual([
      { op: "exists", name: 'there "before"', file: 1, data: "older" },
      { op: "create", name: "vm", file: 2 },
      { op: "write", file: 2, offset: 5, data: "0123456789" },
      { op: "allocate", file: 2, mode: 3, offset: 6, length: 2 },
      { op: "fsync", file: 2 }, // fallocate's own
      { op: "truncate", file: 2, size: 12 },
      { op: "fsync", file: 2 },
      { op: "fdatasync", file: 2 },
      { op: "link", file: 2, name: "vm2" },
      { op: "rename", from: "vm2", to: "vm3" },
      { op: "unlink", name: "vm" },
      { op: "truncate", file: 2, size: 0 },
      { op: "fsyncdir" },
    ]);
  });

  test("says what it cannot do", async () => {
    await expect(fs.eio("nothing", 0, 1)).rejects.toThrow("eio nothing 0 1: error: No such file or directory");
  });

  test("goes away while a file in it is open", async () => {
    const fd = openSync(fs.path("vm"), "w");
    await fs.stop();
    expect(isMounted(fs.folder)).toBe(false);
    closeSync(fd);
  });
});

describe.skipIf(reason !== null)("a file system with faults whose owner", () => {
  const script = `
    import { FaultFs } from ${JSON.stringify(join(import.meta.dir, "../support/faultfs.ts"))};
    const fs = await FaultFs.mount();
    console.log(fs.folder);
    await Bun.sleep(60_000);`;

  test.each(["SIGKILL", "SIGTERM"] as const)(
    "is ended by %s is unmounted",
    async (signal) => {
      const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", timeout: 20_000 });
      const { value } = await child.stdout.getReader().read();
      const folder = new TextDecoder().decode(value).trim();
      try {
        expect(isMounted(folder)).toBe(true);
        child.kill(signal);
        await child.exited;
        for (let tries = 0; isMounted(folder) && tries < 500; tries++) await Bun.sleep(10);
        expect(isMounted(folder)).toBe(false);
      } finally {
        child.kill("SIGKILL");
        if (isMounted(folder)) Bun.spawnSync(["umount", "-l", folder]);
        rmSync(dirname(folder), { recursive: true, force: true });
      }
    },
    LIMIT_MS,
  );
});
