// A libvirt save image: a header, the domain's XML, then QEMU's own stream.
//
//   char magic[16]  u32 version  u32 data bytes  u32 was running  u32 format  u32 cookie offset  u32 unused[14]
//   data (the XML, and perhaps a cookie)   stream
//
// Numbers have the byte order of the host that wrote them. Formats other than raw (0) and sparse (6) are compressed by a
// program.
import { TramError } from "../errors.ts";

export const LIBVIRT_HEADER_BYTES = 92;
const MAGIC = "LibvirtQemudSave";
const PARTIAL = "LibvirtQemudPart";
const VERSION_MAX = 3;
const DATA_BYTES_MAX = 64 << 20;
/** QEMU's own fixed offsets, counted from the beginning of the image. */
const SPARSE = 6;
/** By the number in the header: what undoes it. */
const PROGRAMS = ["", "gzip -dc", "bzip2 -dc", "xz -dc", "lzop -dc", "zstd -dc"];

export interface LibvirtHeader {
  /** Where QEMU's stream begins. */
  streamOffset: number;
  wasRunning: boolean;
}

/** Null: this is no libvirt image. `bytes`: at least its first 92. */
export function decodeLibvirtHeader(bytes: Uint8Array): LibvirtHeader | null {
  const magic = Buffer.from(bytes.subarray(0, 16)).toString("latin1");
  if (magic === PARTIAL)
    throw new TramError("E_STREAM_TRUNCATED", "libvirt did not finish this image", {
      expected: MAGIC,
      found: PARTIAL,
      next: "save the domain again",
    });
  if (magic !== MAGIC || bytes.length < LIBVIRT_HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const little = view.getUint32(16, true) <= 0xffff;
  const word = (i: number) => view.getUint32(16 + 4 * i, little);
  const [version, dataBytes, wasRunning, format] = [word(0), word(1), word(2), word(3)];
  if (version > VERSION_MAX || dataBytes > DATA_BYTES_MAX)
    throw new TramError("E_STREAM", "a libvirt image of an unknown version", {
      expected: `version 1 to ${VERSION_MAX}`,
      found: `version ${version}, ${dataBytes} bytes of XML`,
    });
  const streamOffset = LIBVIRT_HEADER_BYTES + dataBytes;
  if (format > SPARSE)
    throw new TramError("E_STREAM", "a libvirt image of an unknown format", {
      expected: `format 0 to ${SPARSE}`,
      found: `format ${format}`,
    });
  const program = PROGRAMS[format];
  if (program)
    throw new TramError("E_STREAM", "the stream in this libvirt image is compressed", {
      expected: 'save_image_format = "raw"',
      found: program.split(" ")[0],
      next: `tail -c +${streamOffset + 1} IMAGE | ${program} | tram convert - FILE`,
    });
  return { streamOffset, wasRunning: wasRunning !== 0 };
}
