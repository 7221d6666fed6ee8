// Stock kernels as distributions ship them, in an emulated host: they boot, are moved, saved and restored, and what runs in them
// finds its memory as it left it. What takes time there says nothing of real hardware.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { FinalReport } from "../../src/cli/report.ts";
import { type EmulatedHost, GUEST_KERNELS, Hosts, whyNoHosts } from "../support/hosts.ts";
import { type Guest, Line, nameGuest, Shell, shellGuest } from "../support/linux-guests.ts";

const reason = whyNoHosts();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;
describe.skipIf(reason !== null)(title("a stock Linux kernel"), () => {
  let all: Hosts;
  let host: EmulatedHost;
  beforeAll(async () => {
    all = await Hosts.boot(1, { cpus: 1, memoryMib: 1536 });
    [host] = all.hosts;
  }, 180_000);
  afterAll(async () => await all?.[Symbol.asyncDispose]());

  const named = () => nameGuest(host);
  const verifier = (version: string) => `--kernel /boot/vmlinuz-${version} --initrd /boot/verifier.cpio --append 'console=ttyS0 quiet cryptomgr.notests tram.mib=24 tram.ms=200'`; // biome-ignore format: as it is typed

  async function move(from: Guest, options = ""): Promise<Guest & { report: FinalReport }> {
    const { name, line } = named();
    await host.run(
      `tram run -d --incoming unix:/tmp/${name}.sock --name ${name} --serial file:${line.path} ${options}`,
    );
    const output = await host.run(`tram migrate ${from.name} unix:/tmp/${name}.sock --max-downtime 5s --json`);
    const report: FinalReport = JSON.parse(output.trim().split("\n").at(-1) as string);
    expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
    line.before = await from.line.text();
    return { name, line, report };
  }

  test.each(
    GUEST_KERNELS.flatMap((version) => [
      { version, cpus: 1, tracking: "log" },
      { version, cpus: 2, tracking: "ring" },
    ]),
  )(
    "$version with $cpus vCPUs boots, and goes on with its memory when it was moved, saved, restored and cloned ($tracking)",
    async ({ version, cpus, tracking }) => {
      const how = `--dirty-tracking ${tracking}`;
      const first = named();
      await host.run(
        `tram run -d ${verifier(version)} --name ${first.name} --memory 192M --cpus ${cpus} --serial file:${first.line.path} ${how}`,
      );
      await first.line.ticks(3);

      const second = await move(first, how);
      expect(second.report.resentPages).toBeGreaterThan(0); // it did write to what was sent
      await second.line.ticks(3);
      expect((await host.exec(`tram status ${first.name}`)).code).toBe(2); // and is nowhere else

      await host.run(`tram save ${second.name} /tmp/g.tram --max-downtime 5s`);
      const before = await second.line.text();
      const clones: Guest[] = [];
      for (const options of ["--lazy", "--eager", "--verify first"]) {
        const clone = named();
        clone.line.before = before;
        await host.run(`tram restore -d /tmp/g.tram ${options} --name ${clone.name} --serial file:${clone.line.path}`);
        clones.push(clone);
        await clone.line.ticks(3);
      }
      await clones[0].line.ticks(3); // all at once
      for (const { name } of clones) await host.run(`tram quit ${name}`);
    },
    300_000,
  );

  test("takes what is typed, starts anew, and ends when it is switched off", async () => {
    const one = await new Shell(host).begin(shellGuest("6.12", "--cpus 2 --balloon"));
    await one.guest.line.has(/^guest is up: 6\.12\./m);
    await host.run(`tram balloon ${one.guest.name} 176M --timeout 30s`);
    await one.type("echo answer $((6 * 7)) of $(nproc)");
    await one.guest.line.has(/^answer 42 of 2/m);
    await one.type("cat /sys/class/misc/hw_random/rng_current; head -c 9000 /dev/hwrng | wc -c");
    await one.guest.line.has(/^virtio_rng\.0\s+9000/m);
    await one.type("reboot -f");
    await one.guest.line.has(/^guest is up[\s\S]*^guest is up: 6\.12\./m);
    expect(await one.log()).toContain("starts anew");
    await one.type("echo again $((5 * 5)) of $(nproc)");
    await one.guest.line.has(/^again 25 of 2/m);
    // As was said before, and not again.
    await host.run(`for i in $(seq 30); do tram balloon ${one.guest.name} | grep "176 MiB of 192" && exit; sleep 0.5; done; exit 1`); // biome-ignore format: one line
    await one.type("poweroff -f");
    const ended = new Line(host, `/tmp/${one.guest.name}.log`);
    await ended.has(/has shut down\nexit 0$/m);
  }, 300_000);

  test("keeps time in a file, and what is typed and not read yet, and is told that it was there", async () => {
    const one = await new Shell(host).begin(shellGuest("6.12"));
    await one.guest.line.has(/^guest is up/m);
    const before = await one.clock();
    await host.run(`tram pause ${one.guest.name}`);
    await one.type("echo t$((3*3))"); // stays on the line, which has room for 16 bytes
    await host.run(`tram save ${one.guest.name} /tmp/s.tram && sleep 4`);
    const two = await new Shell(host).begin("tram restore /tmp/s.tram");
    await host.run(`sleep 1; tram resume ${two.guest.name}`);
    await two.guest.line.has(/^t9/m);
    const after = await two.clock();
    // It began at the same time, as far as can be told: in between it was nowhere for four seconds.
    const widest = Math.max(before[1] - before[0], after[1] - after[0]);
    expect(widest).toBeLessThan(3);
    expect(after[0]).toBeLessThan(before[1] + 0.01);
    expect(after[1]).toBeGreaterThan(before[0] - 0.01);
    // It knows that it may not be the only one.
    await two.type("dmesg | grep -c 'due to virtual machine fork'");
    await two.guest.line.has(/^1$/m);
    // Its kernel is with the process that booted it.
    await two.type("reboot -f");
    await new Line(host, `/tmp/${two.guest.name}.log`).has(/wants to start anew[\s\S]*exit 0$/m);
  }, 300_000);

  test.each(GUEST_KERNELS)(
    "%s drives the balloon, and names its free pages",
    async (version) => {
      const one = await new Shell(host).begin(shellGuest(version, "--balloon --cpus 2"));
      await one.guest.line.has(/^guest is up/m);
      const { name } = one.guest;
      // Three quarters of it are used once, and free since: a file that is gone.
      await one.type("head -c 100000000 /dev/urandom >/tmp/x; rm /tmp/x; echo freed $((1 + 1))");
      await one.guest.line.has(/^freed 2/m);
      await host.run(`tram balloon ${name} 176M --timeout 30s`);
      const status = JSON.parse(await host.run(`tram status ${name} --json`));
      expect(status.balloon).toMatchObject({ isDriven: true, hints: true, actualBytes: 16 * 2 ** 20 });
      const two = await move(one.guest);
      const { hintedPages, reportedPages, balloonedPages } = two.report;
      expect(balloonedPages).toBe(4096);
      expect(hintedPages + reportedPages).toBeGreaterThan(16384); // 64 MiB of those that were used
      await host.run(`tram balloon ${two.name} 192M --timeout 30s && tram quit ${two.name}`);
    },
    300_000,
  );

  test("has disks: what it writes is in the file, also behind a reboot, and nobody else gets it meanwhile", async () => {
    await host.run(
      "dd if=/dev/zero of=/tmp/a.img bs=1M count=16 2>/dev/null && dd if=/dev/urandom of=/tmp/b.img bs=1k count=300 2>/dev/null",
    );
    const disks = "--disk /tmp/a.img --disk /tmp/b.img,mode=ro";
    const one = await new Shell(host).begin(shellGuest("6.12", `--cpus 2 ${disks}`));
    const { line } = one.guest;
    await line.has(/^guest is up/m);
    await one.type(
      "cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vda/ro /sys/block/vdb/ro | tr '\\n' ' '; echo sizes",
    );
    await line.has(/^32768 600 0 1 sizes/m);
    const sum = async (path: string) => (await host.run(`md5sum <${path}`)).split(" ")[0];
    await one.type("md5sum </dev/vdb | sed s/^/b:/");
    expect((await line.has(/^b:([0-9a-f]{32})/m))[1]).toBe(await sum("/tmp/b.img"));

    // Two writers at once, and what they read back; past the guest's own cache.
    await one.type(
      "for i in 0 8; do (dd if=/dev/urandom of=/tmp/x$i bs=1M count=8; dd if=/tmp/x$i of=/dev/vda bs=64k seek=$((i * 16)) conv=fsync) 2>/dev/null & done; wait; cat /tmp/x0 /tmp/x8 | md5sum | sed s/^/x:/",
    );
    const [, written] = await line.has(/^x:([0-9a-f]{32})/m);
    expect(await sum("/tmp/a.img")).toBe(written);
    await one.type("echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vda | sed s/^/a:/");
    expect((await line.has(/^a:([0-9a-f]{32})/m))[1]).toBe(written);
    await one.type("echo no >/dev/vdb; echo read-only: $?");
    await line.has(/^read-only: 1/m);

    // Another guest is refused, and a file beside which it would write on; the guest goes on.
    for (const command of [
      `tram run --kernel /boot/vmlinuz-6.12 --disk /tmp/a.img`,
      `tram save ${one.guest.name} /tmp/x.tram --after resume`,
    ]) {
      const { code, stderr } = await host.exec(command);
      expect({ command, code, stderr }).toEqual({ command, code: 7, stderr: expect.stringContaining("/tmp/a.img") });
    }
    await one.type("reboot -f");
    await line.has(/^guest is up[\s\S]*^guest is up/m);
    await one.type("md5sum </dev/vda | sed s/^/again:/; blkdiscard -o 1M -l 2M /dev/vda && echo gone: $?");
    expect((await line.has(/^again:([0-9a-f]{32})/m))[1]).toBe(written);
    await line.has(/^gone: 0/m);
    expect(Number((await host.run("du -k /tmp/a.img")).split("\t")[0])).toBe(14 * 1024);
    await one.type("poweroff -f");
    await new Line(host, `/tmp/${one.guest.name}.log`).has(/has shut down\nexit 0$/m);
  }, 300_000);

  test("is told of a disk that fills, and that is cut short, and goes on", async () => {
    await host.run(
      "mkdir -p /tmp/small && mount -t tmpfs -o size=4M small /tmp/small && truncate -s 8M /tmp/small/a.img && dd if=/dev/zero of=/tmp/c.img bs=1M count=4 2>/dev/null",
    );
    const one = await new Shell(host).begin(shellGuest("6.12", "--disk /tmp/small/a.img --disk /tmp/c.img"));
    const { line } = one.guest;
    await line.has(/^guest is up/m);
    await one.type("dd if=/dev/urandom of=/dev/vda bs=1M count=8 conv=fsync 2>/dev/null; echo full: $?");
    await line.has(/^full: 1/m);
    await host.run("truncate -s 1M /tmp/c.img");
    await one.type("dd if=/dev/vdb of=/dev/null bs=1M 2>/dev/null; echo short: $?");
    await line.has(/^short: 1/m);
    await one.type("dd if=/dev/vdb of=/dev/null bs=64k count=16 2>/dev/null; echo begins: $?");
    await line.has(/^begins: 0/m);
    const said = await one.log();
    expect(said).toContain("the disk /tmp/small/a.img fails");
    expect(said).toContain("ENOSPC");
    expect(said).toContain("the disk /tmp/c.img fails");
    await host.run(`tram quit ${one.guest.name}`);
  }, 300_000);
});
