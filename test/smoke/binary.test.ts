// The compiled binary as users meet it: from an empty folder, in odd surroundings, with wrong input.
import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { inBed, TRAM, whyNoKvm } from "../support/bed.ts";

const noKvm = whyNoKvm();
const needsKvm = test.skipIf(noKvm !== null);

describe("the compiled binary", () => {
  test("says what it is, on standard output", () =>
    inBed(async (bed) => {
      for (const args of [["--help"], ["help"], ["help", "migrate"], ["migrate", "--help"], ["--version"]]) {
        const { code, stdout, stderr } = await bed.tram(...args);
        expect({ args, code, stderr }).toEqual({ args, code: 0, stderr: "" });
        expect(stdout).toContain("tram");
      }
    }));

  test("every command's help has its options and an example", () =>
    inBed(async (bed) => {
      const { stdout } = await bed.tram("help");
      const commands = [...stdout.matchAll(/^ {2}([a-z-]+) {2,}/gm)].map((match) => match[1]);
      expect(commands.length).toBeGreaterThanOrEqual(9);
      for (const command of commands) {
        const help = await bed.tram("help", command);
        expect(help.code).toBe(0);
        expect(help.stdout).toContain(`Usage: tram ${command}`);
        expect(help.stdout).toContain(`Examples:\n  tram `);
      }
    }));

  test("does not run what a bunfig.toml or .env in the folder says", () =>
    inBed(async (bed) => {
      writeFileSync(bed.path("bunfig.toml"), 'preload = ["./evil.ts"]\n');
      writeFileSync(bed.path("evil.ts"), 'require("fs").writeFileSync("ran", "yes");\n');
      writeFileSync(bed.path(".env"), "XDG_RUNTIME_DIR=/nowhere\n");
      const { code } = await bed.exec([TRAM, "ps"], { env: { PATH: bed.env.PATH, XDG_RUNTIME_DIR: bed.folder } });
      expect(code).toBe(0);
      expect(readdirSync(bed.folder)).not.toContain("ran");
    }));

  test.each([
    [["rum"], "did you mean tram run?"],
    [["run", "--memroy", "1G"], "did you mean --memory?"],
    [["run"], "--guest walker or --incoming URI"],
    [["run", "--guest", "walker", "--memory", "5X"], "512M or 4GiB"],
    [["run", "--guest", "walker", "--memory", "1001"], "multiple of 4 KiB"],
    [["run", "--guest", "walker", "--memory", "1M"], "too small"],
    [["run", "--guest", "walker", "--cpus", "0"], "1 to 16"],
    [["run", "--guest", "walker", "--name", "a/b"], "no name for a guest"],
    [["run", "--guest", "walker", "--working-set", "4G"], "does not fit"],
    [["run", "--guest", "walker", "--dirty-rate", "fast"], "--dirty-rate"],
    [["run", "--guest", "walker", "--qmp", `unix:/tmp/${"x".repeat(110)}`], "107 bytes"],
    [["run", "--guest", "walker", "--incoming", "tcp:127.0.0.1:0"], "exclude each other"],
    [["run", "--incoming", "tcp:127.0.0.1"], "HOST:PORT"],
    [["run", "--incoming", "tpc:127.0.0.1:1"], "no scheme 'tpc'"],
    [["run", "--incoming", "tcp:127.0.0.1:0", "--fill", "zero"], "brings its own"],
    [["migrate"], "needs VM"],
    [["migrate", "a"], "needs URI"],
    [["migrate", "a", "tcp:h:1", "more"], "takes 2 arguments"],
    [["migrate", "a", "tcp:h:99999"], "no port 99999"],
    [["migrate", "a", "/tmp/file"], "a file is file:/tmp/file"],
    [["migrate", "a", "tcp:h:1", "--max-downtime", "5"], "300ms"],
    [["migrate", "a", "tcp:h:1", "--max-bandwidth"], "needs a value"],
    [["migrate", "a", "-", "--json"], "both want standard output"],
    [["status", "nobody"], "no guest 'nobody'"],
  ])("%j is refused as usage, with what would be right", (args, words) =>
    inBed(async (bed) => {
      const { code, stdout, stderr } = await bed.tram(...args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain(words);
    }),
  );

  test("without a command it shows its help, and says that this is no success", () =>
    inBed(async (bed) => {
      const { code, stdout } = await bed.tram();
      expect(code).toBe(2);
      expect(stdout).toContain("Usage:");
    }));

  const notRoot = process.getuid?.() === 0 ? null : "only root can become another user";
  const asNobody = notRoot ?? noKvm;
  test.skipIf(asNobody !== null)(
    `a user who may not open /dev/kvm is told why and what to do${asNobody ? ` (skipped: ${asNobody})` : ""}`,
    () =>
      inBed(async (bed) => {
        chmodSync(bed.folder, 0o777);
        const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        const { code, stderr } = await bed.exec([...nobody, TRAM, "run", "--guest", "walker"], {
          env: { PATH: bed.env.PATH },
        });
        expect(code).toBe(1);
        expect(stderr).toContain("cannot open /dev/kvm: this user may not open it");
        expect(stderr).toContain("usermod -aG kvm");
      }),
  );

  test("a runtime folder that belongs to somebody else is not trusted", () =>
    inBed(async (bed) => {
      mkdirSync(bed.path("tram"));
      chmodSync(bed.path("tram"), 0o777);
      const { code, stderr } = await bed.tram("ps");
      expect(code).toBe(1);
      expect(stderr).toContain("cannot be trusted");
    }));
});

describe(`the compiled binary with a guest${noKvm ? ` (skipped: ${noKvm})` : ""}`, () => {
  const small = ["--memory", "16M", "--working-set", "4M"];

  needsKvm("runs, is listed, paused, checked, resumed, and ends", () =>
    inBed(async (bed) => {
      const guest = await bed.walker("a", ...small);
      expect(JSON.parse(await bed.expectDone("ps", "--json"))).toMatchObject([
        { name: "a", status: "running", memory: 16 << 20, cpus: 1 },
      ]);
      expect(statSync(bed.path("tram/a.qmp")).mode & 0o777).toBe(0o600);
      await bed.expectDone("pause", "a");
      expect((await bed.status("a"))?.status).toBe("paused");
      expect(await bed.expectDone("check-guest", "a")).toContain(" 0 wrong");
      await bed.expectDone("resume", "a");
      expect(await bed.expectDone("ps")).toContain("running");
      await bed.expectDone("quit", "a");
      expect(await guest.code).toBe(0);
      expect(bed.leftovers()).toEqual([]);
    }),
  );

  needsKvm("its serial port writes to a file", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M", "--working-set", "64K", "--dirty-rate", "max", "--serial", "file:beats");
      await bed.until(async () => statSync(bed.path("beats")).size > 10, "the walker beats");
    }),
  );

  needsKvm("damage to a walker's memory is found", () =>
    inBed(async (bed) => {
      // A stream with one changed byte in a page: nothing in QEMU's format notices, the walker does.
      await bed.walker("a", ...small, "--paused", "--fill", "random");
      await bed.expectDone("migrate", "a", "file:s");
      const bytes = await Bun.file(bed.path("s")).bytes();
      bytes[8 << 20] ^= 1;
      writeFileSync(bed.path("s"), bytes);
      await bed.target("b", "file:s");
      await bed.until(async () => (await bed.status("b"))?.status === "paused", "b has arrived");
      const { code, stderr } = await bed.tram("check-guest", "b");
      expect(code).toBe(3);
      expect(stderr).toContain("1 wrong pages");
      expect(stderr).toMatch(/page \d+, byte \d+/);
    }),
  );

  needsKvm("a name in use is refused, and a dead guest's socket taken over", () =>
    inBed(async (bed) => {
      const first = await bed.walker("a", ...small);
      const second = await bed.tram("run", "--guest", "walker", "--name", "a", ...small);
      expect(second.code).toBe(2);
      expect(second.stderr).toContain("a guest named 'a' runs already");
      first.kill("SIGKILL");
      await first.code;
      expect(bed.leftovers()).toEqual(["a.qmp"]);
      await bed.walker("a", ...small);
    }),
  );

  needsKvm("an incoming socket in use by a live target is refused, and a stale one replaced", () =>
    inBed(async (bed) => {
      const first = await bed.target("a", "unix:in.sock");
      const second = await bed.tram("run", "--incoming", "unix:in.sock", "--name", "b");
      expect(second.code).toBe(2);
      expect(second.stderr).toContain("something listens on");
      first.kill("SIGKILL");
      await first.code;
      await bed.target("b", "unix:in.sock");
    }),
  );

  needsKvm("a TCP port in use is named", () =>
    inBed(async (bed) => {
      const server = createServer();
      await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
      const { port } = server.address() as { port: number };
      const { code, stderr } = await bed.tram("run", "--incoming", `tcp:127.0.0.1:${port}`);
      server.close();
      expect(code).toBe(1);
      expect(stderr).toContain(`cannot listen on tcp:127.0.0.1:${port}: EADDRINUSE`);
    }),
  );

  needsKvm("more memory than the host has is refused before anything", () =>
    inBed(async (bed) => {
      const { code, stderr } = await bed.tram("run", "--guest", "walker", "--memory", "200G");
      expect(code).toBe(1);
      expect(stderr).toContain("does not fit this host");
    }),
  );

  needsKvm("a temporary folder that is read-only or noexec does not matter", () =>
    inBed(async (bed) => {
      mkdirSync(bed.path("locked"), { mode: 0o500 });
      const mounted =
        process.getuid?.() === 0
          ? (await bed.exec(["mount", "-t", "tmpfs", "-o", "noexec", "none", bed.path("locked")])).code === 0
          : false;
      try {
        bed.env.TMPDIR = bed.path("locked");
        await bed.walker("a", ...small);
        expect(readdirSync(bed.path("locked"))).toEqual([]);
      } finally {
        if (mounted) await bed.exec(["umount", bed.path("locked")]);
      }
    }),
  );

  needsKvm("an empty environment does not matter", () =>
    inBed(async (bed) => {
      const runtime = `unix:${bed.path("q.sock")}`;
      const child = Bun.spawn([TRAM, "run", "--guest", "walker", "--qmp", runtime, ...small], {
        env: {},
        cwd: bed.folder,
        stderr: "pipe",
        stdout: "ignore",
        stdin: "ignore",
      });
      await bed.until(async () => (await bed.exec([TRAM, "status", runtime], { env: {} })).code === 0, "status");
      expect((await bed.exec([TRAM, "quit", runtime], { env: {} })).code).toBe(0);
      expect(await child.exited).toBe(0);
    }),
  );

  needsKvm("Ctrl-C ends a guest in the foreground, and nothing stays behind", () =>
    inBed(async (bed) => {
      const guest = await bed.walker("a", ...small);
      guest.kill("SIGINT");
      expect(await guest.code).toBe(130);
      expect(bed.leftovers()).toEqual([]);
    }),
  );

  needsKvm("--incoming defer waits for QMP", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...small, "--dirty-rate", "max");
      await bed.target("b", "defer");
      expect((await bed.status("b"))?.status).toBe("inmigrate");
      const qmp = await import("../support/qmp.ts");
      const client = await qmp.Qmp.connect(bed.path("tram/b.qmp"));
      expect(await client.execute("migrate-incoming", { uri: `unix:${bed.path("in.sock")}` })).toEqual({ return: {} });
      await bed.until(async () => (await bed.tram("migrate", "a", "unix:in.sock")).code === 0, "the move");
      client.close();
      await bed.goesOn("b");
    }),
  );
});
