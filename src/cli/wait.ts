// tram wait: until a guest is where a script wants it. It looks now and then, each time by a connection of its own: a monitor of
// QEMU's serves one client at a time, and others want to steer the guest meanwhile.
import { existsSync } from "node:fs";
import { EXIT, TramError } from "../errors.ts";
import { isQemu } from "../qmp/migration.ts";
import { command } from "./command.ts";
import { VM_ARG, withGuest } from "./guest.ts";
import { findSocket, isGone, logPathOf } from "./runtime.ts";
import { formatMs, parseDuration } from "./units.ts";

const LOOK_MS = 100;

const GOALS = ["running", "paused", "arrived", "exited"] as const;
type Goal = (typeof GOALS)[number];

/** Of a guest of tram's: from these none of the goals comes any more. QEMU's may be helped. */
const BROKEN = ["internal-error", "io-error", "shutdown"];

/** What was seen of a guest. "gone": nobody is behind its socket; null: its monitor is somebody else's just now. */
type Seen = { status: string; isBroken: boolean } | "gone" | null;

export const wait = command({
  name: "wait",
  summary: "waits until a guest is running, paused, arrived or gone",
  args: {
    vm: VM_ARG,
    for: {
      type: "string",
      description: `${GOALS.join(", ")} (default exited). arrived: all of an incoming guest is here, running or paused`,
      valueHint: "STATE",
      values: GOALS,
    },
    timeout: { type: "string", description: "the longest to wait (default: as long as it takes)", valueHint: "TIME" },
  },
  examples: ["tram wait a                             # until it has ended", "tram wait b --for arrived --timeout 1m"],
  async run(args) {
    const goal = GOALS.find((one) => one === (args.for ?? "exited"));
    if (!goal) throw new TramError("E_USAGE", `--for: '${args.for}' is not known`, { expected: GOALS.join(", ") });
    const timeoutMs = args.timeout === undefined ? Number.POSITIVE_INFINITY : parseDuration(args.timeout, "--timeout");
    const startedMs = performance.now();
    for (let last = ""; ; ) {
      const seen = await look(args.vm);
      if (seen === "gone" && goal !== "exited")
        throw new TramError(
          "E_STATE",
          `'${args.vm}' ${last ? "has ended" : "is not there"}, and will never be ${goal}`,
          {
            ...(last && { found: `it was ${last} before` }),
            next: "tram logs has what a detached guest said; tram ps lists who is there",
          },
        );
      if (seen === "gone" && !last && !existsSync(logPathOf(findSocket(args.vm))))
        throw new TramError("E_NO_SUCH_GUEST", `there is no guest '${args.vm}', and no log of one`, {
          next: "tram ps lists who is there: a guest in the foreground leaves nothing behind when it ends",
        });
      if (seen === "gone" || (seen && isReached(goal, seen.status))) return EXIT.done;
      if (seen?.isBroken && goal !== "exited")
        throw new TramError("E_STATE", `'${args.vm}' is in state '${seen.status}', and will never be ${goal}`, {
          next: `tram status ${args.vm} says more`,
        });
      last = seen?.status ?? last;
      const leftMs = startedMs + timeoutMs - performance.now();
      if (leftMs <= 0)
        throw new TramError("E_TIMED_OUT", `'${args.vm}' was not ${goal} in ${formatMs(timeoutMs)}`, {
          found: last || "its monitor is in use by another client",
        });
      await Bun.sleep(Math.min(LOOK_MS, leftMs));
    }
  },
});

function isReached(goal: Goal, status: string): boolean {
  if (goal === "arrived") return status === "running" || status === "paused";
  return status === goal;
}

async function look(vm: string): Promise<Seen> {
  try {
    return await withGuest(vm, async (client) => {
      const { status } = await client.execute<{ status: string }>("query-status");
      return { status, isBroken: BROKEN.includes(status) && !(await isQemu(client)) };
    });
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    if (error.code === "E_NO_SUCH_GUEST" && isGone(findSocket(vm))) return "gone";
    if (error.code === "E_MONITOR_IN_USE" || error.code === "E_QMP") return null; // it ends just now, or answers others
    throw error;
  }
}
