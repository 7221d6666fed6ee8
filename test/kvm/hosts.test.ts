// A busy guest between two emulated hosts, whose kernels do not copy what is sent without a copy: what it writes to pages that are
// on their way arrives.
import { describe, expect, test } from "bun:test";
import type { FinalReport } from "../../src/cli/report.ts";
import { Hosts, whyNoHosts } from "../support/hosts.ts";

const reason = whyNoHosts();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

describe.skipIf(reason !== null)(title("two emulated hosts"), () => {
  test("a guest that writes all the time moves between them, uncopied, there and back", async () => {
    await using all = await Hosts.boot(2, { cpus: 1, memoryMib: 1024 });
    const [a, b] = all.hosts;
    const walker = "--guest walker --memory 64M --working-set 16M --dirty-rate 2000 --fill random";
    await a.run(`tram run ${walker} --name guest >/tmp/guest.log 2>&1 &`);
    await a.guestIs("guest", "running");
    for (const [from, to, port] of [
      [a, b, 4001],
      [b, a, 4002],
    ] as const) {
      const uri = `tcp:${to.address}:${port}`;
      await to.run(`tram run --incoming ${uri} --name guest >/tmp/guest.log 2>&1 &`);
      await to.guestIs("guest", "inmigrate");
      const output = await from.run(`tram migrate guest ${uri} --channels 2 --zero-copy on --max-downtime 2s --json`);
      const report: FinalReport = JSON.parse(output.trim().split("\n").at(-1) as string);
      expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
      // The premises: it did write to what was sent already, and the kernel did hold its pages.
      expect(report.resentPages).toBeGreaterThan(0);
      const sum = (pick: (one: NonNullable<FinalReport["channels"]>[number]) => number) =>
        (report.channels ?? []).reduce((total, one) => total + pick(one), 0);
      expect(sum(({ zeroCopyBytes }) => zeroCopyBytes)).toBe(sum(({ pages }) => pages) * 4096);
      expect(sum(({ copiedByKernelBytes }) => copiedByKernelBytes)).toBe(0);
      await to.run("tram pause guest && tram check-guest guest && tram resume guest");
    }
  }, 180_000);
});
