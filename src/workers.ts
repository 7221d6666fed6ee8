// Starting Workers: the one place that knows where their code lies. It stands beside main.ts, because in the executable all
// paths are relative to that.
import { Worker } from "node:worker_threads";
import type { VerifierInit } from "./inspect/verifier-worker.ts";
import type { ChannelInit } from "./keep/channel-worker.ts";
import type { KeeperInit } from "./keep/keeper-worker.ts";
import type { PlayerInit } from "./keep/player-worker.ts";
import type { SenderInit } from "./keep/sender-worker.ts";
import type { LoaderInit } from "./machine/loader-worker.ts";
import type { MoverInit } from "./machine/mover-worker.ts";
import type { SaverInit } from "./machine/saver-worker.ts";
import type { VcpuInit } from "./machine/vcpu-worker.ts";
import { LIBRARY_PATH } from "./native/symbols.ts";
import type { QmpInit } from "./qmp/server-worker.ts";

const start = (file: string, name: string, workerData: object): Worker =>
  new Worker(new URL(file, import.meta.url), { workerData: { ...workerData, library: LIBRARY_PATH }, name });

export const startVcpu = (init: Omit<VcpuInit, "library">): Worker =>
  start("./machine/vcpu-worker.ts", `vcpu/${init.cpu}`, init);

export const startMover = (init: Omit<MoverInit, "library">): Worker =>
  start("./machine/mover-worker.ts", "mover", init);

export const startSaver = (init: Omit<SaverInit, "library">): Worker =>
  start("./machine/saver-worker.ts", `save/${init.channel + 1}`, init);

export const startLoader = (init: Omit<LoaderInit, "library">): Worker =>
  start("./machine/loader-worker.ts", `load/${init.channel}`, init);

export const startQmp = (init: Omit<QmpInit, "library">): Worker => start("./qmp/server-worker.ts", "qmp", init);

export const startKeeper = (init: Omit<KeeperInit, "library">): Worker =>
  start("./keep/keeper-worker.ts", "keeper", init);

export const startChannel = (init: Omit<ChannelInit, "library">): Worker =>
  start("./keep/channel-worker.ts", init.name, init);

export const startPlayer = (init: Omit<PlayerInit, "library">): Worker =>
  start("./keep/player-worker.ts", "player", init);

export const startSender = (init: Omit<SenderInit, "library">): Worker =>
  start("./keep/sender-worker.ts", init.name, init);

export const startVerifier = (init: Omit<VerifierInit, "library">): Worker =>
  start("./inspect/verifier-worker.ts", init.name, init);
