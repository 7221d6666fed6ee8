// What a guest's kernel is told of its machine: ACPI tables, in the form for machines without legacy hardware ("hardware-reduced").
// Source: ACPI specification 6.5, 5.2 (tables), 4.8.3.7 (sleep and reset registers).
//
//   RSDP ─► XSDT ─► FADT ─► DSDT (devices)
//              └──► MADT (CPUs, I/O APIC)
import type { Place } from "../places.ts";
import * as aml from "./aml.ts";

export const RESET_PORT = 0x602;
export const RESET_VALUE = 1;
export const SLEEP_CONTROL_PORT = 0x600;
const SLEEP_STATUS_PORT = 0x601;
/** In the sleep control register: go, and to which state. */
const SLEEP_ENABLE = 0x20;
const SLEEP_TYPE_OFF = 5;
export const SLEEP_OFF_VALUE = SLEEP_ENABLE | (SLEEP_TYPE_OFF << 2);

const CHANGED = 0x80;
const LOCAL_APIC = 0xfee00000;
const IO_APIC = 0xfec00000;
const SYSTEM_IO = 1;

export interface AcpiMachine {
  cpus: number;
  serial: { port: number; ports: number; line: number } | null;
  /** Where its number is, and the line that says that it has changed; see generation.ts. */
  generation: { address: number; line: number } | null;
  /** Each a device of virtio's behind registers in memory. */
  virtio: readonly Place[];
}

const checksum = (table: Uint8Array): number => -table.reduce((sum, byte) => sum + byte, 0) & 0xff;

/** A table with its header: signature, length, revision, checksum, who made it. */
function table(signature: string, revision: number, content: Uint8Array): Uint8Array {
  const all = new Uint8Array(36 + content.length);
  const view = new DataView(all.buffer);
  const text = (at: number, value: string) => new TextEncoder().encodeInto(value, all.subarray(at));
  text(0, signature);
  view.setUint32(4, all.length, true);
  all[8] = revision;
  text(10, "TRAM  ");
  text(16, "TRAMVM  ");
  view.setUint32(24, 1, true);
  text(28, "TRAM");
  view.setUint32(32, 1, true);
  all.set(content, 36);
  all[9] = checksum(all);
  return all;
}

function dsdt({ serial, generation, virtio }: AcpiMachine): Uint8Array {
  const devices = virtio.map(({ address, bytes, line }, i) =>
    aml.device(
      `VIO${i.toString(16).toUpperCase()}`,
      aml.name("_HID", aml.string("LNRO0005")), // what Linux binds its driver for registers in memory to
      aml.name("_UID", aml.integer(i)),
      aml.name("_CCA", aml.integer(1)),
      aml.name("_CRS", aml.resources(aml.memory(address, bytes), aml.interrupt(line, "level"))),
    ),
  );
  if (serial)
    devices.push(
      aml.device(
        "COM1",
        aml.name("_HID", aml.eisaId("PNP0501")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources(aml.ioPorts(serial.port, serial.ports), aml.interrupt(serial.line, "edge"))),
      ),
    );
  if (generation)
    devices.push(
      aml.device(
        "VGEN",
        aml.name("_HID", aml.string("TRAM0001")),
        aml.name("_CID", aml.string("VM_Gen_Counter")), // what drivers look for
        aml.name("_DDN", aml.string("VM_Gen_Counter")),
        aml.name("ADDR", aml.list(aml.integer(generation.address), aml.integer(0))),
      ),
      aml.device(
        "GED",
        aml.name("_HID", aml.string("ACPI0013")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources(aml.interrupt(generation.line, "edge"))),
        aml.method("_EVT", 1, aml.notify("\\_SB.VGEN", CHANGED)),
      ),
    );
  const off = aml.list(aml.integer(SLEEP_TYPE_OFF), aml.integer(0), aml.integer(0), aml.integer(0));
  return table("DSDT", 2, Buffer.concat([aml.scope("\\_SB", ...devices), aml.name("\\_S5", off)]));
}

/** At these places of the whole table, whose header has 36 bytes. */
const FADT = {
  bootArchitecture: 109,
  flags: 112,
  resetRegister: 116,
  resetValue: 128,
  minor: 131,
  dsdt: 140,
  sleepControl: 244,
  sleepStatus: 256,
  hypervisor: 268,
  bytes: 276,
} as const;
const BOOT_ARCHITECTURE = { noVga: 1 << 2, noRtc: 1 << 5 } as const;
const FLAG = { flushes: 1, c1: 1 << 2, powerButton: 1 << 4, sleepButton: 1 << 5, reset: 1 << 10, reduced: 1 << 20 };

function fadt(dsdtAt: number): Uint8Array {
  const content = new DataView(new ArrayBuffer(FADT.bytes - 36));
  const at = (place: number) => place - 36;
  /** A port of one byte. */
  const register = (place: number, port: number) => {
    [SYSTEM_IO, 8, 0, 1].forEach((byte, i) => {
      content.setUint8(at(place) + i, byte);
    });
    content.setBigUint64(at(place) + 4, BigInt(port), true);
  };
  content.setUint16(at(FADT.bootArchitecture), BOOT_ARCHITECTURE.noVga | BOOT_ARCHITECTURE.noRtc, true);
  const flags = Object.values(FLAG).reduce((all, flag) => all | flag, 0);
  content.setUint32(at(FADT.flags), flags, true);
  register(FADT.resetRegister, RESET_PORT);
  content.setUint8(at(FADT.resetValue), RESET_VALUE);
  content.setUint8(at(FADT.minor), 5);
  content.setBigUint64(at(FADT.dsdt), BigInt(dsdtAt), true);
  register(FADT.sleepControl, SLEEP_CONTROL_PORT);
  register(FADT.sleepStatus, SLEEP_STATUS_PORT);
  new TextEncoder().encodeInto("TRAM", new Uint8Array(content.buffer, at(FADT.hypervisor)));
  return table("FACP", 6, new Uint8Array(content.buffer));
}

function madt(cpus: number): Uint8Array {
  const le32 = (value: number) => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
  const PC_COMPATIBLE = 1; // there are 8259s, too
  const NMI = [4, 6, 0xff, 0, 0, 1]; // of every CPU, at its second local line
  return table(
    "APIC",
    5,
    Uint8Array.from([
      ...le32(LOCAL_APIC),
      ...le32(PC_COMPATIBLE),
      ...Array.from({ length: cpus }, (_, cpu) => [0, 8, cpu, cpu, ...le32(1)]).flat(),
      ...[1, 12, 0, 0, ...le32(IO_APIC), ...le32(0)],
      ...NMI,
    ]),
  );
}

function xsdt(tables: readonly number[]): Uint8Array {
  return table("XSDT", 1, new Uint8Array(BigUint64Array.from(tables.map(BigInt)).buffer));
}

const RSDP_BYTES = 36;

function rsdp(xsdtAt: number): Uint8Array {
  const all = new Uint8Array(RSDP_BYTES);
  const view = new DataView(all.buffer);
  new TextEncoder().encodeInto("RSD PTR ", all);
  new TextEncoder().encodeInto("TRAM  ", all.subarray(9));
  all[15] = 2;
  view.setUint32(20, RSDP_BYTES, true);
  view.setBigUint64(24, BigInt(xsdtAt), true);
  all[8] = checksum(all.subarray(0, 20));
  all[32] = checksum(all);
  return all;
}

/** All tables as one piece for guest address `at`, where the RSDP is. */
export function acpiTables(machine: AcpiMachine, at: number): Uint8Array {
  const parts: Uint8Array[] = [new Uint8Array(64)]; // room for the RSDP, which knows where the others are
  let next = at + 64;
  const place = (made: Uint8Array): number => {
    const here = next;
    const padded = new Uint8Array(Math.ceil(made.length / 16) * 16);
    padded.set(made);
    parts.push(padded);
    next += padded.length;
    return here;
  };
  const dsdtAt = place(dsdt(machine));
  const tables = [place(fadt(dsdtAt)), place(madt(machine.cpus))];
  parts[0].set(rsdp(place(xsdt(tables))));
  return new Uint8Array(Buffer.concat(parts));
}
