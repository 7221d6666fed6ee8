// How fast a QEMU guest writes, asked of its own monitor, and what a move of it would come to.
import { describe, expect, test } from "bun:test";
import type { Forecast } from "../../src/control/measure.ts";
import { type QemuVersion, whyNoQemu, withGuest } from "../support/qemu.ts";

const VERSIONS: QemuVersion[] = ["7.2", "10.0"];
const whyNot = whyNoQemu("7.2") ?? whyNoQemu("10.0");

describe.skipIf(whyNot !== null)(`a QEMU guest${whyNot ? ` (skipped: ${whyNot})` : ""}`, () => {
  test.each(VERSIONS)("of %s is measured while it writes, and not while it is paused", (version) =>
    withGuest({ version }, async (bed, guest, vm) => {
      const rate = async () => JSON.parse(await bed.expectDone("dirty-rate", vm, "--json"));
      const busy = await rate();
      expect(busy).toMatchObject({ forMs: 1000, totalPages: guest.ramSize / 4096 });
      expect(busy.workingSetPages).toBeGreaterThan(256); // it rewrites 24 MiB all the time
      await bed.expectDone("pause", vm);
      expect(await rate()).toMatchObject({ pagesPerSec: 0, workingSetPages: 0 });
      await bed.expectDone("resume", vm);
      await guest.goesOn(3);
    }),
  );

  test("has a forecast", () =>
    withGuest({ version: "10.0" }, async (bed, guest, vm) => {
      const foretold = async (...options: string[]): Promise<Forecast> =>
        JSON.parse(await bed.expectDone("forecast", vm, "--json", ...options));
      const fast = await foretold("--bandwidth", "1GiB/s");
      expect(fast).toMatchObject({ converges: true, stall: null });
      const slow = await foretold("--bandwidth", "1MiB/s");
      expect(slow).toMatchObject({ converges: false, stall: { remedy: {} } });
      await guest.goesOn(3);
      expect(await guest.status()).toBe("running");
    }));

  test("is not rehearsed: it says what to do", () =>
    withGuest({ version: "10.0" }, async (bed, _, vm) => {
      const { code, stderr } = await bed.tram("rehearse", vm, "--bandwidth", "1GiB/s");
      expect({ code, says: stderr.includes("tram forecast") }).toEqual({ code: 7, says: true });
    }));
});
