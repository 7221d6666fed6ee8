// A guest that has free pages is saved: they are holes in its file; and what comes back from that may use them as it likes.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { SaveReport } from "../../src/cli/events.ts";
import { Bed, whyNoKvm } from "../support/bed.ts";
import { cameLater, FreeGuest, found } from "../support/free-guest.ts";
import { allocatedBytes, anatomyOf, contentOf, restoreOf, saved, savedAs } from "../support/snapshots.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

const MIB = 1 << 20;
const PAGES_PER_MIB = 256;
const PAGES = 64 * PAGES_PER_MIB;
const FREE = 48 * PAGES_PER_MIB;
const WALKER = ["--memory", "64M", "--working-set", "4M", "--free", "48M", "--fill", "random"];
/** One thread, piece by piece: some come after the guest has named their pages, and it uses those before the file is whole. */
const SLOWLY = ["--max-bandwidth", "40MiB/s", "--channels", "1"];
const MODES: Record<string, string[]> = {
  lazily: [],
  "lazily, and not read ahead": ["--no-prefetch"],
  "with --verify first": ["--verify", "first"],
  eagerly: ["--eager", "--channels", "2"],
};

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

const restored = async (name: string, file: string, ...options: string[]): Promise<FreeGuest> => {
  const guest = await FreeGuest.at(bed, name, bed.start(["restore", file, "--name", name, ...options]));
  await guest.until(async () => ["running", "paused"].includes(await guest.status()), "is there");
  return guest;
};

/** It uses other pages than before. */
async function usesOthers(guest: FreeGuest, before: number): Promise<void> {
  await found(async () => ((await guest.check()).reused !== before ? true : null), `${guest.name} uses other pages`);
}

kvm(title("the free pages of a guest that is saved"), () => {
  test.each([1, 2])("are holes in the file, which takes the room of what is in use (%d threads)", async (threads) => {
    const guest = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "keep");
    const options = ["--channels", `${threads}`];
    const all = await saved(bed, "a", "all.tram", "--after", "resume", ...options, "--no-skip-free");
    expect(all).toMatchObject({ hintedPages: 0 });
    expect(all.hints).toBeUndefined();
    const used = await savedAs(bed, ({ hintedPages }) => hintedPages === FREE, "a", "used.tram", ...options);
    expect(used.hints).toMatchObject({ hasBegun: true, hasEnded: true, pages: FREE });
    const difference = allocatedBytes(bed.path("all.tram")) - allocatedBytes(bed.path("used.tram"));
    expect(Math.abs(difference - FREE * 4096)).toBeLessThan(MIB);
    const { present } = anatomyOf(bed.path("used.tram"));
    expect(present.filter((page) => page >= PAGES - FREE)).toEqual([]);
    await bed.expectDone("verify", "all.tram");
    await bed.expectDone("verify", "used.tram");
    await guest.goesOn();
  });

  test.each(Object.entries(MODES))("are used again by what is restored %s; all the rest is there", async (_, mode) => {
    const source = await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "reuse", "--dirty-rate", "4000");
    const isMeant = ({ hintedPages, resentPages }: SaveReport) => hintedPages > 0 && resentPages > 0;
    await savedAs(bed, isMeant, "a", "vm.tram", ...SLOWLY);
    await source.quit();
    await bed.expectDone("verify", "vm.tram");
    const before = contentOf(bed.path("vm.tram"));

    const guest = await restored("b", "vm.tram", ...mode, "--paused");
    const { reused } = await guest.check();
    expect(reused).toBeGreaterThan(0); // named when it was saved, and in the file all the same
    await guest.ask("cont");
    await usesOthers(guest, reused);
    await guest.goesOn();
    // It is asked here, too, wherever its memory comes from, and a clone is not disturbed.
    const clone = await restored("c", "vm.tram", ...mode);
    await savedAs(bed, isMeant, "b", "again.tram", ...SLOWLY);
    await clone.goesOn();
    await guest.goesOn();
    expect(contentOf(bed.path("vm.tram"))).toBe(before);
    await bed.expectDone("verify", "again.tram");
    const last = await restored("d", "again.tram", "--eager");
    await last.goesOn();
    for (const name of ["b", "c"]) expect((await restoreOf(bed, name)).error).toBeNull();
  });

  test("are what the report tells of: each page was written, or left out", async () => {
    await FreeGuest.walker(bed, "a", ...WALKER, "--habit", "late", "--dirty-rate", "1000");
    const report = await saved(bed, "a", "vm.tram", ...SLOWLY);
    const counted = { ...report, sentPages: report.receivedPages, totalPages: PAGES };
    expect(cameLater(counted as never)).toBeGreaterThanOrEqual(0);
    const guest = await restored("b", "vm.tram");
    await guest.goesOn();
  });
});
