// Everything that a command says with --json is in the schema, which tram itself prints.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import schema from "../../schema/tram-1.schema.json";
import { type Bed, inBed, type Result, TRAM, whyNoKvm } from "../support/bed.ts";
import { golden } from "../support/golden.ts";
import { checkLines, DEFINITIONS } from "../support/schema.ts";

const noKvm = whyNoKvm();
const ACCEL = noKvm ? ["--accel", "none"] : [];
const WALKER = [...ACCEL, "--memory", "32M", "--working-set", "8M", "--fill", "random"];
/** Of a move that takes a second and more. */
const SLOW = ["--max-bandwidth", "16MiB/s"];

/** Runs it, and returns the names of what it said, all of which is in the schema. */
async function said(bed: Bed, exitCode: number, ...args: string[]): Promise<string[]> {
  const { code, stdout, stderr }: Result = await bed.tram(...args, "--json");
  expect({ args, code, stderr: exitCode === 0 ? stderr : "" }).toEqual({ args, code: exitCode, stderr: "" });
  return checkLines(stdout, DEFINITIONS.includes(args[0]) ? args[0] : "event");
}

const atEnds = (names: string[]): (string | undefined)[] => [names[0], names.at(-1)];

describe("the schema", () => {
  test("is printed", () =>
    inBed(async (bed) =>
      expect(JSON.parse(await bed.expectDone("schema"))).toEqual(JSON.parse(JSON.stringify(schema))),
    ));

  test("has every command that takes --json, and knows no other", () =>
    inBed(async (bed) => {
      const { stdout } = await bed.tram("help");
      const objects: string[] = [];
      const streams: string[] = [];
      for (const [, command] of stdout.matchAll(/^ {2}([a-z-]+) {2,}/gm)) {
        const help = await bed.expectDone("help", command);
        if (help.includes("--json[=PATH|fd:N]")) (help.includes("events as JSON") ? streams : objects).push(command);
        else if (help.includes("--json ")) objects.push(command);
      }
      expect(streams.sort()).toEqual(["convert", "migrate", "receive", "save", "send"]);
      expect(objects.length).toBeGreaterThan(10);
      expect(objects.filter((command) => !DEFINITIONS.includes(command))).toEqual([]);
      for (const [, command] of JSON.stringify(schema).matchAll(/"tram ([a-z-]+) --json[.;:,]/g))
        expect(objects).toContain(command);
    }));
});

describe("what is said", () => {
  test("of a guest that runs", () =>
    inBed(async (bed) => {
      expect(await said(bed, 0, "ps")).toEqual(["ps"]);
      await bed.walker("a", ...WALKER, "--dirty-rate", "2000");
      await said(bed, 0, "ps");
      await said(bed, 0, "status", "a");
      await said(bed, 0, "top", "--once");
      await said(bed, 0, "dirty-rate", "a", "--for", "200ms");
      await said(bed, 0, "forecast", "a", "--bandwidth", "1Gbit/s", "--for", "200ms");
      await said(bed, 0, "forecast", "a", "--bandwidth", "10Mbit/s", "--max-downtime", "1ms", "--for", "200ms");
      await said(bed, 0, "rehearse", "a", "--bandwidth", "1Gbit/s");
      await said(bed, 0, "pace", "a", "--for", "200ms");
      await bed.expectDone("pause", "a");
      await said(bed, 0, "check-guest", "a");
    }));

  test("of a host", () => inBed(async (bed) => void (await said(bed, 0, "doctor", bed.folder))));

  test("of a move, and before there is one", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...WALKER, "--dirty-rate", "2000");
      await bed.target("b", "unix:in.sock", ...ACCEL);
      const names = await said(
        bed,
        0,
        "migrate",
        "a",
        "unix:in.sock",
        ...SLOW,
        "--channels",
        "2",
        "--max-downtime",
        "1s",
      );
      expect(atEnds(names)).toEqual(["move.phase", "move.finished"]);
      expect(names).toContain("move.progress");
      expect(names).toContain("round.finished");
      expect(await said(bed, 2, "migrate", "nobody", "unix:in.sock")).toEqual(["move.finished"]);
      const failed = await said(bed, 1, "migrate", "b", "unix:nobody.sock");
      expect(atEnds(failed)).toEqual(["move.phase", "move.finished"]);
    }));

  test("of a move that does not come nearer to its end, and is interrupted", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...ACCEL, "--memory", "16M", "--working-set", "4M", "--dirty-rate", "50000");
      await bed.target("b", "unix:in.sock", ...ACCEL);
      const options = [...SLOW, "--max-downtime", "1ms", "--json=events"];
      const move = bed.start(["migrate", "a", "unix:in.sock", ...options]);
      const events = () => (existsSync(bed.path("events")) ? readFileSync(bed.path("events"), "utf8") : "");
      await bed.until(async () => events().includes('"waitsFor":"guest-writes"') && events().includes("move.stalled"), "it stalls", move); // biome-ignore format: one line
      move.kill("SIGINT");
      expect(await move.code).toBe(130);
      expect(checkLines(events()).at(-1)).toBe("move.finished");
    }));

  test("of a guest that is saved, read, sent and restored", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...WALKER, "--dirty-rate", "2000");
      const names = await said(bed, 0, "save", "a", "a.tram", ...SLOW, "--after", "resume", "--max-downtime", "1s");
      expect(atEnds(names)).toEqual(["move.phase", "keep.finished"]);
      expect(names).toContain("move.progress");
      expect(await said(bed, 2, "save", "nobody", "b.tram")).toEqual(["keep.finished"]);
      await bed.expectDone("quit", "a");
      for (const command of ["inspect", "check", "verify"]) await said(bed, 0, command, "a.tram");
      await said(bed, 0, "diff", "a.tram", "a.tram");

      const plain = await said(bed, 0, "convert", "a.tram", "a.stream");
      expect(atEnds(plain)).toEqual(["send.phase", "send.finished"]);
      expect(atEnds(await said(bed, 0, "convert", "a.stream", "b.tram"))).toEqual(["keep.phase", "keep.finished"]);

      const receiver = bed.start(["receive", "unix:in.sock", "c.tram", "--json=received"]);
      await bed.until(async () => existsSync(bed.path("in.sock")), "it waits", receiver);
      const sent = await said(bed, 0, "send", "a.tram", "unix:in.sock", ...SLOW);
      expect(atEnds(sent)).toEqual(["send.phase", "send.finished"]);
      expect(sent).toContain("send.progress");
      expect(await receiver.code).toBe(0);
      const received = checkLines(readFileSync(bed.path("received"), "utf8"));
      expect(atEnds(received)).toEqual(["keep.phase", "keep.finished"]);
      expect(received).toContain("keep.progress");
      expect(atEnds(await said(bed, 1, "send", "a.tram", "unix:nobody.sock"))).toEqual(["send.phase", "send.finished"]);
      expect(await said(bed, 2, "send", "a.tram", "file:x")).toEqual(["send.finished"]);

      await bed.restored("d", "a.tram", ...ACCEL);
      await said(bed, 0, "status", "d");
    }));

  test("of damaged and foreign files", () =>
    inBed(async (bed) => {
      const bytes = golden("qemu-10.2-mapped.bin");
      writeFileSync(bed.path("vm"), bytes);
      await bed.expectDone("seal", "vm");
      for (const command of ["inspect", "check", "verify"]) await said(bed, 0, command, "vm");
      const sealed = readFileSync(bed.path("vm"));
      sealed[(1 << 20) + 5 * 4096] ^= 1;
      writeFileSync(bed.path("bad"), sealed);
      await said(bed, 3, "verify", "bad");
      await said(bed, 1, "diff", "vm", "bad");
      writeFileSync(bed.path("short"), bytes.subarray(0, 70_000));
      for (const command of ["inspect", "check", "verify"]) await said(bed, 3, command, "short");
      for (const name of ["qemu-7.2-stream.bin", "qemu-10.2-multifd.ch0"]) {
        writeFileSync(bed.path("stream"), golden(name));
        await said(bed, 0, "inspect", "stream");
      }
    }));

  test.each(["multifd", "multifd-zlib", "multifd-zstd"])("of one channel of %s", (name) =>
    inBed(async (bed) => {
      const channels: { pages: number; channel: number }[] = [];
      for (const channel of ["ch1", "ch2"]) {
        writeFileSync(bed.path("channel"), golden(`qemu-10.2-${name}.${channel}`));
        const stdout = await bed.expectDone("inspect", "channel", "--json");
        checkLines(stdout, "inspect.channel");
        channels.push(JSON.parse(stdout));
      }
      expect(channels.map(({ channel }) => channel).sort()).toEqual([0, 1]);
      expect(channels.reduce((sum, { pages }) => sum + pages, 0)).toBe(192);
    }),
  );

  test.skipIf(noKvm !== null)(`of a balloon and free pages${noKvm ? ` (skipped: ${noKvm})` : ""}`, () =>
    inBed(async (bed) => {
      await bed.walker("f", "--memory", "64M", "--free", "32M", "--dirty-tracking", "ring");
      await said(bed, 0, "balloon", "f");
      await said(bed, 0, "balloon", "f", "48M");
      await said(bed, 0, "save", "f", "f.tram", "--after", "resume", "--page-cache", "drop");
      await said(bed, 0, "status", "f");
    }),
  );

  test("is nothing but what is told, on a terminal too", () =>
    inBed(async (bed) => {
      if (!Bun.which("script")) return; // the rest is tested above
      await bed.walker("a", ...WALKER);
      await bed.target("b", "unix:in.sock", ...ACCEL);
      bed.env.TERM = "xterm";
      const line = `${TRAM} migrate a unix:in.sock --json ${SLOW.join(" ")}`;
      const { stdout } = await bed.exec(["script", "-qec", line, "/dev/null"]);
      expect(checkLines(stdout).at(-1)).toBe("move.finished");
    }));
});
