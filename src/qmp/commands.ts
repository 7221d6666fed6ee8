// The commands of a guest's QMP socket, under QEMU's names where QEMU has them. Pure but for the control it is given.
import { isOver, type Journal } from "../control/journal.ts";
import type { Limits } from "../control/limits.ts";
import type { Measured } from "../control/measure.ts";
import type { RestoreJournal } from "../control/restore.ts";
import { TramError, toErrorData } from "../errors.ts";
import type { BalloonFacts } from "../machine/balloon.ts";
import type { Tracking } from "../machine/tracking.ts";
import { PAGE_BYTES } from "../memory/block.ts";
import type { RingsState } from "../native/rings.ts";
import type { QmpError, QmpMessage } from "./protocol.ts";
import { badArguments, COMMAND_TYPES, introspect } from "./schema.ts";
import type { MigrationSettings } from "./settings.ts";

/** What the commands can do to the guest; the server gives it. */
export interface GuestControl {
  name: string;
  version: string;
  status(): string;
  /** Bytes of RAM and vCPUs; zeros until an incoming guest has told its own. */
  facts(): { memoryBytes: number; cpus: number; walker: boolean };
  /** The thread of each vCPU. */
  threads(): number[];
  /** What QEMU's clients set before a migration. */
  readonly settings: MigrationSettings;
  tracking(): TrackingFacts;
  stop(): void;
  cont(): void;
  quit(): void;
  migrate(uri: string, options: Record<string, unknown>): void;
  /** Into a file that was passed as descriptor `fdname`. */
  save(fdname: string, options: Record<string, unknown>): void;
  /** How fast the guest writes its memory, over so many milliseconds. */
  measure(forMs: unknown): void;
  /** What is to be compared with the next moves' outcome. */
  noteForecast(forecast: Record<string, unknown>): void;
  /** How far a walker is, every millisecond, into the pipe that was passed as `fdname`. */
  pace(fdname: string, forMs: unknown): void;
  /** Until setLimits says otherwise, or at once: whether the move that is under way may switch over. */
  hold(on: boolean): void;
  /** Since when it measures, or has measured, by the wall clock, and for how long; null: never. */
  measuring(): { sinceMs: number; forMs: number } | null;
  /** What came of that; nothing yet, or nothing asked: neither of its members. */
  measured(): Measured;
  /** Of the move or save that is under way; all limits as they are then. */
  setLimits(changes: Record<string, unknown>): Limits;
  /** What the guest has said of its memory; null: it has no balloon. */
  balloon(): (BalloonFacts & { memoryBytes: number }) | null;
  wantStats(): void;
  /** How much memory it is to have. */
  resize(bytes: unknown): void;
  /** What it had free when it was last asked, from this page on; null: it has no balloon. */
  freePages(firstPage: unknown): FreePagesPart | null;
  /** The file has its name. */
  commitSave(): void;
  migrateIncoming(uri: string): void;
  cancel(): boolean;
  journal(): Journal | null;
  /** How far a restored guest's memory has come; null: it was not restored. */
  restore(): RestoreJournal | null;
  takeFd(name: string): void;
  checkGuest(): object;
}

/** A piece of a set of pages. */
export interface FreePagesPart {
  /** Of RAM, and of this piece. */
  totalPages: number;
  pages: number;
  /** How many of these are free. */
  free: number;
  /** A bit for each, the lowest first, as zlib has it, in base64. */
  bitmap: string;
}

/** How, and whether, the guest's writes are found. */
export interface TrackingFacts {
  /** Only while it moves. */
  tracking: boolean;
  /** The share of time that its CPUs rest, in percent. */
  throttlePercent: number;
  /** Null: there is no machine yet. */
  dirtyTracking: { by: Tracking["by"] } | ({ by: "ring"; entries: number } & RingsState) | null;
}

type Handler = (control: GuestControl, args: Record<string, unknown>) => unknown;

/** QEMU's names for a move's phases. */
export const QEMU_STATUS = {
  none: "none",
  cache: "setup",
  waiting: "setup",
  setup: "setup",
  active: "active",
  held: "pre-switchover",
  device: "device",
  handover: "device",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
} as const;

const text = (args: Record<string, unknown>, name: string): string => {
  const value = args[name];
  if (typeof value === "string") return value;
  throw new TramError("E_QMP", `parameter '${name}' is missing or no string`);
};

function balloonOf(control: GuestControl) {
  const balloon = control.balloon();
  if (balloon) return balloon;
  throw new TramError("E_STATE", "the guest has no balloon", { next: "start it with --balloon" });
}

export const COMMANDS: Record<string, Handler> = {
  "query-status": (control) => {
    const status = control.status();
    return { status, running: status === "running", singlestep: false };
  },
  "query-name": (control) => ({ name: control.name }),
  "query-version": (control) => ({ qemu: { major: 0, minor: 0, micro: 0 }, package: `tram ${control.version}` }),
  "query-memory-size-summary": (control) => ({ "base-memory": control.facts().memoryBytes, "plugged-memory": 0 }),
  "query-cpus-fast": (control) =>
    control.threads().map((thread, i) => ({
      "cpu-index": i,
      "qom-path": `/cpu/${i}`,
      "thread-id": thread,
      target: "x86_64",
    })),
  "query-commands": () => Object.keys(COMMAND_TYPES).map((name) => ({ name })),
  "query-qmp-schema": () => introspect(),
  stop: (control) => {
    control.stop();
    return {};
  },
  cont: (control) => {
    control.cont();
    return {};
  },
  quit: (control) => {
    control.quit();
    return {};
  },
  getfd: (control, args) => {
    control.takeFd(text(args, "fdname"));
    return {};
  },
  migrate: (control, args) => {
    control.migrate(text(args, "uri"), (args.tram as Record<string, unknown>) ?? control.settings.options());
    return {};
  },
  "tram-save": (control, args) => {
    control.save(text(args, "fdname"), args);
    return {};
  },
  "tram-save-commit": (control) => {
    control.commitSave();
    return {};
  },
  "tram-measure": (control, args) => {
    control.measure(args.forMs);
    return {};
  },
  "tram-pace": (control, args) => {
    control.pace(text(args, "fdname"), args.forMs);
    return {};
  },
  "tram-note-forecast": (control, args) => {
    control.noteForecast(args);
    return {};
  },
  balloon: (control, args) => {
    control.resize(args.value);
    return {};
  },
  "query-balloon": (control) => {
    const { memoryBytes, actualBytes } = balloonOf(control);
    return { actual: memoryBytes - actualBytes };
  },
  "tram-query-balloon": (control) => control.balloon() ?? {},
  "tram-balloon-stats": (control) => {
    control.wantStats();
    return {};
  },
  "tram-query-free-pages": (control, args) => control.freePages(args.firstPage) ?? {},
  "tram-query-measure": (control) => control.measured(),
  "tram-set": (control, args) => control.setLimits(args),
  "migrate-incoming": (control, args) => {
    control.migrateIncoming(text(args, "uri"));
    return {};
  },
  migrate_cancel: (control) => {
    control.cancel();
    return {};
  },
  // QEMU pauses a postcopy with it. Here the guest runs on, and what it writes is carried, until migrate-continue.
  "migrate-pause": (control) => {
    control.hold(true);
    return {};
  },
  "migrate-continue": (control, args) => {
    const status = statusOf(control.journal());
    if (args.state !== "pre-switchover" || (status !== "pre-switchover" && status !== "active"))
      throw new TramError("E_QMP", `Migration not in expected state: ${args.state}`, { found: status });
    control.hold(false);
    return {};
  },
  "query-migrate-capabilities": (control) => control.settings.capabilities(),
  "migrate-set-capabilities": (control, args) => {
    if (isUnderWay(control.journal()))
      throw new TramError("E_STATE", "There's a migration process in progress", { next: "set them before it begins" });
    control.settings.setCapabilities(args.capabilities as { capability: string; state: boolean }[]);
    return {};
  },
  "query-migrate-parameters": (control) => control.settings.parameters(),
  "migrate-set-parameters": (control, args) => {
    const limits = control.settings.setParameters(args);
    if (isUnderWay(control.journal()) && Object.keys(limits).length > 0) control.setLimits(limits);
    return {};
  },
  "query-migrate": (control) => {
    const journal = control.journal();
    return journal ? migrateInfo(journal) : {};
  },
  "calc-dirty-rate": (control, args) => {
    const ms = Number(args["calc-time"]) * (args["calc-time-unit"] === "millisecond" ? 1 : 1000);
    control.measure(ms);
    return {};
  },
  "query-dirty-rate": (control, args) => dirtyRateInfo(control, args["calc-time-unit"] === "millisecond"),
  "tram-query-tracking": (control) => control.tracking(),
  "tram-query-move": (control) => control.journal() ?? {},
  "tram-query-restore": (control) => control.restore() ?? {},
  "tram-check-guest": (control) => control.checkGuest(),
};

const statusOf = (journal: Journal | null) => (journal ? QEMU_STATUS[journal.phase] : "none");

const isUnderWay = (journal: Journal | null): boolean =>
  journal !== null && journal.phase !== "none" && !isOver(journal.phase);

function migrateInfo(journal: Journal): QmpMessage {
  const { channels, multifd, trace, rounds } = journal;
  const sum = (of: (one: Journal["channels"][number]) => number) => channels.reduce((all, one) => all + of(one), 0);
  const active = trace.find(({ phase }) => phase === "active");
  const last = rounds.at(-1);
  return {
    status: statusOf(journal),
    "total-time": Math.round(journal.elapsedMs),
    ...(active && {
      "setup-time": Math.round(active.atMs - (trace.find(({ phase }) => phase === "setup")?.atMs ?? 0)),
    }),
    ...(journal.downtimeMs !== null && { downtime: journal.downtimeMs }),
    ...(journal.expectedDowntimeMs !== null && { "expected-downtime": journal.expectedDowntimeMs }),
    ...(journal.throttlePercent > 0 && { "cpu-throttle-percentage": journal.throttlePercent }),
    ...(journal.error && { "error-desc": journal.error.message }),
    ram: {
      transferred: journal.bytes,
      remaining: journal.remainingPages * PAGE_BYTES,
      total: journal.totalPages * PAGE_BYTES,
      duplicate: journal.zeroPages,
      skipped: journal.untouchedPages + journal.hintedPages + journal.balloonedPages + journal.reportedPages,
      normal: journal.sentPages,
      "normal-bytes": journal.sentPages * PAGE_BYTES,
      "dirty-pages-rate": last ? Math.round((last.dirtyPages * 1000) / Math.max(1, last.durationMs)) : 0,
      mbps: (journal.bandwidthBytesPerSec * 8) / 1e6,
      "dirty-sync-count": journal.roundsDone,
      "page-size": PAGE_BYTES,
      "multifd-bytes": multifd ? sum(({ bytes }) => bytes) : 0,
      "pages-per-second": Math.round(journal.bandwidthBytesPerSec / PAGE_BYTES),
      "precopy-bytes": journal.bytes,
      "downtime-bytes": 0,
      "postcopy-bytes": 0,
      "postcopy-requests": 0,
      "dirty-sync-missed-zero-copy": sum(({ fallbacks }) => fallbacks),
    },
  };
}

/** In MiB a second, as QEMU has it. */
function dirtyRateInfo(control: GuestControl, inMs: boolean): QmpMessage {
  const measuring = control.measuring();
  const { dirtyRate } = control.measured();
  const time = (ms: number) => (inMs ? ms : Math.floor(ms / 1000));
  const last = dirtyRate?.written.at(-1);
  return {
    status: !measuring ? "unstarted" : last ? "measured" : "measuring",
    ...(last && { "dirty-rate": Math.round((last.pages * PAGE_BYTES * 1000) / last.ms / 2 ** 20) }),
    "start-time": Math.floor((measuring?.sinceMs ?? 0) / 1000),
    "calc-time": time(measuring?.forMs ?? 0),
    "calc-time-unit": inMs ? "millisecond" : "second",
    "sample-pages": 0,
    mode: "dirty-bitmap",
  };
}

/** One message from a client; the answer. */
export function answer(
  message: string,
  control: GuestControl,
  negotiated: boolean,
): { reply: QmpMessage; ok: boolean; command: string } {
  let id: unknown;
  let command = "";
  try {
    const request = parse(message);
    id = request.id;
    checkMembers(request);
    command = String(request.execute ?? "");
    const known = command === "qmp_capabilities" || (Object.hasOwn(COMMANDS, command) && negotiated);
    if (!known) return { reply: withId({ error: notFound(command, negotiated) }, id), ok: false, command };
    const args = (request.arguments as Record<string, unknown>) ?? {};
    if (command === "qmp_capabilities" && negotiated)
      throw new TramError("E_QMP", "Capabilities negotiation is already complete, command ignored");
    const bad = badArguments(command, args);
    if (bad) throw new TramError("E_QMP", bad, { next: "query-qmp-schema has what it takes" });
    if (command === "qmp_capabilities" && (args.enable as unknown[] | undefined)?.length)
      throw new TramError("E_QMP", "Capability oob not available");
    const result = command === "qmp_capabilities" ? {} : COMMANDS[command](control, args);
    return { reply: withId({ return: result }, id), ok: true, command };
  } catch (error) {
    const data = toErrorData(error);
    const failure: QmpError = { class: "GenericError", desc: data.message, tram: data };
    return { reply: withId({ error: failure }, id), ok: false, command };
  }
}

function parse(message: string): QmpMessage {
  let request: QmpMessage;
  try {
    request = JSON.parse(message);
  } catch {
    throw new TramError("E_QMP", "the message is no valid JSON");
  }
  return request;
}

/** What it consists of; its id is known by now. */
function checkMembers(request: QmpMessage): void {
  if ("exec-oob" in request) throw new TramError("E_QMP", "QMP input member 'exec-oob' is unexpected");
  const unknown = Object.keys(request).find((name) => !["execute", "arguments", "id"].includes(name));
  if (unknown) throw new TramError("E_QMP", `QMP input member '${unknown}' is unexpected`);
  if (typeof request.execute !== "string") throw new TramError("E_QMP", "the message has no 'execute'");
  const args = request.arguments ?? {};
  if (typeof args !== "object" || Array.isArray(args)) throw new TramError("E_QMP", "'arguments' is no object");
}

function notFound(command: string, negotiated: boolean): QmpError {
  if (negotiated) return { class: "CommandNotFound", desc: `The command ${command} has not been found` };
  return {
    class: "CommandNotFound",
    desc: `Expecting capabilities negotiation with 'qmp_capabilities', not ${command}`,
  };
}

const withId = (reply: QmpMessage, id: unknown): QmpMessage => (id === undefined ? reply : { ...reply, id });
