// What the QMP socket takes and gives, as QEMU's introspection has it. Types are written as "member: type, ?optional: [list]"; one
// table checks arguments and answers query-qmp-schema.
import { RUN_STATES } from "../machine/board.ts";
import type { QmpMessage } from "./protocol.ts";

const BUILTINS = { str: "string", int: "int", size: "int", number: "number", bool: "boolean", any: "value" } as const;
type Builtin = keyof typeof BUILTINS;

/** QEMU's names for how far a migration is. */
export const MIGRATION_STATUS = [
  "none",
  "setup",
  "cancelling",
  "cancelled",
  "active",
  "completed",
  "failed",
  "pre-switchover",
  "device",
] as const;

/** QEMU's capabilities; those that tram knows what to do with come first. */
export const CAPABILITIES = [
  "return-path",
  "events",
  "multifd",
  "zero-copy-send",
  "auto-converge",
  "pause-before-switchover",
] as const;
export type Capability = (typeof CAPABILITIES)[number];

export const OTHER_CAPABILITIES = [
  "xbzrle",
  "rdma-pin-all",
  "zero-blocks",
  "postcopy-ram",
  "x-colo",
  "release-ram",
  "late-block-activate",
  "x-ignore-shared",
  "validate-uuid",
  "background-snapshot",
  "postcopy-blocktime",
  "postcopy-preempt",
  "switchover-ack",
  "dirty-bitmaps",
  "dirty-limit",
  "mapped-ram",
] as const;

const ENUMS: Record<string, readonly string[]> = {
  RunState: RUN_STATES,
  MigrationStatus: MIGRATION_STATUS,
  MigrationCapability: [...CAPABILITIES, ...OTHER_CAPABILITIES],
  MultiFDCompression: ["none", "zstd"],
  DirtyRateStatus: ["unstarted", "measuring", "measured"],
  DirtyRateMeasureMode: ["page-sampling", "dirty-bitmap", "dirty-ring"],
  TimeUnit: ["second", "millisecond"],
  SysEmuTarget: ["x86_64"],
  ShutdownCause: ["host-qmp-quit", "guest-shutdown", "host-error"],
  QMPCapability: ["oob"],
};

const STRUCTS: Record<string, string> = {
  VersionTriple: "major: int, minor: int, micro: int",
  VersionInfo: "qemu: VersionTriple, package: str",
  CommandInfo: "name: str",
  NameInfo: "?name: str",
  StatusInfo: "running: bool, singlestep: bool, status: RunState",
  MemoryInfo: "base-memory: size, ?plugged-memory: size",
  CpuInfoFast: "cpu-index: int, qom-path: str, thread-id: int, target: SysEmuTarget",
  MigrationCapabilityStatus: "capability: MigrationCapability, state: bool",
  MigrationParameters:
    "?max-bandwidth: size, ?downtime-limit: int, ?multifd-channels: int, ?multifd-compression: MultiFDCompression, ?multifd-zstd-level: int, ?tls-creds: str, ?tls-hostname: str, ?tls-authz: str",
  MigrationStats:
    "transferred: int, remaining: int, total: int, duplicate: int, skipped: int, normal: int, normal-bytes: int, dirty-pages-rate: int, mbps: number, dirty-sync-count: int, page-size: int, multifd-bytes: int, pages-per-second: int, precopy-bytes: int, downtime-bytes: int, postcopy-bytes: int, postcopy-requests: int, dirty-sync-missed-zero-copy: int",
  MigrationInfo:
    "?status: MigrationStatus, ?ram: MigrationStats, ?total-time: int, ?setup-time: int, ?expected-downtime: int, ?downtime: int, ?cpu-throttle-percentage: int, ?error-desc: str",
  DirtyRateInfo:
    "?dirty-rate: int, status: DirtyRateStatus, start-time: int, calc-time: int, calc-time-unit: TimeUnit, sample-pages: int, mode: DirtyRateMeasureMode",
  BalloonInfo: "actual: int",
  SchemaInfo: "name: str, meta-type: str",
};

/** Of each command its arguments and what it returns; nothing: an empty object. */
export const COMMAND_TYPES: Record<string, readonly [args: string, result: string]> = {
  qmp_capabilities: ["?enable: [QMPCapability]", ""],
  "query-version": ["", "VersionInfo"],
  "query-commands": ["", "[CommandInfo]"],
  "query-qmp-schema": ["", "[SchemaInfo]"],
  "query-name": ["", "NameInfo"],
  "query-status": ["", "StatusInfo"],
  "query-memory-size-summary": ["", "MemoryInfo"],
  "query-cpus-fast": ["", "[CpuInfoFast]"],
  stop: ["", ""],
  cont: ["", ""],
  quit: ["", ""],
  getfd: ["fdname: str", ""],
  migrate: ["uri: str, ?detach: bool, ?tram: any", ""],
  "migrate-incoming": ["uri: str", ""],
  migrate_cancel: ["", ""],
  "migrate-pause": ["", ""],
  "migrate-continue": ["state: MigrationStatus", ""],
  "query-migrate": ["", "MigrationInfo"],
  "query-migrate-capabilities": ["", "[MigrationCapabilityStatus]"],
  "migrate-set-capabilities": ["capabilities: [MigrationCapabilityStatus]", ""],
  "query-migrate-parameters": ["", "MigrationParameters"],
  "migrate-set-parameters": [STRUCTS.MigrationParameters, ""],
  "calc-dirty-rate": ["calc-time: int, ?calc-time-unit: TimeUnit, ?sample-pages: int, ?mode: DirtyRateMeasureMode", ""],
  "query-dirty-rate": ["?calc-time-unit: TimeUnit", "DirtyRateInfo"],
  balloon: ["value: int", ""],
  "query-balloon": ["", "BalloonInfo"],
  "tram-save": ["fdname: str, ?options: any", ""],
  "tram-save-commit": ["", ""],
  "tram-set": ["?limits: any", "any"],
  "tram-measure": ["?forMs: int", ""],
  "tram-query-measure": ["", "any"],
  "tram-note-forecast": ["?forecast: any", ""],
  "tram-pace": ["fdname: str, ?forMs: int", ""],
  "tram-query-move": ["", "any"],
  "tram-query-restore": ["", "any"],
  "tram-query-tracking": ["", "any"],
  "tram-query-balloon": ["", "any"],
  "tram-balloon-stats": ["", ""],
  "tram-query-free-pages": ["?firstPage: int", "any"],
  "tram-check-guest": ["", "any"],
};

/** What comes by itself, and its data. */
export const EVENT_TYPES = {
  STOP: "",
  RESUME: "",
  SHUTDOWN: "guest: bool, reason: ShutdownCause",
  MIGRATION: "status: MigrationStatus",
  MIGRATION_PASS: "pass: int",
} as const;
export type EventName = keyof typeof EVENT_TYPES;

interface Member {
  name: string;
  type: string;
  isOptional: boolean;
}

function membersOf(text: string): Member[] {
  if (text === "") return [];
  return text.split(", ").map((part) => {
    const [name, type] = part.replace(/^\?/, "").split(": ");
    return { name, type, isOptional: part.startsWith("?") };
  });
}

/** What QEMU would say of arguments that a command does not take; null: it takes them. Whatever is of type any is not looked at. */
export function badArguments(command: string, args: Record<string, unknown>): string | null {
  const [text] = COMMAND_TYPES[command];
  return badObject(membersOf(text), args, "", text.includes(": any"));
}

function badObject(members: Member[], given: Record<string, unknown>, path: string, isOpen: boolean): string | null {
  for (const { name, type, isOptional } of members) {
    const at = `${path}${name}`;
    if (given[name] === undefined) {
      if (!isOptional) return `Parameter '${at}' is missing`;
    } else {
      const bad = badValue(type, given[name], at);
      if (bad) return bad;
    }
  }
  const unknown = Object.keys(given).find((key) => !members.some(({ name }) => name === key));
  return unknown === undefined || isOpen ? null : `Parameter '${path}${unknown}' is unexpected`;
}

function badValue(type: string, value: unknown, at: string): string | null {
  const expected = (what: string) => `Invalid parameter type for '${at}', expected: ${what}`;
  if (type.startsWith("[")) {
    if (!Array.isArray(value)) return expected("array");
    return firstOf(value.map((one, i) => badValue(type.slice(1, -1), one, `${at}[${i}]`)));
  }
  if (type in ENUMS) {
    if (typeof value !== "string") return expected("string");
    return ENUMS[type].includes(value) ? null : `Parameter '${at}' does not accept value '${value}'`;
  }
  if (type in STRUCTS) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return expected("object");
    return badObject(membersOf(STRUCTS[type]), value as Record<string, unknown>, `${at}.`, false);
  }
  switch (type as Builtin) {
    case "str":
      return typeof value === "string" ? null : expected("string");
    case "bool":
      return typeof value === "boolean" ? null : expected("boolean");
    case "int":
    case "size":
      return Number.isSafeInteger(value) ? null : expected("integer");
    case "number":
      return typeof value === "number" ? null : expected("number");
    default:
      return null;
  }
}

const firstOf = (all: (string | null)[]): string | null => all.find((one) => one !== null) ?? null;

/** QEMU's query-qmp-schema: everything that was named above, and nothing else. */
export function introspect(): QmpMessage[] {
  const out: QmpMessage[] = [];
  const done = new Set<string>();
  const object = (name: string, members: Member[]): string => {
    if (done.has(name)) return name;
    done.add(name);
    const rows = members.map(({ name: member, type, isOptional }) => ({
      name: member,
      type: reference(type),
      ...(isOptional && { default: null }),
    }));
    out.push({ name, "meta-type": "object", members: rows });
    return name;
  };
  const reference = (type: string): string => {
    if (type in STRUCTS) return object(type, membersOf(STRUCTS[type]));
    if (done.has(type)) return type;
    done.add(type);
    if (type.startsWith("["))
      out.push({ name: type, "meta-type": "array", "element-type": reference(type.slice(1, -1)) });
    else if (type in ENUMS)
      out.push({
        name: type,
        "meta-type": "enum",
        members: ENUMS[type].map((name) => ({ name })),
        values: ENUMS[type],
      });
    else out.push({ name: type, "meta-type": "builtin", "json-type": BUILTINS[type as Builtin] });
    return type;
  };
  const arguments_ = (name: string, text: string): string =>
    text === "" ? object("q_empty", []) : object(`q_obj_${name}-arg`, membersOf(text));
  for (const [name, [args, result]] of Object.entries(COMMAND_TYPES))
    out.push({
      name,
      "meta-type": "command",
      "arg-type": arguments_(name, args),
      "ret-type": result === "" ? object("q_empty", []) : reference(result),
      "allow-oob": false,
    });
  for (const [name, data] of Object.entries(EVENT_TYPES))
    out.push({ name, "meta-type": "event", "arg-type": arguments_(name, data) });
  return out;
}
