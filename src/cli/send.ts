// tram send: plays a kept guest to a waiting target, QEMU's or tram's.
import { resolve } from "node:path";
import { ZERO_COPY_MODES } from "../control/copying.ts";
import type { Journal } from "../control/journal.ts";
import { DEFAULT_REPLY_MS } from "../control/send.ts";
import { EXIT, formatError, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { openInput } from "../inspect/source.ts";
import type { PlayerInit } from "../keep/player-worker.ts";
import { net } from "../native/net.ts";
import { MULTIFD_CHANNELS_MAX } from "../stream/wire.ts";
import { parseAddress } from "../transport/address.ts";
import type { Endpoint } from "../transport/index.ts";
import { startKeptSender, startPlayer } from "../workers.ts";
import { command } from "./command.ts";
import { say } from "./console.ts";
import { startConsumer } from "./consumer.ts";
import { type Events, JSON_SCHEMA, type PlayReport } from "./events.ts";
import { parseFile, statOf } from "./file-target.ts";
import { cancelOnSignal } from "./keeping.ts";
import { ProgressView } from "./progress-view.ts";
import { channelReport, channelRows, EVENTS_ARG, failure, openJson, outcomeOf } from "./report.ts";
import { formatBytes, formatCount, formatMs, formatRate, parseCount, parseDuration, parseRate } from "./units.ts";
import { parseZeroCopy } from "./zero-copy.ts";

export const send = command({
  name: "send",
  summary: "plays a kept guest to a waiting target, QEMU's or tram's",
  args: {
    file: {
      type: "positional",
      description: "the file, with fixed offsets: PATH or file:PATH,offset=N",
      required: true,
      names: "file",
    },
    uri: {
      type: "positional",
      description: "who waits: tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND or -",
      required: true,
      names: "uri",
    },
    maxBandwidth: {
      type: "string",
      description: "the most to send, headers included (default no limit)",
      valueHint: "RATE",
    },
    channels: {
      type: "string",
      description: "multifd channels beside the main one, as the target is set (default 0)",
      valueHint: "N",
    },
    zeroCopy: {
      type: "string",
      description: `with --channels: send pages without copying them: ${ZERO_COPY_MODES.join(", ")} (default off)`,
      valueHint: "MODE",
      values: ZERO_COPY_MODES,
    },
    qemu: {
      type: "string",
      description: "with --channels: the version of the QEMU that waits (default: as the guest's machine says)",
      valueHint: "X.Y",
    },
    uuid: { type: "string", description: "with --channels: the guest's -uuid at the target", valueHint: "UUID" },
    timeout: { type: "string", description: "longest silence of the target (default 60s)", valueHint: "TIME" },
    json: EVENTS_ARG,
  },
  examples: [
    "tram send vm.tram unix:/run/in.sock     # while there waits: qemu-system-x86_64 … -incoming unix:/run/in.sock",
    "tram send vm.tram tcp:host2:4444 --max-bandwidth 1Gbit/s",
    "tram send vm.tram - | ssh host2 'qemu-system-x86_64 … -incoming exec:cat'",
  ],
  async run(args) {
    const json = openJson(args.json, args.uri === "-");
    return play(args, json).catch((error) => {
      json?.tell({ ...failure(error), event: "send.finished", owner: "file", file: args.file });
      throw error;
    });
  },
});

interface SendArgs {
  file: string;
  uri: string;
  maxBandwidth?: string;
  channels?: string;
  zeroCopy?: string;
  qemu?: string;
  uuid?: string;
  timeout?: string;
}

async function play(args: SendArgs, json: Events | null): Promise<number> {
  const replyMs = args.timeout === undefined ? TARGET_REPLY_MS : parseDuration(args.timeout, "--timeout");
  const maxBandwidthBytesPerSec = args.maxBandwidth === undefined ? 0 : parseRate(args.maxBandwidth, "--max-bandwidth");
  const channels = args.channels === undefined ? 0 : parseCount(args.channels, "--channels", 0, MULTIFD_CHANNELS_MAX);
  const qemuVersion = args.qemu ?? null;
  if (qemuVersion !== null && !/^\d+\.\d+/.test(qemuVersion))
    throw new TramError("E_USAGE", `--qemu: '${qemuVersion}' is no version`, { expected: "for example 7.2 or 10.0" });
  const uuid = args.uuid === undefined ? null : parseUuid(args.uuid);
  const zeroCopy = parseZeroCopy(args.zeroCopy ?? "off", parseAddress(args.uri));
  if (zeroCopy !== "off" && channels === 0)
    throw new TramError("E_USAGE", "--zero-copy: pages are sent without a copy over --channels only", {
      next: "give --channels 1 or more, as many as the target is set for",
    });
  const { path, offset } = openKept(args.file);
  const { endpoint, consumer } = outgoing(args.uri);
  const options = { maxBandwidthBytesPerSec, replyMs, verbatim: false };
  const view = playView(args.file, json);
  const started = startPlaying({ path, offset, endpoint, channels, zeroCopy, qemuVersion, uuid, options }, (journal) =>
    view.update(journal),
  );
  const signals = cancelOnSignal(started.cancel);
  const journal = await started.finished.finally(() => view.clear());
  signals.remove();
  const report = playReport(args.file, journal);
  const signal = signals.signal();
  if (signal && report.outcome !== "completed")
    report.error = toErrorData(new TramError("E_INTERRUPTED", `interrupted by ${signal}: the file is as it was`));
  if (consumer) {
    if (report.outcome !== "completed") consumer.kill();
    const ending = await consumer.finished;
    if (ending && !report.error)
      report.error = toErrorData(
        new TramError("E_CONSUMER", `the command ${ending}`, {
          where: args.uri,
          next: "its own output says why; the file is as it was",
        }),
      );
    if (ending) report.outcome = "failed";
  }
  json?.tell(report);
  if (report.error) {
    say(formatError(report.error));
    return fromErrorData(report.error).exitCode;
  }
  const rows = channelRows(report).map(([name, text]) => `\n  ${name}: ${text}`);
  if (!json?.replacesText)
    say(
      `${args.file}: ${report.owner === "target" ? `the guest is at ${report.peer} now` : `every byte was accepted by ${report.peer}; nobody can confirm more there`}\n  ${formatCount(report.sentPages)} pages, ${formatCount(report.zeroPages)} zero; ${formatBytes(report.bytes)} in ${formatMs(report.elapsedMs)}, ${formatRate(report.bandwidthBytesPerSec)}${rows.join("")}`,
    );
  return EXIT.done;
}

/** Where the kept guest's stream begins: in a libvirt image behind its header. */
function openKept(text: string): { path: string; offset: number } {
  const spec = parseFile(text, 0);
  const there = spec.path === null ? null : statOf(spec.path);
  if (there && !there.isFile()) throw notSeekable(text);
  const { file, offset, transport } = openInput(spec);
  transport.close();
  if (file) return { path: spec.path === null ? `/proc/self/fd/${spec.fd}` : resolve(spec.path), offset };
  throw notSeekable(text);
}

const notSeekable = (text: string): TramError =>
  new TramError("E_USAGE", `${text}: pages are read from their places in the file, so it must be a regular one`, {
    expected: "a file with fixed offsets: PATH, file:PATH,offset=N or fd:N",
    next: "tram receive - FILE keeps a stream that comes through a pipe",
  });

/** A target that loads a large guest from a slow disk is silent for a while. */
const TARGET_REPLY_MS = 6 * DEFAULT_REPLY_MS;

/** How far it is. */
export const playView = (file: string, json: Events | null): ProgressView =>
  new ProgressView("send", json, {
    phase: ({ phase, owner, elapsedMs }) => ({
      schema: JSON_SCHEMA,
      event: "send.phase",
      file,
      phase,
      owner,
      elapsedMs: Math.round(elapsedMs),
    }),
    progress: (progress, { owner }) => ({ schema: JSON_SCHEMA, event: "send.progress", file, owner, ...progress }),
  });

export function playReport(
  file: string,
  { peer, phase, owner, sentPages, zeroPages, bytes, elapsedMs, multifd, channels, error }: Journal,
): PlayReport {
  return {
    schema: JSON_SCHEMA,
    event: "send.finished",
    file,
    peer,
    outcome: outcomeOf(phase),
    owner,
    sentPages,
    zeroPages,
    bytes,
    elapsedMs: Math.round(elapsedMs),
    bandwidthBytesPerSec: Math.round((bytes * 1000) / Math.max(1, elapsedMs)),
    ...(multifd && { channels: channels.map(channelReport) }),
    error,
  };
}

export function startPlaying(
  init: Omit<PlayerInit, "stop">,
  onJournal: (journal: Journal) => void,
): { cancel(): void; finished: Promise<Journal> } {
  const stop = new SharedArrayBuffer(4);
  const over = Promise.withResolvers<Journal>();
  const player = startPlayer({ ...init, stop });
  player.onCrash((error) => over.reject(error));
  player.onEnd(() => over.reject(new TramError("E_INTERNAL", "the thread that plays the file has ended by itself")));
  player.onMessage((message) => {
    if (message.event === "journal") onJournal(message.journal);
    else if (message.event === "over") over.resolve(message.journal);
    else for (const one of message.inits) startKeptSender(one).onCrash((error) => over.reject(error));
  });
  return { cancel: () => void Atomics.store(new Int32Array(stop), 0, 1), finished: over.promise };
}

function outgoing(uri: string): { endpoint: Endpoint; consumer: ReturnType<typeof startConsumer> | null } {
  const address = parseAddress(uri);
  const passed = (fd: number): Endpoint => ({ scheme: "passed", fd, name: uri });
  switch (address.scheme) {
    case "tcp":
      return { endpoint: address, consumer: null };
    case "unix":
      return { endpoint: { ...address, path: resolve(address.path) }, consumer: null };
    case "stdio":
      if (net.fdType(1) === "other")
        throw new TramError("E_USAGE", "standard output is no pipe, socket or file: the stream would be lost");
      return { endpoint: passed(net.duplicate(1)), consumer: null };
    case "fd":
      net.fdType(address.fd);
      return { endpoint: passed(net.duplicate(address.fd)), consumer: null };
    case "exec": {
      const consumer = startConsumer(address.command, "write");
      return { endpoint: passed(consumer.fd), consumer };
    }
    case "file":
      throw new TramError("E_USAGE", `${uri} is a file, and no guest waits there`, {
        next: `tram convert FILE ${address.path} writes the plain stream`,
      });
  }
}

function parseUuid(text: string): Uint8Array {
  const digits = text.replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/i.test(digits)) throw new TramError("E_USAGE", `--uuid: '${text}' is no UUID`);
  return Buffer.from(digits, "hex");
}
