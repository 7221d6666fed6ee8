// --report: one HTML file that tells of a move when it is over, whatever became of it. It is written whole or not at all, and the
// move's outcome does not depend on it.
import { existsSync, fchmodSync, statSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import type { ChannelCounts } from "../control/barrier.ts";
import type { After } from "../control/save.ts";
import { type ErrorData, TramError, toErrorData } from "../errors.ts";
import { OutputFile } from "../writer/output-file.ts";
import { say } from "./console.ts";
import { environment, type Story, type StoryFile } from "./page/story.ts";
import { Recording } from "./recording.ts";

export const REPORT_ARG = {
  type: "string",
  description: "a page for people when it is over, whatever came of it: one HTML file that needs nothing else",
  valueHint: "FILE.html",
} as const;

/** What the command knows of it from the beginning. */
type Known = Pick<Story, "kind" | "vm" | "where"> & {
  /** As the command was given them. */
  args: Record<string, unknown>;
  /** Where the guest goes, if that may be a file. */
  product?: string;
};

/** What it learnt. */
export type Outcome = Pick<Story, "outcome" | "owner" | "error"> &
  Partial<Pick<Story, "isQemu" | "downtimeMs" | "channels" | "file">>;

/** A descriptor's file, by a name. */
export const fdPath = (fd: number): string => `/proc/self/fd/${fd}`;

/** Null: none was asked for. Throws what is known to be wrong with the file before anything has begun. */
export const openReport = (path: string | undefined, known: Known): ReportFile | null =>
  path === undefined ? null : new ReportFile(path, known);

export class ReportFile {
  readonly recording = new Recording();
  readonly #path: string;
  readonly #known: Known;
  readonly #output: OutputFile;
  readonly #isNew: boolean;

  constructor(path: string, known: Known) {
    this.#path = path;
    this.#known = known;
    if (path === "" || path === "-")
      throw new TramError("E_USAGE", `--report: '${path}' names no file`, {
        expected: "a path, for example move.html",
      });
    const others = { "the guest": known.product, "--json": known.args.json, "--trace": known.args.trace };
    for (const [what, file] of Object.entries(others))
      if (typeof file === "string" && isSame(path, file))
        throw new TramError("E_USAGE", `--report ${path}: that is where ${what} goes`, {
          next: "give the report a name of its own",
        });
    this.#isNew = !existsSync(path);
    const kind = this.#isNew ? "a regular file" : kindOf(path);
    if (kind !== "a regular file")
      throw new TramError("E_USAGE", `--report: ${path} cannot be replaced as a whole`, {
        expected: "a regular file, or none yet",
        found: kind,
      });
    this.#output = openFor(path);
  }

  /** The move is over, and so became of it. Never throws: a report that cannot be written is a warning. */
  async write(outcome: Outcome): Promise<void> {
    try {
      // Not before: a command without a report does not wait for the library that draws.
      const { page } = await import("./page/page.ts");
      writeFileSync(this.#output.fd, page(this.#story(outcome)));
      // As the shell would have made it: the page is there to be shown to others.
      if (this.#isNew) fchmodSync(this.#output.fd, 0o666 & ~process.umask());
      this.#output.commit();
    } catch (error) {
      this.discard();
      say(
        `--report: ${this.#path} was not written: ${toErrorData(error).message}; what is said above stands all the same`,
      );
    }
  }

  /** It failed in a way that has no report of its own. */
  async fail(error: unknown): Promise<void> {
    const data = toErrorData(error);
    const isUnknown = data.code === "E_HANDOVER_UNKNOWN";
    await this.write({
      outcome: data.code === "E_INTERRUPTED" ? "cancelled" : "failed",
      owner: isUnknown ? "unconfirmed" : "source",
      error: data,
    });
  }

  /** Nothing is left of it. */
  discard(): void {
    try {
      this.#output.discard();
    } catch {
      // It was closed already.
    }
  }

  #story({ error, ...outcome }: Outcome): Story {
    const { kind, vm, where, args } = this.#known;
    const hide = hiding(where);
    return {
      kind,
      vm,
      where: hide(where),
      isQemu: false,
      ...outcome,
      error: error && (Object.fromEntries(Object.entries(error).map(([k, v]) => [k, hide(v)])) as unknown as ErrorData),
      recording: this.recording,
      options: optionsOf(args),
      environment: environment(),
    };
  }
}

/** What the two kinds of save have in common. */
interface SavedReport extends Pick<Story, "outcome" | "error" | "downtimeMs">, Omit<StoryFile, "allocatedBytes"> {
  owner: string;
  allocatedBytes?: number;
  channels: ChannelCounts[];
}

/** Who has a guest whose file is on disk. */
const SAVED: Record<After, string> = {
  quit: "the file; the guest's process has ended",
  pause: "the file; the guest stands still here",
  resume: "source; it goes on beside its file",
};

export function savedOutcome(report: SavedReport, after: After): Outcome {
  const { outcome, error, machine, blocks, fileBytes, allocatedBytes = null, downtimeMs, channels } = report;
  const isKept = outcome === "completed";
  return {
    outcome,
    owner: isKept ? SAVED[after] : report.owner,
    error,
    channels,
    ...(downtimeMs !== undefined && { downtimeMs }),
    ...(isKept && { file: { fileBytes, allocatedBytes, machine, blocks } }),
  };
}

/** A command's text may have a password in it, and the page is there to be shown to others. */
function hiding(where: string): (text: string) => string {
  const command = where.startsWith("exec:") ? where.slice("exec:".length) : "";
  return (text) => (command ? text.replaceAll(where, "exec:…").replaceAll(command, "…") : text);
}

/** No options, or told of already, or only where output goes. */
const UNTOLD = ["_", "vm", "uri", "file", "report", "json", "trace"];

/** Each has two spellings in what citty gives: --max-downtime also as maxDowntime. */
function optionsOf(args: Record<string, unknown>): [string, string][] {
  const given = Object.entries(args).filter(([name, value]) => !UNTOLD.includes(name) && value && !/[A-Z]/.test(name));
  return given.map(([name, value]) => [`--${name}`, value === true ? "" : String(value)]);
}

function openFor(path: string): OutputFile {
  try {
    return new OutputFile({ path });
  } catch (error) {
    const { message, next } = toErrorData(error);
    throw new TramError("E_FILE", `--report: ${message}`, { ...(next && { next }) });
  }
}

/** Also by other names. */
function isSame(one: string, another: string): boolean {
  if (resolve(one) === resolve(another)) return true;
  if (!existsSync(one) || !existsSync(another)) return false;
  const [a, b] = [statSync(one), statSync(another)];
  return a.dev === b.dev && a.ino === b.ino;
}

function kindOf(path: string): string {
  const found = statSync(path);
  if (found.isFile()) return "a regular file";
  return found.isDirectory() ? "a folder" : found.isFIFO() ? "a pipe" : found.isSocket() ? "a socket" : "a device";
}
