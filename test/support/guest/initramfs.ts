// Packs an initramfs. As a program, of one program as /init, with the console that the kernel opens for it:
//   bun initramfs.ts PROGRAM OUT
// The format is cpio's "newc", as the kernel's early-userspace/buffer-format documentation has it.
import { readFileSync, renameSync, writeFileSync } from "node:fs";

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const CHARACTER_DEVICE = 0o020600;

function padded(bytes: Uint8Array): Uint8Array[] {
  return [bytes, new Uint8Array(-bytes.length & 3)];
}

function entry(inode: number, { name, mode, content, device }: Entry): Uint8Array[] {
  const [major, minor] = device ?? [0, 0];
  // inode, mode, uid, gid, links, mtime, size, device, the device that it is, name's length, checksum
  const fields = [inode, mode, 0, 0, 1, 0, content?.length ?? 0, 0, 0, major, minor, name.length + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${name}\0`;
  return [...padded(new TextEncoder().encode(header)), ...padded(content ?? new Uint8Array(0))];
}

export interface Entry {
  name: string;
  mode: number;
  content?: Uint8Array;
  /** Major and minor number. */
  device?: [number, number];
}

export const folder = (name: string): Entry => ({ name, mode: DIRECTORY });
export const program = (name: string, content: Uint8Array): Entry => ({ name, mode: PROGRAM, content });

/** A folder's entry comes before those in it. With a console for /init. */
export function writeInitramfs(out: string, entries: readonly Entry[]): void {
  const console: Entry = { name: "dev/console", mode: CHARACTER_DEVICE, device: [5, 1] };
  const all = [folder("dev"), console, ...entries, { name: "TRAILER!!!", mode: 0 }];
  writeFileSync(`${out}.new`, Buffer.concat(all.flatMap((one, i) => entry(i + 1, one))));
  renameSync(`${out}.new`, out);
}

if (import.meta.main) {
  const [path, out] = process.argv.slice(2);
  if (!path || !out) throw new Error("usage: bun initramfs.ts PROGRAM OUT");
  writeInitramfs(out, [program("init", readFileSync(path))]);
}
