// A move with --verify: what arrives otherwise than it was sent is found before the guest is handed over.
import { describe, expect, test } from "bun:test";
import { Bed, freePort, whyNoKvm } from "../support/bed.ts";
import { FlippingLink } from "../support/flipping-link.ts";

const reason = whyNoKvm();
const WALKER = ["--memory", "64M", "--working-set", "16M", "--fill", "random", "--dirty-rate", "20000"];
/** Behind the working set: what arrives of it the first time is not sent again by itself. */
const STILL_PAGE = (32 << 20) / 4096;

describe.skipIf(reason !== null)(`a verified move${reason ? ` (skipped: ${reason})` : ""}`, () => {
  async function moved(times: number, ...options: string[]) {
    const bed = new Bed();
    const targetPort = freePort();
    await bed.walker("a", ...WALKER);
    await bed.target("b", `tcp:127.0.0.1:${targetPort}`);
    const link = await FlippingLink.start(targetPort, times, STILL_PAGE);
    const { code, stdout } = await bed.tram("migrate", "a", `tcp:127.0.0.1:${link.port}`, "--json", ...options);
    const report = JSON.parse(stdout.trim().split("\n").at(-1) ?? "{}");
    return { bed, link, code, report };
  }

  test("without a fault: the same hashes at both ends of a guest that writes all the time", async () => {
    const { bed, link, code, report } = await moved(0, "--verify");
    try {
      expect(report).toMatchObject({ outcome: "completed", owner: "target", differingPages: 0 });
      expect(report.resentPages).toBeGreaterThan(0);
      expect(code).toBe(0);
      await bed.verify("b");
    } finally {
      link.stop();
      await bed.dispose();
    }
  }, 30_000);

  test("a page that is changed on its way once is sent again", async () => {
    const { bed, link, code, report } = await moved(1, "--verify");
    try {
      expect(link.flips).toBe(1);
      expect(report).toMatchObject({ outcome: "completed", owner: "target", differingPages: 1 });
      expect(code).toBe(0);
      await bed.verify("b");
    } finally {
      link.stop();
      await bed.dispose();
    }
  }, 30_000);

  test("a page that is changed each time is named, and the guest goes on at the source", async () => {
    const { bed, link, code, report } = await moved(2, "--verify");
    try {
      expect(link.flips).toBe(2);
      expect(report).toMatchObject({ outcome: "failed", owner: "source", error: { code: "E_HASH" } });
      expect(report.error.where).toBe(`pages ${link.page}`);
      expect(code).toBe(3);
      expect((await bed.status("a"))?.status).toBe("running");
      await bed.verify("a");
    } finally {
      link.stop();
      await bed.dispose();
    }
  }, 30_000);

  test("without --verify nobody notices: the walker does, later", async () => {
    const { bed, link, code } = await moved(1);
    try {
      expect(link.flips).toBe(1);
      expect(code).toBe(0);
      await bed.expectDone("pause", "b");
      const checked = await bed.tram("check-guest", "b");
      expect(checked.code).toBe(3);
    } finally {
      link.stop();
      await bed.dispose();
    }
  }, 30_000);

  test("is refused where the target cannot say what has arrived", async () => {
    const bed = new Bed();
    try {
      await bed.walker("a", ...WALKER);
      const piped = await bed.tram("migrate", "a", "exec:cat >/dev/null", "--verify");
      expect(piped).toMatchObject({ code: 7 });
      expect(piped.stderr).toContain("one-way");
      await bed.verify("a");
    } finally {
      await bed.dispose();
    }
  }, 30_000);
});
