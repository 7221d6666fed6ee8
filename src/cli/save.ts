// tram save: takes a running guest into a file: one of QEMU's through its monitor, one of ours by its own process (save-guest.ts).
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_LIMITS } from "../control/limits.ts";
import { AFTER, type After, SAVE_THREADS_MAX, writesOn } from "../control/save.ts";
import { DEFAULT_REPLY_MS } from "../control/send.ts";
import { TramError, toErrorData } from "../errors.ts";
import { DIRECT_MODES } from "../native/file.ts";
import { net } from "../native/net.ts";
import { QmpClient } from "../qmp/client.ts";
import { DOWNTIME_MS_MAX, isQemu, type MigrateInfo, QemuMigration } from "../qmp/migration.ts";
import { MULTIFD_CHANNELS_MAX } from "../stream/wire.ts";
import { type Listener, listen } from "../transport/index.ts";
import { command } from "./command.ts";
import { DIRECT_CHOICES, parseDirect } from "./direct.ts";
import type { KeepReport } from "./events.ts";
import { fileTarget } from "./file-target.ts";
import { FREE_ARGS, type FreeArgs, freeOptions, nonDefaultFree } from "./free-pages.ts";
import { cancelOnSignal, type KeepResult, KeepView, keepReport, reportingFailure, startKeeping } from "./keeping.ts";
import { EVENTS_ARG, MoveView, openJson } from "./report.ts";
import { fdPath, openReport, REPORT_ARG, savedOutcome } from "./report-file.ts";
import { findSocket } from "./runtime.ts";
import { finishSave, saveGuest } from "./save-guest.ts";
import { parseCount, parseDuration, parseRate } from "./units.ts";

const POLL_MS = 50;
/** Two keep a disk busy beside the zero scan and the hashes of the one that waits. */
const DEFAULT_CHANNELS = 2;
/** From the moment the file is durable: QEMU has only to hear it. */
const ENDING_MS = 10_000;
const QUIT_MS = 10_000;

export const save = command({
  name: "save",
  summary: "takes a running guest into a file",
  args: {
    vm: {
      type: "positional",
      description: "the guest: its name, or unix:PATH of its QMP socket, tram's or QEMU's",
      required: true,
      names: "guest",
    },
    file: {
      type: "positional",
      description: "the file: PATH, file:PATH,offset=N or fd:N (a regular file)",
      required: true,
      names: "file",
    },
    after: {
      type: "string",
      description: "what becomes of the guest then: quit, pause or resume (default quit)",
      valueHint: "WHAT",
      values: AFTER,
    },
    disks: {
      type: "string",
      description: "none: the file is not to be used with the guest's disks as they are now, which may then go on",
      values: ["none"],
    },
    channels: {
      type: "string",
      description: "threads that write (default 2); QEMU: multifd channels beside the main one (default 0)",
      valueHint: "N",
    },
    directIo: {
      type: "string",
      description: `past the page cache: ${DIRECT_CHOICES} (default auto)`,
      valueHint: "MODE",
      values: DIRECT_MODES,
    },
    reserve: { type: "boolean", description: "allocate all the blocks it may need before it begins" },
    overcommit: { type: "boolean", description: "begin even where the worst case would not fit the disk" },
    maxDowntime: {
      type: "string",
      description:
        "how long the guest may stand still (default 300ms; one of QEMU's that is not resumed: no limit, without --max-bandwidth)",
      valueHint: "TIME",
    },
    maxBandwidth: { type: "string", description: "the most to take (default no limit)", valueHint: "RATE" },
    ...FREE_ARGS,
    timeout: { type: "string", description: "the longest it may take (default none)", valueHint: "TIME" },
    report: REPORT_ARG,
    json: EVENTS_ARG,
  },
  examples: [
    "tram save a a.tram                                       # tram restore a.tram brings it back",
    "tram save a a.tram --after resume --channels 4 --direct-io on",
    "tram save a a.tram --report save.html",
    "tram save unix:/run/vm.qmp vm.tram                       # QEMU ends when the file is on disk",
    "tram save unix:/run/vm.qmp vm.tram --after pause --channels 4",
    "tram save unix:/run/vm.qmp vm.tram --after resume --disks none --max-downtime 50ms",
  ],
  async run(args) {
    const after = oneOf(args.after ?? "quit");
    if (args.disks !== undefined && args.disks !== "none")
      throw new TramError("E_USAGE", `--disks: '${args.disks}' is not known`, { expected: "none" });
    const channels = args.channels === undefined ? 0 : parseCount(args.channels, "--channels", 0, MULTIFD_CHANNELS_MAX);
    const direct = parseDirect(args.directIo);
    const settings = {
      channels,
      maxBandwidthBytesPerSec: args.maxBandwidth === undefined ? 0 : parseRate(args.maxBandwidth, "--max-bandwidth"),
      maxDowntimeMs:
        args.maxDowntime !== undefined
          ? parseDuration(args.maxDowntime, "--max-downtime")
          : after === "resume" || args.maxBandwidth !== undefined // QEMU does not slow down a guest that stands still
            ? DEFAULT_LIMITS.maxDowntimeMs
            : DOWNTIME_MS_MAX,
    };
    const timeoutMs = args.timeout === undefined ? 0 : parseDuration(args.timeout, "--timeout");
    const target = fileTarget(args.file);
    const json = openJson(args.json, false);
    const product = "path" in target ? target.path : fdPath(target.fd);
    const page = openReport(args.report, { kind: "save", vm: args.vm, where: args.file, args, product });
    const view = new KeepView(args.file, json, page?.recording);
    const done = reportingFailure(args.file, json, async () => {
      const client = await QmpClient.connect(findSocket(args.vm), args.vm);
      try {
        if (!(await isQemu(client))) {
          const limits = {
            ...(args.maxDowntime !== undefined && { maxDowntimeMs: settings.maxDowntimeMs }),
            maxBandwidthBytesPerSec: settings.maxBandwidthBytesPerSec,
            timeoutMs,
          };
          const threads =
            args.channels === undefined
              ? DEFAULT_CHANNELS
              : parseCount(args.channels, "--channels", 1, SAVE_THREADS_MAX);
          const { reserve, overcommit } = args;
          const free = freeOptions(args);
          const wanted = {
            after,
            channels: threads,
            direct,
            reserve: !!reserve,
            overcommit: !!overcommit,
            limits,
            free,
            recordsDisks: args.disks !== "none",
          };
          const move = new MoveView(args.vm, json, null, page?.recording ?? null, "save");
          const signals = cancelOnSignal(() => undefined);
          try {
            const report = await saveGuest(args.vm, client, args.file, target, wanted, move, signals.signal);
            const code = finishSave(report, move, json);
            await page?.write(savedOutcome(report, after));
            return code;
          } finally {
            signals.remove();
          }
        }
        refuseForQemu(args);
        const saving = new Saving(args.vm, client, after, timeoutMs);
        await saving.check(args.disks === "none");
        const report = await saving.run(args.file, target, settings, view);
        const code = view.finish(report);
        await page?.write({ ...savedOutcome(report, after), isQemu: true });
        return code;
      } finally {
        client.close();
      }
    });
    return done.catch(async (error) => {
      await page?.fail(error);
      throw error;
    });
  },
});

/** What only our own writing threads can do. */
function refuseForQemu(args: FreeArgs & { directIo?: string; reserve?: boolean; overcommit?: boolean }): void {
  const threads = args.directIo !== undefined ? "--direct-io" : args.reserve ? "--reserve" : null;
  const ours = threads ?? (args.overcommit ? "--overcommit" : nonDefaultFree(args));
  if (ours)
    throw new TramError("E_USAGE", `${ours} is for tram's own guests`, {
      next: "leave it out: long runs of QEMU's pages go past the page cache where they can",
    });
}

function oneOf(text: string): After {
  const found = AFTER.find((one) => one === text);
  if (found) return found;
  throw new TramError("E_USAGE", `--after: '${text}' is not known`, { expected: AFTER.join(", ") });
}

/** How the guest's process is told to send: our end, and its address. */
interface Way {
  listener: Listener;
  uri: string;
  passFd: number;
  remove(): void;
}

class Saving {
  readonly #vm: string;
  readonly #client: QmpClient;
  readonly #migration: QemuMigration;
  readonly #after: After;
  readonly #timeoutMs: number;
  #wasRunning = false;

  constructor(vm: string, client: QmpClient, after: After, timeoutMs: number) {
    this.#vm = vm;
    this.#client = client;
    this.#migration = new QemuMigration(client);
    this.#after = after;
    this.#timeoutMs = timeoutMs;
  }

  /** Everything that can be refused, before anything is changed. */
  async check(disksAreMeant: boolean): Promise<void> {
    this.#wasRunning = (await this.#migration.checkIdle()) === "running";
    if (this.#after !== "resume" || disksAreMeant) return;
    const disks = await this.#migration.writableDisks();
    if (disks.length) throw writesOn(disks);
  }

  async run(
    file: string,
    target: Parameters<typeof startKeeping>[0]["target"],
    settings: Parameters<QemuMigration["prepare"]>[0],
    view: KeepView,
  ): Promise<KeepReport> {
    const way = settings.channels > 0 ? socketWay() : passedWay();
    let keeping: ReturnType<typeof startKeeping> | null = null;
    const signals = cancelOnSignal(() => undefined);
    try {
      await this.#migration.prepare(settings);
      keeping = startKeeping(
        { listener: way.listener, target, channels: settings.channels, silenceMs: DEFAULT_REPLY_MS },
        (journal) => view.update(journal),
      );
      if (way.passFd >= 0) {
        await this.#client.execute("getfd", { fdname: "tram" }, way.passFd);
        net.close(way.passFd);
        way.passFd = -1;
      }
      await this.#migration.start(way.uri);
      const result = await this.#follow(keeping, signals.signal);
      const report = keepReport(file, result);
      if (report.outcome === "completed") return await this.#conclude(report, result);
      const info = await this.#end(result);
      this.#explain(report, info, signals.signal());
      await this.#migration.restore();
      return report;
    } catch (error) {
      keeping?.cancel();
      await this.#migration.restore().catch(() => undefined); // the guest may be gone: the first error says so
      throw error;
    } finally {
      signals.remove();
      if (way.passFd >= 0) net.close(way.passFd);
      way.remove();
    }
  }

  /** The file is on disk. Whatever the monitor does now, that stays so, and the report says it. */
  async #conclude(report: KeepReport, result: KeepResult): Promise<KeepReport> {
    try {
      const info = await this.#end(result);
      if (info.status === "completed") await this.#leave(report);
      else this.#unheard(report, info);
      return { ...report, downtimeMs: info.downtime ?? null };
    } catch (error) {
      report.outcome = "failed";
      report.error = toErrorData(
        new TramError(
          "E_HANDOVER_UNKNOWN",
          `${report.file} is complete and on disk, but its guest was not left as asked`,
          {
            expected: `--after ${this.#after}`,
            found: (error as Error).message,
            next: `tram status ${this.#vm}: if it stands in postmigrate, tram quit or tram resume it; if it runs, the file is older than it`,
          },
        ),
      );
      return report;
    }
  }

  /** QEMU missed our word, and lets the guest run on. */
  #unheard(report: KeepReport, info: MigrateInfo): void {
    report.outcome = "failed";
    report.owner = "source";
    report.error = toErrorData(
      new TramError("E_QMP", "the file is complete, but the guest did not hear so, and goes on", {
        found: info["error-desc"] ?? `'${info.status}'`,
        next: "use the file only if the guest is stopped; else save it again",
      }),
    );
  }

  /** Until our side is over. A source that fails by itself closes the channel, and so ends it too. */
  async #follow(keeping: ReturnType<typeof startKeeping>, signal: () => string | null): Promise<KeepResult> {
    const endMs = this.#timeoutMs ? performance.now() + this.#timeoutMs : Number.POSITIVE_INFINITY;
    let over: KeepResult | null = null;
    let failure: unknown = null;
    keeping.finished.then(
      (result) => (over = result),
      (error) => (failure = error),
    );
    for (let cancelled = false; over === null; await Bun.sleep(POLL_MS)) {
      if (failure) throw failure;
      const timedOut = performance.now() > endMs;
      if (cancelled || (!timedOut && !signal())) continue;
      cancelled = true;
      // Before QEMU is told: a file that is getting its name is the guest's, and QEMU is to hear so.
      if (!keeping.cancel()) continue;
      this.#timedOut = timedOut;
      await this.#migration.cancel();
    }
    return over;
  }

  #timedOut = false;

  /** QEMU's own end of it. */
  async #end({ journal }: KeepResult): Promise<MigrateInfo> {
    const endMs = performance.now() + ENDING_MS;
    for (;;) {
      const info = await this.#migration.info();
      if (["completed", "failed", "cancelled"].includes(info.status ?? "")) return info;
      if (journal.phase !== "completed" && info.status !== "cancelling" && info.status !== undefined)
        await this.#migration.cancel();
      if (performance.now() > endMs)
        throw new TramError("E_QMP", "the guest's migration does not end", {
          found: `query-migrate says '${info.status}'`,
          next: "migrate_cancel in its monitor",
        });
      await Bun.sleep(POLL_MS);
    }
  }

  /** What went wrong, from whoever knows best. */
  #explain(report: KeepReport, info: MigrateInfo, signal: string | null): void {
    report.owner = "source";
    if (signal)
      report.error = toErrorData(
        new TramError("E_INTERRUPTED", `interrupted by ${signal}: the guest goes on, and nothing was kept`),
      );
    else if (this.#timedOut)
      report.error = toErrorData(
        new TramError("E_TIMED_OUT", `it took longer than --timeout: the guest goes on, and nothing was kept`, {
          next: "allow more --timeout or more --max-downtime",
        }),
      );
    else if (report.error?.code === "E_CHANNEL_CLOSED" && info["error-desc"])
      report.error = toErrorData(
        new TramError("E_QMP", `the guest's migration failed: ${info["error-desc"]}`, {
          next: "the guest goes on; its own output may say more",
        }),
      );
  }

  async #leave(report: KeepReport): Promise<void> {
    if (this.#after === "quit") {
      await this.#client.execute("quit").catch(ignoreEnd);
      if (!(await this.#client.ended(QUIT_MS))) throw new TramError("E_STATE", "the guest's process does not end");
      return;
    }
    await this.#migration.restore();
    if (this.#after === "pause") return;
    if (this.#wasRunning) await this.#client.execute("cont");
    report.owner = "source";
  }
}

/** A monitor that was told to end may go before it answers. One that says no is asked for its end in vain. */
function ignoreEnd(error: unknown): void {
  if (!(error instanceof TramError) || error.code !== "E_QMP" || error.message.includes("'quit' failed")) throw error;
}

/** One connection, of which the guest's process is handed its end. */
function passedWay(): Way {
  const [ours, its] = net.socketPair();
  return {
    listener: { endpoint: { scheme: "passed", fd: ours, name: "the guest" }, fd: -1 },
    uri: "fd:tram",
    passFd: its,
    remove: () => undefined,
  };
}

/** More than one channel: the guest's process must be able to connect as often as it needs. */
function socketWay(): Way {
  const folder = mkdtempSync(join(tmpdir(), "tram-save-"));
  const path = join(folder, "in.sock");
  return {
    listener: listen({ scheme: "unix", path }),
    uri: `unix:${path}`,
    passFd: -1,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
