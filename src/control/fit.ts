// Does this guest fit that host? Pure: what the target said against what the guest is.
import { TramError } from "../errors.ts";
import { type CpuidEntry, isTwin, type MachineDescription } from "../stream/devices/machine.ts";
import { HELLO_VERSION, type Hello } from "../stream/return-path.ts";

/** The leaves whose bits are features: a guest that has seen one set may use it. */
const FEATURE_LEAVES: readonly {
  function: number;
  index: number;
  registers: readonly ("eax" | "ebx" | "ecx" | "edx")[];
  /** These bits alone. */
  only?: number;
}[] = [
  { function: 1, index: 0, registers: ["ecx", "edx"] },
  { function: 7, index: 0, registers: ["ebx", "ecx", "edx"] },
  { function: 7, index: 1, registers: ["eax", "ebx", "ecx", "edx"] },
  { function: 7, index: 2, registers: ["edx"], only: 0x1f }, // the others say what the CPU need not be protected from
  { function: 0xd, index: 0, registers: ["eax", "edx"] },
  { function: 0xd, index: 1, registers: ["eax"] },
  { function: 0x40000001, index: 0, registers: ["eax"] },
  { function: 0x80000001, index: 0, registers: ["ecx", "edx"] },
  { function: 0x80000007, index: 0, registers: ["edx"] },
  { function: 0x80000008, index: 0, registers: ["ebx"] },
  { function: 0x80000021, index: 0, registers: ["eax"], only: 0x18000100 }, // newer kernels tell of the others where older ones do not
];

/** CPUID.1:ECX.OSXSAVE mirrors CR4 and says nothing of the host. */
const OSXSAVE = 1 << 27;

/** Features the guest may use and the host lacks, as "leaf 0x7.0 ebx bit 5". Empty: the guest fits. */
export function missingFeatures(guest: readonly CpuidEntry[], host: readonly CpuidEntry[]): string[] {
  const missing: string[] = [];
  for (const leaf of FEATURE_LEAVES) {
    const find = (table: readonly CpuidEntry[]) =>
      table.find((e) => e.function === leaf.function && e.index === leaf.index);
    for (const register of leaf.registers) {
      let bits = (leaf.only ?? ~0) & (find(guest)?.[register] ?? 0) & ~(find(host)?.[register] ?? 0);
      if (leaf.function === 1 && register === "ecx") bits &= ~OSXSAVE;
      for (let bit = 0; bit < 32; bit++)
        if (bits & (1 << bit))
          missing.push(`leaf 0x${leaf.function.toString(16)}.${leaf.index} ${register} bit ${bit}`);
    }
  }
  return missing;
}

/** As leaf 0 spells it; null: nobody says. */
function makerOf(table: readonly CpuidEntry[]): string | null {
  const leaf = table.find((entry) => entry.function === 0);
  if (!leaf) return null;
  const words = Uint32Array.of(leaf.ebx, leaf.edx, leaf.ecx);
  return new TextDecoder("latin1").decode(words.buffer);
}

/** Throws E_REFUSED if the target cannot take the guest. Both ends ask: the target may have learnt of it by a pipe. */
export function checkFit(guest: MachineDescription, target: Hello): void {
  const refuse = (what: string, expected: string, found: string, next: string) => {
    throw new TramError("E_REFUSED", `the target cannot take this guest: ${what}`, { expected, found, next });
  };
  if (target.version !== HELLO_VERSION)
    refuse(
      "it speaks another version",
      `version ${HELLO_VERSION}`,
      `version ${target.version}`,
      "use the same tram on both hosts",
    );
  if (target.keeps) return;
  if (target.memoryBytes !== null && target.memoryBytes !== guest.memoryBytes)
    refuse(
      "its --memory differs",
      `${guest.memoryBytes} bytes`,
      `${target.memoryBytes} bytes`,
      "start the target without --memory: it takes the guest's",
    );
  if (target.cpus !== null && target.cpus !== guest.cpus)
    refuse(
      "its --cpus differs",
      `${guest.cpus}`,
      `${target.cpus}`,
      "start the target without --cpus: it takes the guest's",
    );
  if (target.cpuid.length === 0 && !isTwin(guest))
    refuse(
      "it has no KVM",
      "a guest that --accel none has booted",
      "one of KVM's",
      "start the target without --accel none",
    );
  const [guestMaker, targetMaker] = [makerOf(guest.cpuid), makerOf(target.cpuid)];
  if (guestMaker && targetMaker && guestMaker !== targetMaker)
    refuse("its CPU is another maker's", guestMaker, targetMaker, "move to a host with a CPU of the same maker");
  const missing = missingFeatures(guest.cpuid, target.cpuid);
  if (missing.length)
    refuse(
      "its CPU lacks features that the guest may use",
      missing.slice(0, 8).join(", ") + (missing.length > 8 ? ` and ${missing.length - 8} more` : ""),
      "not there",
      "move to a host whose CPU has them",
    );
}
