// The tenth part of make bench: stock Linux guests in emulated hosts. How long until one has booted, and until one out of a file
// answers, beside QEMU's microvm in the same host; what moves of guests that have used their memory and freed it come to; and many
// moves of one that uses memory and frees it all the time. Prints each sample as a line of JSON, writes LINUX.md. BENCH_QUICK=1: few
// rounds, into build/bench/.
import { copyFileSync, cpSync, mkdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { FinalReport } from "../../src/cli/report.ts";
import { EMULATOR, type EmulatedHost, Hosts, whyNoHosts, whyNoShare } from "../support/hosts.ts";
import { type Guest, nameGuest, Shell, shellGuest } from "../support/linux-guests.ts";
import { qemuCommand } from "../support/qemu.ts";
import { contest, type Extent, environment, print, type Samples } from "./contest.ts";
import { qemuVersion } from "./qemu.ts";
import { median, quantile, ratios, spread, table, verdict } from "./stats.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const MIB = 2 ** 20;
const VERSION = "6.12";
const STARTS: Extent = { rounds: QUICK ? 2 : 20, seconds: 900 };
const MOVES: Extent = { rounds: QUICK ? 1 : 2, seconds: 1500 };
const CHURN_MOVES = QUICK ? 4 : 50;
const AGED_MIB = 2048;
const AIM = 0.3;
const BUILD = resolve(import.meta.dir, "../../build");
const RESULTS = join(QUICK ? join(BUILD, "bench") : import.meta.dir, QUICK ? "LINUX.quick.md" : "LINUX.md");
const FILES = `--kernel /boot/vmlinuz-${VERSION} --initrd /boot/shell-${VERSION}.cpio`;
const APPEND = "console=ttyS0 quiet cryptomgr.notests";

const reason = whyNoHosts() ?? whyNoShare();
if (reason) {
  print({ section: "linux", skipped: reason });
  process.exit(0);
}

await using all = await Hosts.boot(2, { cpus: 1, memoryMib: 3584, share: true });
const [a, b] = all.hosts as [EmulatedHost, EmulatedHost];
const shared = (name: string): string => join(all.share as string, name);

// --- starts

/** As pidof knows QEMU: its loader starts it. */
const QEMU_PROCESS = "ld-linux-x86-64.so.2";

/** QEMU's smallest, with all that it needs, in the host's memory. */
async function bringQemu(): Promise<string> {
  const [binary, ...options] = qemuCommand(EMULATOR).argv;
  const microvm = `${binary}-microvm`;
  mkdirSync(shared("qemu/lib"), { recursive: true });
  copyFileSync(microvm, shared("qemu/microvm"));
  for (const [, path] of Bun.spawnSync(["ldd", microvm])
    .stdout.toString()
    .matchAll(/(\/\S+) \(0x/g))
    copyFileSync(path, shared(`qemu/lib/${basename(path)}`));
  for (const folder of options.filter((one) => one !== "-L")) cpSync(folder, shared(`qemu/${basename(folder)}`), { recursive: true }); // biome-ignore format: one line
  await a.run("cp -r /share/qemu /tmp/qemu");
  const loader = "/tmp/qemu/lib/ld-linux-x86-64.so.2 --library-path /tmp/qemu/lib";
  return `${loader} /tmp/qemu/microvm -L /tmp/qemu/qemu -L /tmp/qemu/seabios -M microvm -accel kvm -cpu host -m 192 -nodefaults -no-user-config -display none -serial stdio -kernel /boot/vmlinuz-${VERSION} -initrd /boot/shell-${VERSION}.cpio -append '${APPEND}'`;
}

/** From the command to a line of the guest's that has this; then it is killed. In seconds. */
async function untilLine(command: string, typed: string, line: string, process: string): Promise<{ seconds: number }> {
  const now = "$(cut -d' ' -f1 /proc/uptime)";
  const end = `kill -9 $(pidof ${process}) $(pidof sleep)`;
  const watch = `while read -r l; do case "$l" in *"${line}"*) echo ${now}; ${end}; exit;; esac; done`;
  const output = await a.run(`sync; echo ${now}; { echo '${typed}'; sleep 60; } | ${command} 2>/tmp/bench.err | { ${watch}; }; sleep 0.3`); // biome-ignore format: one line
  const [from, to] = output.trim().split("\n").map(Number);
  if (!to) throw new Error(`no '${line}': ${await a.run("cat /tmp/bench.err")}`);
  return { seconds: to - from };
}

/** What comes before everything else: the executable itself. In seconds. */
async function untilVersion(command: string): Promise<{ seconds: number }> {
  const now = "cut -d' ' -f1 /proc/uptime";
  const output = await a.run(`sync; ${now}; ${command} --version >/tmp/bench.version && ${now}`);
  const [from, to] = output.trim().split("\n").map(Number);
  return { seconds: to - from };
}

const qemu = await bringQemu();
const begins = await contest(
  "start",
  { tram: () => untilVersion("tram"), "QEMU microvm": () => untilVersion(qemu.split(" -M ")[0]) },
  STARTS,
);
const tram = `tram run ${FILES} --append '${APPEND}' --memory 192M --serial stdio --name bench`;
const boots = await contest(
  "boot",
  {
    tram: () => untilLine(tram, "", "guest is up", "tram"),
    "QEMU microvm": () => untilLine(qemu, "", "guest is up", QEMU_PROCESS),
  },
  STARTS,
);

/** Files to come back out of: a guest whose shell waits. */
async function keep(): Promise<void> {
  const one = await new Shell(a).begin(`tram run ${FILES} --append '${APPEND}' --memory 192M`);
  await one.guest.line.has(/^guest is up/m);
  await Bun.sleep(3000);
  await a.run(`tram save ${one.guest.name} /tmp/bench.tram`);
  await a.run("mkfifo /tmp/qemu.in && { sleep 1000 >/tmp/qemu.in & } && mkfifo /tmp/mon.in && { sleep 1000 >/tmp/mon.in & }");
  await a.run(`{ ${qemu.replace("-serial stdio", "-serial stdio -qmp unix:/tmp/q.qmp,server=on,wait=off")} </tmp/qemu.in >/tmp/qemu.line 2>&1; } >/dev/null 2>&1 &`);
  await a.run("for i in $(seq 300); do grep -q 'guest is up' /tmp/qemu.line && break; sleep 0.2; done; sleep 3");
  await a.run("tram save unix:/tmp/q.qmp /tmp/bench.qemu", 120_000);
  await a.run("kill $(pidof sleep)");
} // biome-ignore format: as it is typed

await keep();
const answers = await contest(
  "restore",
  {
    "tram, lazy": () => untilLine("tram restore /tmp/bench.tram --serial stdio --name bench", "echo po''ng", "pong", "tram"), // biome-ignore format: one line
    "tram, eager": () => untilLine("tram restore /tmp/bench.tram --eager --serial stdio --name bench", "echo po''ng", "pong", "tram"), // biome-ignore format: one line
    "QEMU microvm": () =>
      untilLine(
        `${qemu} -global migration.mapped-ram=on -incoming file:/tmp/bench.qemu`,
        "echo po''ng",
        "pong",
        QEMU_PROCESS,
      ),
  },
  STARTS,
);

function startTable(found: Samples<{ seconds: number }>, to: string): string {
  const base = found[to].map(({ seconds }) => seconds);
  const rows = Object.entries(found).map(([name, of]) => {
    const seconds = of.map((one) => one.seconds);
    return [name, quantile(seconds, 0.5).toFixed(2), quantile(seconds, 0.99).toFixed(2), `${of.length}`, spread(ratios(seconds, base))]; // biome-ignore format: one line
  });
  return table(["", "p50, s", "p99, s", "starts", `÷ ${to}`], rows);
}

// --- moves of guests that were used

interface Way {
  balloon: boolean;
  options: string;
  lookAtAll?: boolean;
}

const WAYS: Record<string, Way> = {
  neither: { balloon: false, options: "--no-skip-free", lookAtAll: true },
  "untouched-skip": { balloon: false, options: "--no-skip-free" },
  hints: { balloon: true, options: "" },
  "hints, cache dropped": { balloon: true, options: "--page-cache drop" },
};
const BUSY = "while :; do head -c 4000000 /dev/urandom >/tmp/busy; md5sum /tmp/busy >/dev/null; done &";

let port = 5000;

async function arrive(to: EmulatedHost, options = ""): Promise<Guest & { uri: string }> {
  const { name, line } = nameGuest(to);
  const uri = `tcp:${to.address}:${++port}`;
  await to.run(`tram run -d --incoming ${uri} --name ${name} --serial file:${line.path} ${options}`);
  return { name, line, uri };
}

async function send(from: EmulatedHost, name: string, uri: string, options: string, env = ""): Promise<FinalReport> {
  const output = await from.run(`${env} tram migrate ${name} ${uri} ${options} --max-downtime 2s --timeout 2m --json`, 150_000); // biome-ignore format: one line
  const report: FinalReport = JSON.parse(output.trim().split("\n").at(-1) as string);
  if (report.outcome !== "completed") throw new Error(JSON.stringify(report.error));
  return report;
}

await Bun.$`truncate -s 40M ${shared("cache")}`.quiet();
await Bun.$`mkfs.ext4 -q -F ${shared("cache")}`.quiet();

/** Boots one, has it use 80 % of its memory and free it again but for a file's cache, and moves it. */
async function moveAged(way: Way, isBusy: boolean): Promise<{ seconds: number; mib: number; report: FinalReport }> {
  const start = `tram run ${FILES} --append '${APPEND}' --memory ${AGED_MIB}M --disk /share/cache ${way.balloon ? "--balloon" : ""}`;
  const one = await new Shell(a).begin(start);
  const { line, name } = one.guest;
  await line.has(/^guest is up/m);
  const used = Math.floor(AGED_MIB * 0.8) - 90; // its kernel and its programs use the rest
  await one.type(
    `mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; head -c 30000000 /dev/urandom >/mnt/f; sync; mount -o remount,size=95% /tmp; head -c 1000000 /dev/urandom >/tmp/r; for i in $(seq ${used}); do cat /tmp/r; done >/tmp/x; rm /tmp/x; md5sum </mnt/f >/tmp/s; sync; echo used $((1 + 1))`, // biome-ignore format: as it is typed
  );
  await line.has(/^used 2/m);
  await one.type(`${isBusy ? BUSY : ""} sleep 15; echo aged $((1 + 1))`); // by then it has reported what it has freed
  await line.has(/^aged 2/m);
  const there = await arrive(b);
  const report = await send(a, name, there.uri, way.options, way.lookAtAll ? "TRAM_LOOK_AT_ALL=1" : "");
  await b.run(`tram quit ${there.name}`);
  return { seconds: report.elapsedMs / 1000, mib: report.bytes / MIB, report };
}

const aged: Record<string, Samples<Awaited<ReturnType<typeof moveAged>>>> = {};
for (const load of ["idle", "busy"])
  aged[load] = await contest(
    `moves, ${load}`,
    Object.fromEntries(Object.entries(WAYS).map(([name, way]) => [name, () => moveAged(way, load === "busy")])),
    { ...MOVES, seconds: MOVES.seconds / 2 },
  );

const agedRows = Object.entries(aged).flatMap(([load, samples]) =>
  Object.entries(samples).map(([name, of]) => {
    const base = samples.neither;
    const share = (pick: (one: (typeof of)[number]) => number) => spread(ratios(of.map(pick), base.map(pick)));
    const pages = (pick: (report: FinalReport) => number | undefined) => `${Math.round(median(of.map(({ report }) => pick(report) ?? 0)))}`; // biome-ignore format: one line
    return [
      `${load}, ${name}`,
      spread(of.map(({ mib }) => mib), 1),
      share(({ mib }) => mib),
      spread(of.map(({ seconds }) => seconds)),
      share(({ seconds }) => seconds),
      spread(of.map(({ report }) => (report.cacheDrop?.elapsedMs ?? 0) / 1000)),
      pages(({ hintedPages }) => hintedPages),
      pages(({ reportedPages }) => reportedPages),
    ]; // biome-ignore format: rows
  }),
);

// --- many moves of one that uses memory and frees it

const CHURN =
  'work() { i=0; while :; do i=$((i + 1)); head -c $((1000000 + i % 7 * 3000000)) /dev/urandom >/tmp/c$((i % 3)); md5sum </tmp/c$((i % 3)) >/tmp/m$((i % 3)); j=$(((i + 1) % 3)); if [ ! -e /tmp/m$j ] || [ "$(md5sum </tmp/c$j)" = "$(cat /tmp/m$j)" ]; then echo tick $i ok; else echo tick $i bad; fi; rm -f /tmp/c$(((i + 2) % 3)) /tmp/m$(((i + 2) % 3)); done; }';
const churning = await new Shell(a).begin(shellGuest(VERSION, "--balloon --cpus 2"));
await churning.guest.line.has(/^guest is up/m);
await churning.type(CHURN);
await churning.type("work &");
let now: Guest = churning.guest;
await now.line.ticks(3);
const churn: FinalReport[] = [];
for (let i = 0; i < CHURN_MOVES; i++) {
  const [from, to] = i % 2 === 0 ? [a, b] : [b, a];
  const there = await arrive(to);
  const report = await send(from, now.name, there.uri, "");
  there.line.before = await now.line.text();
  now = there;
  await now.line.ticks(2); // every file was as it was written
  churn.push(report);
  print({ section: "churn", move: i + 1, ...report });
}
const last = await now.line.ticks(1);

const idle = median(
  ratios(
    aged.idle.hints.map(({ seconds }) => seconds),
    aged.idle.neither.map(({ seconds }) => seconds),
  ),
);
const hinted = churn.reduce((sum, { hintedPages }) => sum + hintedPages, 0);
const resent = churn.reduce((sum, { resentPages }) => sum + resentPages, 0);

await Bun.write(
  RESULTS,
  `# Linux guests

Debian's kernel ${VERSION} for clouds in emulated hosts (QEMU's TCG, one processor each, in which KVM runs): seconds there say
nothing of real hardware, the ratios beside them a little more. Each row's contestants took turns.

${await environment(await qemuVersion(qemuCommand(EMULATOR)))}

## Boot

From the command to the guest's first line in user space: 192 MiB, one vCPU, the same kernel and initrd. QEMU is its build of only the microvm
machine, \`-cpu host\`.

${startTable(boots, "QEMU microvm")}

## Out of a file

From the command to a shell's answer to a line that was typed before it ran. Both files have
fixed offsets, as \`tram save\` makes them (tram's with hashes, which are compared); QEMU reads its with \`mapped-ram\`.

${startTable(answers, "QEMU microvm")}

Of that the executable's own start, \`--version\`, which an emulated processor makes long:

${startTable(begins, "QEMU microvm")}

## Free pages

A guest of ${AGED_MIB} MiB that has used 80 % of its memory, and freed it but for 30 MB of page cache; booted anew for each move between two hosts. Without a
balloon: neither, where pages are looked at that nobody has touched, too; and untouched-skip. With a balloon, which also reports free pages: hints.

${table(["", "MiB sent", "÷ neither", "s", "÷ neither", "s before, for the cache", "hinted pages", "reported pages"], agedRows)}

Idle, hints ÷ neither, time: ${idle.toFixed(2)} (aim: at most ${AIM}): ${verdict(idle <= AIM)}.

## Churn

${churn.length} moves, to and fro, of a guest with two vCPUs that writes files in memory, verifies and removes them all the time: ${last.length} times a file was compared
with its sum, and was as it was written, each time. ${hinted} pages were left out because it had named them free; ${resent} were sent again. Time ${spread(churn.map(({ elapsedMs }) => elapsedMs / 1000))} s, downtime ${spread(
    churn.map(({ downtimeMs }) => downtimeMs ?? 0),
    0,
  )} ms.
`,
);
process.exit(0);
