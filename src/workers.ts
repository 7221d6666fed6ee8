// Starting Workers: the one place that knows where their code lies. It stands beside main.ts, because in the executable all
// paths are relative to that.
import type { VerifierInit, VerifierMessage } from "./inspect/verifier-worker.ts";
import type { ChannelInit } from "./keep/channel-worker.ts";
import type { KeeperInit, KeeperMessage } from "./keep/keeper-worker.ts";
import type { PlayerInit, PlayerMessage } from "./keep/player-worker.ts";
import type { SenderInit as KeptSenderInit } from "./keep/sender-worker.ts";
import type { DiskInit, DiskMessage } from "./machine/disk-worker.ts";
import type { FaultInit } from "./machine/fault-worker.ts";
import type { LoaderInit, LoaderMessage } from "./machine/loader-worker.ts";
import type { Job, MoverInit, MoverMessage } from "./machine/mover-worker.ts";
import type { NetInit } from "./machine/net-worker.ts";
import type { PacerInit } from "./machine/pacer-worker.ts";
import type { ReceiverInit } from "./machine/receiver-worker.ts";
import type { SaverInit } from "./machine/saver-worker.ts";
import type { SenderInit } from "./machine/sender-worker.ts";
import type { VcpuInit, VcpuMessage } from "./machine/vcpu-worker.ts";
import type { VsockInit } from "./machine/vsock-worker.ts";
import type { QmpInit, QmpRequest } from "./qmp/server-worker.ts";
import { Thread } from "./thread.ts";

const start = <Message = never, Job = never>(file: string, name: string, init: object): Thread<Message, Job> =>
  new Thread(new URL(file, import.meta.url), name, init);

export const startVcpu = (init: VcpuInit): Thread<VcpuMessage> =>
  start("./machine/vcpu-worker.ts", `vcpu/${init.cpu}`, init);

export const startDisk = (init: DiskInit): Thread<DiskMessage> =>
  start("./machine/disk-worker.ts", `disk/${init.disk}`, init);

export const startNet = (init: NetInit): Thread<never> => start("./machine/net-worker.ts", "net", init);

export const startVsock = (init: VsockInit): Thread<never> => start("./machine/vsock-worker.ts", "vsock", init);

export const startMover = (init: MoverInit): Thread<MoverMessage, Job> =>
  start("./machine/mover-worker.ts", "mover", init);

export const startSaver = (init: SaverInit): Thread<never> =>
  start("./machine/saver-worker.ts", `save/${init.channel + 1}`, init);

export const startSender = (init: SenderInit): Thread<never> =>
  start("./machine/sender-worker.ts", `send/${init.channel}`, init);

export const startReceiver = (init: ReceiverInit): Thread<never> =>
  start("./machine/receiver-worker.ts", `recv/${init.channel}`, init);

export const startLoader = (init: LoaderInit): Thread<LoaderMessage> =>
  start("./machine/loader-worker.ts", `load/${init.channel}`, init);

export const startFaultWatcher = (init: FaultInit): Thread<never> => start("./machine/fault-worker.ts", "faults", init);

export const startPacer = (init: PacerInit): Thread<never> => start("./machine/pacer-worker.ts", "pace", init);

export const startQmp = (init: QmpInit): Thread<QmpRequest> => start("./qmp/server-worker.ts", "qmp", init);

export const startKeeper = (init: KeeperInit): Thread<KeeperMessage> =>
  start("./keep/keeper-worker.ts", "keeper", init);

export const startChannel = (init: ChannelInit): Thread<never> => start("./keep/channel-worker.ts", init.name, init);

export const startPlayer = (init: PlayerInit): Thread<PlayerMessage> =>
  start("./keep/player-worker.ts", "player", init);

export const startKeptSender = (init: KeptSenderInit): Thread<never> =>
  start("./keep/sender-worker.ts", init.name, init);

export const startVerifier = (init: VerifierInit): Thread<VerifierMessage> =>
  start("./inspect/verifier-worker.ts", init.name, init);
