// Virtio devices of tram's own machine: a device's registers in memory and its queues, and behind them what the device itself knows.
import type { Field, Table } from "../vmstate.ts";

const queue: Table = {
  name: "tram/virtio/queue",
  version: 1,
  fields: [
    { name: "size", type: "uint32" },
    { name: "ready", type: "bool" },
    { name: "descriptors", type: "uint64" },
    { name: "available", type: "uint64" },
    { name: "used", type: "uint64" },
    /** Heads taken, given back, and given back when it was last decided whether to interrupt; modulo 2^16. */
    { name: "taken", type: "uint16" },
    { name: "returned", type: "uint16" },
    { name: "signalled", type: "uint16" },
  ],
};

export const VIRTIO_QUEUES_MAX = 8;

const registers: Table = {
  name: "tram/virtio/registers",
  version: 1,
  fields: [
    { name: "status", type: "uint8" },
    { name: "interrupt_status", type: "uint8" },
    { name: "device_features_select", type: "uint32" },
    { name: "driver_features_select", type: "uint32" },
    { name: "queue_select", type: "uint32" },
    { name: "driver_features", type: "uint64" },
    { name: "config_generation", type: "uint32" },
    { name: "queue_count", type: "uint32" },
    { name: "queues", type: "list", table: queue, countFrom: "queue_count", max: VIRTIO_QUEUES_MAX },
  ],
};

const virtio: Field = { name: "virtio", type: "struct", table: registers };

export const rng: Table = { name: "tram/rng", version: 1, fields: [virtio] };
export const console: Table = {
  name: "tram/console",
  version: 1,
  fields: [
    virtio,
    /** What was typed, and has not come into the guest's memory yet. */
    { name: "typed_bytes", type: "uint32" },
    { name: "typed", type: "blob", countFrom: "typed_bytes", max: 255 },
  ],
};

export const net: Table = { name: "tram/net", version: 1, fields: [virtio] };
/** Its connections do not travel. */
export const vsock: Table = { name: "tram/vsock", version: 1, fields: [virtio] };

export const disk: Table = {
  name: "tram/disk",
  version: 1,
  fields: [
    virtio,
    /** What its file was when the guest stood still, and all that it had written was there: DiskIdentity. */
    { name: "inode", type: "uint64" },
    { name: "bytes", type: "uint64" },
    { name: "changed_ns", type: "uint64" },
    /** The guest was told once that a flush has failed: none succeeds any more. */
    { name: "flush_failed", type: "bool" },
  ],
};

export const balloon: Table = {
  name: "tram/balloon",
  version: 1,
  fields: [
    virtio,
    /** Pages of 4 KiB that the guest is to give up, and has. */
    { name: "wanted", type: "uint32" },
    { name: "actual", type: "uint32" },
    /** What it was told of hints. */
    { name: "hint_command", type: "uint32" },
    /** The last request's number. */
    { name: "hint_last", type: "uint32" },
    /** The buffer for its statistics that it has offered; -1: none. */
    { name: "stats_head", type: "int32" },
  ],
};
