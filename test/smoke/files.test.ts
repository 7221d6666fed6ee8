// What may not happen to files, whatever a person types.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Bed } from "../support/bed.ts";

const GOLDEN = join(import.meta.dir, "../golden");
let bed: Bed;

beforeEach(async () => {
  bed = new Bed();
  const stream = Bun.zstdDecompressSync(readFileSync(join(GOLDEN, "qemu-7.2-stream.bin.zst")));
  await Bun.write(bed.path("plain"), stream);
  await bed.expectDone("convert", "plain", "vm.tram");
});
afterEach(() => bed.dispose());

/** A command line of a shell, in the bed's folder. */
const shell = (line: string) => bed.exec(["/bin/sh", "-c", line]);
const tram = join(import.meta.dir, "../../build/tram");

describe("a file that is read", () => {
  test.each([
    ["extract vm.tram vm.tram --ram"],
    ["extract vm.tram link --ram"],
    ["convert vm.tram vm.tram"],
    ["convert vm.tram fd:5 5<>vm.tram"],
    ["convert plain file:plain,offset=1M"],
  ])("is not written as well: tram %s", async (line) => {
    symlinkSync("vm.tram", bed.path("link"));
    const before = [readFileSync(bed.path("vm.tram")), readFileSync(bed.path("plain"))];
    const { code, stderr } = await shell(`${tram} ${line}`);
    expect(code).toBe(2);
    expect(stderr).toContain("the same file");
    expect([readFileSync(bed.path("vm.tram")), readFileSync(bed.path("plain"))]).toEqual(before);
  });
});

describe("a file that stands where a socket is to be", () => {
  test.each(["receive unix:vm.tram other", "run --incoming unix:vm.tram --name a"])("stays: tram %s", async (line) => {
    const before = readFileSync(bed.path("vm.tram"));
    const { code, stderr } = await shell(`timeout 10 ${tram} ${line}`);
    expect(code).toBe(2);
    expect(stderr).toContain("is no socket");
    expect(readFileSync(bed.path("vm.tram"))).toEqual(before);
  });
});

describe("a file that is written", () => {
  test.each([
    ["a pipe", "mkfifo there", 2],
    ["a folder", "mkdir there", 2],
    ["a link to nothing", "ln -s nowhere there", 1],
    ["a device", "ln -s /dev/null there", 2],
  ])("cannot be %s, and is not waited for", async (_, make, expected) => {
    await shell(make);
    const { code, stderr } = await shell(`timeout 10 ${tram} convert plain there`);
    expect(code).toBe(expected);
    expect(stderr).not.toContain("defect");
  });

  test("keeps the mode of the one it replaces, and is private when it is new", async () => {
    await shell("touch old && chmod 640 old");
    await bed.expectDone("convert", "plain", "old");
    await bed.expectDone("convert", "plain", "new");
    expect(["old", "new"].map((name) => (statSync(bed.path(name)).mode & 0o777).toString(8))).toEqual(["640", "600"]);
  });

  test.each(["SIGTERM", "SIGINT", "SIGKILL"] as const)("leaves nothing when %s comes in the middle", async (signal) => {
    const folder = mkdtempSync(bed.path("out-"));
    const script = `
      import { writeSync } from "node:fs";
      import { OutputFile } from "${join(import.meta.dir, "../../src/writer/output-file.ts")}";
      const file = new OutputFile({ path: "${join(folder, "ram")}" });
      writeSync(file.fd, new Uint8Array(1 << 20));
      console.log("under way");
      await Bun.sleep(10_000);
      file.commit();`;
    await Bun.write(bed.path("write.ts"), script);
    const child = Bun.spawn([process.execPath, bed.path("write.ts")], { stdout: "pipe", stderr: "inherit" });
    for await (const piece of child.stdout) if (new TextDecoder().decode(piece).includes("under way")) break;
    child.kill(signal);
    await child.exited;
    expect(child.signalCode).toBe(signal);
    expect(readdirSync(folder)).toEqual([]);
  });
});

test("what standard output does not take is not a success", async () => {
  for (const line of ["inspect vm.tram", "inspect vm.tram --json", "check vm.tram"])
    expect((await shell(`${tram} ${line} > /dev/full`)).code).toBe(1);
});
