// Devices whose state is tram's own: the serial port under QEMU's name, and the walker's ports.
import type { Table } from "../vmstate.ts";

/** QEMU's 16550, version 3, without the subsections that only a port in the middle of a transfer has. */
export const serial: Table = {
  name: "serial",
  version: 3,
  fields: [
    { name: "divider", type: "uint16" },
    ..."rbr ier iir lcr mcr lsr msr scr fcr".split(" ").map((name) => ({ name, type: "uint8" }) as const),
  ],
};

/** Of a serial port that has an interrupt, what QEMU's section has no place for. */
export const serialMore: Table = {
  name: "tram/serial",
  version: 1,
  fields: [
    /** Its transmitter has become empty, and the guest has not been told. */
    { name: "emptied", type: "uint8" },
    { name: "received_bytes", type: "uint32" },
    { name: "received", type: "blob", countFrom: "received_bytes", max: 16 },
  ],
};

export const WALKER_CPUS_MAX = 16;

/** The walker's ports: its pace, and the two counters that show whether an interrupted read was completed. */
export const walker: Table = {
  name: "tram/walker",
  version: 1,
  fields: [
    /** Pages per second over all vCPUs; 0: as fast as it can. */
    { name: "rate", type: "uint32" },
    { name: "probe_pio", type: "uint32", count: WALKER_CPUS_MAX },
    { name: "probe_mmio", type: "uint32", count: WALKER_CPUS_MAX },
    /** How often a vCPU was stopped while it waited for a port, and for a memory read: what a move must not lose. */
    { name: "stopped_in_pio", type: "uint32" },
    { name: "stopped_in_mmio", type: "uint32" },
  ],
};
