// The coded error: what every failure becomes before a person or a program sees it.

/** Exit codes, as promised in the README. */
export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  badBytes: 3,
  needsPerson: 4,
  cancelled: 5,
  timedOut: 6,
  refused: 7,
  interrupted: 130,
} as const;

/** Each code and the exit code it ends the command with. */
export const ERROR_EXITS = {
  E_USAGE: EXIT.usage,
  E_ADDRESS: EXIT.usage,
  E_NAME_IN_USE: EXIT.usage,
  E_SOCKET_IN_USE: EXIT.usage,
  E_NO_SUCH_GUEST: EXIT.usage,
  E_KVM: EXIT.failed,
  E_NATIVE_LOAD: EXIT.failed,
  E_MEMORY: EXIT.failed,
  E_RUNTIME_FOLDER: EXIT.failed,
  E_CONNECT: EXIT.failed,
  E_LISTEN: EXIT.failed,
  E_CHANNEL_CLOSED: EXIT.failed,
  E_CHANNEL: EXIT.failed,
  E_NO_BUFFERS: EXIT.failed,
  E_CONSUMER: EXIT.failed,
  E_FILE: EXIT.failed,
  E_QMP: EXIT.failed,
  E_MONITOR_IN_USE: EXIT.failed,
  E_STATE: EXIT.failed,
  E_TRACKING: EXIT.failed,
  E_GUEST: EXIT.failed,
  E_GUEST_BAD: EXIT.badBytes,
  E_GUEST_RAM: EXIT.badBytes,
  E_STREAM: EXIT.badBytes,
  E_STREAM_TRUNCATED: EXIT.badBytes,
  E_HASH: EXIT.badBytes,
  E_HANDOVER_UNKNOWN: EXIT.needsPerson,
  E_CANCELLED: EXIT.cancelled,
  E_TIMED_OUT: EXIT.timedOut,
  E_PEER_SILENT: EXIT.timedOut,
  E_REFUSED: EXIT.refused,
  E_INTERRUPTED: EXIT.interrupted,
  E_INTERNAL: EXIT.failed,
} as const;

export type ErrorCode = keyof typeof ERROR_EXITS;

/** What a person needs besides the sentence: all optional, none repeated in the message. */
export interface ErrorDetails {
  expected?: string;
  found?: string;
  where?: string;
  next?: string;
}

/** Who may run the guest, in every result of a move. */
export type Owner = "source" | "target" | "unconfirmed" | "file" | "none";

export class TramError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = "TramError";
    this.code = code;
    this.details = details;
  }

  get exitCode(): number {
    return ERROR_EXITS[this.code];
  }
}

/** Whoever is at a channel's other end says, or takes, nothing for longer than it may. `who` that is, if it is known. */
export const peerSilent = (message: string, details: ErrorDetails = {}, who = "it"): TramError =>
  new TramError("E_PEER_SILENT", message, {
    ...details,
    next: `look whether ${who} still runs and the network is up; --timeout gives it longer`,
  });

/** The error as data, for JSON and for crossing Workers and sockets. */
export interface ErrorData extends ErrorDetails {
  code: ErrorCode;
  message: string;
}

export function toErrorData(error: unknown): ErrorData {
  if (error instanceof TramError) return { code: error.code, message: error.message, ...error.details };
  const text = error instanceof Error ? `${error.message}` : String(error);
  return { code: "E_INTERNAL", message: text, next: "this is a defect of tram: please report it with this text" };
}

export function fromErrorData(data: ErrorData): TramError {
  const { code, message, ...details } = data;
  return new TramError(Object.hasOwn(ERROR_EXITS, code) ? code : "E_INTERNAL", message, details);
}

/** Why the system refused, without the call and the path that Node adds: who tells it has named both. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return /^E[A-Z0-9]+: [^,]+(?=, )/.exec(text)?.[0] ?? text;
}

/** The error for a person: one line for what happened, one for each detail that adds to it. */
export function formatError(data: ErrorData): string {
  const details = (["where", "expected", "found", "next"] as const).flatMap((name) => {
    const text = data[name];
    return text ? [`  ${name}: ${printable(text)}`] : [];
  });
  return [printable(data.message), ...details].join("\n");
}

/** Without what would steer a terminal: some of the text may be a peer's. */
function printable(text: string): string {
  return text.trim().replace(/[\p{Cc}]/gu, (char) => (char === "\n" ? "\n    " : "?"));
}
