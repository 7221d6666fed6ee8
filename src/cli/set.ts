// tram set: changes what limits a move that is under way, tram's and QEMU's.
import { ON_TIMEOUT } from "../control/limits.ts";
import { EXIT, TramError } from "../errors.ts";
import { isQemu, QemuMigration } from "../qmp/migration.ts";
import { command, nearest } from "./command.ts";
import { say } from "./console.ts";
import { VM_ARG, withGuest } from "./guest.ts";
import { parseOnTimeout } from "./migrate.ts";
import { parseDuration, parseRate } from "./units.ts";

interface Knob {
  /** Under which tram's own guests know it, and its value. */
  tram(text: string): Record<string, unknown>;
  /** As a parameter of QEMU's; null: QEMU has none. */
  qemu: ((text: string) => Record<string, unknown>) | null;
}

const NONE = "none";
/** As long as it takes: 0 would be no downtime at all. QEMU takes no more than this, and no move stands still for longer. */
const ANY_DOWNTIME_MS = 2_000_000;
const rate = (text: string): number => (text === NONE ? 0 : parseRate(text, "max-bandwidth"));
const time = (text: string): number => (text === NONE ? 0 : parseDuration(text, "timeout"));
const downtime = (text: string): number => (text === NONE ? ANY_DOWNTIME_MS : parseDuration(text, "max-downtime"));

const KNOBS: Record<string, Knob> = {
  "max-bandwidth": {
    tram: (text) => ({ maxBandwidthBytesPerSec: rate(text) }),
    qemu: (text) => ({ "max-bandwidth": rate(text) }), // 0 is no limit there, too
  },
  "max-downtime": {
    tram: (text) => ({ maxDowntimeMs: downtime(text) }),
    qemu: (text) => ({ "downtime-limit": downtime(text) }),
  },
  timeout: { tram: (text) => ({ timeoutMs: time(text) }), qemu: null },
  hold: { tram: (text) => ({ hold: parseHold(text) }), qemu: null },
  "on-timeout": { tram: (text) => ({ onTimeout: parseOnTimeout(text) }), qemu: null },
};

export const set = command({
  name: "set",
  summary: "changes what limits a move that is under way",
  args: {
    vm: VM_ARG,
    settings: {
      type: "positional",
      description: `one or more of ${Object.keys(KNOBS).join("=, ")}=, with the values of tram migrate's options; none: no limit`,
      required: true,
      many: true,
      suggestions: [
        "max-bandwidth=",
        "max-downtime=",
        "timeout=",
        ...ON_TIMEOUT.map((what) => `on-timeout=${what}`),
        "hold=on",
        "hold=off",
      ],
    },
  },
  examples: [
    "tram set a max-bandwidth=500MiB/s",
    "tram set a max-downtime=1s timeout=2m on-timeout=throttle",
    "tram set a max-bandwidth=none",
    "tram set a hold=off                     # switch over now, if the move was started with --hold",
  ],
  async run(args) {
    const given = args._.slice(1).map(parseSetting);
    await withGuest(args.vm, async (client) => {
      if (await isQemu(client)) {
        await client.execute("migrate-set-parameters", forQemu(given));
        if ((await new QemuMigration(client).underWay()) === null)
          say(`'${args.vm}' does not move just now: QEMU keeps this for its next migration`);
      } else await client.execute("tram-set", Object.assign({}, ...given.map(({ knob, text }) => knob.tram(text))));
    });
    return EXIT.done;
  },
});

function parseHold(text: string): boolean {
  if (text === "on" || text === "off") return text === "on";
  throw new TramError("E_USAGE", `hold: '${text}' is not known`, { expected: "on or off" });
}

interface Setting {
  name: string;
  knob: Knob;
  text: string;
}

function parseSetting(setting: string): Setting {
  const at = setting.indexOf("=");
  const name = at < 0 ? setting : setting.slice(0, at);
  const knob = Object.hasOwn(KNOBS, name) ? KNOBS[name] : undefined;
  const near = knob ? null : nearest(name, Object.keys(KNOBS));
  if (!knob)
    throw new TramError("E_USAGE", `'${name}' cannot be set`, {
      expected: Object.keys(KNOBS).join(", "),
      ...(near && { next: `did you mean ${near}?` }),
    });
  if (at < 0) throw new TramError("E_USAGE", `${name} needs a value`, { expected: `${name}=VALUE` });
  return { name, knob, text: setting.slice(at + 1) };
}

function forQemu(given: readonly Setting[]): Record<string, unknown> {
  const parameters = given.map(({ name, knob, text }) => {
    if (knob.qemu) return knob.qemu(text);
    throw new TramError("E_REFUSED", `${name}: QEMU has no such limit`, { expected: "max-bandwidth or max-downtime" });
  });
  return Object.assign({}, ...parameters);
}
