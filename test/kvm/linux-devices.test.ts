// A stock kernel's sockets to its host, and its network, in an emulated host: what travels, and what it finds where it has come to.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type EmulatedHost, Hosts, whyNoHosts } from "../support/hosts.ts";
import { type Guest, nameGuest, Shell, shellGuest } from "../support/linux-guests.ts";

const reason = whyNoHosts();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

describe.skipIf(reason !== null)(title("a stock Linux kernel"), () => {
  let all: Hosts;
  let host: EmulatedHost;
  beforeAll(async () => {
    all = await Hosts.boot(1, { cpus: 1, memoryMib: 1024 });
    [host] = all.hosts;
  }, 180_000);
  afterAll(async () => await all?.[Symbol.asyncDispose]());

  async function move(from: Guest, options = ""): Promise<Guest> {
    const { name, line } = nameGuest(host);
    await host.run(
      `tram run -d --incoming unix:/tmp/${name}.sock --name ${name} --serial file:${line.path} ${options}`,
    );
    await host.run(`tram migrate ${from.name} unix:/tmp/${name}.sock --max-downtime 5s`);
    line.before = await from.line.text();
    return { name, line };
  }

  test("is spoken to by sockets of its host's, and speaks to them; where it has come to, it listens on", async () => {
    const one = await new Shell(host).begin(shellGuest("6.12", "--vsock"));
    await one.guest.line.has(/^guest is up/m);
    await one.type("vsock listen 7 cat & vsock listen 8 md5sum & vsock listen 9 sh -c 'echo hi | vsock connect 70' & sleep 1; echo listens");
    await one.guest.line.has(/^listens/m);
    await host.run("head -c 1500000 /dev/urandom >/tmp/x");
    const sum = (await host.run("md5sum </tmp/x")).split(" ")[0];
    const says = async (name: string) => {
      expect(await host.run(`tram connect ${name} 7 </tmp/x | md5sum`)).toContain(sum); // there and back
      expect(await host.run(`tram connect ${name} 8 </tmp/x`)).toContain(sum); // heard to its end, and then answered
    };
    await says(one.guest.name);
    const refused = await host.exec(`tram connect ${one.guest.name} 99 </dev/null`);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("nobody listens on port 99") });
    // Several at once, each with its own.
    const many = await host.run(`for i in 1 2 3 4 5; do echo $i | tram connect ${one.guest.name} 7 & done; wait`);
    expect(many.trim().split("\n").sort()).toEqual(["1", "2", "3", "4", "5"]);

    // What is connected when it goes ends; who connects again is heard.
    await host.run(`{ echo first; sleep 100; } | tram connect ${one.guest.name} 7 >/tmp/open.out 2>/tmp/open.err &`);
    await host.run("for i in $(seq 100); do grep -q first /tmp/open.out && exit; sleep 0.1; done; exit 1");
    const two = await move(one.guest);
    await says(two.name);
    // The guest speaks first.
    await host.run(`vsock serve /run/user/tram/${two.name}.vsock_70 sh -c 'cat >/tmp/heard; echo heard by the host' >/dev/null 2>&1 &`);
    expect(await host.run(`tram connect ${two.name} 9 </dev/null`)).toContain("heard by the host");
    expect(await host.run("cat /tmp/heard")).toBe("hi\n");

    await host.run(`tram save ${two.name} /tmp/v.tram`);
    await host.run("tram restore -d /tmp/v.tram --name v1 && tram restore -d /tmp/v.tram --name v2");
    await says("v1");
    await says("v2");
    for (const name of ["v1", "v2"]) await host.run(`tram quit ${name}`);
    expect((await host.exec("ls /run/user/tram/*.vsock")).stdout).toBe("");
  }, 300_000); // biome-ignore format: as it is typed

  test("has a console, which is typed into, many bytes at once; and goes on with it where it has come to", async () => {
    const boot = shellGuest("6.12", "--console stdio")
      .replace("console=ttyS0", "console=hvc0")
      .replace(" --console stdio", "");
    const one = await new Shell(host).begin(boot, "console");
    await one.guest.line.has(/guest\$/); // its drivers come behind its first words

    const long = "0123456789".repeat(40);
    await one.type(`echo ${long} | wc -c; echo on $(tty)`);
    await one.guest.line.has(/^401\r?\non \/dev\/hvc0/m);
    await one.type("(sleep 1; i=0; while :; do i=$((i + 1)); echo tick $i ok; sleep 0.2; done) &");
    await one.guest.line.ticks(3);
    await host.run(`tram save ${one.guest.name} /tmp/c.tram`);
    const two = await new Shell(host).begin("tram restore /tmp/c.tram", "console");
    two.guest.line.before = await one.guest.line.text();
    await two.guest.line.ticks(3);
    await two.type("echo typed $((6 * 7))");
    await two.guest.line.has(/^typed 42/m);
    await host.run(`tram quit ${two.guest.name}`);
  }, 300_000);

  test("has a network, and keeps a connection when it comes to another port of a switch", async () => {
    await host.run("ip link add br0 type bridge && ip addr add 10.9.0.1/24 dev br0 && ip link set br0 up");
    for (const tap of ["tap0", "tap1"])
      await host.run(`tunctl -t ${tap} && ip link set ${tap} master br0 && ip link set ${tap} up`);
    const one = await new Shell(host).begin(shellGuest("6.12", "--cpus 2 --net tap:tap0,mac=52:54:00:00:09:02"));
    await one.guest.line.has(/^guest is up/m);
    await one.type("ip addr add 10.9.0.2/24 dev eth0; ip link set lo up; ip link set eth0 up; cat /sys/class/net/eth0/address; while :; do nc -l -p 5000 -e cat; done &");
    await one.guest.line.has(/^52:54:00:00:09:02/m);
    await host.run("ping -c 3 -w 20 10.9.0.2");
    await host.run("head -c 1500000 /dev/urandom >/tmp/y");
    const sum = (await host.run("md5sum </tmp/y")).split(" ")[0];
    expect(await host.run("{ cat /tmp/y; sleep 3; } | nc -w 10 10.9.0.2 5000 | head -c 1500000 | md5sum")).toContain(sum);

    const busy = await host.exec("tram run --kernel /boot/vmlinuz-6.12 --net tap:tap0");
    expect(busy).toMatchObject({ code: 1, stderr: expect.stringMatching(/cannot open the tap tap0: EBUSY[\s\S]*another guest has it/) });
    // A target that has not been told of a network refuses; the guest goes on.
    await host.run("tram run --incoming unix:/tmp/no.sock --name no >/tmp/no.log 2>&1 &");
    await host.guestIs("no", "inmigrate");
    const refused = await host.exec(`tram migrate ${one.guest.name} unix:/tmp/no.sock`);
    expect(refused).toMatchObject({ code: 7, stderr: expect.stringContaining("the guest has a network card") });

    // A connection that says a number each half second, all the way.
    await host.run("sleep 1; { for i in $(seq 40); do echo $i; sleep 0.5; done; sleep 2; } | nc -w 30 10.9.0.2 5000 >/tmp/echo 2>&1 &");
    await host.run("for i in $(seq 100); do grep -q '^3$' /tmp/echo && exit; sleep 0.2; done; exit 1");
    const two = await move(one.guest, "--net tap:tap1");
    expect((await host.run("cat /tmp/echo")).trim().split("\n").length).toBeLessThan(40); // it was not over before
    await host.run("for i in $(seq 300); do grep -q '^40$' /tmp/echo && exit; sleep 0.2; done; exit 1");
    expect(await host.run("cat /tmp/echo")).toBe(Array.from({ length: 40 }, (_, i) => `${i + 1}\n`).join(""));

    await host.run(`tram save ${two.name} /tmp/n.tram`);
    const unsaid = await host.exec("tram restore /tmp/n.tram");
    expect(unsaid).toMatchObject({ code: 7, stderr: expect.stringContaining("the guest has a network card") });
    const three = await new Shell(host).begin("tram restore /tmp/n.tram --net none");
    await three.type("echo carrier $(cat /sys/class/net/eth0/carrier)");
    await three.guest.line.has(/^carrier 0/m);
    expect((await host.exec("ping -c 2 -w 3 10.9.0.2")).code).not.toBe(0);
    await host.run(`tram quit ${three.guest.name}`);
    const four = await new Shell(host).begin("tram restore /tmp/n.tram --net tap:tap1 --eager");
    await host.run("for i in $(seq 30); do ping -c 1 -w 1 10.9.0.2 && exit; done; exit 1");
    await host.run(`tram quit ${four.guest.name}`);
  }, 300_000); // biome-ignore format: as it is typed
});
