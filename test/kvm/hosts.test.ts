// A busy guest between two emulated hosts, whose kernels do not copy what is sent without a copy: what it writes to pages that are
// on their way arrives. And in one of them, whose dirty rings are right at every size.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { FinalReport } from "../../src/cli/report.ts";
import { Hosts, whyNoHosts } from "../support/hosts.ts";

const reason = whyNoHosts();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

describe.skipIf(reason !== null)(title("two emulated hosts"), () => {
  let all: Hosts;
  beforeAll(async () => {
    all = await Hosts.boot(2, { cpus: 1, memoryMib: 1024 });
  }, 180_000);
  afterAll(async () => await all?.[Symbol.asyncDispose]());

  test("a guest that writes all the time moves between them, uncopied, there and back", async () => {
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

  test.each([
    ["log", "log", false],
    ["rings of 1024 entries", "ring=1024", true],
    ["rings of 4096 entries", "ring=4096", true],
    ["rings of 65536 entries", "ring=65536", false],
  ])(
    "what a guest writes is found by its %s",
    async (_, how, fills) => {
      const [host] = all.hosts;
      const name = how.replace("=", "");
      const target = `${name}-target`;
      const uri = `unix:/tmp/${name}.sock`;
      const walker = "--guest walker --memory 64M --working-set 48M --dirty-rate max --fill random";
      await host.run(`tram run ${walker} --name ${name} --dirty-tracking ${how} >/tmp/${name}.log 2>&1 &`);
      await host.guestIs(name, "running");
      await host.run(`tram run --incoming ${uri} --name ${target} --dirty-tracking ${how} >/tmp/${target}.log 2>&1 &`);
      await host.guestIs(target, "inmigrate");
      // Before it leaves: it looks less and less often, so that a ring fills in between.
      await host.run(`tram dirty-rate ${name} --for 10s`);
      const { dirtyTracking, status } = JSON.parse(await host.run(`tram status ${name} --json`));
      expect(status).toBe("running");
      if (how !== "log") expect(dirtyTracking).toMatchObject({ by: "ring", lost: false });
      expect((dirtyTracking.fullExits ?? 0) > 0).toBe(fills);
      const output = await host.run(`tram migrate ${name} ${uri} --max-downtime 5s --json`);
      const report: FinalReport = JSON.parse(output.trim().split("\n").at(-1) as string);
      expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
      expect(report.resentPages).toBeGreaterThan(0);
      await host.run(`tram pause ${target} && tram check-guest ${target} && tram quit ${target}`);
    },
    180_000,
  );
});
