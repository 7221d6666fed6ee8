// Interrupt controllers and clock, under QEMU's names, versions and field order.
import type { Table } from "../vmstate.ts";

/** QEMU has no place for the count a running timer has reached: it keeps it as a time of its own clock. */
const apicCount: Table = {
  name: "apic/tram-count",
  version: 1,
  fields: [
    { name: "current_count", type: "uint32" },
    { name: "lvt_cmci", type: "uint32" },
  ],
};

export const apic: Table = {
  name: "apic",
  version: 3,
  fields: [
    { name: "apicbase", type: "uint32" },
    { name: "id", type: "uint8" },
    { name: "arb_id", type: "uint8" },
    { name: "tpr", type: "uint8" },
    { name: "spurious_vec", type: "uint32" },
    { name: "log_dest", type: "uint8" },
    { name: "dest_mode", type: "uint8" },
    { name: "isr", type: "uint32", count: 8 },
    { name: "tmr", type: "uint32", count: 8 },
    { name: "irr", type: "uint32", count: 8 },
    { name: "lvt", type: "uint32", count: 6 },
    { name: "esr", type: "uint32" },
    { name: "icr", type: "uint32", count: 2 },
    { name: "divide_conf", type: "uint32" },
    { name: "count_shift", type: "int32" },
    { name: "initial_count", type: "uint32" },
    { name: "initial_count_load_time", type: "int64" },
    { name: "next_time", type: "int64" },
    { name: "timer_expiry", type: "int64" },
  ],
  subsections: [apicCount],
};

export const ioapic: Table = {
  name: "ioapic",
  version: 3,
  fields: [
    { name: "id", type: "uint8" },
    { name: "ioregsel", type: "uint8" },
    { name: "unused", type: "unused_buffer", size: 8 },
    { name: "irr", type: "uint32" },
    { name: "ioredtbl", type: "uint64", count: 24 },
  ],
};

/** Instance 0 is the master, 1 the slave. In the order of KVM's struct kvm_pic_state but for elcr, which has a mask there. */
export const i8259: Table = {
  name: "i8259",
  version: 1,
  fields: [
    { name: "last_irr", type: "uint8" },
    { name: "irr", type: "uint8" },
    { name: "imr", type: "uint8" },
    { name: "isr", type: "uint8" },
    { name: "priority_add", type: "uint8" },
    { name: "irq_base", type: "uint8" },
    { name: "read_reg_select", type: "uint8" },
    { name: "poll", type: "uint8" },
    { name: "special_mask", type: "uint8" },
    { name: "init_state", type: "uint8" },
    { name: "auto_eoi", type: "uint8" },
    { name: "rotate_on_auto_eoi", type: "uint8" },
    { name: "special_fully_nested_mode", type: "uint8" },
    { name: "init4", type: "uint8" },
    { name: "single_mode", type: "uint8" },
    { name: "elcr", type: "uint8" },
  ],
};

const pitChannel: Table = {
  name: "pit channel",
  version: 2,
  fields: [
    { name: "count", type: "int32" },
    { name: "latched_count", type: "uint16" },
    { name: "count_latched", type: "uint8" },
    { name: "status_latched", type: "uint8" },
    { name: "status", type: "uint8" },
    { name: "read_state", type: "uint8" },
    { name: "write_state", type: "uint8" },
    { name: "write_latch", type: "uint8" },
    { name: "rw_mode", type: "uint8" },
    { name: "mode", type: "uint8" },
    { name: "bcd", type: "uint8" },
    { name: "gate", type: "uint8" },
    { name: "count_load_time", type: "int64" },
    { name: "next_transition_time", type: "int64" },
  ],
};

/** The interval timer. Its times are of a host's clock: KVM begins its counts anew. */
export const i8254: Table = {
  name: "i8254",
  version: 3,
  fields: [
    { name: "channels[0].irq_disabled", type: "uint32" },
    { name: "channels", type: "struct", table: pitChannel, count: 3 },
    { name: "channels[0].next_transition_time", type: "int64" },
  ],
};

/** When its clock was read, by the wall clock of the host, in nanoseconds: what has passed since is added where it goes on. */
export const wallClock: Table = {
  name: "tram/wall-clock",
  version: 1,
  fields: [{ name: "nanoseconds", type: "uint64" }],
};

/** Whether the guest wants its machine to be started anew, and that has not been done. */
export const power: Table = { name: "tram/power", version: 1, fields: [{ name: "reset", type: "bool" }] };

export const kvmclock: Table = { name: "kvmclock", version: 1, fields: [{ name: "clock", type: "uint64" }] };
