// tram/vcpu, version 1: one virtual CPU as KVM keeps it. The order is that of KVM's own structures.
import type { Field, Table } from "../vmstate.ts";

const u64s = (names: string): Field[] => names.split(" ").map((name) => ({ name, type: "uint64" }));
const u8s = (names: string): Field[] => names.split(" ").map((name) => ({ name, type: "uint8" }));

export const regs: Table = {
  name: "tram/vcpu/regs",
  version: 1,
  fields: u64s("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"),
};

const segment: Table = {
  name: "tram/vcpu/segment",
  version: 1,
  fields: [
    { name: "base", type: "uint64" },
    { name: "limit", type: "uint32" },
    { name: "selector", type: "uint16" },
    ...u8s("type present dpl db s l g avl unusable padding"),
  ],
};

const descriptorTable: Table = {
  name: "tram/vcpu/descriptor_table",
  version: 1,
  fields: [
    { name: "base", type: "uint64" },
    { name: "limit", type: "uint16" },
    { name: "padding", type: "uint16", count: 3 },
  ],
};

export const sregs: Table = {
  name: "tram/vcpu/sregs",
  version: 1,
  fields: [
    ..."cs ds es fs gs ss tr ldt".split(" ").map((name): Field => ({ name, type: "struct", table: segment })),
    ..."gdt idt".split(" ").map((name): Field => ({ name, type: "struct", table: descriptorTable })),
    ...u64s("cr0 cr2 cr3 cr4 cr8 efer apic_base flags"),
    { name: "pdptrs", type: "uint64", count: 4 },
  ],
};

const xcr: Table = {
  name: "tram/vcpu/xcr",
  version: 1,
  fields: [
    { name: "xcr", type: "uint32" },
    { name: "reserved", type: "uint32" },
    { name: "value", type: "uint64" },
  ],
};

export const xcrs: Table = {
  name: "tram/vcpu/xcrs",
  version: 1,
  fields: [
    { name: "nr_xcrs", type: "uint32" },
    { name: "flags", type: "uint32" },
    { name: "xcrs", type: "struct", table: xcr, count: 16 },
  ],
};

export const debugregs: Table = {
  name: "tram/vcpu/debugregs",
  version: 1,
  fields: [
    { name: "db", type: "uint64", count: 4 },
    { name: "dr6", type: "uint64" },
    { name: "dr7", type: "uint64" },
    { name: "flags", type: "uint64" },
  ],
};

export const msr: Table = {
  name: "tram/vcpu/msr",
  version: 1,
  fields: [
    { name: "index", type: "uint32" },
    { name: "data", type: "uint64" },
  ],
};

export const MSRS_MAX = 512;
export const XSAVE_BYTES_MAX = 4096;

export const vcpu: Table = {
  name: "tram/vcpu",
  version: 1,
  fields: [
    { name: "regs", type: "struct", table: regs },
    { name: "sregs", type: "struct", table: sregs },
    { name: "xcrs", type: "struct", table: xcrs },
    { name: "debugregs", type: "struct", table: debugregs },
    { name: "events", type: "buffer", size: 64 },
    { name: "mp_state", type: "uint32" },
    { name: "xsave_bytes", type: "uint32" },
    { name: "xsave", type: "blob", countFrom: "xsave_bytes", max: XSAVE_BYTES_MAX },
    { name: "msr_count", type: "uint32" },
    { name: "msrs", type: "list", table: msr, countFrom: "msr_count", max: MSRS_MAX },
  ],
};
