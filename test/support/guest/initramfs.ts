// Packs one program into an initramfs, as /init, with the console that the kernel opens for it:
//   bun initramfs.ts PROGRAM OUT
// The format is cpio's "newc", as the kernel's early-userspace/buffer-format documentation has it.
import { readFileSync, renameSync, writeFileSync } from "node:fs";

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const CHARACTER_DEVICE = 0o020600;

function padded(bytes: Uint8Array): Uint8Array[] {
  return [bytes, new Uint8Array(-bytes.length & 3)];
}

let inode = 0;

function entry(name: string, mode: number, content = new Uint8Array(0), [major, minor] = [0, 0]): Uint8Array[] {
  inode++;
  // inode, mode, uid, gid, links, mtime, size, device, the device that it is, name's length, checksum
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, major, minor, name.length + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${name}\0`;
  return [...padded(new TextEncoder().encode(header)), ...padded(content)];
}

const [program, out] = process.argv.slice(2);
if (!program || !out) throw new Error("usage: bun initramfs.ts PROGRAM OUT");
const entries = [
  entry("dev", DIRECTORY),
  entry("dev/console", CHARACTER_DEVICE, undefined, [5, 1]),
  entry("init", PROGRAM, readFileSync(program)),
  entry("TRAILER!!!", 0),
];
writeFileSync(`${out}.new`, Buffer.concat(entries.flat()));
renameSync(`${out}.new`, out);
