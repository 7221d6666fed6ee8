// tram help --man: the manual page, in the language of man(7), from the same tables as the help.
import { EXIT } from "../errors.ts";
import { VERSION } from "../version.ts";
import { optionsOf, optionText, positionalLine, positionalsOf, type TramArg, type TramCommand } from "./command.ts";

/** Each exit code, and what it means. */
export const EXITS: readonly [code: number, means: string][] = [
  [EXIT.done, "done"],
  [EXIT.failed, "failed: the guest runs, or is intact, at the source"],
  [EXIT.usage, "usage"],
  [EXIT.badBytes, "the bytes are bad"],
  [EXIT.needsPerson, "a person must look where the guest is"],
  [EXIT.cancelled, "cancelled"],
  [EXIT.timedOut, "timed out"],
  [EXIT.refused, "refused: the guest is where it was"],
  [EXIT.interrupted, "interrupted"],
];

const ENVIRONMENT: readonly [name: string, means: string][] = [
  ["XDG_RUNTIME_DIR", "the folder in which guests have theirs, tram, with their sockets and logs; it must be this user's alone"],
  ["TMPDIR", "where that is, as tram-UID, if XDG_RUNTIME_DIR is not set and there is no /run/user/UID"],
  ["NO_COLOR", "if it is set and not empty, tram top has no colours"],
  ["TERM", "dumb: tram top prints its table once"],
  ["TRAM_DEBUG", "1: an error is followed by where in the program it was found"],
]; // biome-ignore format: a table

const FILES: readonly [path: string, means: string][] = [
  ["NAME.qmp", "in the runtime folder: a guest's QMP socket, mode 0600"],
  ["NAME.log", "beside it: what the process of a guest has said that was started with --detach, mode 0600. It stays when the guest has ended, until the next one is started so under its name: then it is NAME.log.1, as is what was said beyond 1 MiB"],
  ["SOCKET.log", "the same of a guest whose --qmp is another folder's"],
  ["FILE.seal", "the hashes of FILE, where tram seal was told --sidecar"],
  [".FILE.tram-*", "a file that was being written when its command was killed; the next that writes to FILE removes it"],
  ["/dev/kvm", "what guests of tram's own need, but for tram run --accel none"],
]; // biome-ignore format: a table

/** The whole page. */
export function manual(commands: readonly TramCommand[], date = today()): string {
  const lines = [
    `.TH TRAM 1 ${date} ${argument(`tram ${VERSION}`)} ${argument("User Commands")}`,
    ".SH NAME",
    escaped("tram - moves, saves and restores running KVM guests"),
    ".SH SYNOPSIS",
    ".B tram",
    ".I COMMAND",
    "[ARGUMENTS] [OPTIONS]",
    ".PP",
    ".B tram help",
    "[COMMAND]",
    ".SH DESCRIPTION",
    ...filled(
      "tram carries guest RAM. It takes a running QEMU guest into a file, shows what is in it, and gives it back to QEMU, which carries on; and it boots small KVM guests of its own, moves them, while they run, to another process or another host, saves them to files and brings them back. Its bytes are those of QEMU's migration stream.",
    ),
    ".PP",
    ...filled(
      "VM is a guest's name, or unix:PATH of its QMP socket. A URI is tcp:HOST:PORT, unix:PATH, file:PATH, fd:N, exec:COMMAND, or - for standard input or output. A SIZE is in bytes, or as 512M or 4GiB; a TIME as 300ms, 10s or 2m; a RATE as 800MiB/s or 10Gbit/s.",
    ),
    ".PP",
    ...filled(
      "An option's value follows it as the next word, or behind =. Options and arguments may come in any order. What a command makes goes to standard output, all else to standard error.",
    ),
    ".SH COMMANDS",
    ...commands.flatMap(commandLines),
    ".SH EXIT STATUS",
    ...EXITS.flatMap(([code, means]) => tagged(String(code), means)),
    ".SH ENVIRONMENT",
    ...ENVIRONMENT.flatMap(([name, means]) => tagged(name, means)),
    ".SH FILES",
    ...FILES.flatMap(([path, means]) => tagged(path, means)),
  ];
  return `${lines.join("\n")}\n`;
}

function commandLines({ name, summary, args, examples }: TramCommand): string[] {
  const options = optionsOf(args);
  return [
    `.SS ${argument(`tram ${name} ${positionalLine(args)}${options.length ? " [OPTIONS]" : ""}`.replace(/ +/g, " ").trim())}`,
    ...filled(`${summary[0].toUpperCase()}${summary.slice(1)}.`),
    ...positionalsOf(args).flatMap((one) => tagged(one.name, described(one.arg), "I")),
    ...options.flatMap((one) => tagged(optionText(one), described(one.arg))),
    ".PP",
    `${examples.length > 1 ? "Examples" : "Example"}:`,
    ".PP",
    ".EX",
    ...examples.map((example) => escaped(`  ${example}`)),
    ".EE",
  ];
}

const described = ({ description = "" }: TramArg): string => description;

/** A paragraph with a tag, in bold or italics. */
const tagged = (tag: string, text: string, font: "B" | "I" = "B"): string[] => [
  ".TP",
  `.${font} ${argument(tag)}`,
  ...filled(text),
];

const LINE_CHARS = 78;

/** Text in lines, of which none is taken for a request. */
function filled(text: string): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/).map(escaped)) {
    if (line !== "" && line.length + 1 + word.length > LINE_CHARS) {
      lines.push(line);
      line = "";
    }
    line += (line === "" ? "" : " ") + word;
  }
  return [...lines, line].map((one) => (/^[.']/.test(one) ? `\\&${one}` : one));
}

const ESCAPES: Record<string, string> = {
  "\\": "\\e",
  "-": "\\-",
  "'": "\\(aq",
  "`": "\\(ga",
  "^": "\\(ha",
  "~": "\\(ti",
  "…": "...",
};

/** As it is, also where a terminal's font has finer quotes and hyphens. */
const escaped = (text: string): string => text.replace(/[\\\-'`^~…]/g, (char) => ESCAPES[char]);

/** One argument of a request. */
const argument = (text: string): string => `"${escaped(text).replaceAll('"', "\\(dq")}"`;

/** Who wants the same page from the same source says when it was made: reproducible-builds.org. */
function today(): string {
  const epoch = Number(process.env.SOURCE_DATE_EPOCH);
  return new Date(epoch > 0 ? epoch * 1000 : Date.now()).toISOString().slice(0, 10);
}
