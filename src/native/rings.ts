// KVM's dirty rings, one for each vCPU: what it has written to (c/ring.c).
import { check, errnoName, u32 } from "./errno.ts";
import type { PageSet } from "./page-list.ts";
import { symbols } from "./symbols.ts";

export interface RingsState {
  /** The kernel has lost writes: they cannot be found any more. */
  lost: boolean;
  /** How often a vCPU has left the guest because its ring was full. */
  fullExits: number;
}

/** Of one machine, for all of its threads. They live as long as the process. */
export class Rings {
  /** Plain data: attach takes it. */
  readonly handle: number;

  private constructor(handle: number) {
    this.handle = handle;
  }

  static create(vm: number, entries: number, pages: number): Rings {
    const created = symbols.tram_rings_create(vm, u32(entries, "entries"), u32(pages, "pages"));
    return new Rings(check(created, "E_KVM", "make dirty rings"));
  }

  static attach(handle: number): Rings {
    return new Rings(handle);
  }

  /** The pages of memory slot 0, then of slot 1 … */
  addSlot(slot: number, firstPage: number, pages: number): void {
    const result = symbols.tram_rings_add_slot(this.handle, slot, u32(firstPage, "page"), u32(pages, "pages"));
    check(result, "E_INTERNAL", "name a slot to the dirty rings");
  }

  /** Of vCPU 0, then of vCPU 1 … */
  addCpu(vcpu: number): void {
    check(symbols.tram_rings_add_cpu(this.handle, vcpu), "E_KVM", "map a dirty ring");
  }

  /** This thread's vCPU has left the guest because its ring is full: there is room again. */
  makeRoom(cpu: number): void {
    check(symbols.tram_rings_full(this.handle, cpu), "E_INTERNAL", "empty a dirty ring");
  }

  /** Adds all pages written since the last time; false: the kernel has lost some, now or before. */
  takeInto({ words, pages }: PageSet): boolean {
    const result = symbols.tram_rings_take(this.handle, words, pages);
    if (errnoName(result) === "EOVERFLOW") return false;
    check(result, "E_INTERNAL", "empty the dirty rings");
    return true;
  }

  get state(): RingsState {
    const out = new Uint32Array(2);
    check(symbols.tram_rings_state(this.handle, out), "E_INTERNAL", "look at the dirty rings");
    return { lost: out[0] !== 0, fullExits: out[1] };
  }
}
