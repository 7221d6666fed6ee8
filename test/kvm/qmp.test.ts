// The QMP socket under clients that are wrong or hostile: the guest goes on, others are served, nothing is leaked.
import { describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { net } from "../../src/native/net.ts";
import { Bed, openFds, whyNoKvm } from "../support/bed.ts";
import { Qmp } from "../support/qmp.ts";

const reason = whyNoKvm();

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
