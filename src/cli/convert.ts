// tram convert: a plain stream becomes a file with fixed offsets, and such a file a plain stream again.
import { readSync } from "node:fs";
import { resolve } from "node:path";
import { EXIT, formatError, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { openInput } from "../inspect/source.ts";
import { net } from "../native/net.ts";
import { hasFixedOffsets } from "../reader/mapped.ts";
import type { FileTransport } from "../transport/file.ts";
import { OutputFile } from "../writer/output-file.ts";
import { command } from "./command.ts";
import { say } from "./console.ts";
import type { Events } from "./events.ts";
import { fileTarget, inFile, parseFile, refuseSameFile } from "./file-target.ts";
import { cancelOnSignal, interrupted, KeepView, keepReport, reportingFailure, startKeeping } from "./keeping.ts";
import { EVENTS_ARG, openJson } from "./report.ts";
import { playReport, playView, startPlaying } from "./send.ts";
import { formatBytes, formatCount } from "./units.ts";

const REPLY_MS = 60_000;

export const convert = command({
  name: "convert",
  summary: "gives a plain stream fixed offsets, or makes a plain stream of such a file",
  args: {
    in: {
      type: "positional",
      description: "a plain stream (file, libvirt save image, fd:N or -), or a file with fixed offsets",
      required: true,
      names: "file",
    },
    out: {
      type: "positional",
      description: "the other kind: PATH, file:PATH,offset=N, fd:N or -",
      required: true,
      names: "file",
    },
    json: EVENTS_ARG,
  },
  examples: [
    "tram convert stream.bin vm.tram",
    "tram convert vm.tram stream.bin",
    "zstdcat stream.zst | tram convert - vm.tram",
    "tram convert /var/lib/libvirt/qemu/save/vm.save vm.tram",
  ],
  async run(args) {
    refuseSameFile(args.in, args.out);
    const json = openJson(args.json, args.out === "-");
    return reportingFailure(args.out, json, () => convertTo(args.in, args.out, json));
  },
});

async function convertTo(from: string, to: string, json: Events | null): Promise<number> {
  const spec = parseFile(from, 0);
  // What comes through a pipe cannot be looked at first: it is a plain stream, or the reader says what else it is.
  if (spec.fd !== null && net.fdType(spec.fd) !== "file") return toFixed(net.duplicate(spec.fd), from, to, json);
  const input = inFile(from, () => openInput(spec));
  if (input.kind === "channel")
    throw new TramError("E_STREAM", `${from} is a capture of one multifd channel, and has no machine`, {
      next: "replay all channels to tram receive",
    });
  const file = input.file as FileTransport;
  if (hasFixedOffsets(file, input.offset))
    return toPlain(resolve(spec.path ?? `/proc/self/fd/${spec.fd}`), input.offset, from, to, json);
  return toFixed(streamDescriptor(file, input.offset), from, to, json);
}

async function toFixed(fd: number, from: string, to: string, json: Events | null): Promise<number> {
  const view = new KeepView(to, json);
  const keeping = startKeeping(
    {
      listener: { endpoint: { scheme: "passed", fd, name: from }, fd: -1 },
      target: fileTarget(to),
      channels: 0,
      silenceMs: REPLY_MS,
    },
    (journal) => view.update(journal),
  );
  const signals = cancelOnSignal(() => keeping.cancel());
  const report = keepReport(to, await keeping.finished);
  signals.remove();
  interrupted(report, signals.signal());
  return view.finish(report);
}

/** A descriptor whose next byte is the stream's first. */
function streamDescriptor(file: FileTransport, offset: number): number {
  const fd = net.duplicate(file.fd);
  for (let left = offset; left > 0; ) {
    const skipped = readSync(fd, new Uint8Array(Math.min(left, 1 << 20)), 0, Math.min(left, 1 << 20), null);
    if (skipped === 0) break;
    left -= skipped;
  }
  return fd;
}

async function toPlain(path: string, offset: number, from: string, to: string, json: Events | null): Promise<number> {
  const out = parseFile(to, 1);
  const output =
    out.path === null
      ? null
      : new OutputFile(out.offset === null ? { path: out.path } : { path: out.path, offset: out.offset });
  const endpoint = { scheme: "passed", fd: net.duplicate(output?.fd ?? (out.fd as number)), name: to } as const;
  const options = { maxBandwidthBytesPerSec: 0, replyMs: REPLY_MS, verbatim: true };
  const view = playView(from, json);
  const playing = startPlaying(
    { path, offset, endpoint, channels: 0, zeroCopy: "off", qemuVersion: null, uuid: null, options },
    (journal) => view.update(journal),
  );
  const signals = cancelOnSignal(playing.cancel);
  const report = playReport(from, await playing.finished.finally(() => view.clear()));
  signals.remove();
  if (report.outcome === "completed") output?.commit();
  else output?.discard();
  if (signals.signal() && report.error)
    report.error = toErrorData(
      new TramError("E_INTERRUPTED", `interrupted by ${signals.signal()}: nothing was written`),
    );
  json?.tell(report);
  if (report.error) {
    say(formatError(report.error));
    return fromErrorData(report.error).exitCode;
  }
  if (!json?.replacesText)
    say(
      `${to}: a plain stream of ${formatBytes(report.bytes)}, ${formatCount(report.sentPages)} pages with content, ${formatCount(report.zeroPages)} zero`,
    );
  return EXIT.done;
}
