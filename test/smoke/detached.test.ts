// tram run -d and restore -d: who started the guest goes on at once, and the guest does without it. tram wait and tram logs.
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { type Bed, inBed, TRAM, whyNoKvm } from "../support/bed.ts";

const noKvm = whyNoKvm();
const needsKvm = test.skipIf(noKvm !== null);
const why = noKvm ? ` (skipped: ${noKvm})` : "";
const SMALL = ["--memory", "16M", "--working-set", "4M"];
const WALKER = ["run", "-d", "--guest", "walker", ...SMALL];

/** The process that writes this log. */
function pidOf(bed: Bed, name: string): number {
  const found = readdirSync("/proc").find((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/2`) === bed.path(`tram/${name}.log`);
    } catch {
      return false;
    }
  });
  if (!found) throw new Error(`nobody writes the log of ${name}`);
  return Number(found);
}

const logOf = (bed: Bed, name: string): string => readFileSync(bed.path(`tram/${name}.log`), "utf8");

describe(`a detached guest${why}`, () => {
  needsKvm("runs when its command returns, in a session of its own, with nothing of its caller's", () =>
    inBed(async (bed) => {
      mkdirSync(bed.path("here"));
      // cat ends with the last who holds its pipe.
      const script = `exec 7>kept; cd here; "$0" ${WALKER.join(" ")} --name a --serial file:serial | cat`;
      const { code, stdout, stderr } = await bed.exec(["sh", "-c", script, TRAM]);
      expect({ code, stdout, stderr }).toEqual({
        code: 0,
        stdout: "a\n",
        stderr: "tram: guest 'a' runs: 16 MiB, 1 CPU\n",
      });
      expect((await bed.status("a"))?.status).toBe("running");
      const pid = pidOf(bed, "a");
      const [, , group, session, terminal] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
      expect({ group, session, terminal }).toEqual({ group: String(pid), session: String(pid), terminal: "0" });
      expect(readlinkSync(`/proc/${pid}/cwd`)).toBe("/");
      expect(readlinkSync(`/proc/${pid}/fd/0`)).toBe("/dev/null");
      expect(readlinkSync(`/proc/${pid}/fd/1`)).toBe(bed.path("tram/a.log"));
      const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      expect(open.filter((target) => target === bed.path("kept") || target.startsWith("pipe:"))).toEqual([]);
      expect(existsSync(bed.path("here/serial"))).toBe(true);
      expect(statSync(bed.path("tram/a.log")).mode & 0o777).toBe(0o600);
      await bed.goesOn("a");
      await bed.expectDone("quit", "a");
      await bed.expectDone("wait", "a", "--timeout", "10s");
      expect(bed.leftovers()).toEqual(["a.log"]);
    }),
  );

  needsKvm("has a name when it was given none", () =>
    inBed(async (bed) => {
      const name = (await bed.expectDone(...WALKER)).trim();
      expect(name).toMatch(/^tram-\d+$/);
      expect(pidOf(bed, name)).toBe(Number(name.slice(5)));
      await bed.expectDone("quit", name);
    }),
  );

  needsKvm("is paused, waits, arrives; and what moved is gone", () =>
    inBed(async (bed) => {
      await bed.expectDone(...WALKER, "--name", "a", "--paused");
      expect((await bed.status("a"))?.status).toBe("paused");
      await bed.expectDone("wait", "a", "--for", "paused");
      await bed.expectDone("resume", "a");
      const incoming = await bed.tram("run", "--detach", "--incoming", "unix:in.sock", "--name", "b");
      expect(incoming).toMatchObject({ code: 0, stdout: "b\n" });
      expect(incoming.stderr).toContain("waits on unix:");
      const waits = bed.start(["wait", "b", "--for", "arrived", "--timeout", "20s"]);
      const leaves = bed.start(["wait", "a"]);
      await bed.expectDone("migrate", "a", "unix:in.sock");
      expect([await waits.code, await leaves.code]).toEqual([0, 0]);
      await bed.goesOn("b");
      expect(await bed.expectDone("logs", "a")).toContain("has moved to");
      expect(await bed.expectDone("logs", "b")).toContain("has arrived and is running");
    }),
  );

  needsKvm("comes out of a snapshot that is named by a relative path", () =>
    inBed(async (bed) => {
      await bed.expectDone(...WALKER, "--name", "a");
      await bed.expectDone("save", "a", "a.tram");
      await bed.expectDone("wait", "a", "--timeout", "10s");
      expect(await bed.expectDone("restore", "-d", "a.tram")).toBe("a\n"); // the name that it was saved with
      expect(await bed.expectDone("restore", "a.tram", "-d", "--eager", "--name", "b", "--paused")).toBe("b\n");
      await bed.goesOn("a");
      expect((await bed.status("b"))?.status).toBe("paused");
      expect(await bed.expectDone("logs", "b")).toContain("from a.tram");
      expect(existsSync(bed.path("tram/a.log.1"))).toBe(true); // what the one before said
    }),
  );

  needsKvm("that never was is an error with its words and its code, and leaves nothing", () =>
    inBed(async (bed) => {
      await bed.expectDone(...WALKER, "--name", "a");
      const said = logOf(bed, "a");
      for (const [args, code, words] of [
        [[...WALKER, "--name", "a"], 2, "a guest named 'a' runs already"],
        [["run", "-d", "--guest", "walker", "--memory", "1M"], 2, "too small"],
        [["run", "-d", "--guest", "walker", "--memory", "200G"], 1, "does not fit this host"],
        [["run", "-d", "--incoming", "tcp:127.0.0.1"], 2, "HOST:PORT"],
        [["restore", "-d", "nothing.tram"], 1, "nothing.tram"],
        [[...WALKER, "--qmp", "unix:no/such/folder"], 1, "cannot make the guest's log"],
      ] as const) {
        const result = await bed.tram(...args);
        expect({ args, ...result, stderr: "" }).toEqual({ args, code, stdout: "", stderr: "" });
        expect(result.stderr).toContain(words);
      }
      expect(bed.leftovers()).toEqual(["a.log", "a.qmp"]);
      expect(logOf(bed, "a")).toBe(said);
    }),
  );

  needsKvm("is ended with its command, while it is not there yet", () =>
    inBed(async (bed) => {
      await bed.exec(["mkfifo", "never-read"]); // its process waits for a reader
      const command = bed.start([...WALKER, "--name", "a", "--serial", "file:never-read"]);
      await bed.until(async () => bed.leftovers().some((file) => file.startsWith(".tram-")), "the log", command);
      command.kill("SIGINT");
      expect(await command.code).toBe(130);
      expect(command.stderr).toContain("interrupted");
      expect(bed.leftovers()).toEqual([]);
    }),
  );

  needsKvm("with a socket elsewhere has its log beside that", () =>
    inBed(async (bed) => {
      await bed.expectDone(...WALKER, "--name", "a", "--qmp", "unix:a.sock");
      expect(readFileSync(bed.path("a.sock.log"), "utf8")).toContain("guest 'a' runs");
      const vm = `unix:${bed.path("a.sock")}`;
      expect(await bed.expectDone("logs", vm)).toContain("guest 'a' runs");
      await bed.expectDone("quit", vm);
      await bed.expectDone("wait", vm);
    }),
  );

  test.each([
    [["run", "--incoming", "-"], "'-' is this command's own"],
    [["run", "--incoming", "fd:3"], "'fd:3' is this command's own"],
    [["run", "--guest", "walker", "--serial", "stdio"], "--serial file:PATH"],
    [["run", "--guest", "walker", "--detach=yes"], "--detach takes no value"],
    [["ps"], "tram ps has no option -d"],
  ])("%j -d is refused, with the way round", (args, words) =>
    inBed(async (bed) => {
      const { code, stdout, stderr } = await bed.tram(...args, ...(args.at(-1) === "--detach=yes" ? [] : ["-d"]));
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain(words);
    }),
  );
});

describe(`tram logs${why}`, () => {
  needsKvm("follows a guest to its end", () =>
    inBed(async (bed) => {
      await bed.expectDone(...WALKER, "--name", "a");
      const follows = bed.tram("logs", "a", "--follow");
      await Bun.sleep(200);
      await bed.expectDone("migrate", "a", "exec:cat >/dev/null");
      await bed.expectDone("quit", "a");
      const { code, stdout } = await follows;
      expect({ code, stdout }).toEqual({ code: 0, stdout: logOf(bed, "a") });
    }),
  );

  needsKvm("says of a guest in the foreground, and of none, that there is nothing", () =>
    inBed(async (bed) => {
      const nobody = await bed.tram("logs", "a");
      expect(nobody).toMatchObject({ code: 2, stdout: "" });
      expect(nobody.stderr).toContain("there is no log of a guest 'a'");
      await bed.expectDone(...WALKER, "--name", "a");
      await bed.expectDone("quit", "a");
      await bed.expectDone("wait", "a");
      await bed.walker("a", ...SMALL); // the log that is there is not this one's
      const { code, stdout, stderr } = await bed.tram("logs", "a");
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toContain("was not started with --detach");
    }),
  );

  needsKvm("is bounded, whoever writes to it", () =>
    inBed(async (bed) => {
      const source =
        "exec:for i in 1 2 3; do head -c 1500000 /dev/zero | tr '\\0' x >&2; sleep 1.3; done; exec sleep 20";
      await bed.expectDone("run", "-d", "--incoming", source, "--name", "a");
      const log = bed.path("tram/a.log");
      await bed.until(async () => existsSync(`${log}.1`) && statSync(log).size < 1 << 20, "the log begins anew");
      expect(statSync(`${log}.1`).size).toBeGreaterThan(1 << 20);
      expect(statSync(`${log}.1`).mode & 0o777).toBe(0o600);
      await bed.expectDone("quit", "a");
      await bed.expectDone("wait", "a");
    }),
  );
});

describe(`tram wait${why}`, () => {
  needsKvm("is reached, or not in time, or never", () =>
    inBed(async (bed) => {
      await bed.expectDone(...WALKER, "--name", "a");
      await bed.expectDone("wait", "a", "--for", "running");
      await bed.expectDone("wait", "a", "--for", "arrived");
      const late = await bed.tram("wait", "a", "--for", "paused", "--timeout", "300ms");
      expect(late).toMatchObject({ code: 6, stdout: "" });
      expect(late.stderr).toContain("'a' was not paused in 300 ms");
      expect(late.stderr).toContain("found: running");
      const waits = bed.start(["wait", "a", "--for", "paused"]);
      await bed.expectDone("pause", "a");
      expect(await waits.code).toBe(0);
      const never = bed.start(["wait", "a", "--for", "running"]);
      await Bun.sleep(200);
      process.kill(pidOf(bed, "a"), "SIGKILL"); // its socket stays
      expect(await never.code).toBe(1);
      expect(never.stderr).toContain("'a' has ended, and will never be running");
      await bed.expectDone("wait", "a");
      expect(await bed.tram("wait", "nobody", "--for", "exited")).toMatchObject({ code: 2 });
      expect((await bed.tram("wait", "nobody", "--for", "paused")).code).toBe(1);
    }),
  );

  test.each([
    [["wait"], "needs VM"],
    [["wait", "a", "--for", "gone"], "running, paused, arrived, exited"],
    [["wait", "a", "--timeout", "5"], "300ms"],
    [["wait", "a/b"], "no guest"],
    [["logs", "a", "-F"], "has no option -F"],
  ])("%j is refused as usage", (args, words) =>
    inBed(async (bed) => {
      const { code, stdout, stderr } = await bed.tram(...args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain(words);
    }),
  );
});
