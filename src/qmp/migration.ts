// A QEMU guest's migration, driven through its monitor: what is set for it and put back, started, watched, cancelled.
import { TramError } from "../errors.ts";
import type { QmpClient } from "./client.ts";

/** Capabilities that would make a stream nobody can keep, or a migration that waits for somebody else's command. */
const OFF = [
  "background-snapshot",
  "block",
  "mapped-ram",
  "pause-before-switchover",
  "postcopy-blocktime",
  "postcopy-preempt",
  "postcopy-ram",
  "rdma-pin-all",
  "release-ram",
  "return-path",
  "switchover-ack",
  "x-colo",
  "x-ignore-shared",
  "zero-copy-send",
];

/** QEMU's own bound on downtime-limit. */
export const DOWNTIME_MS_MAX = 2_000_000;
/** Without a limit of the user's: more than any channel carries. QEMU's own default is 128 MiB/s. */
const UNLIMITED_BYTES_PER_SEC = 2 ** 40;

export interface MigrationSettings {
  /** Multifd channels; 0: none. */
  channels: number;
  /** 0: no limit. */
  maxBandwidthBytesPerSec: number;
  maxDowntimeMs: number;
}

export interface MigrateInfo {
  status?: string;
  "error-desc"?: string;
  downtime?: number;
  "total-time"?: number;
  ram?: { total: number; remaining: number; transferred: number; "dirty-sync-count"?: number };
}

interface Capability {
  capability: string;
  state: boolean;
}

/** False for a guest of ours, which has other ways. */
export async function isQemu(client: QmpClient): Promise<boolean> {
  const commands = await client.execute<{ name: string }[]>("query-commands");
  return !commands.some(({ name }) => name === "tram-query-move");
}

const UNDER_WAY = ["setup", "active", "device", "pre-switchover", "cancelling", "wait-unplug", "colo"];

export class QemuMigration {
  readonly #client: QmpClient;
  #capabilitiesBefore: Capability[] = [];
  #parametersBefore: Record<string, unknown> = {};

  constructor(client: QmpClient) {
    this.#client = client;
  }

  info(): Promise<MigrateInfo> {
    return this.#client.execute<MigrateInfo>("query-migrate");
  }

  /** Writable disks, by their names: resuming a guest beside its snapshot would let them run apart. */
  async writableDisks(): Promise<string[]> {
    const blocks =
      await this.#client.execute<{ device: string; qdev?: string; inserted?: { ro: boolean; file?: string } }[]>(
        "query-block",
      );
    return blocks.flatMap(({ device, qdev, inserted }) =>
      inserted && !inserted.ro ? [`${device || qdev || "disk"} (${inserted.file ?? ""})`] : [],
    );
  }

  /** Sets what this migration needs, and remembers what was there. */
  async prepare(settings: MigrationSettings): Promise<void> {
    const now = await this.#client.execute<Capability[]>("query-migrate-capabilities");
    const wanted = new Map<string, boolean>(OFF.map((name) => [name, false]));
    wanted.set("return-path", true);
    wanted.set("multifd", settings.channels > 0);
    if (settings.channels > 0) for (const name of ["xbzrle", "compress"]) wanted.set(name, false);
    const different = now.filter(({ capability, state }) => wanted.has(capability) && wanted.get(capability) !== state);
    const parameters = await this.#client.execute<Record<string, unknown>>("query-migrate-parameters");
    const set: Record<string, unknown> = {
      "max-bandwidth": settings.maxBandwidthBytesPerSec || UNLIMITED_BYTES_PER_SEC,
      "downtime-limit": Math.min(settings.maxDowntimeMs, DOWNTIME_MS_MAX),
      ...(settings.channels > 0 && { "multifd-channels": settings.channels }),
      ...(parameters["tls-creds"] ? { "tls-creds": "" } : {}), // the channel does not leave this host
    };
    await this.#setCapabilities(different.map(({ capability, state }) => ({ capability, state: !state })));
    this.#capabilitiesBefore = different;
    await this.#client.execute("migrate-set-parameters", set);
    this.#parametersBefore = Object.fromEntries(Object.keys(set).map((key) => [key, parameters[key]]));
  }

  /** As it was before. For a guest that goes on, or may. */
  async restore(): Promise<void> {
    await this.#setCapabilities(this.#capabilitiesBefore);
    if (Object.keys(this.#parametersBefore).length)
      await this.#client.execute("migrate-set-parameters", this.#parametersBefore);
    this.#capabilitiesBefore = [];
    this.#parametersBefore = {};
  }

  async #setCapabilities(capabilities: Capability[]): Promise<void> {
    if (capabilities.length) await this.#client.execute("migrate-set-capabilities", { capabilities });
  }

  async start(uri: string): Promise<void> {
    await this.#client.execute("migrate", { uri });
  }

  async cancel(): Promise<void> {
    await this.#client.execute("migrate_cancel");
  }

  /** As query-migrate calls it; null: none is under way. */
  async underWay(): Promise<string | null> {
    const { status = "" } = await this.info();
    return UNDER_WAY.includes(status) ? status : null;
  }

  /** The guest's state. Throws where no migration can begin. */
  async checkIdle(): Promise<string> {
    const { status } = await this.#client.execute<{ status: string }>("query-status");
    const migration = await this.underWay();
    if (migration !== null)
      throw new TramError("E_STATE", "the guest is being migrated already", {
        found: `query-migrate says '${migration}'`,
        next: "wait for its end, or cancel it: migrate_cancel",
      });
    if (status === "postmigrate")
      throw new TramError("E_STATE", "the guest was saved or moved already, and has not run since", {
        found: "state 'postmigrate'",
        next: "QEMU does not send it again before it has run: tram resume it first",
      });
    if (status === "inmigrate")
      throw new TramError("E_STATE", "the guest has not arrived yet", { found: `state '${status}'` });
    return status;
  }
}
