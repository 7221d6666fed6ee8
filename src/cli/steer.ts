// tram ps, status, pause, resume, quit, check-guest: look at running guests and steer them, tram's and QEMU's.
import { type RestoreJournal, unverifiedPages } from "../control/restore.ts";
import { EXIT, formatError, TramError, toErrorData } from "../errors.ts";
import type { BalloonFacts } from "../machine/balloon.ts";
import { command, type TramCommand } from "./command.ts";
import { print, say } from "./console.ts";
import { JSON_ARG, VM_ARG, withGuest } from "./guest.ts";
import {
  type MoveFacts,
  NO_ANSWER,
  readBalloon,
  readFreePages,
  readMove,
  readRestore,
  readStatus,
  readTracking,
  type Status,
} from "./guest-facts.ts";
import { JSON_SCHEMA } from "./report.ts";
import { guestNames } from "./runtime.ts";
import { moveText } from "./top-rows.ts";
import { formatBytes, formatCount } from "./units.ts";

function balloonLine({ balloon, memory }: Status & { balloon?: BalloonFacts }): string {
  if (!balloon) return "";
  const { isDriven, actualBytes, wantedBytes, hints } = balloon;
  if (!isDriven) return "\nballoon: the guest has no driver for it";
  const wanted = wantedBytes === actualBytes ? "" : `, of ${formatBytes(wantedBytes)} that it is to give up`;
  const told = hints ? "; it tells which pages are free" : "";
  return `\nballoon: ${formatBytes(actualBytes)} given up${wanted}, ${formatBytes(memory - actualBytes)} left${told}`;
}

/** For a person: where the memory comes from, and what of it nobody has looked at yet. */
function restoreLines(restore: RestoreJournal | undefined): string {
  if (!restore) return "";
  const { file, phase, mapped, verify, error } = restore;
  const left = unverifiedPages(restore);
  const state = !verify ? "not verified" : left ? `${formatCount(left)} pages not verified yet` : "all verified";
  const where = mapped ? "its memory is the mapped file" : "its memory is its own";
  const lines = [`from ${file}: ${phase === "done" ? "all here" : phase}, ${state}; ${where}`];
  if (error) lines.push(formatError(error));
  return `\n${lines.join("\n")}`;
}

const moveLine = (facts: MoveFacts): string => (facts.move ? `\nmove: ${moveText(facts)}` : "");

const statusLine = ({ name, status, memory, cpus }: Status): string =>
  `${name.padEnd(20)} ${status.padEnd(16)} ${(memory ? formatBytes(memory) : "-").padEnd(10)} ${cpus || "-"}`;

const HEADING = `${"NAME".padEnd(20)} ${"STATUS".padEnd(16)} ${"MEMORY".padEnd(10)} CPUS`;

export const status = command({
  name: "status",
  summary: "shows one guest's state",
  args: { vm: VM_ARG, json: JSON_ARG },
  examples: ["tram status a", "tram status unix:/run/qemu.qmp --json"],
  async run(args) {
    const found = await withGuest(args.vm, async (client) => {
      const status = {
        ...(await readStatus(client, args.vm)),
        ...(await readMove(client)),
        ...(await readRestore(client)),
        ...(await readBalloon(client)),
      };
      return args.json ? { ...status, ...(await readFreePages(client)), ...(await readTracking(client)) } : status;
    });
    const text = `${HEADING}\n${statusLine(found)}${moveLine(found)}${restoreLines(found.restore)}${balloonLine(found)}`;
    print(args.json ? JSON.stringify({ schema: JSON_SCHEMA, ...found }) : text);
    return EXIT.done;
  },
});

export const ps = command({
  name: "ps",
  summary: "lists this user's guests",
  args: { json: { ...JSON_ARG, description: "a JSON list on standard output" } },
  examples: ["tram ps", "tram ps --json"],
  async run(args) {
    const rows: Status[] = [];
    for (const name of guestNames()) {
      try {
        rows.push(await withGuest(name, (client) => readStatus(client, name)));
      } catch (error) {
        // A socket nobody is behind is what a killed guest leaves; the next guest of its name takes it over.
        if (error instanceof TramError && error.code === "E_NO_SUCH_GUEST") continue;
        say(formatError(toErrorData(error)));
        rows.push({ name, status: NO_ANSWER, memory: 0, cpus: 0 });
      }
    }
    print(
      args.json
        ? JSON.stringify(rows.map((row) => ({ schema: JSON_SCHEMA, ...row })))
        : [HEADING, ...rows.map(statusLine)].join("\n"),
    );
    return EXIT.done;
  },
});

function steering(name: string, summary: string, qmp: string): TramCommand {
  return command({
    name,
    summary,
    args: { vm: VM_ARG },
    examples: [`tram ${name} a`],
    async run(args) {
      await withGuest(args.vm, (client) => client.execute(qmp));
      return EXIT.done;
    },
  });
}

export const pause = steering("pause", "stops a guest's CPUs", "stop");
export const resume = steering("resume", "lets a stopped guest run", "cont");
export const quit = steering("quit", "ends a guest", "quit");

interface CheckResult {
  pages: number;
  nonZero: number;
  /** Of the pages that may be free, those that are in use. */
  reused: number;
  bad: number;
  firstBad?: { page: number; offset: number };
  badCpus: number;
  /** How often a vCPU was stopped in the middle of a port read, and of a memory read, since the guest booted. */
  stoppedInPio: number;
  stoppedInMmio: number;
  cpus: { pass: number; position: number; boundary: number; error: number }[];
}

export const checkGuest = command({
  name: "check-guest",
  summary: "verifies every page of a paused walker",
  args: { vm: VM_ARG, json: JSON_ARG },
  examples: ["tram pause a && tram check-guest a && tram resume a"],
  async run(args) {
    const result = await withGuest(args.vm, (client) => client.execute<CheckResult>("tram-check-guest"));
    const good = result.bad === 0 && result.badCpus === 0;
    if (args.json) print(JSON.stringify({ schema: JSON_SCHEMA, name: args.vm, good, ...result }));
    else
      print(
        `${args.vm}: ${formatCount(result.pages)} pages checked, ${formatCount(result.nonZero)} not zero, ${result.bad} wrong; ${result.cpus.map((cpu, i) => `CPU ${i} in pass ${cpu.pass} at page ${cpu.boundary}`).join(", ")}`,
      );
    if (good) return EXIT.done;
    const { firstBad } = result;
    throw new TramError("E_GUEST_BAD", `the memory of '${args.vm}' is not what its walker wrote`, {
      where: firstBad ? `page ${firstBad.page}, byte ${firstBad.offset}` : "a vCPU's progress",
      found: `${result.bad} wrong pages, ${result.badCpus} vCPUs whose progress and records disagree`,
      next: "memory was lost or changed on the way: keep this process and the logs of the last move",
    });
  },
});
