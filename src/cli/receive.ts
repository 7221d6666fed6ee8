// tram receive: keeps an incoming migration, QEMU's or tram's, as a file with fixed offsets.
import { resolve } from "node:path";
import { DEFAULT_REPLY_MS } from "../control/send.ts";
import { TramError } from "../errors.ts";
import { net } from "../native/net.ts";
import { MULTIFD_CHANNELS_MAX } from "../stream/wire.ts";
import { parseAddress } from "../transport/address.ts";
import { endpointName, type Listener, listen } from "../transport/index.ts";
import { command } from "./command.ts";
import { say } from "./console.ts";
import { startConsumer } from "./consumer.ts";
import { fileTarget } from "./file-target.ts";
import { cancelOnSignal, interrupted, KeepView, keepReport, reportingFailure, startKeeping } from "./keeping.ts";
import { EVENTS_ARG, openJson } from "./report.ts";
import { parseCount, parseDuration } from "./units.ts";

export const receive = command({
  name: "receive",
  summary: "keeps an incoming migration, QEMU's or tram's, as a file",
  args: {
    uri: {
      type: "positional",
      description: "where it comes: tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND or -",
      required: true,
      names: "uri",
    },
    file: {
      type: "positional",
      description: "the file: PATH, file:PATH,offset=N, fd:N or - (a regular file)",
      required: true,
      names: "file",
    },
    channels: {
      type: "string",
      description: "multifd channels beside the main one (default: as many as come)",
      valueHint: "N",
    },
    timeout: { type: "string", description: "longest silence of the source (default 10s)", valueHint: "TIME" },
    json: EVENTS_ARG,
  },
  examples: [
    "tram receive unix:/run/in.sock vm.tram       # then, in QEMU's monitor: migrate -d unix:/run/in.sock",
    "tram receive tcp:0.0.0.0:4444 vm.tram --channels 4",
    'migrate "exec:tram receive - /var/lib/vm.tram"    # in QEMU\'s monitor',
  ],
  async run(args) {
    const target = fileTarget(args.file);
    const json = openJson(args.json, args.file === "-");
    const silenceMs = args.timeout === undefined ? DEFAULT_REPLY_MS : parseDuration(args.timeout, "--timeout");
    const channels =
      args.channels === undefined ? null : parseCount(args.channels, "--channels", 0, MULTIFD_CHANNELS_MAX);
    return reportingFailure(args.file, json, async () => {
      const { listener, producer } = incoming(args.uri);
      if (listener.fd >= 0 && !json?.replacesText) say(`waits on ${endpointName(listener.endpoint)}`);
      const view = new KeepView(args.file, json);
      const keeping = startKeeping({ listener, target, channels, silenceMs }, (journal) => view.update(journal));
      const signals = cancelOnSignal(() => keeping.cancel());
      const report = keepReport(args.file, await keeping.finished);
      signals.remove();
      producer?.kill();
      interrupted(report, signals.signal());
      return view.finish(report);
    });
  },
});

/** A listening socket, or a descriptor to read. */
export function incoming(uri: string): { listener: Listener; producer: { kill(): void } | null } {
  const address = parseAddress(uri);
  const passed = (fd: number, name: string) => listen({ scheme: "passed", fd, name });
  switch (address.scheme) {
    case "tcp":
      return { listener: listen(address), producer: null };
    case "unix":
      return { listener: listen({ ...address, path: resolve(address.path) }), producer: null };
    case "stdio":
      if (process.stdin.isTTY)
        throw new TramError("E_USAGE", "standard input is a terminal", {
          next: 'in QEMU\'s monitor: migrate "exec:tram receive - FILE"',
        });
      return { listener: passed(net.duplicate(0), "standard input"), producer: null };
    case "fd":
      net.fdType(address.fd);
      return { listener: passed(net.duplicate(address.fd), uri), producer: null };
    case "exec": {
      const producer = startConsumer(address.command, "read");
      return { listener: passed(producer.fd, uri), producer };
    }
    case "file":
      throw new TramError("E_USAGE", `${uri} is a file already`, {
        next: `tram convert ${address.path} FILE gives it fixed offsets`,
      });
  }
}
