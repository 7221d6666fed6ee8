// Every arrow of the hand-over, and what can go wrong there: exactly one owner, every page right, nothing left behind.
import { describe, expect, test } from "bun:test";
import { Bed, freePort, openFds, threads, whyNoKvm } from "../support/bed.ts";
import { ARROWS, type ArrowName, CHANNEL_ARROWS, HeldLink } from "../support/link.ts";

const FAULTS = ["target killed", "link cut", "Ctrl-C", "CLI killed"] as const;
type Fault = (typeof FAULTS)[number];

interface Outcome {
  /** Where the guest runs afterwards; "source by hand": stopped there, and a person lets it run. */
  owner: "source" | "target" | "source by hand";
  /** The command's exit code; null where it was killed. */
  code: number | null;
}

/** What is promised at each arrow. */
function promised(arrow: ArrowName, fault: Fault): Outcome {
  if (fault === "CLI killed") return { owner: "target", code: null }; // the move is the guest's process's own, and goes on
  const isPast = arrow === "hand-over word" || arrow === "confirmation";
  if (fault === "Ctrl-C") return isPast ? { owner: "target", code: 0 } : { owner: "source", code: 130 };
  if (!isPast) return { owner: "source", code: 1 };
  if (arrow === "confirmation" && fault === "link cut") return { owner: "target", code: 4 };
  return { owner: "source by hand", code: 4 };
}

const reason = whyNoKvm();
const rowsOf = (arrows: object, over: string, options: string[]) =>
  (Object.keys(arrows) as ArrowName[]).flatMap((arrow) =>
    FAULTS.map((fault) => [arrow, over, fault, options] as const),
  );
const rows = [
  ...rowsOf(ARROWS, "", []),
  ...rowsOf({ ...ARROWS, ...CHANNEL_ARROWS }, " over two channels", ["--channels", "2", "--zero-copy", "on"]),
];

describe.skipIf(reason !== null)(`the hand-over${reason ? ` (skipped: ${reason})` : ""}`, () => {
  test.each(rows)(
    "%s%s: %s",
    async (arrow, _, fault, options) => {
      const bed = new Bed();
      const expected = promised(arrow, fault);
      const targetPort = freePort();
      let link: HeldLink | null = null;
      try {
        // A small limit keeps the guest moving until its dirty pages were sent in a round of their own.
        const source = await bed.walker("a", "--memory", "64M", "--working-set", "24M", "--dirty-rate", "max");
        await firstMove(bed, options);
        await Bun.sleep(100); // the sockets of the commands above are closed by then
        const before = { fds: openFds(source.pid), threads: threads(source.pid) };
        const target = await bed.target("b", `tcp:127.0.0.1:${targetPort}`);
        link = await HeldLink.start(targetPort, arrow);
        const cli = bed.start([
          "migrate",
          "a",
          `tcp:127.0.0.1:${link.port}`,
          "--max-downtime",
          "1ms",
          "--timeout",
          "4s",
          ...options,
        ]);
        await link.held;

        if (fault === "target killed") {
          target.kill("SIGKILL");
          await target.code;
          link.cut(); // what its host's kernel does for a process that is gone
        } else if (fault === "link cut") {
          link.cut();
        } else {
          cli.kill(fault === "Ctrl-C" ? "SIGINT" : "SIGKILL");
          // A cancel must not wait for the peer: its end is awaited while the link is still held.
          if (expected.code === 130 || expected.code === null) await cli.code;
          else await Bun.sleep(100); // too late to cancel, and told so before the link goes on
          link.release();
        }

        if (expected.code !== null) expect(await cli.code).toBe(expected.code);
        // The premise: the guest wrote to pages that had been sent already.
        if (expected.code === 0)
          expect(Number(/([\d,]+) of these re-sent/.exec(cli.stderr)?.[1]?.replace(/,/g, ""))).toBeGreaterThan(0);
        if (expected.owner === "target") {
          await bed.until(async () => (await bed.status("b"))?.status === "running", "the target runs", target);
          if (expected.code === 4) {
            expect((await bed.status("a"))?.status).toBe("postmigrate");
            await bed.expectDone("quit", "a");
          }
          expect(await source.code).toBe(0);
          await bed.goesOn("b");
          expect(bed.leftovers()).toEqual(["b.qmp"]);
        } else {
          if (fault !== "target killed") {
            // A connection that never said anything is no source: the target waits for another.
            const stillWaits = arrow === "connect" && fault === "link cut";
            if (stillWaits) await bed.expectDone("quit", "b");
            expect(await target.code).toBe(stillWaits ? 0 : 1);
          }
          if (expected.owner === "source by hand") {
            expect((await bed.status("a"))?.status).toBe("postmigrate");
            expect(cli.stderr).toContain("tram resume");
            await bed.expectDone("resume", "a");
          }
          expect((await bed.status("a"))?.status).toBe("running");
          await bed.goesOn("a");
          expect(bed.leftovers().filter((file) => file !== "b.qmp" || fault !== "target killed")).toEqual(["a.qmp"]);
          await bed.until(async () => !(await tracking(bed, "a")), "tracking is off");
          await bed.until(
            async () => openFds(source.pid).join() === before.fds.join(),
            `descriptors as before: ${before.fds}`,
          );
          expect(threads(source.pid)).toBeLessThanOrEqual(before.threads + 1);
        }
      } finally {
        link?.stop();
        await bed.dispose();
      }
    },
    60_000,
  );
});

/** One that fails. It starts what a first move starts and keeps, so that the second adds nothing. */
async function firstMove(bed: Bed, options: readonly string[]): Promise<void> {
  const to = `tcp:127.0.0.1:${freePort()}`;
  const target = await bed.target("first", to);
  const cli = bed.start(["migrate", "a", to, "--max-bandwidth", "1M", ...options]);
  const hasSent = async () => {
    const { phase, channels = [] } = await bed.moveOf("a");
    return (
      phase === "active" && channels.length >= (options.length > 0 ? 2 : 0) && channels.every(({ pages }) => pages > 0)
    );
  };
  await bed.until(hasSent, "the first move", cli);
  cli.kill("SIGINT");
  expect(await cli.code).toBe(130);
  await target.code;
  await bed.until(async () => !(await tracking(bed, "a")), "the first move is over");
}

async function tracking(bed: Bed, name: string): Promise<boolean> {
  const { stdout } = await bed.tram("status", name, "--json");
  return (JSON.parse(stdout) as { tracking: boolean }).tracking;
}
