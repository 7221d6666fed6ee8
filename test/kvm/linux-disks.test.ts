// A stock kernel at work on its disks, in two emulated hosts that have a folder in common: it goes from one to the other, into a file
// and back, and into clones, and finds on its disk what it has written.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { FinalReport } from "../../src/cli/report.ts";
import { type EmulatedHost, Hosts, whyNoHosts, whyNoShare } from "../support/hosts.ts";
import { type Guest, nameGuest, Shell, shellGuest } from "../support/linux-guests.ts";

const reason = whyNoHosts() ?? whyNoShare();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

/**
 * Writes files on a file system, each a second time later on, and reads others back from the disk: "tick N ok" for each. Beside it
 * the other disk is written and read at many places at once.
 */
const WORK = [
  "mkdir -p /mnt; mount -t ext4 /dev/vda /mnt || echo 'BAD mount'",
  "check() { [ ! -e /tmp/s$1 ] || [ \"$(md5sum </mnt/f$1)\" = \"$(cat /tmp/s$1)\" ]; }",
  "one() { head -c $((20000 + $1 * 3777)) /dev/urandom >/mnt/f$1; md5sum </mnt/f$1 >/tmp/s$1; }",
  "work() { i=0; while :; do i=$((i + 1)); one $((i % 17)); [ $((i % 3)) != 0 ] || sync; echo 1 >/proc/sys/vm/drop_caches; if check $((i * 7 % 17)) && check $((i * 3 % 17)); then echo tick $i ok; else echo tick $i bad; fi; done; }",
  "load() { while :; do for at in 3 17 5 11; do dd if=/tmp/block of=/dev/vdb bs=4k seek=$((at * 37)) count=16 conv=notrunc,fsync 2>/dev/null & dd if=/dev/vdb of=/dev/null bs=16k skip=$((at * 9)) count=8 2>/dev/null; wait; done; sleep 0.2; done; }",
  "head -c 65536 /dev/urandom >/tmp/block; load & work &",
]; // biome-ignore format: as it is typed

describe.skipIf(reason !== null)(title("a guest at work on its disks"), () => {
  let all: Hosts;
  let hosts: EmulatedHost[];
  beforeAll(async () => {
    all = await Hosts.boot(2, { cpus: 1, memoryMib: 1024, share: true });
    hosts = all.hosts;
  }, 180_000);
  afterAll(async () => await all?.[Symbol.asyncDispose]());

  const shared = (name: string): string => join(all.share as string, name);

  /** Files for its disks, seen by both hosts as /share/NAME. */
  async function makeDisks(name: string): Promise<string> {
    for (const [disk, mib] of [[`${name}-a`, 24], [`${name}-b`, 8]] as const) // biome-ignore format: rows
      await Bun.$`truncate -s ${mib}M ${shared(disk)}`.quiet();
    await Bun.$`mkfs.ext4 -q -F ${shared(`${name}-a`)}`.quiet();
    return `--disk /share/${name}-a --disk /share/${name}-b`;
  }

  /** What is on the disk is a whole file system, whoever wrote last. */
  async function isSound(name: string): Promise<boolean> {
    const { exitCode, stdout } = await Bun.$`e2fsck -fy ${shared(name)}`.quiet().nothrow();
    return exitCode <= 1 && !stdout.toString().includes("UNEXPECTED"); // 1: its journal was played
  }

  async function begin(disks: string, options = ""): Promise<Shell> {
    const one = await new Shell(hosts[0]).begin(shellGuest("6.12", `${disks} ${options}`));
    await one.guest.line.has(/^guest is up/m);
    for (const line of WORK) await one.type(line);
    await one.guest.line.ticks(3);
    return one;
  }

  async function move(guest: Guest, from: EmulatedHost, to: EmulatedHost, port: number, options = ""): Promise<Guest> {
    const { name, line } = nameGuest(to);
    const uri = `tcp:${to.address}:${port}`;
    await to.run(`tram run -d --incoming ${uri} --name ${name} --serial file:${line.path} ${options}`);
    const output = await from.run(`tram migrate ${guest.name} ${uri} --max-downtime 5s --json`);
    const report: FinalReport = JSON.parse(output.trim().split("\n").at(-1) as string);
    expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
    line.before = await guest.line.text();
    return { name, line };
  }

  test("goes to another host, and back, and writes on", async () => {
    const disks = await makeDisks("m");
    const [a, b] = hosts;
    const one = await begin(disks, "--cpus 2 --dirty-tracking ring");
    const inUse = async (host: EmulatedHost) =>
      (await host.exec("tram run --kernel /boot/vmlinuz-6.12 --disk /share/m-a")).stderr;
    expect(await inUse(b)).toContain("the disk /share/m-a is in use"); // locks do reach from one to the other
    const two = await move(one.guest, a, b, 4001);
    await two.line.ticks(3);
    expect(await inUse(a)).toContain("the disk /share/m-a is in use");
    const three = await move(two, b, a, 4002);
    await three.line.ticks(3);
    // There is another of this name, which nobody has locked.
    await b.run("mkdir -p /tmp/other && dd if=/dev/zero of=/tmp/other/a bs=1M count=24 2>/dev/null && dd if=/dev/zero of=/tmp/other/b bs=1M count=8 2>/dev/null");
    await b.run(`tram run --incoming tcp:${b.address}:4003 --name no --disk /tmp/other/a --disk /tmp/other/b >/tmp/no.log 2>&1 &`);
    await b.guestIs("no", "inmigrate");
    const { code, stderr } = await a.exec(`tram migrate ${three.name} tcp:${b.address}:4003`);
    expect({ code, stderr }).toEqual({ code: 7, stderr: expect.stringContaining("/tmp/other/a is not the disk that the guest has at its source") });
    await three.line.ticks(3);
    await a.run(`tram quit ${three.name}`);
    expect(await isSound("m-a")).toBe(true);
  }, 300_000); // biome-ignore format: as it is typed

  test("comes back out of a file, on another host; or into clones, of which none changes its disk", async () => {
    const disks = await makeDisks("s");
    const [a, b] = hosts;
    const one = await begin(disks);
    await a.run(`tram save ${one.guest.name} /share/s.tram --max-downtime 5s`);
    const before = await one.guest.line.text();
    const restore = async (host: EmulatedHost, options: string) => {
      const { name, line } = nameGuest(host);
      line.before = before;
      await host.run(`tram restore -d /share/s.tram --name ${name} --serial file:${line.path} ${options}`);
      await line.ticks(3);
      return { host, name, line };
    };
    const sums = async () => (await Bun.$`md5sum ${shared("s-a")} ${shared("s-b")}`.quiet()).stdout.toString();
    const saved = await sums();
    const cow = "--disk /share/s-a,mode=cow --disk /share/s-b,mode=cow";
    const clones = await Promise.all([restore(a, `${cow} --eager`), restore(b, cow)]);
    for (const { line } of clones) await line.ticks(3);
    for (const { host, name } of clones) await host.run(`tram quit ${name}`);
    expect(await sums()).toBe(saved);
    const two = await restore(b, "--verify first");
    await b.run(`tram quit ${two.name}`);
    expect(await sums()).not.toBe(saved);
    expect(await isSound("s-a")).toBe(true);
    const again = await a.exec("tram restore /share/s.tram");
    expect(again).toMatchObject({ code: 7, stderr: expect.stringContaining("/share/s-a is not as it was") });
  }, 300_000);

  test("on a block device that both hosts have, goes from one to the other; and is told when it is pulled out", async () => {
    const [a, b] = hosts;
    await Bun.$`mkfs.ext4 -q -F ${shared("disk")}`.quiet();
    await Bun.$`truncate -s 8M ${shared("v-b")}`.quiet();
    const one = await begin("--disk /dev/vda --disk /share/v-b");
    // Whether it is one device, no lock can say.
    const uri = `tcp:${b.address}:4004`;
    await b.run(`tram run --incoming ${uri} --name no >/tmp/no.log 2>&1 &`);
    await b.guestIs("no", "inmigrate");
    const refused = await a.exec(`tram migrate ${one.guest.name} ${uri}`);
    expect(refused).toMatchObject({ code: 7, stderr: expect.stringContaining("/dev/vda is not the disk") });
    const two = await move(one.guest, a, b, 4005, "--disk-shared");
    await two.line.ticks(3);

    await b.pullDisk();
    await two.line.has(/I\/O error, dev vda/);
    await a.run(`tram run --incoming tcp:${a.address}:4006 --name never --disk-shared >/tmp/never.log 2>&1 &`);
    await a.guestIs("never", "inmigrate");
    const { code, stderr } = await b.exec(`tram migrate ${two.name} tcp:${a.address}:4006 --max-downtime 5s`);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringContaining("what the guest has written cannot be brought to /dev/vda"),
    });
    expect(JSON.parse(await b.run(`tram status ${two.name} --json`)).status).toBe("running");
    await b.run(`tram quit ${two.name}`);
  }, 300_000);
});
