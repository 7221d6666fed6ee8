// Results of the C library: >= 0, or -errno.
import { type ErrorCode, type ErrorDetails, TramError } from "../errors.ts";

/** Loading it takes each thread a millisecond, and most never need it. */
const util = (): typeof import("node:util") => require("node:util");

/** Names that node does not know. */
const OTHERS: Record<number, string> = { [-74]: "EBADMSG", [-133]: "EHWPOISON" };

/** "ECONNREFUSED: connection refused" for -111. */
export function describeErrno(result: number): string {
  const other = OTHERS[result];
  return other ?? `${util().getSystemErrorName(result)}: ${util().getSystemErrorMessage(result)}`;
}

export function errnoName(result: number): string {
  return result < 0 ? (OTHERS[result] ?? util().getSystemErrorName(result)) : "";
}

/** The result, or a coded error that says what was tried. */
export function check(result: number, code: ErrorCode, what: string, details: ErrorDetails = {}): number {
  if (result >= 0) return result;
  throw new TramError(code, `${what}: ${describeErrno(result)}`, details);
}

/** A NUL-terminated string for C. The caller holds it until the call returns. */
export function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`, "utf8");
}

/** The FFI turns 2^32 + 5 into 5: every integer that crosses is checked here first. */
export function u32(value: number, what: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffffffff)
    throw new TramError("E_INTERNAL", `${what} is not a 32-bit number: ${value}`);
  return value;
}

export function u53(value: number, what: string): number {
  if (!Number.isSafeInteger(value) || value < 0) throw new TramError("E_INTERNAL", `${what} is not a size: ${value}`);
  return value;
}
