// tram migrate: moves a running guest.
import { resolve } from "node:path";
import { ZERO_COPY_MODES } from "../control/copying.ts";
import { isOver, type Journal } from "../control/journal.ts";
import { ON_TIMEOUT, type OnTimeout } from "../control/limits.ts";
import { MOVE_CHANNELS_MAX, ZSTD_LEVEL_MAX } from "../control/send.ts";
import { EXIT, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { net } from "../native/net.ts";
import { QmpClient } from "../qmp/client.ts";
import { type Address, formatAddress, parseAddress } from "../transport/address.ts";
import { OutputFile } from "../writer/output-file.ts";
import { command } from "./command.ts";
import { type Consumer, startConsumer } from "./consumer.ts";
import { FREE_ARGS, freeOptions } from "./free-pages.ts";
import { MAX_DOWNTIME_ARG, requireTram, VM_ARG } from "./guest.ts";
import {
  describeOwner,
  EVENTS_ARG,
  type FinalReport,
  failedReport,
  finalReport,
  MoveView,
  openJson,
  openTrace,
} from "./report.ts";
import { fdPath, openReport, REPORT_ARG } from "./report-file.ts";
import { findSocket } from "./runtime.ts";
import { parseCount, parseDuration, parseRate } from "./units.ts";
import { parseZeroCopy } from "./zero-copy.ts";

const POLL_MS = 20;
/** Filling all of a large guest's memory takes seconds. */
const BOOT_MS = 60_000;

export const migrate = command({
  name: "migrate",
  summary: "moves a running guest to another process or host",
  args: {
    vm: VM_ARG,
    uri: {
      type: "positional",
      description: "where to: tcp:HOST:PORT, unix:PATH, file:PATH, fd:N, exec:COMMAND or -",
      required: true,
      names: "uri",
    },
    maxDowntime: MAX_DOWNTIME_ARG,
    maxBandwidth: {
      type: "string",
      description: "the most to send, headers included (default no limit)",
      valueHint: "RATE",
    },
    timeout: {
      type: "string",
      description: "the longest the whole move, or silence of the target, may take (default none; 10s)",
      valueHint: "TIME",
    },
    onTimeout: {
      type: "string",
      description: `what then: ${ON_TIMEOUT.join(", ")} (default cancel). pause: the guest stands still until all is sent`,
      valueHint: "WHAT",
      values: ON_TIMEOUT,
    },
    hold: {
      type: "boolean",
      description: "do not switch over before tram set VM hold=off; until then what is left is kept small",
    },
    channels: {
      type: "string",
      description: "connections for the pages beside the main one, to a tram at tcp: or unix: (default none)",
      valueHint: "N",
    },
    zeroCopy: {
      type: "string",
      description: `send pages without copying them, over tcp: and --channels: ${ZERO_COPY_MODES.join(", ")} (default auto)`,
      valueHint: "MODE",
      values: ZERO_COPY_MODES,
    },
    compress: {
      type: "string",
      description: "compress what --channels carry: zstd, zstd:LEVEL or none (default none)",
      valueHint: "METHOD",
      suggestions: ["none", "zstd", "zstd:"],
    },
    ...FREE_ARGS,
    verify: {
      type: "boolean",
      description: "hash every page at both ends, and compare before the guest is handed over",
    },
    iovMax: { type: "string", description: "iovecs in one system call, 1 to 1024 (default 1024)", valueHint: "N" },
    trace: {
      type: "string",
      description: "each phase and when it began, one a line, into this file",
      valueHint: "PATH",
      names: "file",
    },
    report: REPORT_ARG,
    json: EVENTS_ARG,
  },
  examples: [
    "tram migrate a tcp:host2:4444",
    "tram migrate a tcp:host2:4444 --timeout 2m --on-timeout throttle",
    "tram migrate a tcp:host2:4444 --channels 4 --zero-copy on",
    "tram migrate a tcp:host2:4444 --hold    # all but the switch-over; that comes with: tram set a hold=off",
    "tram migrate a unix:/run/b.sock --max-downtime 50ms --max-bandwidth 1Gbit/s",
    "tram migrate a tcp:host2:4444 --report move.html",
    "tram migrate a - | zstd | ssh host2 'zstd -d | tram run --incoming - --name a'",
    'tram migrate a "exec:gzip -c > a.tram.gz"',
  ],
  async run(args) {
    const address = parseAddress(args.uri);
    const json = openJson(args.json, address.scheme === "stdio");
    const timeoutMs = args.timeout === undefined ? 0 : parseDuration(args.timeout, "--timeout");
    const onTimeout = args.onTimeout === undefined ? undefined : parseOnTimeout(args.onTimeout);
    if (onTimeout !== undefined && timeoutMs === 0)
      throw new TramError("E_USAGE", "--on-timeout says what is done when --timeout is over, and there is none", {
        next: "give --timeout, too, or set it later: tram set VM timeout=2m",
      });
    const options = {
      peer: formatAddress(address),
      ...(onTimeout !== undefined && { onTimeout }),
      ...(args.maxDowntime !== undefined && { maxDowntimeMs: parseDuration(args.maxDowntime, "--max-downtime") }),
      ...(args.maxBandwidth !== undefined && {
        maxBandwidthBytesPerSec: parseRate(args.maxBandwidth, "--max-bandwidth"),
      }),
      ...(args.iovMax !== undefined && { iovMax: parseCount(args.iovMax, "--iov-max", 1, 1024) }),
      ...channelOptions(args, address),
      ...freeOptions(args),
      ...(args.verify && { verify: true }),
      ...(args.hold && { hold: true }),
      ...(timeoutMs > 0 && { timeoutMs }),
      // What is to go on behind its time may take a target's answer longer, too.
      ...(timeoutMs > 0 && (onTimeout ?? "cancel") === "cancel" && { replyMs: timeoutMs }),
      copying: process.env.TRAM_COPY_PAGES === "1", // for the benchmark: the same stream through a copying buffer
      lookAtAll: process.env.TRAM_LOOK_AT_ALL === "1", // for the benchmark: never touched pages are read, and sent as zero pages
    };
    const known = { vm: args.vm, where: options.peer, args, product: productOf(address) };
    const page = openReport(args.report, { kind: "migrate", ...known });
    try {
      const view = new MoveView(args.vm, json, openTrace(args.trace), page?.recording);
      const report = await move(args.vm, address, options, view);
      await page?.write({ outcome: report.outcome, owner: describeOwner(report), error: report.error });
      if (!report.error) return report.outcome === "cancelled" ? EXIT.cancelled : EXIT.done;
      return fromErrorData(report.error).exitCode;
    } catch (error) {
      failedReport(args.vm, error, json);
      await page?.fail(error);
      throw error;
    }
  },
});

export function parseOnTimeout(text: string): OnTimeout {
  const found = ON_TIMEOUT.find((one) => one === text);
  if (found) return found;
  throw new TramError("E_USAGE", `on-timeout: '${text}' is not known`, { expected: ON_TIMEOUT.join(", ") });
}

/** Said before anything has begun, where it can be known by then. */
function channelOptions(args: { channels?: string; zeroCopy?: string; compress?: string }, address: Address) {
  const { scheme } = address;
  const { channels, zeroCopy, compress } = args;
  const asked = channels !== undefined ? "--channels" : zeroCopy !== undefined ? "--zero-copy" : "--compress";
  if (channels === undefined && zeroCopy === undefined && compress === undefined) return {};
  const mode = parseZeroCopy(zeroCopy ?? "auto", address);
  const compressLevel = parseCompress(compress ?? "none");
  if (compressLevel !== null && mode === "on")
    throw new TramError("E_USAGE", "--zero-copy on and --compress exclude each other: what is compressed is a copy");
  if (scheme !== "tcp" && scheme !== "unix")
    throw new TramError(
      "E_REFUSED",
      `${asked}: pages go over connections of their own, and only one can be made here`,
      {
        expected: "tcp:HOST:PORT or unix:PATH",
        found: `${scheme}:`,
        next: `leave ${asked} out`,
      },
    );
  return {
    channels: channels === undefined ? 1 : parseCount(channels, "--channels", 1, MOVE_CHANNELS_MAX),
    zeroCopy: mode,
    ...(compressLevel !== null && { compressLevel }),
  };
}

/** zstd's level; null: none. */
function parseCompress(text: string): number | null {
  if (text === "none") return null;
  const match = /^zstd(?::([0-9]+))?$/.exec(text);
  const level = Number(match?.[1] ?? 1);
  if (match && level >= 1 && level <= ZSTD_LEVEL_MAX) return level;
  throw new TramError("E_USAGE", `--compress: '${text}' is not known`, {
    expected: `none, zstd, or zstd:1 to zstd:${ZSTD_LEVEL_MAX}`,
  });
}

/** The channel as the guest's process is told of it: an address, or a descriptor that is passed. */
interface Channel {
  uri: string;
  /** To be passed; -1: nothing. Ours is closed once it was, so that the guest's process has the only writing end. */
  fd: number;
  consumer: Consumer | null;
  file: OutputFile | null;
  /** A description of the caller's that is a regular file: it is synced, and cannot be renamed. */
  syncFd: number;
}

function openChannel(address: Address): Channel {
  const passed = { uri: "fd:tram", fd: -1, consumer: null, file: null, syncFd: -1 };
  switch (address.scheme) {
    case "tcp":
      return { ...passed, uri: formatAddress(address) };
    case "unix":
      return { ...passed, uri: `unix:${resolve(address.path)}` };
    case "stdio":
      // A terminal, or the /dev/null that stands for a closed standard output: nobody there would keep the guest.
      if (net.fdType(1) === "other")
        throw new TramError("E_USAGE", "standard output is no pipe, socket or file: the stream would be lost", {
          next: "pipe it: tram migrate VM - | tram run --incoming -",
        });
      return { ...passed, fd: net.duplicate(1), syncFd: net.fdType(1) === "file" ? 1 : -1 };
    case "fd":
      return {
        ...passed,
        syncFd: net.fdType(address.fd) === "file" ? address.fd : -1,
        fd: net.duplicate(address.fd),
      };
    case "file": {
      const file = new OutputFile({ path: address.path });
      return { ...passed, fd: net.duplicate(file.fd), file };
    }
    case "exec": {
      const consumer = startConsumer(address.command, "write");
      return { ...passed, fd: consumer.fd, consumer };
    }
  }
}

/** Of an address that may be a file. */
function productOf(address: Address): string | undefined {
  if (address.scheme === "file") return address.path;
  return address.scheme === "stdio" ? fdPath(1) : address.scheme === "fd" ? fdPath(address.fd) : undefined;
}

async function move(vm: string, address: Address, options: object, view: MoveView): Promise<FinalReport> {
  const client = await QmpClient.connect(findSocket(vm), vm);
  const interrupt = onInterrupt(client);
  let channel: Channel | null = null;
  try {
    await requireTram(
      client,
      vm,
      "which moves itself",
      `in its monitor: migrate -d URI; or keep it in between: tram save ${vm} FILE, then tram send FILE URI`,
    );
    await untilBooted(client, interrupt.signal);
    channel = openChannel(address);
    if (channel.fd >= 0) {
      await client.execute("getfd", { fdname: "tram" }, channel.fd);
      net.close(channel.fd);
      channel.fd = -1;
    }
    await client.execute("migrate", { uri: channel.uri, tram: options });
    const journal = await follow(client, view, interrupt).catch((error) => {
      throw lostSight(vm, error);
    });
    const report = await conclude(vm, journal, channel, interrupt);
    channel = null;
    view.finish(report);
    return report;
  } finally {
    interrupt.remove();
    if (channel) abandon(channel);
    client.close();
  }
}

/** A guest whose memory is still being made is there in a moment: `tram run … & tram migrate …` is what scripts do. */
export async function untilBooted(client: QmpClient, signal: () => string | null): Promise<void> {
  for (const end = performance.now() + BOOT_MS; performance.now() < end && !signal(); await Bun.sleep(POLL_MS))
    if ((await client.execute<{ status: string }>("query-status")).status !== "prelaunch") return;
}

/** The move never began: what was made ready for it goes. */
function abandon(channel: Channel): void {
  if (channel.fd >= 0) net.close(channel.fd);
  channel.file?.discard();
  channel.consumer?.kill();
}

/** Reads the journal until the move is over. */
async function follow(client: QmpClient, view: MoveView, interrupt: Interrupt): Promise<Journal> {
  for (;;) {
    await interrupt.cancelOnce();
    const journal = await client.execute<Journal | Record<string, never>>("tram-query-move");
    if ("phase" in journal) {
      view.update(journal as Journal);
      if (isOver(journal.phase)) return journal as Journal;
    }
    await Bun.sleep(POLL_MS);
  }
}

/** What the guest's process cannot know: the consumer's end, the file's durability, that a person interrupted. */
async function conclude(vm: string, journal: Journal, channel: Channel, interrupt: Interrupt): Promise<FinalReport> {
  const report = finalReport(vm, journal);
  const completed = report.outcome === "completed";
  const signal = interrupt.signal();
  if (signal && report.owner === "source") report.outcome = "cancelled"; // a terminal's Ctrl-C may have ended the consumer first
  if (report.outcome === "cancelled") {
    const [code, why] = signal
      ? (["E_INTERRUPTED", `interrupted by ${signal}`] as const)
      : (["E_CANCELLED", "cancelled"] as const);
    const isWaitedFor = /^(tcp|unix):/.test(report.peer) && report.rounds + report.bytes > 0;
    report.error = toErrorData(
      new TramError(code, `${why}: the guest goes on at the source`, {
        ...(isWaitedFor && {
          next: `who waited at ${report.peer} has ended with it: start a target again for another try`,
        }),
      }),
    );
  }
  if (channel.consumer) {
    if (report.outcome === "cancelled") channel.consumer.kill(); // it would wait for more, or make something of a half
    const ending = await endOf(channel.consumer, interrupt);
    if (ending && report.outcome !== "cancelled") consumerFailed(vm, report, ending, journal.peer);
  }
  if (channel.file && !completed) channel.file.discard();
  if (completed) makeDurable(vm, report, channel);
  return report;
}

/** The consumer's end; a person who does not want to wait for it interrupts. */
async function endOf(consumer: Consumer, interrupt: Interrupt): Promise<string | null> {
  const seen = interrupt.signal();
  const watch = setInterval(() => {
    if (interrupt.signal() !== seen) consumer.kill();
  }, POLL_MS);
  return consumer.finished.finally(() => clearInterval(watch));
}

function makeDurable(vm: string, report: FinalReport, channel: Channel): void {
  try {
    if (channel.file) channel.file.commit();
    if (channel.syncFd >= 0) net.sync(channel.syncFd);
    if (channel.file?.isPlain || channel.syncFd >= 0) report.owner = "file";
  } catch (error) {
    // Every byte was accepted, so the guest is stopped here; but nothing is safe elsewhere.
    report.outcome = "failed";
    report.error = { ...toErrorData(error), next: `the guest is intact here, stopped: tram resume ${vm}` };
  }
}

/** The move was accepted and its end is not known: the guest's process is gone, or does not answer. */
function lostSight(vm: string, error: unknown): TramError {
  return new TramError("E_HANDOVER_UNKNOWN", `lost sight of the move of '${vm}': ${toErrorData(error).message}`, {
    next: "tram ps here and on the target's host: let the guest run where it is, and only there",
  });
}

function consumerFailed(vm: string, report: FinalReport, ending: string, name: string): void {
  const tookAll = report.owner !== "source"; // the hand-over word included
  report.outcome = "failed";
  const next = tookAll
    ? `what it kept is not to be trusted; the guest is intact here: tram resume ${vm}, unless that command started it elsewhere`
    : "the guest goes on at the source";
  const message = `the command ${ending}${tookAll ? " after it had taken the whole stream" : ""}`;
  report.error = toErrorData(
    new TramError("E_CONSUMER", message, { where: name, expected: "exit status 0", found: ending, next }),
  );
}

export interface Interrupt {
  signal(): string | null;
  cancelOnce(): Promise<void>;
  remove(): void;
}

/** Ctrl-C, a closed terminal, a polite kill: the move is cancelled and its end awaited. */
export function onInterrupt(client: QmpClient): Interrupt {
  let signal: string | null = null;
  let cancelled = false;
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const handlers = names.map((name) => {
    const handler = () => {
      signal ??= name;
    };
    process.on(name, handler);
    return [name, handler] as const;
  });
  return {
    signal: () => signal,
    async cancelOnce() {
      if (!signal || cancelled) return;
      cancelled = true;
      await client.execute("migrate_cancel");
    },
    remove() {
      for (const [name, handler] of handlers) process.off(name, handler);
    },
  };
}
