// The QMP socket as QEMU's own clients use it: a public client library, and several clients at once.
import { describe, expect, test } from "bun:test";
import { QMPClient } from "node-qemu";
import { Bed, whyNoKvm } from "../support/bed.ts";
import { type Message, Qmp } from "../support/qmp.ts";

const reason = whyNoKvm();
const WALKER = ["--memory", "64M", "--working-set", "8M", "--fill", "random"];

const events = (client: Qmp): string[] => {
  const names = client.events.map(({ event, data }) => {
    const { status, pass } = (data ?? {}) as { status?: string; pass?: number };
    return [event, status ?? pass].filter((part) => part !== undefined).join(" ");
  });
  return names;
};

describe.skipIf(reason !== null)(`QEMU's clients${reason ? ` (skipped: ${reason})` : ""}`, () => {
  async function withPair(action: (bed: Bed) => Promise<void>): Promise<void> {
    const bed = new Bed();
    try {
      await bed.walker("a", ...WALKER);
      await bed.target("b", "unix:in.sock");
      await action(bed);
    } finally {
      await bed.dispose();
    }
  }

  test("a library made for QEMU moves a guest: stopped, resumed, set, migrated, held, let go, seen in events", () =>
    withPair(async (bed) => {
      const client = new QMPClient({ socketPath: bed.path("tram/a.qmp"), reconnect: false } as never);
      await client.connect();
      const seen: string[] = [];
      client.on("STOP", () => seen.push("STOP"));
      client.on("RESUME", () => seen.push("RESUME"));
      client.on("MIGRATION", (event: unknown) => {
        const { status } = ((event as { data?: { status: string } }).data ?? event) as { status: string };
        seen.push(status);
      });
      expect(await client.execute<{ status: string }>("query-status")).toMatchObject({ status: "running" });
      await client.execute("stop");
      await client.execute("cont");
      await client.execute("migrate-set-capabilities", {
        capabilities: ["events", "pause-before-switchover"].map((capability) => ({ capability, state: true })),
      });
      await client.execute("migrate-set-parameters", { "downtime-limit": 500 });
      await client.execute("migrate", { uri: `unix:${bed.path("in.sock")}` });
      const status = async () => (await client.execute<{ status?: string }>("query-migrate")).status;
      await bed.until(async () => (await status()) === "pre-switchover", "held");
      await client.execute("migrate-continue", { state: "pre-switchover" });
      await bed.until(async () => seen.includes("completed"), "completed");
      expect(seen).toEqual(["STOP", "RESUME", "setup", "active", "pre-switchover", "STOP", "device", "completed"]);
      await client[Symbol.asyncDispose]();
      await bed.until(async () => (await bed.status("b"))?.status === "running", "the guest runs there");
    }));

  test("two clients hear the same, in the same order, and each gets its own answers", () =>
    withPair(async (bed) => {
      const path = bed.path("tram/a.qmp");
      const [one, two] = [await Qmp.connect(path), await Qmp.connect(path)];
      await one.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
      await one.execute("stop");
      await one.execute("cont");
      const id = { any: ["thing", 1] };
      expect(await two.execute("migrate", { uri: `unix:${bed.path("in.sock")}` }, id)).toEqual({ return: {}, id });
      const isOver = async (client: Qmp) =>
        ((await client.execute("query-migrate")) as { return: { status: string } }).return.status === "completed";
      await bed.until(() => isOver(two), "completed");
      await one.execute("query-status");
      expect(events(one)).toEqual(events(two));
      const names = events(one);
      expect(names.slice(0, 2)).toEqual(["STOP", "RESUME"]);
      expect(names.filter((name) => name.startsWith("MIGRATION "))).toEqual([
        "MIGRATION setup",
        "MIGRATION active",
        "MIGRATION device",
        "MIGRATION completed",
      ]);
      const passes = names.filter((name) => name.startsWith("MIGRATION_PASS"));
      expect(passes).toEqual(passes.map((_, i) => `MIGRATION_PASS ${i + 1}`));
      expect(passes.length).toBeGreaterThan(0);
      for (const { timestamp } of one.events as { timestamp: { seconds: number; microseconds: number } }[]) {
        expect(Math.abs(timestamp.seconds * 1000 - Date.now())).toBeLessThan(60_000);
        expect(timestamp.microseconds).toBeWithin(0, 1_000_000);
      }
      for (const client of [one, two]) client.close();
    }));

  test("migrate-pause keeps a move from switching over, and migrate-continue lets it", () =>
    withPair(async (bed) => {
      const client = await Qmp.connect(bed.path("tram/a.qmp"));
      await client.execute("migrate-set-parameters", { "max-bandwidth": 100 << 20 });
      await client.execute("migrate", { uri: `unix:${bed.path("in.sock")}` });
      expect(await client.execute("migrate-pause")).toEqual({ return: {} });
      const status = async () =>
        ((await client.execute("query-migrate")) as { return: { status: string } }).return.status;
      await bed.until(async () => (await status()) === "pre-switchover", "held");
      expect(await client.execute("query-status")).toMatchObject({ return: { status: "running" } });
      expect(await client.execute("migrate-continue", { state: "device" })).toMatchObject({
        error: { desc: "Migration not in expected state: device" },
      });
      expect(
        await client.execute("migrate-set-capabilities", { capabilities: [{ capability: "multifd", state: true }] }),
      ).toMatchObject({ error: { desc: "There's a migration process in progress" } });
      await client.execute("migrate-continue", { state: "pre-switchover" });
      await bed.until(async () => (await status()) === "completed", "completed");
      client.close();
    }));

  test("capabilities and parameters make a move over channels", () =>
    withPair(async (bed) => {
      const client = await Qmp.connect(bed.path("tram/a.qmp"));
      await client.execute("migrate-set-capabilities", { capabilities: [{ capability: "multifd", state: true }] });
      await client.execute("migrate-set-parameters", { "multifd-channels": 3, "multifd-compression": "zstd" });
      await client.execute("migrate", { uri: `unix:${bed.path("in.sock")}` });
      type Answer = { return: { status: string; ram: Record<string, number> } };
      const info = async () => ((await client.execute("query-migrate")) as Answer).return;
      await bed.until(async () => (await info()).status === "completed", "completed");
      expect((await info()).ram["multifd-bytes"]).toBeGreaterThan(0);
      const move = (await client.execute("tram-query-move")) as { return: { channels: { compressMs: number }[] } };
      const { channels } = move.return;
      expect(channels).toHaveLength(3);
      expect(channels.some(({ compressMs }) => compressMs > 0)).toBeTrue();
      client.close();
    }));

  test("a dirty rate is measured as QEMU's is", () =>
    withPair(async (bed) => {
      const client = await Qmp.connect(bed.path("tram/a.qmp"));
      const rate = async (args?: object) =>
        ((await client.execute("query-dirty-rate", args)) as Message).return as Message;
      expect(await rate()).toMatchObject({ status: "unstarted" });
      await client.execute("calc-dirty-rate", { "calc-time": 200, "calc-time-unit": "millisecond" });
      expect(await rate()).toMatchObject({ status: "measuring" });
      await bed.until(async () => (await rate()).status === "measured", "measured");
      const found = await rate({ "calc-time-unit": "millisecond" });
      expect(found).toMatchObject({ "calc-time": 200, "calc-time-unit": "millisecond", mode: "dirty-bitmap" });
      expect(found["dirty-rate"]).toBeGreaterThan(0);
      client.close();
    }));

  test("one that asks very much is answered, and keeps nobody waiting for all of that", () =>
    withPair(async (bed) => {
      const path = bed.path("tram/a.qmp");
      const [many, one] = [await Qmp.connect(path), await Qmp.connect(path)];
      const asked = 3000;
      many.send(Array.from({ length: asked }, (_, id) => `{"execute":"query-migrate","id":${id}}`).join("\n"));
      expect(await many.next()).toEqual({ return: {}, id: 0 });
      expect(await one.execute("query-status")).toMatchObject({ return: { status: "running" } });
      expect(many.arrived).toBeLessThan(asked - 1);
      for (let id = 1; id < asked; id++) expect(await many.next()).toEqual({ return: {}, id });
      for (const client of [many, one]) client.close();
    }));

  test("what was asked before a client has left is done", () =>
    withPair(async (bed) => {
      const client = await Qmp.connect(bed.path("tram/a.qmp"));
      client.send(`${'{"execute":"query-status"}'.repeat(50)}{"execute":"stop"}`);
      client.end();
      await bed.until(async () => (await bed.status("a"))?.status === "paused", "stopped");
    }));

  test("a line of 100 MB ends its client, and nobody else", () =>
    withPair(async (bed) => {
      const path = bed.path("tram/a.qmp");
      const [long, other] = [await Qmp.connect(path), await Qmp.connect(path)];
      long.send('{"execute":"');
      long.send(Buffer.alloc(100_000_000, 0x61));
      expect(await long.next()).toMatchObject({ error: { desc: "a QMP message is too long" } });
      expect(await long.next()).toBeNull();
      expect(await other.execute("query-status")).toMatchObject({ return: { status: "running" } });
      other.close();
    }));

  test("out of band is refused as by a QEMU that has not agreed to it", () =>
    withPair(async (bed) => {
      const client = await Qmp.connect(bed.path("tram/a.qmp"), false);
      expect(await client.execute("qmp_capabilities", { enable: ["oob"] })).toMatchObject({
        error: { class: "GenericError", desc: "Capability oob not available" },
      });
      expect(await client.execute("query-status")).toMatchObject({ error: { class: "CommandNotFound" } });
      await client.execute("qmp_capabilities");
      client.send('{"exec-oob": "migrate-pause", "id": 4}\n');
      expect(await client.next()).toMatchObject({ error: { class: "GenericError" }, id: 4 });
      expect(await client.execute("query-status")).toMatchObject({ return: { status: "running" } });
      client.close();
    }));

  test("a guest that is told to quit says so to all", () =>
    withPair(async (bed) => {
      const path = bed.path("tram/a.qmp");
      const [one, two] = [await Qmp.connect(path), await Qmp.connect(path)];
      one.send('{"execute": "quit"}\n');
      const last = await two.next();
      expect(last).toMatchObject({ event: "SHUTDOWN", data: { guest: false, reason: "host-qmp-quit" } });
      for (const client of [one, two]) client.close();
    }));
});
