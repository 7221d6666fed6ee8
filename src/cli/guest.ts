// The guest that a command names: how it is named, and a connection to its monitor for as long as something is done there.
import { TramError } from "../errors.ts";
import { QmpClient } from "../qmp/client.ts";
import { isQemu } from "../qmp/migration.ts";
import { findSocket } from "./runtime.ts";

export const VM_ARG = {
  type: "positional",
  description: "the guest: its name, or unix:PATH of its QMP socket",
  required: true,
  names: "guest",
} as const;

export const JSON_ARG = { type: "boolean", description: "one JSON object on standard output" } as const;

/** A move's limit. */
export const MAX_DOWNTIME_ARG = {
  type: "string",
  description: "the longest the guest may stand still (default 300ms)",
  valueHint: "TIME",
} as const;

export async function withGuest<T>(name: string, action: (client: QmpClient) => Promise<T>): Promise<T> {
  const client = await QmpClient.connect(findSocket(name), name);
  try {
    return await action(client);
  } finally {
    client.close();
  }
}

/** Refuses a guest of QEMU's for what only tram's own can do. `next`: what can be done instead. */
export async function requireTram(client: QmpClient, name: string, why: string, next: string): Promise<void> {
  if (await isQemu(client)) throw new TramError("E_REFUSED", `'${name}' is QEMU's, ${why}`, { next });
}
