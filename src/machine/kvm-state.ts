// vCPU and interrupt controller state: between KVM's structures and the tables in stream/devices.
// Order on restore: CPUID (when the vCPU is made), XCRS and XSAVE, SREGS, MSRs, LAPIC, then the MSR TSC_DEADLINE, events,
// MP_STATE; KVM_SET_FPU is never used, because it does not mark the SSE state as valid.
import { TramError } from "../errors.ts";
import { ioctl, KVM, openKvm, tryIoctl, tryIoctlValue } from "../native/kvm.ts";
import { symbols } from "../native/symbols.ts";
import type { CpuidEntry } from "../stream/devices/machine.ts";
import { debugregs, regs, sregs, XSAVE_BYTES_MAX, xcrs } from "../stream/devices/vcpu.ts";
import type { Field, State, StateValue, Table } from "../stream/vmstate.ts";

// --- a table as a packed little-endian structure: KVM's have no implicit padding ---

const BYTES = { bool: 1, uint8: 1, uint16: 2, uint32: 4, int32: 4, uint64: 8, int64: 8 } as const;

function scalar(view: DataView, at: number, type: keyof typeof BYTES): number | bigint {
  if (BYTES[type] === 8) return view.getBigUint64(at, true);
  if (BYTES[type] === 4) return view.getUint32(at, true);
  return BYTES[type] === 2 ? view.getUint16(at, true) : view.getUint8(at);
}

function putScalar(view: DataView, at: number, type: keyof typeof BYTES, value: StateValue): void {
  if (BYTES[type] === 8) view.setBigUint64(at, BigInt.asUintN(64, BigInt(value as bigint)), true);
  else if (BYTES[type] === 4) view.setUint32(at, Number(value), true);
  else if (BYTES[type] === 2) view.setUint16(at, Number(value), true);
  else view.setUint8(at, Number(value));
}

/** Bytes of one element of a field, and of a whole table. */
function elementBytes(field: Field): number {
  return field.type === "struct" ? structBytes(field.table) : BYTES[field.type as keyof typeof BYTES];
}

const countOf = (field: Field): number | undefined => ("count" in field ? field.count : undefined);

function structBytes(table: Table): number {
  return table.fields.reduce((sum, field) => sum + elementBytes(field) * (countOf(field) ?? 1), 0);
}

/** The table's fields at `at` of KVM's structure, which may go on behind them with reserved bytes. */
export function structToState(table: Table, view: DataView, at = 0): State {
  const state: State = {};
  let offset = at;
  const next = (field: Field): number | bigint | State => {
    const here = offset;
    offset += elementBytes(field);
    return field.type === "struct"
      ? structToState(field.table, view, here)
      : scalar(view, here, field.type as keyof typeof BYTES);
  };
  for (const field of table.fields) {
    const count = countOf(field);
    state[field.name] =
      count === undefined ? next(field) : (Array.from({ length: count }, () => next(field)) as State[]);
  }
  return state;
}

/** The mirror of structToState; reserved bytes stay as they are. */
export function stateToStruct(table: Table, state: State, view: DataView, at = 0): void {
  let offset = at;
  for (const field of table.fields) {
    const value = state[field.name];
    for (const one of countOf(field) === undefined ? [value] : (value as StateValue[])) {
      if (field.type === "struct") stateToStruct(field.table, one as State, view, offset);
      else putScalar(view, offset, field.type as keyof typeof BYTES, one);
      offset += elementBytes(field);
    }
  }
}

type Get =
  | "GET_REGS"
  | "GET_SREGS2"
  | "GET_XCRS"
  | "GET_DEBUGREGS"
  | "GET_VCPU_EVENTS"
  | "GET_MP_STATE"
  | "GET_XSAVE"
  | "GET_LAPIC"
  | "GET_CLOCK"
  | "GET_PIT2"
  | "GET_IRQCHIP";
type Set =
  | "SET_REGS"
  | "SET_SREGS2"
  | "SET_XCRS"
  | "SET_DEBUGREGS"
  | "SET_VCPU_EVENTS"
  | "SET_MP_STATE"
  | "SET_XSAVE"
  | "SET_LAPIC"
  | "SET_CLOCK"
  | "SET_PIT2"
  | "SET_IRQCHIP";

/** The size of an ioctl's argument is part of its number. */
const argumentBytes = (request: Get | Set): number => (KVM[request] >>> 16) & 0x3fff;

function get(fd: number, request: Get): DataView {
  const bytes = new Uint8Array(argumentBytes(request));
  ioctl(fd, request, bytes);
  return new DataView(bytes.buffer);
}

function set(fd: number, request: Set, fill: (view: DataView) => void): void {
  const bytes = new Uint8Array(argumentBytes(request));
  fill(new DataView(bytes.buffer));
  ioctl(fd, request, bytes);
}

function setStruct(fd: number, request: Set, table: Table, state: StateValue): void {
  set(fd, request, (view) => stateToStruct(table, state as State, view));
}

const bytesOf = (view: DataView): Uint8Array => new Uint8Array(view.buffer);

// --- MSRs ---

const MSR_TSC_DEADLINE = 0x6e0;
const MSR_KVM_ASYNC_PF_INT = 0x4b564d06;

let knownMsrs: number[] | null = null;

/** The MSRs this kernel can save; asked once a process. */
function msrIndexes(): number[] {
  if (knownMsrs) return knownMsrs;
  const kvm = openKvm();
  const list = new Uint32Array(1 + 512);
  list[0] = 512;
  const result = tryIoctl(kvm, "GET_MSR_INDEX_LIST", new Uint8Array(list.buffer));
  symbols.tram_close(kvm);
  if (result < 0) throw new TramError("E_KVM", "KVM does not list its MSRs");
  knownMsrs = [...list.subarray(1, 1 + list[0])];
  return knownMsrs;
}

function msrArgument(index: number, data: bigint): DataView {
  const view = new DataView(new ArrayBuffer(24));
  view.setUint32(0, 1, true);
  view.setUint32(8, index, true);
  view.setBigUint64(16, data, true);
  return view;
}

function saveMsrs(vcpu: number): State[] {
  const saved: State[] = [];
  for (const index of msrIndexes()) {
    const view = msrArgument(index, 0n);
    if (tryIoctl(vcpu, "GET_MSRS", bytesOf(view)) === 1) saved.push({ index, data: view.getBigUint64(16, true) });
  }
  return saved;
}

const isDeadline = ({ index }: State): boolean => index === MSR_TSC_DEADLINE;

/** One at a time: KVM stops at the first it refuses. A refused MSR that holds zero is one that is not in use. */
function loadMsrs(vcpu: number, msrs: readonly State[]): void {
  for (const msr of msrs) {
    const data = msr.data as bigint;
    if (tryIoctl(vcpu, "SET_MSRS", bytesOf(msrArgument(Number(msr.index), data))) === 1) continue;
    if (data === 0n || msr.index === MSR_KVM_ASYNC_PF_INT) continue;
    throw new TramError("E_GUEST", "this host's KVM refuses a register of the guest", {
      expected: `MSR 0x${Number(msr.index).toString(16)} = 0x${data.toString(16)}`,
      found: "refused by KVM_SET_MSRS",
      next: "the hosts differ too much: move to a host with the same CPU and kernel generation",
    });
  }
}

// --- vCPU ---

export function saveVcpu(vcpu: number): State {
  const msrs = saveMsrs(vcpu);
  const xsave = bytesOf(get(vcpu, "GET_XSAVE"));
  return {
    mp_state: get(vcpu, "GET_MP_STATE").getUint32(0, true),
    regs: structToState(regs, get(vcpu, "GET_REGS")),
    sregs: structToState(sregs, get(vcpu, "GET_SREGS2")),
    xcrs: structToState(xcrs, get(vcpu, "GET_XCRS")),
    debugregs: structToState(debugregs, get(vcpu, "GET_DEBUGREGS")),
    events: bytesOf(get(vcpu, "GET_VCPU_EVENTS")),
    xsave_bytes: xsave.length,
    xsave,
    msr_count: msrs.length,
    msrs,
  };
}

/** Registers that KVM reads out whatever the guest's CPUID says, and takes only where that has them: without, a guest cannot reach them. */
const HIDDEN: readonly { msr: number; leaf: number; register: "ecx" | "edx"; bit: number }[] = [
  { msr: 0x10a, leaf: 7, register: "edx", bit: 29 }, // IA32_ARCH_CAPABILITIES
  { msr: 0x345, leaf: 1, register: "ecx", bit: 15 }, // IA32_PERF_CAPABILITIES
];

export function isHidden(msr: number, cpuid: readonly CpuidEntry[]): boolean {
  const by = HIDDEN.find((one) => one.msr === msr);
  const leaf = by && cpuid.find((entry) => entry.function === by.leaf && entry.index === 0);
  return by !== undefined && ((leaf?.[by.register] ?? 0) & (1 << by.bit)) === 0;
}

export function loadVcpu(vcpu: number, state: State, lapic: State, cpuid: readonly CpuidEntry[]): void {
  setStruct(vcpu, "SET_REGS", regs, state.regs);
  setStruct(vcpu, "SET_XCRS", xcrs, state.xcrs);
  const xsave = state.xsave as Uint8Array;
  if (xsave.length !== XSAVE_BYTES_MAX)
    throw new TramError("E_STREAM", "the vCPU's XSAVE area has another size", {
      expected: "4096 bytes",
      found: `${xsave.length}`,
    });
  ioctl(vcpu, "SET_XSAVE", xsave);
  setStruct(vcpu, "SET_SREGS2", sregs, state.sregs);
  const msrs = (state.msrs as State[]).filter(({ index }) => !isHidden(Number(index), cpuid));
  loadMsrs(
    vcpu,
    msrs.filter((msr) => !isDeadline(msr)),
  );
  loadLapic(vcpu, lapic);
  loadMsrs(vcpu, msrs.filter(isDeadline)); // before the local APIC's timer is one with a deadline it is ignored
  ioctl(vcpu, "SET_VCPU_EVENTS", state.events as Uint8Array);
  setStruct(vcpu, "SET_DEBUGREGS", debugregs, state.debugregs);
  set(vcpu, "SET_MP_STATE", (view) => view.setUint32(0, Number(state.mp_state), true));
}

// --- local APIC: KVM's register page, 16 bytes apart, and QEMU's fields ---

const LAPIC = {
  id: 0x20,
  tpr: 0x80,
  arb: 0x90,
  ldr: 0xd0,
  dfr: 0xe0,
  svr: 0xf0,
  isr: 0x100,
  tmr: 0x180,
  irr: 0x200,
  esr: 0x280,
  cmci: 0x2f0,
  icr: 0x300,
  lvt: [0x320, 0x330, 0x340, 0x350, 0x360, 0x370],
  initial: 0x380,
  current: 0x390,
  divide: 0x3e0,
} as const;

export function saveLapic(vcpu: number, apicBase: bigint): State {
  const page = get(vcpu, "GET_LAPIC");
  const at = (offset: number) => page.getUint32(offset, true);
  const row = (offset: number) => Array.from({ length: 8 }, (_, i) => at(offset + 16 * i));
  return {
    apicbase: Number(apicBase & 0xffffffffn),
    id: at(LAPIC.id) >>> 24,
    arb_id: at(LAPIC.arb) >>> 24,
    tpr: at(LAPIC.tpr) & 0xff,
    spurious_vec: at(LAPIC.svr),
    log_dest: at(LAPIC.ldr) >>> 24,
    dest_mode: at(LAPIC.dfr) >>> 28,
    isr: row(LAPIC.isr),
    tmr: row(LAPIC.tmr),
    irr: row(LAPIC.irr),
    lvt: LAPIC.lvt.map(at),
    esr: at(LAPIC.esr),
    icr: [at(LAPIC.icr), at(LAPIC.icr + 16)],
    divide_conf: at(LAPIC.divide),
    count_shift: (((at(LAPIC.divide) & 3) | ((at(LAPIC.divide) >>> 1) & 4)) + 1) & 7,
    initial_count: at(LAPIC.initial),
    initial_count_load_time: 0n,
    next_time: 0n,
    timer_expiry: -1n,
    "apic/tram-count": { current_count: at(LAPIC.current), lvt_cmci: at(LAPIC.cmci) },
  };
}

function loadLapic(vcpu: number, state: State): void {
  const page = get(vcpu, "GET_LAPIC"); // keeps the version register
  const put = (offset: number, value: StateValue) => page.setUint32(offset, Number(value), true);
  const row = (offset: number, values: StateValue) => {
    for (const [i, value] of (values as number[]).entries()) put(offset + 16 * i, value);
  };
  const count = state["apic/tram-count"] as State;
  put(LAPIC.id, Number(state.id) << 24);
  put(LAPIC.arb, Number(state.arb_id) << 24);
  put(LAPIC.tpr, state.tpr);
  put(LAPIC.svr, state.spurious_vec);
  put(LAPIC.ldr, Number(state.log_dest) << 24);
  put(LAPIC.dfr, (Number(state.dest_mode) << 28) | 0x0fffffff);
  row(LAPIC.isr, state.isr);
  row(LAPIC.tmr, state.tmr);
  row(LAPIC.irr, state.irr);
  for (const [i, value] of (state.lvt as number[]).entries()) put(LAPIC.lvt[i], value);
  put(LAPIC.esr, state.esr);
  row(LAPIC.icr, state.icr);
  put(LAPIC.divide, state.divide_conf);
  put(LAPIC.initial, state.initial_count);
  put(LAPIC.current, count.current_count);
  put(LAPIC.cmci, count.lvt_cmci);
  ioctl(vcpu, "SET_LAPIC", bytesOf(page));
}

// --- the VM's interrupt controllers and clock ---

const PIC_FIELDS =
  "last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr".split(
    " ",
  );
const CHIP_AT = 8; // struct kvm_irqchip: u32 chip_id, u32 pad, then the chip

function getChip(vm: number, chip: number): DataView {
  const view = new DataView(new ArrayBuffer(argumentBytes("GET_IRQCHIP")));
  view.setUint32(0, chip, true);
  ioctl(vm, "GET_IRQCHIP", bytesOf(view));
  return view;
}

export function savePic(vm: number, chip: number): State {
  const view = getChip(vm, chip);
  const state: State = { single_mode: 0 };
  PIC_FIELDS.forEach((name, i) => {
    state[name] = view.getUint8(CHIP_AT + i);
  });
  return state;
}

export function loadPic(vm: number, chip: number, state: State): void {
  const view = getChip(vm, chip); // keeps elcr_mask
  PIC_FIELDS.forEach((name, i) => {
    view.setUint8(CHIP_AT + i, Number(state[name]));
  });
  ioctl(vm, "SET_IRQCHIP", bytesOf(view));
}

const IOAPIC_CHIP = 2;
const IOAPIC = { base: 8, ioregsel: 16, id: 20, irr: 24, redirection: 32 } as const; // after CHIP_AT is 8

export function saveIoapic(vm: number): State {
  const view = getChip(vm, IOAPIC_CHIP);
  return {
    id: view.getUint32(IOAPIC.id, true) & 0xff,
    ioregsel: view.getUint32(IOAPIC.ioregsel, true) & 0xff,
    irr: view.getUint32(IOAPIC.irr, true),
    ioredtbl: Array.from({ length: 24 }, (_, i) => view.getBigUint64(IOAPIC.redirection + 8 * i, true)),
  };
}

export function loadIoapic(vm: number, state: State): void {
  const view = getChip(vm, IOAPIC_CHIP);
  view.setUint32(IOAPIC.id, Number(state.id), true);
  view.setUint32(IOAPIC.ioregsel, Number(state.ioregsel), true);
  view.setUint32(IOAPIC.irr, Number(state.irr), true);
  const entries = (state.ioredtbl as unknown as bigint[]).entries();
  for (const [i, value] of entries) view.setBigUint64(IOAPIC.redirection + 8 * i, value, true);
  ioctl(vm, "SET_IRQCHIP", bytesOf(view));
}

/** struct kvm_pit_state2: a channel each 24 bytes, in the order of QEMU's fields; then flags. */
const PIT = { channelBytes: 24, loadTimeAt: 16, flagsAt: 72 } as const;
const PIT_FIELDS =
  "count:4 latched_count:2 count_latched:1 status_latched:1 status:1 read_state:1 write_state:1 write_latch:1 rw_mode:1 mode:1 bcd:1 gate:1"
    .split(" ")
    .map((field) => field.split(":") as [string, "1" | "2" | "4"]);
const PIT_FLAG_HPET_LEGACY = 1;
const CHANNELS = [0, 1, 2];

export function savePit(vm: number): State {
  const view = get(vm, "GET_PIT2");
  return {
    "channels[0].irq_disabled": view.getUint32(PIT.flagsAt, true) & PIT_FLAG_HPET_LEGACY,
    channels: CHANNELS.map((channel) => {
      let at = channel * PIT.channelBytes;
      const state: State = { count_load_time: 0n, next_transition_time: 0n };
      for (const [name, bytes] of PIT_FIELDS) {
        state[name] =
          bytes === "4" ? view.getUint32(at, true) | 0 : bytes === "2" ? view.getUint16(at, true) : view.getUint8(at);
        at += Number(bytes);
      }
      return state;
    }),
    "channels[0].next_transition_time": 0n,
  };
}

export function loadPit(vm: number, state: State): void {
  set(vm, "SET_PIT2", (view) => {
    view.setUint32(PIT.flagsAt, Number(state["channels[0].irq_disabled"]), true);
    for (const channel of CHANNELS) {
      let at = channel * PIT.channelBytes;
      for (const [name, bytes] of PIT_FIELDS) {
        const value = Number((state.channels as State[])[channel][name]);
        if (bytes === "4") view.setInt32(at, value, true);
        else if (bytes === "2") view.setUint16(at, value, true);
        else view.setUint8(at, value);
        at += Number(bytes);
      }
    }
  });
}

/** The guest's clock, and the host's wall clock in that moment. */
export function saveClock(vm: number): { clock: State; wall: State } {
  const clock = get(vm, "GET_CLOCK").getBigUint64(0, true);
  return { clock: { clock }, wall: { nanoseconds: wallNanoseconds() } };
}

/** `wall`: when it was read; the guest's time has gone on meanwhile. Null: it has not. */
export function loadClock(vm: number, clock: State, wall: State | null): void {
  const passed = wall ? wallNanoseconds() - (wall.nanoseconds as bigint) : 0n;
  // The clock of another host may be behind this one's. A guest's clock never goes back.
  const now = (clock.clock as bigint) + (passed > 0n ? passed : 0n);
  set(vm, "SET_CLOCK", (view) => view.setBigUint64(0, now, true));
}

/** To a millisecond: and that is what a guest's time may be wrong by. */
const wallNanoseconds = (): bigint => BigInt(Date.now()) * 1_000_000n;

/** Has the guest's watchdogs know that it stood still: before it runs. A vCPU that does not use KVM's clock has none. */
export function noteStandstill({ vcpus, description }: { vcpus: number[]; description: { pc: boolean } }): void {
  if (description.pc) for (const vcpu of vcpus) tryIoctlValue(vcpu, "KVMCLOCK_CTRL", 0);
}
