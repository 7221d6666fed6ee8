// Every device section tram knows, by name. A new device is one table and one line here.
import type { Table } from "../vmstate.ts";
import { globalstate, machine, untouched, verify } from "./machine.ts";
import { serial, serialMore, walker } from "./ports.ts";
import { vcpu } from "./vcpu.ts";
import { balloon, console, disk, net, rng, vsock } from "./virtio.ts";
import { apic, i8254, i8259, ioapic, kvmclock, power, wallClock } from "./x86.ts";

export const DEVICE_TABLES: ReadonlyMap<string, Table> = new Map(
  [
    machine,
    verify,
    untouched,
    globalstate,
    serial,
    serialMore,
    walker,
    apic,
    ioapic,
    i8259,
    i8254,
    kvmclock,
    wallClock,
    power,
    vcpu,
    balloon,
    disk,
    rng,
    vsock,
    net,
    console,
  ].map((table) => [table.name, table]),
);
