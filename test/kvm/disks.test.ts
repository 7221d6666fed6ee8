// A guest's disks: whose they are, while it boots, moves, lies in a file and comes back; and what is refused, so that nobody writes
// to a disk that is another's, or goes on with one that is not as its memory has it. What a guest writes there: linux.test.ts.
import { expect, test } from "bun:test";
import { appendFileSync, copyFileSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import type { FinalReport } from "../../src/cli/report.ts";
import { type Bed, inBed, type Running, whyNoKvm } from "../support/bed.ts";
import { ECHO, kernelOf } from "../support/bzimage.ts";

const reason = whyNoKvm();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;
const BYTES = 1 << 20;
const IN_USE = /the disk .*disk\.img is in use/;

/** A guest 'a' with disk.img, and whatever else. */
async function boot(bed: Bed, ...options: string[]): Promise<Running> {
  await Bun.write(bed.path("vmlinuz"), kernelOf(...ECHO));
  if (!existsSync(bed.path("disk.img"))) writeFileSync(bed.path("disk.img"), new Uint8Array(BYTES).fill(7));
  const disks = options.includes("--disk") ? [] : ["--disk", "disk.img"];
  return bed.appeared("a", bed.start(["run", "--kernel", "vmlinuz", "--memory", "64M", "--name", "a", ...disks, ...options])); // biome-ignore format: one line
}

/** Somebody holds it: another guest cannot have it. */
async function isTaken(bed: Bed): Promise<boolean> {
  const options = ["--memory", "64M", "--name", "other", "--disk", "disk.img"];
  const { code, stderr } = await bed.tram("run", "--kernel", "vmlinuz", "--paused", "-d", ...options);
  if (code === 0) {
    await bed.expectDone("quit", "other");
    return false;
  }
  expect({ code, stderr }).toEqual({ code: 7, stderr: expect.stringMatching(IN_USE) });
  return true;
}

async function refused(bed: Bed, argv: string[], message: RegExp, code = 7): Promise<void> {
  expect(await bed.tram(...argv)).toMatchObject({ code, stderr: expect.stringMatching(message) });
}

async function runs(bed: Bed, name: string): Promise<void> {
  expect((await bed.status(name))?.status).toBe("running");
}

test.skipIf(reason !== null)(title("a disk goes with its guest: to another process, and back"), () =>
  inBed(async (bed) => {
    const a = await boot(bed);
    expect(await isTaken(bed)).toBe(true);
    await bed.target("b", "unix:b.sock");
    const report: FinalReport = JSON.parse((await bed.expectDone("migrate", "a", "unix:b.sock", "--json")).trim().split("\n").at(-1) as string); // biome-ignore format: one line
    expect(report).toMatchObject({ outcome: "completed", owner: "target" });
    expect(await a.code).toBe(0);
    await runs(bed, "b");
    expect(await isTaken(bed)).toBe(true);

    await bed.target("d", "unix:d.sock", "--disk", "disk.img");
    await bed.expectDone("migrate", "b", "unix:d.sock", "--channels", "2");
    await runs(bed, "d");
    expect(await isTaken(bed)).toBe(true);
    await bed.expectDone("quit", "d");
    expect(await isTaken(bed)).toBe(false);
  }),
);

test.skipIf(reason !== null)(title("a paused guest's disk is its own where it has arrived"), () =>
  inBed(async (bed) => {
    await boot(bed, "--paused");
    await bed.target("b", "unix:b.sock");
    await bed.expectDone("migrate", "a", "unix:b.sock");
    expect((await bed.status("b"))?.status).toBe("paused");
    expect(await isTaken(bed)).toBe(true);
    await bed.expectDone("resume", "b");
  }),
);

test.skipIf(reason !== null)(title("a guest does not move to where its disk is another, and keeps it"), () =>
  inBed(async (bed) => {
    await boot(bed);
    copyFileSync(bed.path("disk.img"), bed.path("copy.img"));
    writeFileSync(bed.path("short.img"), new Uint8Array(BYTES / 2));
    const rows: [string[], RegExp][] = [
      [["--disk", "copy.img"], /copy\.img is not the disk that the guest has at its source/],
      [["--disk", "short.img", "--disk-shared"], /short\.img is not the guest's disk/],
      [["--disk", "disk.img,mode=ro"], /cannot have mode=ro/],
      [["--disk", "disk.img", "--disk", "copy.img"], /another number of disks/],
      [["--disk", "goes.img"], /cannot open the disk .*goes\.img: ENOENT/],
    ];
    for (const [options, message] of rows) {
      copyFileSync(bed.path("disk.img"), bed.path("goes.img"));
      const target = await bed.target("b", "unix:b.sock", ...options);
      rmSync(bed.path("goes.img"));
      const { code, stdout, stderr } = await bed.tram("migrate", "a", "unix:b.sock", "--json");
      expect({ options, code, stderr }).toMatchObject({ stderr: expect.stringMatching(message) });
      expect(code).not.toBe(0);
      // Before any page was carried.
      const report: FinalReport = JSON.parse(stdout.trim().split("\n").at(-1) as string);
      expect(report).toMatchObject({ outcome: "failed", owner: "source", sentPages: 0, rounds: 0 });
      expect(await target.code).not.toBe(0);
      expect(target.stderr).toMatch(message);
      await runs(bed, "a");
      expect(await isTaken(bed)).toBe(true);
    }
    // What is wrong for any guest is said while there is none.
    const waiting = ["run", "--incoming", "unix:b.sock", "--name", "b", "--disk"];
    await refused(bed, [...waiting, "nowhere.img"], /cannot open the disk .*nowhere\.img: ENOENT/, 1);
    await refused(bed, [...waiting, "copy.img,mode=cow"], /copy\.img cannot have mode=cow/, 2);
    await refused(bed, [...waiting, "/dev/null"], /\/dev\/null is no disk/, 2);
    // A person says that it is the same.
    const believing = await bed.target("b", "unix:b.sock", "--disk", "copy.img", "--disk-shared");
    await bed.expectDone("migrate", "a", "unix:b.sock");
    expect(await isTaken(bed)).toBe(false);
    expect(believing.stderr).toMatch(/copy\.img is taken for the guest's disk because you say so/);
  }),
);

test.skipIf(reason !== null)(title("a stream that was kept finds the disk as it left it, or does not begin"), () =>
  inBed(async (bed) => {
    await boot(bed);
    await bed.expectDone("migrate", "a", "file:a.stream");
    await bed.tram("quit", "a");
    const before = readFileSync(bed.path("disk.img"));
    const b = bed.start(["run", "--incoming", "file:a.stream", "--name", "b"]);
    await bed.appeared("b", b);
    expect(await isTaken(bed)).toBe(true);
    await bed.expectDone("quit", "b");
    // Somebody else has written to it meanwhile; then put back what was there.
    writeFileSync(bed.path("disk.img"), before);
    await refused(bed, ["run", "--incoming", "file:a.stream", "--name", "b"], /disk\.img is not the disk/);
    const c = bed.start(["run", "--incoming", "file:a.stream", "--name", "c", "--disk-shared"]);
    await bed.appeared("c", c);
  }),
);

test.skipIf(reason !== null)(
  title("a guest whose disk cannot be had where it was told to go on goes on where it was"),
  () =>
    inBed(async (bed) => {
      await boot(bed);
      copyFileSync(bed.path("disk.img"), bed.path("copy.img"));
      const other = ["run", "--kernel", "vmlinuz", "--memory", "64M", "--name", "other", "--disk", "copy.img"];
      await bed.appeared("other", bed.start(other));
      const target = await bed.target("b", "unix:b.sock", "--disk", "copy.img", "--disk-shared");
      const { code, stdout, stderr } = await bed.tram("migrate", "a", "unix:b.sock", "--json");
      expect({ code, stderr }).toEqual({ code: 7, stderr: expect.stringMatching(/copy\.img is in use/) });
      const report: FinalReport = JSON.parse(stdout.trim().split("\n").at(-1) as string);
      expect(report).toMatchObject({ outcome: "failed", owner: "source", error: { code: "E_REFUSED" } });
      // That was behind the word: the target had all of it.
      expect(stdout).toContain('"phase":"handover"');
      expect(await target.code).toBe(7);
      await runs(bed, "a");
      expect(await isTaken(bed)).toBe(true);
      await bed.expectDone("quit", "other");
      await bed.target("c", "unix:c.sock");
      await bed.expectDone("migrate", "a", "unix:c.sock");
      await runs(bed, "c");
    }),
);

/** Hands everything on, but the target's last word: that the guest runs there. */
async function deafLink(bed: Bed, to: string): Promise<{ path: string; close(): void }> {
  const sockets: Socket[] = [];
  const path = bed.path("link.sock");
  const server = createServer((near) => {
    const far = connect(bed.path(to));
    sockets.push(near, far);
    for (const one of [near, far]) one.on("error", () => {});
    near.pipe(far);
    let left = Buffer.alloc(0);
    far.on("data", (piece: Buffer) => {
      left = Buffer.concat([left, piece]);
      while (left.length >= 4) {
        const bytes = 4 + left.readUInt16BE(2);
        if (left.length < bytes) return;
        if (left.readUInt16BE(0) === 1) {
          near.destroy(); // SHUT
          return;
        }
        near.write(left.subarray(0, bytes));
        left = left.subarray(bytes);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    path,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

test.skipIf(reason !== null)(
  title("a guest that may run elsewhere does not run here beside it: its disk is taken"),
  () =>
    inBed(async (bed) => {
      await boot(bed);
      await bed.target("b", "unix:b.sock");
      const link = await deafLink(bed, "b.sock");
      expect((await bed.tram("migrate", "a", `unix:${link.path}`)).code).toBe(4);
      await runs(bed, "b");
      await refused(bed, ["resume", "a"], IN_USE);
      expect((await bed.status("a"))?.status).toBe("postmigrate");
      await bed.expectDone("quit", "b");
      await bed.expectDone("resume", "a"); // a person has looked, and there is nobody
      expect(await isTaken(bed)).toBe(true);
      link.close();
    }),
);

test.skipIf(reason !== null)(
  title("a guest whose disk was written to elsewhere does not go on here, nor is it saved"),
  () =>
    inBed(async (bed) => {
      await boot(bed);
      await bed.target("b", "unix:b.sock");
      const link = await deafLink(bed, "b.sock");
      expect((await bed.tram("migrate", "a", `unix:${link.path}`)).code).toBe(4);
      await refused(bed, ["pause", "a"], IN_USE);
      await bed.expectDone("quit", "b");
      const before = readFileSync(bed.path("disk.img"));
      writeFileSync(bed.path("disk.img"), before); // as b might have, before it ended
      await refused(bed, ["resume", "a"], /disk\.img was written to since the guest left it/);
      await refused(bed, ["pause", "a"], /disk\.img was written to since the guest left it/);
      await refused(bed, ["save", "a", "a.tram"], /state 'postmigrate'/, 1);
      expect(await isTaken(bed)).toBe(false);
      link.close();
    }),
);

test.skipIf(reason !== null)(title("two disks are not taken for each other, however alike"), () =>
  inBed(async (bed) => {
    for (const name of ["one.img", "two.img"]) writeFileSync(bed.path(name), new Uint8Array(BYTES));
    await boot(bed, "--disk", "one.img", "--disk", "two.img");
    const target = await bed.target("b", "unix:b.sock", "--disk", "two.img", "--disk", "one.img");
    await refused(bed, ["migrate", "a", "unix:b.sock"], /two\.img is not the disk that the guest has/);
    expect(await target.code).toBe(7);
    await runs(bed, "a");
  }),
);

test.skipIf(reason !== null)(
  title("a guest that was brought back with a copy of its disk goes on, and is saved, with that"),
  () =>
    inBed(async (bed) => {
      await boot(bed);
      await bed.expectDone("save", "a", "a.tram", "--after", "pause");
      copyFileSync(bed.path("disk.img"), bed.path("copy.img"));
      await bed.expectDone("resume", "a");
      await bed.restored("b", "a.tram", "--disk", "copy.img");
      await bed.target("c", "unix:c.sock");
      await bed.expectDone("migrate", "b", "unix:c.sock");
      await runs(bed, "c");
      expect(await isTaken(bed)).toBe(true); // by 'a'
      await bed.expectDone("save", "c", "c.tram");
      await bed.expectDone("quit", "a");
      await bed.restored("d", "c.tram");
      expect(await isTaken(bed)).toBe(false); // 'd' has the copy
    }),
);

test.skipIf(reason !== null)(title("what is no disk is refused, and not waited for"), () =>
  inBed(async (bed) => {
    await boot(bed);
    await bed.exec(["mkfifo", bed.path("fifo")]);
    await refused(bed, ["run", "--kernel", "vmlinuz", "--disk", "fifo,mode=ro"], /fifo is no disk/, 2);
    await refused(bed, ["run", "--kernel", "vmlinuz", "--disk", "/dev/null"], /\/dev\/null is no disk/, 2);
    const image = new Uint8Array(BYTES);
    image.set([0x51, 0x46, 0x49, 0xfb]);
    writeFileSync(bed.path("vm.qcow2"), image);
    await refused(
      bed,
      ["run", "--kernel", "vmlinuz", "--disk", "vm.qcow2"],
      /no raw disk[\s\S]*a qcow2 image[\s\S]*qemu-img convert/,
      2,
    );
    await bed.expectDone("save", "a", "a.tram", "--disks", "none");
    await refused(bed, ["run", "--kernel", "vmlinuz", "--disk", "a.tram"], /no raw disk[\s\S]*a guest's memory/, 2);
    const disk = ["--disk", "vm.qcow2,format=raw"]; // a person knows better
    await bed.appeared("b", bed.start(["run", "--kernel", "vmlinuz", "--memory", "64M", "--name", "b", ...disk]));
  }),
);

test.skipIf(reason !== null)(
  title("a snapshot belongs to its disk as it was"),
  () =>
  inBed(async (bed) => {
    const a = await boot(bed);
    await refused(bed, ["save", "a", "disk.img"], /disk\.img is in use: it is a guest's disk/);
    await refused(bed, ["save", "a", "a.tram", "--after", "resume"], /go on writing to disks[\s\S]*disk\.img/);
    await runs(bed, "a");
    await bed.expectDone("save", "a", "a.tram");
    expect(await a.code).toBe(0);
    copyFileSync(bed.path("disk.img"), bed.path("copy.img"));
    const bytes = readFileSync(bed.path("disk.img"));

    await bed.restored("b", "a.tram");
    expect(await isTaken(bed)).toBe(true);
    await refused(bed, ["restore", "a.tram", "--name", "c"], IN_USE); // not twice on one disk
    await refused(bed, ["restore", "a.tram", "--name", "c", "--disk", "disk.img,mode=cow"], IN_USE);
    await bed.expectDone("quit", "b");

    // Clones, each with its own; nobody writes to what they have in common.
    await bed.restored("c", "a.tram", "--disk", "disk.img,mode=cow");
    await bed.restored("d", "a.tram", "--disk", "disk.img,mode=cow", "--eager");
    expect(await isTaken(bed)).toBe(true);
    for (const argv of [["migrate", "c", "unix:x.sock"], ["save", "c", "c.tram"]]) // biome-ignore format: rows
      await refused(bed, argv, /in this process alone[\s\S]*disk\.img, mode=cow/);
    await bed.expectDone("quit", "c");
    await bed.expectDone("quit", "d");

    // It goes on without the file, and comes back: the file has the right bytes, and nobody knows that.
    writeFileSync(bed.path("disk.img"), bytes);
    await refused(bed, ["restore", "a.tram"], /disk\.img is not as it was[\s\S]*last written to at[\s\S]*--disk FILE names a copy/);
    await refused(bed, ["restore", "a.tram", "--disk", "disk.img,mode=cow"], /disk\.img is not as it was/);
    await refused(bed, ["restore", "a.tram", "--disk", "disk.img,mode=ro"], /cannot have mode=ro/);
    await bed.restored("e", "a.tram", "--disk", "copy.img");
    await bed.expectDone("quit", "e");
    appendFileSync(bed.path("copy.img"), new Uint8Array(512));
    await refused(bed, ["restore", "a.tram", "--disk", "copy.img"], /copy\.img is not the guest's disk/);
  }), // biome-ignore format: as a person does it
);

test.skipIf(reason !== null)(title("a snapshot that is not to be used with its disk says so"), () =>
  inBed(async (bed) => {
    await boot(bed);
    await bed.expectDone("save", "a", "a.tram", "--after", "resume", "--disks", "none");
    await runs(bed, "a");
    await bed.expectDone("quit", "a");
    await refused(bed, ["restore", "a.tram"], /how .*disk\.img was when the guest was saved is not in the file/);
    await bed.restored("b", "a.tram", "--disk", "disk.img");
  }),
);

test.skipIf(reason !== null)(title("a disk that is only read is anybody's, and must be as it was"), () =>
  inBed(async (bed) => {
    await boot(bed, "--disk", "disk.img,mode=ro");
    await bed.expectDone("save", "a", "a.tram", "--after", "resume");
    await bed.target("b", "unix:b.sock");
    await bed.expectDone("migrate", "a", "unix:b.sock");
    await bed.restored("c", "a.tram");
    await bed.restored("d", "a.tram");
    await runs(bed, "b");
    for (const name of ["b", "c", "d"]) await bed.expectDone("quit", name);
    truncateSync(bed.path("disk.img"), BYTES / 2);
    await refused(bed, ["restore", "a.tram"], /disk\.img is not the guest's disk/);
  }),
);
