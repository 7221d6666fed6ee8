// The walker's native twin (c/twin.c): the same walk through the same memory, without KVM.
import { TramError } from "../errors.ts";
import { check, errnoName, u32 } from "./errno.ts";
import { symbols } from "./symbols.ts";

/** As long as what stands for a kvm_run. */
export const TWIN_RUN_BYTES = 4096;

/** The address of what stands for a vCPU's kvm_run. */
export const createTwin = (): number => check(symbols.tram_twin_create(), "E_MEMORY", "make the walker's twin");

/** Writes up to so many pages, or until a kick; how many. `marks`: where it notes them; 0: nowhere. */
export function runTwin(ram: number, run: number, cpu: number, pages: number, marks: number): number {
  const result = symbols.tram_twin_run(ram, run, cpu, u32(pages, "pages"), marks);
  if (errnoName(result) === "EBADMSG")
    throw new TramError("E_GUEST_BAD", `CPU ${cpu} of the walker has found a page that is not what it wrote`, {
      next: "tram check-guest says which",
    });
  return check(result, "E_GUEST_RAM", "walk through guest memory");
}
