// One compressed stream for a whole channel, a piece at a time.
import { check, errnoName, u32 } from "./errno.ts";
import { symbols } from "./symbols.ts";

export class Inflater {
  #handle: number | null;

  constructor(method: "zlib" | "zstd") {
    this.#handle = check(symbols.tram_inflate_open(method === "zstd" ? 1 : 0), "E_MEMORY", "cannot decompress");
  }

  /** The stream's next piece becomes exactly `outBytes`; false if it does not, and the stream is broken then. */
  next(piece: Uint8Array, pieceBytes: number, out: Uint8Array, outBytes: number): boolean {
    if (this.#handle === null || pieceBytes > piece.length || outBytes > out.length) return false;
    const result = symbols.tram_inflate(this.#handle, piece, u32(pieceBytes, "piece"), out, u32(outBytes, "pages"));
    if (errnoName(result) === "EBADMSG") return false;
    check(result, "E_INTERNAL", "decompress");
    return true;
  }

  close(): void {
    if (this.#handle !== null) symbols.tram_inflate_close(this.#handle);
    this.#handle = null;
  }
}
