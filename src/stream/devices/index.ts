// Every device section tram knows, by name. A new device is one table and one line here.
import type { Table } from "../vmstate.ts";
import { globalstate, machine, untouched, verify } from "./machine.ts";
import { serial, walker } from "./ports.ts";
import { vcpu } from "./vcpu.ts";
import { balloon } from "./virtio.ts";
import { apic, i8259, ioapic, kvmclock } from "./x86.ts";

export const DEVICE_TABLES: ReadonlyMap<string, Table> = new Map(
  [machine, verify, untouched, globalstate, serial, walker, apic, ioapic, i8259, kvmclock, vcpu, balloon].map(
    (table) => [table.name, table],
  ),
);
