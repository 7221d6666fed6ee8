// Device sections and the description that lists them: the same in a stream and in a file.
import type { DeviceState } from "../control/guest.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { ByteWriter } from "../stream/bytes.ts";
import { globalstate, globalstateFrom } from "../stream/devices/machine.ts";
import { encodeFooter, encodeSectionStart, encodeVmDescription } from "../stream/section.ts";
import { describeState, saveState } from "../stream/vmstate.ts";
import { QEMU_VM_SECTION_FULL } from "../stream/wire.ts";

/** The machine has 0: it comes first of all. */
export const RAM_SECTION_ID = 1;

/** Numbers the sections in their order, and remembers them for the description. */
export class DeviceSections {
  readonly #described: object[] = [];
  #id = 0;

  full(out: ByteWriter, { table, instance, state }: DeviceState): void {
    if (this.#id === RAM_SECTION_ID) this.#id++;
    const id = this.#id++;
    encodeSectionStart(out, QEMU_VM_SECTION_FULL, { id, name: table.name, instance, version: table.version });
    saveState(table, state, out);
    encodeFooter(out, id);
    this.#described.push({ name: table.name, instance_id: instance, ...describeState(table, state) });
  }

  all(out: ByteWriter, devices: readonly DeviceState[], runState: string): void {
    for (const device of devices) this.full(out, device);
    this.full(out, { table: globalstate, instance: 0, state: globalstateFrom(runState) });
  }

  describe(out: ByteWriter): void {
    encodeVmDescription(out, { page_size: PAGE_BYTES, devices: this.#described });
  }
}
