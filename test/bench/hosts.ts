// The fifth part of make bench: a paused guest moved to and fro between two emulated hosts, with zero-copy and without, while
// their CPUs have nothing else to do, and while they have. Prints each sample as a line of JSON, writes HOSTS.md.
// BENCH_QUICK=1: few pairs, into build/bench/.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { EMULATOR, type EmulatedHost, Hosts, whyNoHosts } from "../support/hosts.ts";
import { qemuCommand } from "../support/qemu.ts";
import { environment, GIB, print } from "./contest.ts";
import { qemuVersion } from "./qemu.ts";
import { ratios, spread, table } from "./stats.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const GUEST_PAIRS = QUICK ? 2 : 10;
const GUEST_MIB = 256;
/** One CPU each, so that both fit on two cores. */
const HOST = { cpus: 1, memoryMib: 1536 };
const TICKS_PER_SECOND = 100;
const BUILD = resolve(import.meta.dir, "../../build");
const RESULTS = join(QUICK ? join(BUILD, "bench") : import.meta.dir, QUICK ? "HOSTS.quick.md" : "HOSTS.md");
const MODES = ["off", "on"] as const;
type Mode = (typeof MODES)[number];
const LOADS = ["idle", "busy"] as const;
type Load = (typeof LOADS)[number];

interface Move {
  seconds: number;
  bytes: number;
  /** Of the source's process, from just before the move is asked for until it is gone. */
  systemSeconds: number;
  userSeconds: number;
  systemCalls: number;
  zeroCopyBytes: number;
  copiedByKernelBytes: number;
}

/** user and system, in seconds, of fields of /proc/PID/stat; 14 and 15 are its own, 16 and 17 those of children that ended. */
function seconds(stat: string, field: number): [number, number] {
  const rest = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return [Number(rest[field - 3]) / TICKS_PER_SECOND, Number(rest[field - 2]) / TICKS_PER_SECOND];
}

/** Behind its end, the CPU time that it took is in /tmp/guest.end. */
async function start(host: EmulatedHost, options: string, status: string): Promise<void> {
  await host.run("rm -f /tmp/guest.end");
  const run = `tram run ${options} --memory ${GUEST_MIB}M --prealloc --name guest >/tmp/guest.log 2>&1`;
  await host.run(`sh -c '${run}; cat /proc/$$/stat >/tmp/guest.end' >/dev/null 2>&1 &`);
  await host.guestIs("guest", status);
}

let port = 4000;

async function move(from: EmulatedHost, to: EmulatedHost, mode: Mode): Promise<Move> {
  const uri = `tcp:${to.address}:${++port}`;
  await start(to, `--incoming ${uri}`, "inmigrate");
  const before = seconds(await from.run("cat /proc/$(pidof tram)/stat"), 14);
  const command = `tram migrate guest ${uri} --channels 1 --zero-copy ${mode} --max-downtime 60s --json`;
  const report = JSON.parse((await from.run(command)).trim().split("\n").at(-1) as string);
  if (report.outcome !== "completed") throw new Error(`the move: ${JSON.stringify(report.error)}`);
  const stat = await from.run("while [ ! -s /tmp/guest.end ]; do sleep 0.1; done; cat /tmp/guest.end");
  const after = seconds(stat, 16);
  const [channel] = report.channels;
  return {
    seconds: report.elapsedMs / 1000,
    bytes: channel.bytes,
    userSeconds: after[0] - before[0],
    systemSeconds: after[1] - before[1],
    systemCalls: channel.systemCalls,
    zeroCopyBytes: channel.zeroCopyBytes,
    copiedByKernelBytes: channel.copiedByKernelBytes,
  };
}

/** As many as it has CPUs. */
async function load(host: EmulatedHost): Promise<void> {
  for (let i = 0; i < HOST.cpus; i++) await host.run("sh -c 'while :; do :; done' >/dev/null 2>&1 &");
}

type Samples = Record<Mode, Move[]>;

/** Pairs of moves, whichever of a pair is first. */
async function moves(load: Load, [a, b]: EmulatedHost[]): Promise<Samples> {
  const samples: Samples = { off: [], on: [] };
  let [from, to] = [a, b];
  for (let pair = 1; pair <= GUEST_PAIRS; pair++) {
    for (const mode of pair % 2 ? MODES : MODES.toReversed()) {
      const sample = await move(from, to, mode);
      samples[mode].push(sample);
      print({ section: load, pair, mode, ...sample });
      [from, to] = [to, from];
    }
  }
  return samples;
}

const perGib = (samples: Move[], pick: (one: Move) => number) => samples.map((one) => (pick(one) * GIB) / one.bytes);

function resultTable(found: Record<Load, Samples>): string {
  const rows = LOADS.flatMap((load) =>
    MODES.map((mode) => {
      const of = found[load][mode];
      const copied = of.map(({ copiedByKernelBytes, zeroCopyBytes }) => copiedByKernelBytes / zeroCopyBytes);
      return [
        `${load}, zero-copy ${mode}`,
        spread(of.map(({ seconds }) => seconds)),
        spread(perGib(of, ({ systemSeconds }) => systemSeconds)),
        spread(perGib(of, ({ userSeconds }) => userSeconds)),
        spread(
          perGib(of, ({ systemCalls }) => systemCalls),
          0,
        ),
        mode === "on" ? spread(copied) : "",
      ];
    }),
  );
  const head = ["", "seconds", "kernel CPU s/GiB", "user CPU s/GiB", "system calls/GiB", "copied by the kernel"];
  return table(head, rows);
}

function ratioTable(found: Record<Load, Samples>): string {
  const rows = LOADS.map((load) => {
    const { on, off } = found[load];
    const ratio = (pick: (one: Move) => number) => spread(ratios(on.map(pick), off.map(pick)));
    return [load, ratio((one) => one.seconds), ratio((one) => one.systemSeconds / one.bytes)];
  });
  return table(["zero-copy on ÷ off, pair by pair", "time", "kernel CPU"], rows);
}

async function main(): Promise<void> {
  const host = await environment(await qemuVersion(qemuCommand(EMULATOR)));
  await using all = await Hosts.boot(2, HOST);
  const { hosts } = all;
  const [a, b] = hosts;
  await start(a, "--guest walker --fill mixed --working-set 4M --paused", "paused");
  // There and back, in no table.
  await move(a, b, "off");
  await move(b, a, "on");
  const idle = await moves("idle", hosts);
  for (const one of hosts) await load(one);
  const found = { idle, busy: await moves("busy", hosts) };
  const checked = (await a.exec("tram check-guest guest")).stdout.trim();
  await Bun.write(
    RESULTS,
    `# Results of \`make bench\`: two hosts

A paused guest of ${GUEST_MIB} MiB, a quarter of it zero, moved to and fro between two hosts with \`--channels 1\`, ${GUEST_PAIRS} pairs of moves with
\`--zero-copy off\` and \`on\`, whichever of a pair is first. **These hosts are emulated**: each is one CPU of QEMU's TCG with Linux
${(await a.run("uname -r")).trim()} and its KVM, joined by tap devices and a bridge. So the seconds say nothing of real hardware; what they
show is whether copying is left out where the kernel can leave it out, and what that saves. **busy**: one endless loop for each CPU of both.
CPU times are those of the source's whole process from just before the move is asked for until it has ended, as its host counts
them, a hundred ticks a second; a paused guest's process has little else to do in the kernel than to send.

${host}

${resultTable(found)}

${ratioTable(found)}

Behind ${4 * GUEST_PAIRS + 2} moves \`tram check-guest\` says: ${checked}
`,
  );
}

mkdirSync(join(BUILD, "bench"), { recursive: true });
const why = whyNoHosts();
if (why) print({ section: "hosts", skipped: why });
else await main();
