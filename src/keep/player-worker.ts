// Plays a kept guest to a waiting target: the thread of the main channel. It blocks in its channel; whoever wants it to end
// sets the stop word.
import { parentPort, workerData } from "node:worker_threads";
import { type Journal, MoveLog } from "../control/journal.ts";
import { TramError, toErrorData } from "../errors.ts";
import { MappedFile } from "../reader/mapped.ts";
import { FileTransport } from "../transport/file.ts";
import { type Endpoint, endpointName, open } from "../transport/index.ts";
import { Replies } from "../writer/replies.ts";
import { type PlayOptions, play } from "./play.ts";

export interface PlayerInit {
  library: string;
  path: string;
  offset: number;
  endpoint: Endpoint;
  options: PlayOptions;
  stop: SharedArrayBuffer;
}

export type PlayerMessage = { event: "journal"; journal: Journal } | { event: "over"; journal: Journal };

const init = workerData as PlayerInit;
const stop = new Int32Array(init.stop);
const tell = (message: PlayerMessage): void => parentPort?.postMessage(message);

function checkCancelled(): void {
  if (stop[0] !== 0) throw new TramError("E_CANCELLED", "cancelled");
}

function work(): void {
  const log = new MoveLog(
    "outgoing",
    endpointName(init.endpoint),
    (journal) => tell({ event: "journal", journal }),
    () => performance.now(),
  );
  log.journal.owner = "file";
  log.setPhase("waiting");
  try {
    const file = new MappedFile(FileTransport.open(init.path), init.offset);
    const transport = open(init.endpoint, { stop, silenceMs: init.options.replyMs });
    try {
      const context = { checkCancelled, sleep: (ms: number) => void Atomics.wait(stop, 0, 0, ms), channels: null };
      play(file, transport, new Replies(transport), init.options, context, log);
      transport.drain(init.options.replyMs);
    } finally {
      transport.close();
      file.file.close();
    }
    log.setPhase("completed");
  } catch (error) {
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  }
  tell({ event: "over", journal: log.journal });
}

work();
