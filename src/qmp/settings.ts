// What QEMU's clients set before a migration, and what that is for a move of ours. A name of QEMU's that tram can do nothing about is
// known, and refused when it is asked for.
import { DEFAULT_LIMITS } from "../control/limits.ts";
import { MOVE_CHANNELS_MAX, ZSTD_LEVEL_MAX } from "../control/send.ts";
import { TramError } from "../errors.ts";
import { CAPABILITIES, type Capability, OTHER_CAPABILITIES } from "./schema.ts";

/** As QEMU's own default. */
const DEFAULT_CHANNELS = 2;
/** How long a guest may write faster than it is carried before auto-converge slows it down. */
const CONVERGE_AFTER_MS = 1000;
const DOWNTIME_MS_MAX = 2_000_000;

interface Parameters {
  "max-bandwidth": number;
  "downtime-limit": number;
  "multifd-channels": number;
  "multifd-compression": string;
  "multifd-zstd-level": number;
}

export class MigrationSettings {
  readonly #on = new Set<Capability>(["return-path"]);
  #parameters: Parameters = {
    "max-bandwidth": DEFAULT_LIMITS.maxBandwidthBytesPerSec,
    "downtime-limit": DEFAULT_LIMITS.maxDowntimeMs,
    "multifd-channels": DEFAULT_CHANNELS,
    "multifd-compression": "none",
    "multifd-zstd-level": 1,
  };

  has(capability: Capability): boolean {
    return this.#on.has(capability);
  }

  capabilities(): { capability: string; state: boolean }[] {
    return [
      ...CAPABILITIES.map((capability) => ({ capability, state: this.#on.has(capability) })),
      ...OTHER_CAPABILITIES.map((capability) => ({ capability, state: false })),
    ];
  }

  /** All of them or none. */
  setCapabilities(wanted: readonly { capability: string; state: boolean }[]): void {
    const known: readonly string[] = CAPABILITIES;
    for (const { capability, state } of wanted) {
      if (state && !known.includes(capability))
        throw new TramError("E_QMP", `tram does not support the capability '${capability}'`, {
          expected: `one of ${CAPABILITIES.join(", ")}`,
        });
      if (capability === "return-path" && !state)
        throw new TramError("E_QMP", "the capability 'return-path' cannot be switched off", {
          next: "a move through a pipe or a file goes one way by itself",
        });
    }
    for (const { capability, state } of wanted) {
      if (state) this.#on.add(capability as Capability);
      else this.#on.delete(capability as Capability);
    }
  }

  parameters(): Parameters & Record<string, unknown> {
    return { ...this.#parameters, "tls-creds": "", "tls-hostname": "", "tls-authz": "" };
  }

  /** All of them or none; what of it is a limit, for a move that is under way. */
  setParameters(given: Record<string, unknown>): { maxBandwidthBytesPerSec?: number; maxDowntimeMs?: number } {
    const tls = ["tls-creds", "tls-hostname", "tls-authz"].find((name) => given[name]);
    if (tls)
      throw new TramError("E_QMP", `tram does not support the parameter '${tls}'`, {
        next: "move through ssh, or another channel that encrypts",
      });
    const bounded = (name: keyof Parameters, min: number, max: number) => {
      const value = given[name];
      if (value !== undefined && ((value as number) < min || (value as number) > max))
        throw new TramError("E_QMP", `Parameter '${name}' expects an integer in the range of ${min} to ${max}`);
    };
    bounded("max-bandwidth", 0, Number.MAX_SAFE_INTEGER);
    bounded("downtime-limit", 0, DOWNTIME_MS_MAX);
    bounded("multifd-channels", 1, MOVE_CHANNELS_MAX);
    bounded("multifd-zstd-level", 1, ZSTD_LEVEL_MAX);
    const names = Object.keys(this.#parameters).filter((name) => given[name] !== undefined);
    this.#parameters = { ...this.#parameters, ...Object.fromEntries(names.map((name) => [name, given[name]])) };
    const { "max-bandwidth": bandwidth, "downtime-limit": downtime } = given;
    return {
      ...(bandwidth !== undefined && { maxBandwidthBytesPerSec: bandwidth as number }),
      ...(downtime !== undefined && { maxDowntimeMs: downtime as number }),
    };
  }

  /** For a migrate that says nothing else. */
  options(): Record<string, unknown> {
    const { "max-bandwidth": bandwidth, "downtime-limit": downtime } = this.#parameters;
    const channels = this.#on.has("multifd") ? this.#parameters["multifd-channels"] : 0;
    if (this.#on.has("zero-copy-send") && (channels === 0 || this.#parameters["multifd-compression"] !== "none"))
      throw new TramError("E_QMP", "Zero copy only available for non-compressed multifd migration", {
        next: "set the capability multifd, too, and multifd-compression to none",
      });
    return {
      maxBandwidthBytesPerSec: bandwidth,
      maxDowntimeMs: downtime,
      channels,
      ...(this.#on.has("zero-copy-send") && { zeroCopy: "on" }),
      ...(channels > 0 &&
        this.#parameters["multifd-compression"] === "zstd" && {
          compressLevel: this.#parameters["multifd-zstd-level"],
        }),
      ...(this.#on.has("auto-converge") && { timeoutMs: CONVERGE_AFTER_MS, onTimeout: "throttle" }),
      ...(this.#on.has("pause-before-switchover") && { hold: true }),
    };
  }
}
