// One compressed stream for a whole channel, a packet at a time: the mirror of inflate.ts, for zstd.
import { TramError } from "../errors.ts";
import { check, errnoName, u32, u53 } from "./errno.ts";
import { type Ram, readable } from "./ram.ts";
import { symbols } from "./symbols.ts";

export class Deflater {
  #handle: number | null;

  /** `level`: zstd's. */
  constructor(level: number) {
    this.#handle = check(symbols.tram_deflate_open(level), "E_MEMORY", "cannot compress");
  }

  /** Guest pages `index[0, count)` as the stream's next piece, in `out`; its bytes. */
  pages(ram: Ram, index: Uint32Array, count: number, out: Uint8Array): number {
    if (this.#handle === null || count > index.length) throw new TramError("E_INTERNAL", "nothing to compress with");
    const size = u53(out.length, "size");
    const result = symbols.tram_deflate_ram(this.#handle, ram.native, index, u32(count, "count"), out, size);
    if (errnoName(result) === "EFAULT") readable(result, "compress pages");
    return check(result, "E_INTERNAL", "compress pages");
  }

  close(): void {
    if (this.#handle !== null) symbols.tram_deflate_close(this.#handle);
    this.#handle = null;
  }
}
