// Messages from target to source:  be16 type  be16 length  data.
//
//   SHUT  1 (be32 status, 0 is success)      PONG  2 (be32 value)
//   HELLO  0x7400, REFUSE  0x7401 (UTF-8 JSON): between two trams only, after the source's PING 0x74720001
//   ROOT  0x7402 (be64 hash of the table of page hashes): to PING 0x74720003
//   HASHES  0x7403 (be32 first page, le64 hashes of it and those behind it), as often as it takes: to PING 0x74720004
//   STARTED  0x7404 (be32 microseconds from the hand-over word's arrival to the guest's first instruction): before SHUT
import { type ErrorData, type ErrorDetails, TramError } from "../errors.ts";
import { type ByteSource, type ByteWriter, badStream, hex } from "./bytes.ts";
import { CPUID_ENTRIES_MAX, type CpuidEntry } from "./devices/machine.ts";
import {
  MIG_RP_MSG_PONG,
  MIG_RP_MSG_SHUT,
  TRAM_RP_MSG_HASHES,
  TRAM_RP_MSG_HELLO,
  TRAM_RP_MSG_REFUSE,
  TRAM_RP_MSG_ROOT,
  TRAM_RP_MSG_STARTED,
} from "./wire.ts";

/** What a target says of itself before it takes a guest. `null`: it takes what the stream says. */
export interface Hello {
  version: number;
  name: string;
  memoryBytes: number | null;
  cpus: number | null;
  cpuid: CpuidEntry[];
  /** The target keeps the guest in a file: it need not be able to run it. */
  keeps?: boolean;
  /** Pages may come over other channels, to where the main one came. */
  channels?: boolean;
  /** The target hashes pages when it is asked to. */
  verifies?: boolean;
}

/** What a person needs besides the reason. */
export type RefusalDetails = Pick<ErrorDetails, "expected" | "found" | "next">;

export const HELLO_VERSION = 2;

export type ReturnMessage =
  | { type: "shut"; status: number }
  | { type: "pong"; value: number }
  | { type: "hello"; hello: Hello }
  | { type: "refuse"; reason: string; code: string; details: RefusalDetails }
  | { type: "root"; root: bigint }
  | { type: "hashes"; first: number; hashes: Uint8Array }
  | { type: "started"; afterUs: number }
  | { type: "other"; number: number };

export function encodeShut(out: ByteWriter, status: number): void {
  out.u16(MIG_RP_MSG_SHUT).u16(4).u32(status);
}

export function encodePong(out: ByteWriter, value: number): void {
  out.u16(MIG_RP_MSG_PONG).u16(4).u32(value);
}

export function encodeRoot(out: ByteWriter, root: bigint): void {
  out.u16(TRAM_RP_MSG_ROOT).u16(8).u64(root);
}

export function encodeStarted(out: ByteWriter, afterUs: number): void {
  out
    .u16(TRAM_RP_MSG_STARTED)
    .u16(4)
    .u32(Math.min(Math.round(afterUs), 0xffffffff));
}

/** Pages whose hashes go into one message. */
export const HASHES_PAGES_MAX = 4096;

export function encodeHashes(out: ByteWriter, first: number, hashes: Uint8Array): void {
  out
    .u16(TRAM_RP_MSG_HASHES)
    .u16(4 + hashes.length)
    .u32(first)
    .bytes(hashes);
}

const CPUID_FIELDS = ["function", "index", "flags", "eax", "ebx", "ecx", "edx"] as const;

export function encodeHello(out: ByteWriter, hello: Hello): void {
  const cpuid = hello.cpuid.map((entry) => CPUID_FIELDS.map((field) => entry[field]));
  encodeJson(out, TRAM_RP_MSG_HELLO, { ...hello, cpuid });
}

export function encodeRefuse(out: ByteWriter, { message, code, ...details }: ErrorData): void {
  encodeJson(out, TRAM_RP_MSG_REFUSE, { reason: message.slice(0, REASON_CHARS_MAX), code, ...refusalDetails(details) });
}

/** Of a refusal's reason, and of each detail. */
const REASON_CHARS_MAX = 4000;
const DETAIL_CHARS_MAX = 1000;

/** Only those that are texts. */
function refusalDetails(of: { [name in keyof RefusalDetails]?: unknown }): RefusalDetails {
  const names = ["expected", "found", "next"] as const;
  return Object.fromEntries(
    names.flatMap((name) => {
      const text = textOf(of[name]).slice(0, DETAIL_CHARS_MAX);
      return text ? [[name, text]] : [];
    }),
  );
}

function encodeJson(out: ByteWriter, type: number, value: unknown): void {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  out.u16(type).u16(bytes.length).bytes(bytes);
}

/** Their data is one be32. */
const WORD_MESSAGES: readonly number[] = [MIG_RP_MSG_SHUT, MIG_RP_MSG_PONG, TRAM_RP_MSG_STARTED];

export function decodeReturnMessage(source: ByteSource): ReturnMessage {
  const at = source.offset;
  const number = source.u16();
  const length = source.u16();
  if (WORD_MESSAGES.includes(number) && length !== 4)
    throw badStream("a message from the target has another length", at, "4", `${length}`);
  switch (number) {
    case MIG_RP_MSG_SHUT:
      return { type: "shut", status: source.u32() };
    case MIG_RP_MSG_PONG:
      return { type: "pong", value: source.u32() };
    case TRAM_RP_MSG_STARTED:
      return { type: "started", afterUs: source.u32() };
    case TRAM_RP_MSG_HELLO:
      return { type: "hello", hello: parseHello(parseJson(source.bytes(length), at)) };
    case TRAM_RP_MSG_REFUSE: {
      const value = parseJson(source.bytes(length), at);
      return {
        type: "refuse",
        reason: textOf(value.reason).slice(0, REASON_CHARS_MAX) || "no reason given",
        code: textOf(value.code).slice(0, 64),
        details: refusalDetails(value),
      };
    }
    case TRAM_RP_MSG_ROOT:
      if (length !== 8) throw badStream("a message from the target has another length", at, "8", `${length}`);
      return { type: "root", root: source.u64() };
    case TRAM_RP_MSG_HASHES:
      if (length < 4 || length % 8 !== 4)
        throw badStream("a message from the target has another length", at, "4, and 8 for each page", `${length}`);
      return { type: "hashes", first: source.u32(), hashes: source.bytes(length - 4) };
    default:
      source.bytes(length);
      return { type: "other", number };
  }
}

function parseJson(bytes: Uint8Array, at: number): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {
    // falls through: the same error as for a value that is no object
  }
  throw badStream("a message from the target cannot be read", at, "a JSON object", `${bytes.length} other bytes`);
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

function parseHello(value: Record<string, unknown>): Hello {
  const count = (field: string): number | null => {
    const found = value[field];
    if (found === null || (typeof found === "number" && Number.isSafeInteger(found) && found >= 0)) return found;
    throw new TramError("E_STREAM", "the target's greeting is wrong", {
      where: field,
      expected: "a number or null",
      found: typeof found,
    });
  };
  const rows = value.cpuid;
  const rowIsSane = (row: unknown) =>
    Array.isArray(row) && row.length === CPUID_FIELDS.length && row.every(Number.isInteger);
  if (!Array.isArray(rows) || rows.length > CPUID_ENTRIES_MAX || !rows.every(rowIsSane))
    throw new TramError("E_STREAM", "the target's greeting is wrong", {
      where: "cpuid",
      expected: "rows of 7 numbers",
      found: "something else",
    });
  return {
    version: count("version") ?? 0,
    name: textOf(value.name).slice(0, 64),
    memoryBytes: count("memoryBytes"),
    cpus: count("cpus"),
    ...(value.keeps === true && { keeps: true }),
    ...(value.channels === true && { channels: true }),
    ...(value.verifies === true && { verifies: true }),
    cpuid: rows.map(
      (row: number[]) => Object.fromEntries(CPUID_FIELDS.map((field, i) => [field, row[i]])) as unknown as CpuidEntry,
    ),
  };
}

export const describeMessage = (message: ReturnMessage): string =>
  message.type === "other" ? `message ${hex(message.number, 4)}` : message.type.toUpperCase();
