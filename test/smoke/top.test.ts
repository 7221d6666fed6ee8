// tram top with real guests: what it tells, and that a terminal is left as it was found.
import { describe, expect, test } from "bun:test";
import { dirname } from "node:path";
import type { TopGuest } from "../../src/cli/top-facts.ts";
import { type Bed, inBed, TRAM, whyNoKvm } from "../support/bed.ts";

const noKvm = whyNoKvm();
const needsKvm = test.skipIf(noKvm !== null);
const MIB = 2 ** 20;

async function guestsIn(bed: Bed): Promise<TopGuest[]> {
  const { schema, at, guests } = JSON.parse(await bed.expectDone("top", "--once", "--json"));
  expect(schema).toBe("tram/1");
  expect(Math.abs(Date.parse(at) - Date.now())).toBeLessThan(60_000);
  return guests;
}

describe(`tram top${noKvm ? ` (skipped: ${noKvm})` : ""}`, () => {
  test("of nobody is its heading", () =>
    inBed(async (bed) => {
      expect(await bed.expectDone("top")).toBe("NAME  STATE  CPUS  RAM  RESIDENT  SHARED  UNVERIFIED  BALLOON  MOVE\n");
      expect(await guestsIn(bed)).toEqual([]);
    }));

  needsKvm("tells of a guest, of one that moves, and of one that was restored", () =>
    inBed(async (bed) => {
      const source = await bed.walker("a", "--memory", "64M", "--fill", "random", "--dirty-rate", "2000");
      const [plain] = await guestsIn(bed);
      expect(plain).toMatchObject({ name: "a", status: "running", cpus: 1, memoryBytes: 64 * MIB, pid: source.pid });
      expect(plain).toMatchObject({ unverifiedPages: null, balloonBytes: null, dirtyBytesPerSec: null, move: null });
      expect(plain.residentBytes).toBeGreaterThan(64 * MIB);
      expect(plain.sharedBytes).toBeLessThan(plain.residentBytes as number);

      await bed.expectDone("save", "a", "a.tram", "--after", "resume");
      await bed.restored("r", "a.tram", "--no-prefetch");
      const [, restored] = await guestsIn(bed);
      expect(restored.unverifiedPages).toBeGreaterThan(1000);

      await bed.target("b", "unix:in.sock");
      const move = bed.start(["migrate", "a", "unix:in.sock", "--max-bandwidth", "16MiB/s"]);
      let seen: TopGuest[] = [];
      await bed.until(async () => {
        seen = await guestsIn(bed);
        return seen[0].move?.phase === "active" && (seen[0].move.percent ?? 0) > 0;
      }, "the move is seen");
      expect(seen[0].move).toMatchObject({ direction: "outgoing", peer: `unix:${bed.path("in.sock")}`, round: 1 });
      expect(seen.find(({ name }) => name === "b")?.move).toMatchObject({ direction: "incoming", percent: null });
      expect(await bed.expectDone("status", "a")).toMatch(/^move: active, round 1 at \d+%, .*, to unix:/m);
      expect(await bed.expectDone("status", "b")).toMatch(/^move: active, .*, from unix:/m);
      expect(await bed.expectDone("top")).toMatch(/^a .* active, round 1 at \d+%, [\d.]+ MiB\/s, to unix:/m);
      move.kill("SIGINT");
      await move.code;
    }),
  );

  needsKvm("does not wait for a guest that says nothing", () =>
    inBed(async (bed) => {
      const stuck = await bed.walker("stuck", "--memory", "16M");
      await bed.walker("well", "--memory", "16M");
      stuck.kill("SIGSTOP");
      expect((await guestsIn(bed)).map(({ name, status }) => [name, status])).toEqual([
        ["stuck", "no answer"],
        ["well", "running"],
      ]);
      // Nor do others take it for a monitor that somebody else has.
      const { code, stderr } = await bed.tram("status", "stuck");
      expect(code).toBe(1);
      expect(stderr).toContain(`kill -CONT ${stuck.pid}`);
      const listed = await bed.tram("ps", "--json");
      expect(JSON.parse(listed.stdout).map(({ name, status }: TopGuest) => [name, status])).toEqual([
        ["stuck", "no answer"],
        ["well", "running"],
      ]);
    }),
  );

  test.each([
    ["q", 0],
    ["\x03", 130],
  ])("at a terminal ends with %j, and leaves that as it was", (key, code) =>
    inBed(async (bed) => {
      const child = Bun.spawn(["script", "-qec", "stty cols 80 rows 10; tram top; echo ended $?; stty -a", "/dev/null"], {
        env: { ...bed.env, TERM: "xterm", PATH: `${dirname(TRAM)}:${bed.env.PATH}`, NO_COLOR: "1" },
        stdin: "pipe",
        stdout: "pipe",
        stderr: "ignore",
      }); // biome-ignore format: as it is typed
      let screen = "";
      const shown = (async () => {
        for await (const piece of child.stdout) screen += new TextDecoder().decode(piece);
      })();
      await bed.until(async () => screen.includes("0 guests, 0 running"), "top's screen");
      child.stdin.write(key);
      child.stdin.flush();
      await shown;
      expect(screen).toContain("\x1b[?1049h\x1b[?25l");
      expect(screen).toContain(`\x1b[?25h\x1b[?1049l`);
      expect(screen).not.toMatch(/\[[0-9;]*m/);
      expect(screen.slice(screen.indexOf("\x1b[?1049l"))).toContain(`ended ${code}`);
      expect(screen).toMatch(/ icanon /);
      expect(screen).toMatch(/ echo /);
    }),
  );

  test("is plain where a terminal cannot do more, and refuses to be a nuisance", () =>
    inBed(async (bed) => {
      const typed = await bed.exec(["script", "-qec", `${TRAM} top`, "/dev/null"], {
        env: { ...bed.env, TERM: "dumb" },
      });
      expect(typed.stdout).toStartWith("NAME  STATE");
      const { code, stderr } = await bed.tram("top", "--delay", "1ms");
      expect(code).toBe(2);
      expect(stderr).toContain("at least 100ms");
    }));
});
