// The process of one guest: its Workers, its socket, its end. Main thread only; everything that blocks is in a Worker.
import { rmSync } from "node:fs";
import { Barrier, sumCounts } from "../control/barrier.ts";
import type { Journal } from "../control/journal.ts";
import type { RestoreJournal } from "../control/restore.ts";
import { DEFAULT_REPLY_MS } from "../control/send.ts";
import { type ErrorData, EXIT, formatError, fromErrorData, toErrorData } from "../errors.ts";
import { Board, type MachineHandles } from "../machine/board.ts";
import type { DiskHandle } from "../machine/disk-file.ts";
import type { LoaderInit } from "../machine/loader-worker.ts";
import type { CrewInit, Job, MoverMessage, Wanted } from "../machine/mover-worker.ts";
import { installKick } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import type { QmpRequest } from "../qmp/server-worker.ts";
import type { SnapshotFile } from "../reader/snapshot.ts";
import type { MachineDescription } from "../stream/devices/machine.ts";
import type { Thread } from "../thread.ts";
import { type Listener, listen, unlisten } from "../transport/index.ts";
import {
  startDisk,
  startFaultWatcher,
  startLoader,
  startMover,
  startNet,
  startPacer,
  startQmp,
  startReceiver,
  startSaver,
  startSender,
  startVcpu,
  startVsock,
} from "../workers.ts";
import { vsockPathOf } from "./runtime.ts";
import { formatCount, formatMs } from "./units.ts";

export interface ProcessOptions {
  version: string;
  serialFd: number;
  /** Where the console's output goes; -1: nowhere. */
  consoleFd: number;
  replyMs: number;
  /** Called with each thing worth a line. */
  say: (line: string) => void;
}

/** Between two looks at how far the threads are. */
const PROGRESS_MS = 50;

/** See GuestProcess.load. */
export interface LoadOptions
  extends Pick<LoaderInit, "mode" | "verify" | "prefetch" | "leased" | "direct" | "faultFd" | "channels" | "ram"> {
  snapshot: SnapshotFile;
}

function loadedText(journal: RestoreJournal | null): string {
  if (!journal) return "all of its memory is here";
  const { loadedPages, elapsedMs, verify } = journal;
  return `all ${formatCount(loadedPages)} pages of ${journal.file} are here${verify ? ", as they were saved" : ", not verified"} (${formatMs(elapsedMs)})`;
}

/** The client that moved the guest away may read the result this long before the process goes. */
const LINGER_MS = 2000;

export class GuestProcess {
  readonly board = new Board();
  readonly #options: ProcessOptions;
  #name = "";
  #socketPath = "";
  #vsockPath = "";
  #cpus = 0;
  #mover: Thread<MoverMessage, Job> | null = null;
  #wanted: Wanted | null = null;
  /** While a guest is arriving. */
  #listener: Listener | null = null;
  /** While it was arriving. */
  #hasEnded = false;
  /** The guest is confirmed elsewhere, and the client that moved it has read so, or is gone. */
  #leaving = false;
  #seen = false;
  /** Somebody looks at the walker's pace. */
  #paced = false;
  readonly #ended = Promise.withResolvers<number>();
  /** Its memory comes from a file: what becomes of that is the guest's trouble, and not this process's end. */
  #restored = false;
  /** With which it ends, whoever ends it. */
  #brokenExit: number | null = null;

  constructor(options: ProcessOptions) {
    this.#options = options;
    installKick();
  }

  /** The exit code, once the guest is no longer this process's. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  /** A Worker for each vCPU. They wait for the machine, and then for runCpus; so they may be started before both. */
  startCpus(count: number): void {
    for (; this.#cpus < count; this.#cpus++) {
      const cpu = this.#cpus;
      const worker = startVcpu({
        board: this.board.shared,
        cpu,
        serialFd: this.#options.serialFd,
        consoleFd: this.#options.consoleFd,
      });
      worker.onMessage((message) => {
        if (message.event === "shutdown") {
          this.#options.say(`guest '${this.#name}' has shut down`);
          this.#endArrived();
        } else if (message.event === "reset") this.#startAnew();
        else if (this.#restored) this.#break("vcpu", message.error);
        else this.#fail(fromErrorData(message.error));
      });
      worker.onCrash((error) => this.#fail(error));
    }
  }

  /** The guest's sockets to its host, beside its QMP socket. They, too, wait for the machine. */
  #startVsock(): void {
    const path = vsockPathOf(this.#socketPath);
    rmSync(path, { force: true }); // of a process that died: this one's QMP socket stands beside it
    const listenFd = net.listenUnix(path);
    this.#vsockPath = path;
    startVsock({ board: this.board.shared, listenFd, path }).onCrash((error) => this.#fail(error));
  }

  /** A Worker for each device that has one; likewise. */
  startDevices(disks: readonly DiskHandle[], { vsock, mac }: Pick<MachineDescription, "vsock" | "mac">): void {
    this.#startDisks(disks);
    if (vsock) this.#startVsock();
    if (mac !== null) startNet({ board: this.board.shared }).onCrash((error) => this.#fail(error));
  }

  #startDisks(disks: readonly DiskHandle[]): void {
    disks.forEach(({ path, mode, hasLock, isOnTrust }, disk) => {
      if (isOnTrust)
        this.#options.say(
          `${path} is taken for the guest's disk because you say so: nothing but its size was compared`,
        );
      if (mode === "rw" && !hasLock && !this.board.isAway)
        this.#options.say(`${path}: its file system has no locks: nothing keeps another guest from writing to it`);
      let isTold = false;
      startDisk({ board: this.board.shared, disk })
        .onMessage(({ reason }) => {
          if (!isTold)
            this.#options.say(`the disk ${path} fails, and guest '${this.#name}' is told so each time: ${reason}`);
          isTold = true;
        })
        .onCrash((error) => this.#fail(error));
    });
  }

  /** What a guest that wants to start anew does; without it, as behind a move, it ends. */
  reboot: (() => void) | null = null;

  #startAnew(): void {
    if (this.reboot) {
      this.#options.say(`guest '${this.#name}' starts anew`);
      try {
        this.reboot();
      } catch (error) {
        this.#fail(error);
      }
      return;
    }
    this.#options.say(
      `guest '${this.#name}' wants to start anew, and its kernel is not here: it ends; tram run starts it`,
    );
    this.#endArrived();
  }

  /** The guest has come to its end by itself: perhaps before its source has heard that it has arrived. */
  #endArrived(): void {
    if (this.#listener) this.#hasEnded = true;
    else this.end(EXIT.done);
  }

  /** Who the guest is, and the path of its socket, which goes when the process ends. */
  identify(name: string, socketPath: string): void {
    this.#name = name;
    this.#socketPath = socketPath;
  }

  /** Answers QMP on a listening socket. */
  serve(socket: { fd: number }): void {
    const { version } = this.#options;
    const name = this.#name;
    const qmp = startQmp({ board: this.board.shared, listenFd: socket.fd, name, version });
    qmp.onMessage((request) => this.#onRequest(request));
    qmp.onCrash((error) => this.#fail(error));
  }

  /** The vCPUs' Workers are started, or are starting: gives them the machine. */
  start(handles: MachineHandles, run: boolean): void {
    this.board.locked(() => {
      this.board.publishMachine(handles);
      if (run) this.board.runCpus();
      else this.board.runState = "paused";
    });
  }

  /** Before anybody may ask: this process is for a guest that is still to come. */
  expectGuest(): void {
    this.board.locked(() => {
      this.board.runState = "inmigrate";
    });
  }

  /**
   * Has the guest's memory brought in from its file. lazy: while it runs. first: returns when its pages may be touched. eager:
   * returns when they are all there.
   */
  load(options: LoadOptions): Promise<void> {
    this.#restored = options.mode !== "eager"; // else its memory is its own by the time it runs
    const { snapshot, ram, channels, ...plain } = options;
    const { block, seal, file } = snapshot;
    const { present, ...place } = block;
    const shared = new SharedArrayBuffer(present.words.byteLength);
    new Uint32Array(shared).set(present.words);
    const eager = plain.mode === "eager";
    const table = eager && plain.verify && seal ? seal.table(seal.blockOf(block.name)) : null;
    const barrier = eager ? new Barrier(channels) : null;
    const ready = Promise.withResolvers<void>();
    let left = channels;
    for (let channel = 0; channel < channels; channel++) {
      const worker = startLoader({
        ...plain,
        board: this.board.shared,
        fileFd: file.fd,
        fileName: file.name,
        block: place,
        present: shared,
        table: table ? (table.bytes.buffer as SharedArrayBuffer) : null,
        ram,
        barrier: barrier?.shared ?? null,
        channels,
        channel,
      });
      worker.onCrash((error) => (eager ? ready.reject(error) : this.#break("loader", toErrorData(error))));
      worker.onMessage((message) => {
        if (message.event === "failed" && eager) {
          barrier?.end();
          ready.reject(fromErrorData(message.error));
        } else if (message.event === "failed") this.#break("loader", message.error);
        else if (message.event === "watching" || (eager && --left === 0)) ready.resolve();
        else if (message.event === "loaded" && !eager) this.#options.say(loadedText(this.board.readRestore()));
      });
    }
    if (plain.mode === "lazy") ready.resolve();
    return barrier ? this.#whileEager(options, barrier, ready.promise) : ready.promise;
  }

  /** Several threads read, and none of them knows of the others: their sum is told here. */
  async #whileEager({ snapshot, verify }: LoadOptions, barrier: Barrier, loaded: Promise<void>): Promise<void> {
    const startedMs = performance.now();
    const totalPages = snapshot.block.present.count();
    const tell = (phase: RestoreJournal["phase"]) => {
      const { pages } = sumCounts(barrier.counts());
      const elapsedMs = Math.round(performance.now() - startedMs);
      const counts = { totalPages, loadedPages: pages, verifiedPages: verify ? pages : 0, elapsedMs };
      const plain = { file: snapshot.file.name, mode: "eager" as const, verify, mapped: false, held: false };
      this.board.writeRestore({ ...plain, ...counts, phase, error: null });
    };
    const timer = setInterval(() => tell("loading"), PROGRESS_MS);
    tell("loading");
    await loaded.finally(() => clearInterval(timer));
    tell("done");
  }

  /**
   * The guest stands still for good; a person may still look at it. `by`: who found out. A guest whose page tables are gone
   * crashes, and that is seen sooner than why.
   */
  #break(by: "vcpu" | "loader", error: ErrorData): void {
    if (this.#brokenExit === null || by === "loader") this.#options.say(formatError(error));
    this.#brokenExit ??= EXIT.badBytes;
    this.board.locked(() => {
      if (by === "loader" || this.board.runState !== "internal-error") this.board.cpuFailed("io-error");
      this.board.pauseCpus("io-error");
    });
  }

  /** Waits for a guest: at once, or (listener null) when QMP gives an address. */
  await(listener: Listener | null, wanted: Wanted): void {
    this.#wanted = wanted;
    if (listener) this.#receive(listener);
  }

  #receive(listener: Listener): void {
    if (!this.#wanted || !this.board.beginMove()) {
      unlisten(listener);
      return;
    }
    this.#listener = listener;
    this.#post({ kind: "receive", listener, wanted: this.#wanted, replyMs: this.#options.replyMs || DEFAULT_REPLY_MS });
  }

  #post(job: Job): void {
    if (!this.#mover) {
      this.#mover = startMover({ board: this.board.shared });
      this.#mover.onMessage((message) => this.#onMover(message));
      this.#mover.onCrash((error) => this.#fail(error));
    }
    this.#mover.tell(job);
  }

  #onRequest(request: QmpRequest): void {
    switch (request.request) {
      case "quit":
        this.end(EXIT.done);
        return;
      case "migrate": {
        const { request: _, ...job } = request;
        this.#seen = false;
        this.#post({ ...job, kind: "send" });
        return;
      }
      case "save":
        this.#post({ ...request.job, kind: "save" });
        return;
      case "measure":
        this.#post({ kind: "measure", forMs: request.forMs });
        return;
      case "pace":
        this.#startPacer(request.fd, request.forMs);
        return;
      case "incoming":
        try {
          this.#receive(listen(request.endpoint));
        } catch (error) {
          this.#options.say(toErrorData(error).message);
        }
        return;
      case "move-seen":
        this.#seen = true;
        if (this.#leaving) this.end(EXIT.done);
    }
  }

  #onMover(message: MoverMessage): void {
    if (message.event === "machine") {
      this.startCpus(this.board.cpus);
      const { disks, description } = this.board.awaitMachine();
      try {
        this.startDevices(disks, description);
      } catch (error) {
        this.#fail(error);
      }
    } else if (message.event === "watch-faults") startFaultWatcher(message.init).onCrash((error) => this.#fail(error));
    else if (message.event === "crew") for (const init of message.inits) this.#startCarrier(init);
    else if (message.event === "crashed") this.#fail(fromErrorData(message.error));
    else if (message.job === "send") this.#sent();
    else if (message.job === "receive") this.#received();
  }

  /** One at a time: they disturb the guest. */
  #startPacer(fd: number, forMs: number): void {
    if (this.#paced) {
      net.close(fd);
      return;
    }
    this.#paced = true;
    startPacer({ board: this.board.shared, fd, forMs }).onEnd(() => {
      this.#paced = false;
    });
  }

  /** One that dies without a word must not leave the mover waiting for it. */
  #startCarrier(init: CrewInit): void {
    const thread =
      init.does === "save" ? startSaver(init) : init.does === "send" ? startSender(init) : startReceiver(init);
    thread.onCrash((error) => {
      this.#options.say(`a thread that carries pages has died: ${error}`);
      new Barrier(init.channels, init.barrier).leave(init.channel, toErrorData(error));
    });
  }

  #sent(): void {
    const journal = this.board.readJournal<Journal>();
    if (journal?.owner !== "target") return; // the guest, or at least the decision, is still here
    this.#leaving = true;
    setTimeout(() => this.end(EXIT.done), this.#seen ? 0 : LINGER_MS);
    this.#options.say(`guest '${this.#name}' has moved to ${journal.peer}`);
  }

  #received(): void {
    this.#listener = null;
    const journal = this.board.readJournal<Journal>();
    if (this.#hasEnded) this.end(EXIT.done);
    else if (!journal?.error) {
      this.#options.say(`guest '${this.#name}' has arrived and is ${this.board.runState}`);
    } else this.#ended.reject(fromErrorData(journal.error));
  }

  #fail(error: unknown): void {
    this.#ended.reject(error);
  }

  /** Ends the guest. */
  end(code: number): void {
    this.#ended.resolve(this.#brokenExit ?? code);
  }

  /** Removes what others could see of this process. The rest the kernel frees with it. */
  cleanUp(): void {
    for (const path of [this.#vsockPath, this.#socketPath]) if (path) rmSync(path, { force: true });
    if (this.#listener) unlisten(this.#listener);
  }
}
