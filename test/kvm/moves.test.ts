// Moves of real guests: each transport, two vCPUs, more than 4 GiB, many moves, interrupted I/O.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { freePort, inBed, openFds, type Result, residentKib, TRAM, threads, whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

interface Report {
  outcome: string;
  owner: string;
  rounds: number;
  sentPages: number;
  resentPages: number;
  downtimeMs: number;
  downtimePartsMs: Record<string, number>;
}

const reportOf = (result: Result): Report => JSON.parse(result.stdout.trim().split("\n").at(-1) as string);

/** The test's premise: the guest did write to pages that had been sent already. */
function expectResent(report: Report): void {
  expect(report.resentPages).toBeGreaterThan(0);
  expect(report.rounds).toBeGreaterThan(1);
}

kvm(title("a running guest"), () => {
  const walker = ["--memory", "64M", "--working-set", "24M", "--dirty-rate", "max"];
  const uris = {
    tcp: () => `tcp:127.0.0.1:${freePort()}`,
    ipv6: () => `tcp:[::1]:${freePort()}`,
    unix: () => "unix:b.sock",
  };

  test.each(Object.entries(uris))("moves over %s, and its source process ends", (_, uri) =>
    inBed(async (bed) => {
      const source = await bed.walker("a", ...walker);
      const to = uri();
      await bed.target("b", to);
      const report = reportOf(await bed.tram("migrate", "a", to, "--json"));
      expect(report).toMatchObject({ outcome: "completed", owner: "target" });
      expectResent(report);
      const parts = Object.values(report.downtimePartsMs).reduce((sum, ms) => sum + ms, 0);
      expect(parts).toBe(report.downtimeMs);
      expect(await source.code).toBe(0);
      await bed.goesOn("b");
      expect(bed.leftovers()).toEqual(["b.qmp"]);
      expect(existsSync(bed.path("b.sock"))).toBe(false);
    }),
  );

  test.each([
    ["a pipe", `${TRAM} migrate a - --json=fd:9 | ${TRAM} run --incoming - --name b`],
    ["zstd", `${TRAM} migrate a - --json=fd:9 | zstd -q | zstd -dq | ${TRAM} run --incoming - --name b`],
    [
      "exec: at both ends",
      `${TRAM} migrate a "exec:cat > s" --json=fd:9; ${TRAM} run --incoming "exec:cat s" --name b`,
    ],
    ["file:", `${TRAM} migrate a file:s --json=fd:9; ${TRAM} run --incoming file:s --name b`],
    ["fd:", `${TRAM} migrate a fd:7 --json=fd:9 7>s; ${TRAM} run --incoming fd:7 --name b 7<s`],
    ["redirection", `${TRAM} migrate a - --json=fd:9 >s; ${TRAM} run --incoming - --name b <s`],
  ])("moves through %s, and stays at the source until a person decides", (_, line) =>
    inBed(async (bed) => {
      await bed.walker("a", ...walker);
      const both = bed.exec(["bash", "-c", `exec 9>report; ${line}`]);
      await bed.until(async () => (await bed.status("b"))?.status === "running", "the target runs");
      // The target may run before the command at the source has written its last line.
      const written = () => readFileSync(bed.path("report"), "utf8");
      await bed.until(async () => written().includes("move.finished"), "the report");
      const report = reportOf({ code: 0, stderr: "", stdout: written() });
      expect(report).toMatchObject({ outcome: "completed" });
      expect(["unconfirmed", "file"]).toContain(report.owner);
      expectResent(report);
      expect((await bed.status("a"))?.status).toBe("postmigrate");
      await bed.goesOn("b");
      await bed.expectDone("quit", "a");
      await bed.expectDone("quit", "b");
      await both;
      expect(bed.leftovers()).toEqual([]);
    }),
  );

  test("moves through a transport that has only write: same guest, same bytes sent", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...walker, "--paused");
      const run = async (file: string, env: Record<string, string>) => {
        await bed.exec([TRAM, "migrate", "a", `file:${file}`], { env: { ...bed.env, ...env } });
        await bed.expectDone("pause", "a"); // it stays here, and may be sent again
        return readFileSync(bed.path(file));
      };
      const uncopied = await run("one", {});
      const copied = await run("two", { TRAM_COPY_PAGES: "1" });
      // Clocks and time stamps in the device state differ; everything up to it must not.
      const end = uncopied.indexOf(Buffer.from("03000000010000000000000010", "hex"));
      expect(end).toBeGreaterThan(40 << 20);
      expect(Buffer.compare(uncopied.subarray(0, end), copied.subarray(0, end))).toBe(0);
    }));

  test("waits for a guest whose memory is still being made", () =>
    inBed(async (bed) => {
      bed.start(["run", "--guest", "walker", "--name", "a", "--memory", "700M", "--dirty-rate", "max"]);
      await bed.target("b", "unix:b.sock");
      await bed.until(async () => (await bed.status("a")) !== null, "a can be asked");
      const before = (await bed.status("a"))?.status;
      const report = reportOf(await bed.tram("migrate", "a", "unix:b.sock", "--json"));
      expect(["prelaunch", "running"]).toContain(before as string);
      expect(report).toMatchObject({ outcome: "completed", owner: "target" });
      await bed.goesOn("b");
    }));

  test("moves paused, and stays paused", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...walker);
      await bed.expectDone("pause", "a");
      await bed.target("b", "unix:b.sock");
      await bed.expectDone("migrate", "a", "unix:b.sock");
      await bed.until(async () => (await bed.status("b"))?.status === "paused", "b is paused");
      await bed.verify("b");
      await bed.expectDone("resume", "b");
      await bed.goesOn("b");
    }));

  test("with two vCPUs moves three times", () =>
    inBed(async (bed) => {
      await bed.walker("vm0", ...walker, "--cpus", "2");
      for (let i = 0; i < 3; i++) {
        await bed.target(`vm${i + 1}`, "unix:s.sock");
        const report = reportOf(await bed.tram("migrate", `vm${i}`, "unix:s.sock", "--json"));
        expectResent(report);
        expect((await bed.verify(`vm${i + 1}`)).cpus).toHaveLength(2);
      }
      await bed.goesOn("vm3");
    }));

  test(
    "with 5 GiB of RAM around the hole moves, its working set on both sides of 4 GiB",
    () =>
      inBed(async (bed) => {
        const options = [
          "--memory",
          "5G",
          "--fill",
          "zero",
          "--working-set",
          "4400M",
          "--dirty-rate",
          "max",
          "--cpus",
          "2",
        ];
        await bed.walker("a", ...options);
        await bed.target("b", "unix:b.sock");
        const report = reportOf(await bed.tram("migrate", "a", "unix:b.sock", "--json"));
        expectResent(report);
        expect(report.sentPages).toBeGreaterThan((4400 << 20) / 4096);
        await bed.goesOn("b");
      }),
    180_000,
  );

  test(
    "moves 50 times back and forth with flat memory, descriptors and threads",
    () =>
      inBed(async (bed) => {
        await bed.walker("vm0", ...walker);
        let last = await bed.target("vm1", "unix:s1.sock");
        await bed.expectDone("migrate", "vm0", "unix:s1.sock");
        const seen: { fds: number; threads: number; rssKib: number }[] = [];
        for (let i = 1; i <= 50; i++) {
          const target = await bed.target(`vm${i + 1}`, `unix:s${i + 1}.sock`);
          const report = reportOf(await bed.tram("migrate", `vm${i}`, `unix:s${i + 1}.sock`, "--json"));
          expect(report.owner).toBe("target");
          expect(await last.code).toBe(0);
          last = target;
          await Bun.sleep(50);
          const rss = residentKib(target.pid);
          seen.push({ fds: openFds(target.pid).length, threads: threads(target.pid), rssKib: rss.anon });
          if (i % 10 === 0) await bed.verify(`vm${i + 1}`);
        }
        const first = seen[4];
        const end = seen.at(-1) as (typeof seen)[0];
        expect(end.fds).toBe(first.fds);
        expect(Math.abs(end.threads - first.threads)).toBeLessThanOrEqual(2); // the engine's own helpers come and go
        expect(Math.abs(end.rssKib - first.rssKib)).toBeLessThan(24 << 10);
        expect(bed.leftovers()).toEqual(["vm51.qmp"]);
      }),
    300_000,
  );

  test(
    "one process tries 50 times and fails: flat memory, descriptors and threads",
    () =>
      inBed(async (bed) => {
        const source = await bed.walker("a", ...walker);
        const measure = async () => {
          await Bun.sleep(100);
          return {
            fds: openFds(source.pid).length,
            threads: threads(source.pid),
            rssKib: residentKib(source.pid).anon,
          };
        };
        const fail = async () => {
          // Takes 8 MiB of the stream and goes away: the guest was tracked and moving.
          const { code } = await bed.tram("migrate", "a", "exec:head -c 8388608 >/dev/null", "--json");
          expect(code).toBe(1);
        };
        for (let i = 0; i < 5; i++) await fail();
        const before = await measure();
        for (let i = 0; i < 45; i++) await fail();
        const after = await measure();
        expect(after.fds).toBe(before.fds);
        expect(Math.abs(after.threads - before.threads)).toBeLessThanOrEqual(2);
        expect(after.rssKib - before.rssKib).toBeLessThan(24 << 10);
        await bed.goesOn("a");
      }),
    120_000,
  );

  test(
    "stopped in the middle of port and memory reads goes on rightly at the target",
    () =>
      inBed(async (bed) => {
        // At this rate the vCPU waits in a read nearly always, by turns in a port's and in memory's. Both are followed by
        // probes whose counters travel: a read that is lost or done twice makes the walker stop with an error.
        await bed.walker("vm0", "--memory", "16M", "--working-set", "4M", "--dirty-rate", "50", "--fill", "zero");
        for (let i = 0; i < 10; i++) {
          await bed.target(`vm${i + 1}`, "unix:s.sock");
          await bed.expectDone("migrate", `vm${i}`, "unix:s.sock");
          await bed.goesOn(`vm${i + 1}`);
        }
        // The premise: moves and pauses did stop it in the middle of both.
        const { stoppedInPio, stoppedInMmio } = await bed.verify("vm10");
        expect(stoppedInPio).toBeGreaterThan(3);
        expect(stoppedInMmio).toBeGreaterThan(3);
      }),
    60_000,
  );
});

kvm(title("a bad move is refused, and loses nothing"), () => {
  const small = ["--memory", "32M", "--working-set", "8M", "--dirty-rate", "max"];

  test.each([
    ["--memory", "64M"],
    ["--cpus", "2"],
  ])("a target with another %s: exit 7 before anything is sent", (option, value) =>
    inBed(async (bed) => {
      await bed.walker("a", ...small);
      await bed.target("b", "unix:b.sock", option, value);
      const result = await bed.tram("migrate", "a", "unix:b.sock", "--json");
      expect(result.code).toBe(7);
      expect(result.stderr).toContain(option);
      expect(reportOf(result)).toMatchObject({ owner: "source", rounds: 0, sentPages: 0 });
      await bed.goesOn("a");
    }),
  );

  test.each([
    ["exits 3", "exec:head -c 1000000 >/dev/null; exit 3", "exited 3"],
    ["is killed", "exec:head -c 1000000 >/dev/null; kill -9 $$", "killed by SIGKILL"],
    ["meets a full disk", "exec:gzip -c > /dev/full", "exited 1"],
  ])("a consumer that %s: exit 1, the guest goes on", (_, uri, found) =>
    inBed(async (bed) => {
      await bed.walker("a", ...small);
      const { code, stderr } = await bed.tram("migrate", "a", uri);
      expect(code).toBe(1);
      expect(stderr).toContain(found);
      await bed.goesOn("a");
    }),
  );

  test("a consumer that fails after it took everything: exit 1, stopped here until a person decides", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...small);
      const { code, stderr } = await bed.tram("migrate", "a", "exec:cat >/dev/null; exit 3");
      expect(code).toBe(1);
      expect(stderr).toContain("tram resume a");
      expect((await bed.status("a"))?.status).toBe("postmigrate");
      await bed.expectDone("resume", "a");
      await bed.goesOn("a");
    }));

  test("a target that refuses the connection: exit 1", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...small);
      const { code, stderr } = await bed.tram("migrate", "a", `tcp:127.0.0.1:${freePort()}`);
      expect(code).toBe(1);
      expect(stderr).toContain("ECONNREFUSED");
      expect(stderr).toContain("tram run --incoming");
      await bed.goesOn("a");
    }));

  test("a target that says nothing: exit 6 in the time given", () =>
    inBed(async (bed) => {
      const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
      await bed.walker("a", ...small);
      const started = performance.now();
      const { code } = await bed.tram("migrate", "a", `tcp:127.0.0.1:${silent.port}`, "--timeout", "1s");
      expect(code).toBe(6);
      expect(performance.now() - started).toBeGreaterThan(900);
      silent.stop(true);
      await bed.goesOn("a");
    }));

  test("a second move while one runs, and then none", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...small);
      const first = bed.start(["migrate", "a", "exec:sleep 30", "--max-bandwidth", "1M"]);
      await bed.until(
        async () => (await bed.tram("status", "a", "--json")).stdout.includes('"tracking":true'),
        "it moves",
      );
      const { code, stderr } = await bed.tram("migrate", "a", "unix:nobody.sock");
      expect(code).toBe(1);
      expect(stderr).toContain("under way already");
      first.kill("SIGINT");
      expect(await first.code).toBe(130);
      await bed.goesOn("a");
      expect((await bed.tram("status", "a", "--json")).stdout).toContain('"tracking":false');
    }));

  test.each([
    ["is no migration", "head -c 4096 /dev/urandom", 3, "not a migration stream"],
    ["is empty", "true", 3, "ends too early"],
    ["is cut short", "head -c 3000000 whole", 3, "ends too early"],
    ["has a wrong byte in its frame", "(head -c 20 whole; printf '\\377'; tail -c +22 whole)", 3, "byte"],
  ])("a stream that %s: exit 3, with the place", (_, command, code, words) =>
    inBed(async (bed) => {
      await bed.walker("a", ...small);
      await bed.expectDone("migrate", "a", "file:whole");
      expect(statSync(bed.path("whole")).size).toBeGreaterThan(8 << 20);
      const result = await bed.exec(["bash", "-c", `${command} | ${TRAM} run --incoming - --name b`]);
      expect(result.code).toBe(code);
      expect(result.stderr).toContain(words);
      expect(bed.leftovers()).toEqual(["a.qmp"]);
    }),
  );
});
