// The QMP socket under clients that are wrong or hostile: the guest goes on, others are served, nothing is leaked.
import { describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { net } from "../../src/native/net.ts";
import { Bed, openFds, TRAM, whyNoKvm } from "../support/bed.ts";
import { type Message, Qmp } from "../support/qmp.ts";

const reason = whyNoKvm();
const statusOf = (answer: Message | null): string => (answer as { return: { status: string } }).return.status;

describe.skipIf(reason !== null)(`the QMP socket${reason ? ` (skipped: ${reason})` : ""}`, () => {
  async function withGuest(action: (bed: Bed, path: string, pid: number) => Promise<void>): Promise<void> {
    const bed = new Bed();
    try {
      const guest = await bed.walker("a", "--memory", "16M", "--working-set", "4M", "--dirty-rate", "max");
      await bed.tram("migrate", "a", "unix:nobody.sock"); // starts the mover
      await Bun.sleep(100);
      const before = openFds(guest.pid);
      await action(bed, bed.path("tram/a.qmp"), guest.pid);
      await bed.goesOn("a");
      await bed.until(async () => openFds(guest.pid).join() === before.join(), "descriptors as before");
    } finally {
      await bed.dispose();
    }
  }

  test("speaks as QEMU's does: greeting, negotiation, ids, error classes", () =>
    withGuest(async (_, path) => {
      const client = await Qmp.connect(path, false);
      expect(await client.execute("query-status")).toMatchObject({ error: { class: "CommandNotFound" } });
      expect(await client.execute("qmp_capabilities", {}, 7)).toEqual({ return: {}, id: 7 });
      expect(await client.execute("query-status", undefined, "x")).toEqual({
        return: { status: "running", running: true, singlestep: false },
        id: "x",
      });
      expect(await client.execute("no-such-command")).toMatchObject({ error: { class: "CommandNotFound" } });
      expect(await client.execute("constructor")).toMatchObject({ error: { class: "CommandNotFound" } });
      expect(await client.execute("migrate", {})).toMatchObject({ error: { class: "GenericError" } });
      expect(await client.execute("migrate", { uri: "exec:true" })).toMatchObject({ error: { class: "GenericError" } });
      expect(await client.execute("getfd", { fdname: "x" })).toMatchObject({ error: { class: "GenericError" } });
      expect(await client.execute("query-migrate")).toMatchObject({ return: { status: "failed" } });
      expect(await client.execute("stop")).toEqual({ return: {} });
      expect(await client.execute("cont")).toEqual({ return: {} });
      client.close();
    }));

  test("drops a client that sends garbage, half an object, or one without end, and serves the others", () =>
    withGuest(async (bed, path) => {
      const garbage = await Qmp.connect(path);
      garbage.send("GET / HTTP/1.0\r\n\r\n");
      expect(await garbage.next()).toMatchObject({ error: { class: "GenericError" } });
      expect(await garbage.next(2000)).toBeNull();
      const half = await Qmp.connect(path);
      half.send('{"execute":');
      half.close();
      const endless = connect(path);
      endless.on("error", () => {});
      const closed = new Promise<void>((resolve) => endless.on("close", () => resolve()));
      const piece = Buffer.alloc(1 << 20, 0x7b);
      const feed = () => {
        for (let i = 0; i < 8 && !endless.destroyed; i++) endless.write(piece);
      };
      endless.on("connect", feed);
      endless.on("drain", feed);
      await closed;
      expect((await bed.status("a"))?.status).toBe("running");
    }));

  test("keeps few of the descriptors that a client passes, and closes them with it", () =>
    withGuest(async (_, path, pid) => {
      const fds = [0, 1].map(() => net.tryConnectUnix(path, 1000));
      const before = openFds(pid).length;
      for (const fd of fds) for (let i = 0; i < 50; i++) net.sendMessage(fd, Buffer.from(" "), 2);
      await Bun.sleep(200);
      expect(openFds(pid).length).toBeLessThan(before + 8);
      for (const fd of fds) net.close(fd);
    }));

  test("a hundred idle connections do not lock the owner out", () =>
    withGuest(async (bed, path) => {
      const idle: number[] = [];
      for (let i = 0; i < 100; i++) {
        const fd = net.tryConnectUnix(path, 2000);
        expect(fd).toBeGreaterThanOrEqual(0);
        idle.push(fd);
      }
      expect((await bed.status("a"))?.status).toBe("running");
      for (const fd of idle) net.close(fd);
    }));

  test("bounds what a client may call its peer, and its numbers", () =>
    withGuest(async (_, path) => {
      const client = await Qmp.connect(path);
      const bad = { uri: "unix:/nowhere/at-all", tram: { replyMs: -1 } };
      expect(await client.execute("migrate", bad)).toMatchObject({ error: { class: "GenericError" } });
      const long = { uri: "unix:/nowhere/at-all", tram: { peer: "x".repeat(900_000) } };
      expect(await client.execute("migrate", long)).toEqual({ return: {} });
      for (let status = ""; status !== "failed"; ) status = statusOf(await client.execute("query-migrate"));
      client.close();
    }));

  test("a guest that is confirmed elsewhere is nobody's to steer here any more", async () => {
    const bed = new Bed();
    try {
      const source = await bed.walker("a", "--memory", "16M", "--working-set", "4M", "--dirty-rate", "max");
      await bed.target("b", "unix:b.sock");
      const client = await Qmp.connect(bed.path("tram/a.qmp"));
      await client.execute("migrate", { uri: `unix:${bed.path("b.sock")}` });
      for (let status = ""; status !== "completed"; ) status = statusOf(await client.execute("query-migrate"));
      // This client never asks for tram's own journal, so the process lingers for it.
      for (const command of ["cont", "stop", "migrate"])
        expect(await client.execute(command, { uri: "unix:/nowhere" })).toMatchObject({
          error: { class: "GenericError" },
        });
      client.close();
      expect(await source.code).toBe(0);
      await bed.goesOn("b");
    } finally {
      await bed.dispose();
    }
  });

  test("a serial line that nobody reads does not stop the guest, nor keep it from being stopped", async () => {
    const bed = new Bed();
    // A reader that never reads: its pipe is full after 64 KiB.
    const line = `${TRAM} run --guest walker --name a --memory 16M --working-set 4K --dirty-rate max --serial stdio | sleep 60`;
    const child = Bun.spawn(["bash", "-c", line], {
      env: bed.env,
      cwd: bed.folder,
      stdout: "ignore",
      stderr: "ignore",
      stdin: "ignore",
    });
    try {
      const passes = async () => {
        const checked = JSON.parse((await bed.tram("check-guest", "a", "--json")).stdout) as {
          cpus: { pass: number }[];
        };
        return checked.cpus[0].pass;
      };
      await bed.until(async () => (await bed.status("a"))?.status === "running", "it runs");
      await bed.until(
        async () => {
          await bed.expectDone("pause", "a");
          const done = await passes();
          await bed.expectDone("resume", "a");
          return done > 100_000; // a byte a pass: the pipe has been full for a while
        },
        "the pipe is full",
        undefined,
        50_000,
      );
      await bed.expectDone("quit", "a");
    } finally {
      child.kill("SIGKILL");
      await bed.exec(["pkill", "-f", `sleep 60`]);
      await bed.dispose();
    }
  });

  test("a client that passed a descriptor and goes away cancels its move", () =>
    withGuest(async (bed) => {
      const cli = bed.start(["migrate", "a", "exec:sleep 5", "--max-bandwidth", "1M"]);
      const tracked = async () => (await bed.tram("status", "a", "--json")).stdout.includes('"tracking":true');
      await bed.until(tracked, "it moves");
      cli.kill("SIGKILL");
      await bed.until(async () => !(await tracked()), "the move was cancelled");
      expect((await bed.status("a"))?.status).toBe("running");
    }));
});
