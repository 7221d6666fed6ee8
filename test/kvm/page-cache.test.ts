// --page-cache drop: a guest gives up its cache before it is moved or saved, and has as much memory as before.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { Bed, whyNoKvm } from "../support/bed.ts";
import { arrived, FreeGuest, moved } from "../support/free-guest.ts";
import { allocatedBytes, saved, savedAs } from "../support/snapshots.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

const MIB = 1 << 20;
const PAGES_PER_MIB = 256;
/** 8 MiB are free, and 40 MiB cache. Of these 48 MiB it keeps 16 MiB, in whose place it gives up 24 MiB of the cache. */
const WALKER = ["--memory", "64M", "--working-set", "4M", "--free", "48M", "--cache", "40M", "--fill", "random"];
const GIVEN_UP = 24 * MIB;
const DROP = ["--page-cache", "drop"];

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

const DROPPED = {
  inflatedBytes: 32 * MIB,
  freeBeforeBytes: 8 * MIB,
  freeAfterBytes: 8 * MIB + GIVEN_UP,
};

kvm(title("the page cache of a guest"), () => {
  test("that moves is dropped, but for what it keeps for itself: that arrives", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    const { nonZero } = await guest.check();
    const { report, to } = await arrived(bed, guest, "b", { options: DROP });
    expect(report.cacheDrop).toMatchObject(DROPPED);
    expect(report.hintedPages + report.untouchedPages).toBe((DROPPED.freeAfterBytes / MIB) * PAGES_PER_MIB);
    expect(report.bytes).toBeLessThan(34 * MIB);
    expect(await to.balloon()).toMatchObject({ wantedBytes: 0, actualBytes: 0 });
    const after = await to.goesOn(); // the rest of the cache is checked, too
    expect(nonZero - after.nonZero).toBeGreaterThanOrEqual((DROPPED.freeAfterBytes / MIB - 1) * PAGES_PER_MIB);
    const { report: again, to: last } = await arrived(bed, to, "c");
    expect(again.cacheDrop).toBeUndefined();
    await last.goesOn();
  });

  test("that moves is kept, if nobody says otherwise", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    for (const options of [[], ["--page-cache", "keep"]]) {
      const { code, report } = await moved(bed, guest, "b", {
        options: ["--max-bandwidth", "1MiB/s", "--timeout", "300ms", ...options],
      });
      expect({ code, cacheDrop: report.cacheDrop }).toEqual({ code: 6, cacheDrop: undefined });
    }
    expect((await guest.ask<{ stats: object }>("tram-query-balloon")).stats).toMatchObject({ cacheBytes: 40 * MIB });
    const { report, to } = await arrived(bed, guest, "c");
    expect(report.hintedPages).toBeLessThanOrEqual(8 * PAGES_PER_MIB);
    await to.goesOn();
  });

  test("that is saved is dropped: its file is smaller by that", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    await savedAs(bed, ({ hintedPages }) => hintedPages === 8 * PAGES_PER_MIB, "a", "keep.tram");
    const report = await saved(bed, "a", "drop.tram", "--after", "resume", ...DROP);
    expect(report.cacheDrop).toMatchObject(DROPPED);
    const difference = allocatedBytes(bed.path("keep.tram")) - allocatedBytes(bed.path("drop.tram"));
    expect(Math.abs(difference - GIVEN_UP)).toBeLessThan(MIB);
    await bed.expectDone("verify", "drop.tram");
    expect(await guest.balloon()).toMatchObject({ wantedBytes: 0, actualBytes: 0 });
    await guest.goesOn();
    for (const name of ["keep", "drop"]) {
      await bed.restored(name, `${name}.tram`);
      await bed.goesOn(name);
    }
  });

  test("is dropped by one that has given up memory already: it has as much as before", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER);
    await bed.expectDone("balloon", "a", "60M");
    const { report, to } = await arrived(bed, guest, "b", { options: DROP });
    expect(report.cacheDrop?.freeAfterBytes).toBeGreaterThan((report.cacheDrop?.freeBeforeBytes as number) + 16 * MIB);
    expect(await to.balloon()).toMatchObject({ wantedBytes: 4 * MIB, actualBytes: 4 * MIB });
    await to.goesOn();
  });

  test("is dropped by one that uses its free pages meanwhile: none is lost", async () => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "reuse", "--dirty-rate", "4000");
    const { report, to } = await arrived(bed, guest, "b", { options: [...DROP, "--max-bandwidth", "60MiB/s"] });
    expect(report.cacheDrop?.freeAfterBytes).toBeGreaterThan(8 * MIB);
    expect((await to.goesOn()).reused).toBeGreaterThan(0);
    expect(await to.balloon()).toMatchObject({ wantedBytes: 0, actualBytes: 0 });
  });

  test.each(["migrate", "save"])(
    "is not dropped to the end when tram %s is ended meanwhile: the balloon is as before",
    async (command) => {
      const guest = await FreeGuest.walker(bed, "a", ...WALKER);
      for (const [signal, code] of [
        ["SIGINT", 130],
        [null, 5],
      ] as const) {
        await bed.expectDone("balloon", "a", "62M");
        if (command === "migrate") await bed.target("b", "unix:in");
        const cli = bed.start([command, "a", command === "save" ? "vm.tram" : "unix:in", ...DROP]);
        const isAmid = async () => {
          const [{ actualBytes = 0 }, { phase }] = [await guest.balloon(), await guest.move()];
          return phase === "cache" && actualBytes > 2 * MIB;
        };
        await bed.until(isAmid, "it gives up its cache", cli);
        if (signal) cli.kill(signal);
        else await guest.ask("migrate_cancel");
        expect(await cli.code).toBe(code);
        await guest.until(async () => (await guest.balloon()).actualBytes === 2 * MIB, "its balloon is as before");
        expect(await guest.balloon()).toMatchObject({ wantedBytes: 2 * MIB });
        expect({ status: await guest.status(), tracked: await guest.isTracked() }).toEqual({
          status: "running",
          tracked: false,
        });
        await guest.goesOn();
        if (command === "migrate") await bed.expectDone("quit", "b");
      }
      const { to } = await arrived(bed, guest, "c", { options: DROP });
      await to.goesOn();
    },
  );

  const NEXT = "leave --page-cache out";
  test.each<[string, string[], boolean, string]>([
    ["has no balloon", ["--memory", "16M"], false, "it has no balloon"],
    ["has no driver for its balloon", ["--memory", "16M", "--balloon"], false, "its balloon has no driver"],
    ["stands still", WALKER, true, "it does not run"],
  ])("of one that %s is not dropped: exit 7, and it is as before", async (_, options, isPaused, found) => {
    const running = await bed.walker("a", ...options);
    if (isPaused) await bed.expectDone("pause", "a");
    const before = (await bed.status("a"))?.status;
    await bed.target("b", "unix:in");
    for (const words of [
      ["migrate", "a", "unix:in"],
      ["save", "a", "vm.tram"],
    ]) {
      const { code, stderr } = await bed.tram(...words, ...DROP);
      expect({ code, stderr }).toEqual({ code: 7, stderr: expect.stringContaining(found) });
      expect(stderr).toContain(NEXT);
      expect((await bed.status("a"))?.status).toBe(before as string);
      expect(running.hasEnded).toBe(false);
    }
    if (isPaused) await bed.expectDone("resume", "a");
    await bed.goesOn("a");
    await bed.expectDone("migrate", "a", "unix:in");
    await bed.goesOn("b");
  });
});
