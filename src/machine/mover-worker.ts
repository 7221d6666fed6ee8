// The mover: the one thread that runs moves, beside the guest and outside every lock. It blocks in its channel; a cancel
// sets its stop word and kicks it.

import { MoveLog } from "../control/journal.ts";
import { receive } from "../control/receive.ts";
import { SAVE_BATCH_PAGES, type SaveContext, type SaveOptions, save } from "../control/save.ts";
import { type SendOptions, send } from "../control/send.ts";
import { TramError, toErrorData } from "../errors.ts";
import { type DirectAccess, PageFile } from "../native/file.ts";
import { threadId } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { StreamReader } from "../reader/stream.ts";
import { HELLO_VERSION } from "../stream/return-path.ts";
import { initOf, onJob, tell } from "../thread.ts";
import { Arrivals } from "../transport/arrivals.ts";
import { FdTransport } from "../transport/fd.ts";
import { type Endpoint, endpointName, type Listener, open, unlisten } from "../transport/index.ts";
import { WriteOnly } from "../transport/write-only.ts";
import { Snapshot, SnapshotPages } from "../writer/snapshot.ts";
import { StreamWriter } from "../writer/stream.ts";
import { Board, type MachineHandles } from "./board.ts";
import { KvmGuest } from "./guest.ts";
import { createMachine, createRam, createVm } from "./machine.ts";
import { SaverCrew } from "./saver-crew.ts";
import type { SaverInit } from "./saver-worker.ts";

export interface MoverInit {
  board: SharedArrayBuffer;
}

/** What the target was told by its own options; null: whatever the stream says. */
export interface Wanted {
  name: string;
  memoryBytes: number | null;
  cpus: number | null;
  /** Memory that was made before anything arrived; it has memoryBytes. */
  ram: RamHandle | null;
  prealloc: boolean;
}

export type Job =
  | {
      kind: "send";
      endpoint: Endpoint;
      options: SendOptions;
      iovMax: number;
      copying: boolean;
    }
  | {
      kind: "save";
      fd: number;
      /** For long runs past the page cache; taken over, as is fd. */
      direct: DirectAccess;
      offset: number;
      name: string;
      options: SaveOptions;
      channels: number;
      reserve: boolean;
    }
  | { kind: "receive"; listener: Listener; wanted: Wanted; replyMs: number };

export type MoverMessage =
  | { event: "machine" }
  /** Threads that are to carry pages, too. */
  | { event: "crew"; inits: SaverInit[] }
  /** The job's journal is final. */
  | { event: "over"; job: Job["kind"] }
  | { event: "crashed"; error: ReturnType<typeof toErrorData> };

const init = await initOf<MoverInit>("jobs");
const board = new Board(init.board);
board.moverStarted(threadId());
/** The same in all threads. */
const clock = () => performance.timeOrigin + performance.now();

function checkCancelled(): void {
  if (board.cancelling) throw new TramError("E_CANCELLED", "cancelled");
}

function logFor(direction: "outgoing" | "incoming", endpoint: Endpoint): MoveLog {
  const log = new MoveLog(direction, endpointName(endpoint), (journal) => board.writeJournal(journal), clock);
  log.setPhase("waiting");
  return log;
}

function runSend(job: Extract<Job, { kind: "send" }>): void {
  const log = logFor("outgoing", job.endpoint);
  try {
    const channel = open(job.endpoint, { stop: board.moverStop, silenceMs: job.options.replyMs, iovMax: job.iovMax });
    const transport = job.copying ? new WriteOnly(channel) : channel;
    const guest = new KvmGuest(board.awaitMachine(), board);
    const context = {
      checkCancelled,
      sleep: (ms: number) => board.moverSleep(ms),
      passHandover: () => board.passHandover(),
      handedOver: () => board.locked(() => board.pauseCpus("postmigrate")),
    };
    send(guest, new StreamWriter(transport, guest.ram), job.options, context, log);
  } catch (error) {
    if (log.isOver) throw error;
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  }
}

function runSave(job: Extract<Job, { kind: "save" }>): void {
  const log = new MoveLog("outgoing", job.name, (journal) => board.writeJournal(journal), clock);
  const file = new PageFile(job.fd, job.direct);
  let crew: SaverCrew | null = null;
  try {
    const handles = board.awaitMachine();
    const guest = new KvmGuest(handles, board);
    const snapshot = new Snapshot(job.fd, job.offset, guest.ram.bytes, job.reserve);
    const context: SaveContext = {
      checkCancelled,
      sleep: (ms) => board.moverSleep(ms),
      startCrew(share) {
        if (job.channels === 1) return null;
        crew = new SaverCrew(job.channels - 1, checkCancelled);
        const shared = { share, log: guest.dirtyLog.handles, ram: handles.ram, target: snapshot.target };
        const places = { fileFd: job.fd, direct: job.direct };
        tell({ event: "crew", inits: crew.inits({ ...shared, ...places }) } satisfies MoverMessage);
        return crew;
      },
      pages: () => new SnapshotPages(file, guest.ram, snapshot.target, SAVE_BATCH_PAGES),
      awaitCommit() {
        if (!board.awaitCommit()) throw new TramError("E_CANCELLED", "cancelled");
      },
      leave: (after) => board.locked(() => board.pauseCpus(after === "pause" ? "paused" : "postmigrate")),
    };
    save(guest, snapshot, job.options, context, log);
  } catch (error) {
    if (log.isOver) throw error;
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  } finally {
    (crew as SaverCrew | null)?.end();
    file.close();
    net.close(job.fd);
    if (job.direct.fd >= 0) net.close(job.direct.fd);
  }
}

function runReceive(job: Extract<Job, { kind: "receive" }>): void {
  const log = logFor("incoming", job.listener.endpoint);
  try {
    const vm = createVm();
    receive(
      awaitSource(job.listener, job.replyMs),
      {
        hello: {
          version: HELLO_VERSION,
          name: job.wanted.name,
          memoryBytes: job.wanted.memoryBytes,
          cpus: job.wanted.cpus,
          cpuid: vm.cpuid,
          verifies: true,
        },
        createGuest(description) {
          const { ram, prealloc } = job.wanted;
          const handles = createMachine(
            description,
            ram ? Ram.attach(ram) : createRam(description.memoryBytes, prealloc),
            board,
            vm,
          );
          announce(handles);
          return new KvmGuest(handles, board);
        },
        start(runState) {
          if (!board.passHandover()) throw new TramError("E_CANCELLED", "cancelled");
          board.locked(() => {
            if (runState === "running") board.runCpus();
            else board.runState = "paused";
          });
        },
      },
      log,
    );
  } catch (error) {
    if (log.isOver) throw error;
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  }
}

/** The first peer that says something: one that only connects (a port scan, a health check) is no source. */
function awaitSource(listener: Listener, silenceMs: number): StreamReader {
  const options = { name: endpointName(listener.endpoint), stop: board.moverStop, silenceMs };
  if (listener.endpoint.scheme === "passed") return new StreamReader(new FdTransport(listener.endpoint.fd, options));
  const arrivals = new Arrivals(listener.fd, board.moverStop, () => "main");
  try {
    return new StreamReader(new FdTransport(arrivals.awaitMain(), options));
  } finally {
    arrivals.close();
    unlisten(listener);
  }
}

/** Tells everybody that there is a machine now; main starts its vCPUs. */
function announce(handles: MachineHandles): void {
  board.publishMachine(handles);
  tell({ event: "machine" } satisfies MoverMessage);
}

onJob((job: Job) => {
  try {
    if (job.kind === "send") runSend(job);
    else if (job.kind === "save") runSave(job);
    else runReceive(job);
    tell({ event: "over", job: job.kind } satisfies MoverMessage);
  } catch (error) {
    tell({ event: "crashed", error: toErrorData(error) } satisfies MoverMessage);
  }
  board.endMove();
});
