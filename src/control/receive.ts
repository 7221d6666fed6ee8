// The target's story of a move, top to bottom.
import { TramError, toErrorData } from "../errors.ts";
import type { MachineDescription } from "../stream/devices/machine.ts";
import { RAM_BLOCK_NAME } from "../stream/devices/machine.ts";
import type { BlockEntry } from "../stream/ram.ts";
import type { Hello } from "../stream/return-path.ts";
import { type ChannelCounts, sumCounts } from "./barrier.ts";
import type { MoveReader, PagesReceived } from "./channel.ts";
import { checkFit } from "./fit.ts";
import type { DeviceState, Guest } from "./guest.ts";
import type { MoveLog } from "./journal.ts";

/** What the story needs of its surroundings. */
export interface ReceiveContext {
  /** What this host can take. */
  hello: Hello;
  /** Over how many other channels the pages must come; null: over as many as the source likes, or none. */
  channels: number | null;
  /** Makes the machine, empty and stopped. */
  createGuest(description: MachineDescription): Guest;
  /** Waits for so many other channels, and starts who takes pages from them. */
  openChannels(count: number): ReceivingCrew;
  /** The guest is ours: it runs from here, or stays paused as it was at the source. */
  start(runState: string): void;
}

/** The other channels. */
export interface ReceivingCrew {
  /** Returns when each has brought everything up to this point; the k-th call is the k-th. Throws what went wrong with any. */
  meet(progress: () => void): void;
  counts(): ChannelCounts[];
  /** Returns when none of them touches the guest any more. */
  end(): void;
}

/**
 * Takes a guest. Returns true when it is owned here. On any error before the hand-over word nothing runs here, and the
 * guest is at the source; the log has the error.
 */
export function receive(reader: MoveReader, context: ReceiveContext, log: MoveLog): boolean {
  let guest: Guest | null = null;
  let runState = "running";
  let loaded = false;
  let ramBegan = false;
  let crew: ReceivingCrew | null = null;
  const progress = () => {
    const counts = crew?.counts() ?? [];
    const { pages, zeroPages, bytes } = sumCounts(counts);
    log.journal.channels = counts;
    log.journal.bytes = reader.bytes + bytes;
    log.journal.sentPages = reader.received.pages + pages;
    log.journal.zeroPages = reader.received.zeroPages + zeroPages;
    log.refresh();
  };
  const devices: DeviceState[] = [];
  const load = () => {
    if (loaded) return;
    if (!guest) throw incomplete("a machine", "section 'tram/machine'", "none");
    crew?.end(); // no page that comes now is part of what was agreed
    const { pages } = guest.ram;
    const known = reader.pagesKnown();
    if (known !== pages) throw incomplete("all of its RAM", `${pages} pages, zero ones included`, `${known} pages`);
    guest.loadDevices(devices);
    loaded = true;
  };
  try {
    log.setPhase("setup");
    for (;;) {
      const incoming = reader.next();
      switch (incoming.kind) {
        case "hello-wanted":
          reader.sendHello(context.hello);
          break;
        case "machine":
          checkFit(incoming.description, context.hello);
          if (guest) throw new TramError("E_STREAM", "the stream has two machines");
          guest = context.createGuest(incoming.description);
          reader.into(guest);
          log.journal.totalPages = guest.ram.pages;
          log.setPhase("active");
          break;
        case "channels-wanted":
          // Once: later ones would write to memory that was agreed upon, or that the guest runs on.
          if (!guest || crew || ramBegan || loaded)
            throw new TramError("E_STREAM", "the stream speaks of its channels where it must not");
          checkChannels(context.channels, incoming.count);
          crew = context.openChannels(incoming.count);
          reader.sendChannels(incoming.count);
          break;
        case "flush":
          if (!crew)
            throw new TramError("E_STREAM", "the stream's pages come over other channels, which it has not named");
          crew.meet(progress);
          progress();
          break;
        case "blocks":
          checkBlocks(incoming.blocks, guest);
          if (!crew) checkChannels(context.channels, 0);
          ramBegan = true;
          break;
        case "pages":
          progress();
          if (crew) checkNoPages(reader.received);
          break;
        case "run-state":
          if (!["running", "paused"].includes(incoming.runState))
            throw new TramError("E_STREAM", "the guest was in a state in which none is moved", {
              expected: "running or paused",
              found: incoming.runState.slice(0, 40),
            });
          runState = incoming.runState;
          break;
        case "device":
          if (loaded)
            throw new TramError("E_STREAM", "a device comes after the last one", {
              found: deviceName(incoming.device),
            });
          if (devices.some((one) => deviceName(one) === deviceName(incoming.device)))
            throw new TramError("E_STREAM", "a device comes twice", { found: deviceName(incoming.device) });
          if (devices.length === 0) log.setPhase("device");
          devices.push(incoming.device);
          break;
        case "ready-wanted":
          load();
          reader.sendReady();
          break;
        case "end": {
          const endMs = log.now();
          load();
          log.setPhase("handover");
          context.start(runState);
          log.journal.owner = "target";
          reader.confirm(runState === "running" ? log.now() - endMs : null);
          log.setPhase("completed");
          return true;
        }
      }
    }
  } catch (error) {
    // Once the guest runs here it is ours, whether or not the source heard it.
    if (log.journal.owner === "target") {
      log.setPhase("completed");
      return true;
    }
    log.journal.error = toErrorData(error);
    reader.refuse(log.journal.error);
    const cancelled = error instanceof TramError && error.code === "E_CANCELLED";
    log.setPhase(cancelled ? "cancelled" : "failed");
    return false;
  } finally {
    crew?.end();
    reader.close();
  }
}

const deviceName = ({ table, instance }: DeviceState): string => `section '${table.name}' instance ${instance}`;

function incomplete(what: string, expected: string, found: string): TramError {
  return new TramError("E_STREAM", `the stream ends without ${what}`, { expected, found });
}

function checkChannels(wanted: number | null, found: number): void {
  if (wanted === null || wanted === found) return;
  throw new TramError("E_REFUSED", "the target wants another number of channels", {
    expected: `--channels ${wanted}`,
    found: found ? `--channels ${found}` : "none",
    next: "give both ends the same --channels, or the target none",
  });
}

/** What comes over two ways has no order. A file that is played names its zero pages on the main channel, each once. */
function checkNoPages({ pages }: PagesReceived): void {
  if (pages > 0)
    throw new TramError("E_STREAM", "the main channel has pages, which were to come over the others", {
      expected: "no page with content",
      found: `${pages}`,
    });
}

function checkBlocks(blocks: readonly BlockEntry[], guest: Guest | null): void {
  const found = blocks.map((block) => `${block.name} ${block.bytes} bytes`).join(", ");
  const expected = guest ? `${RAM_BLOCK_NAME} ${guest.ram.bytes} bytes` : "section 'tram/machine' before section 'ram'";
  if (found !== expected)
    throw new TramError("E_STREAM", "the stream's RAM is not this machine's", { expected, found });
}
