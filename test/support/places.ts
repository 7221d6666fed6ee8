// Folders on file systems of a kind: one in a file, mounted by loop, or tmpfs. Each goes with all that is in it.
import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, statfsSync, truncateSync, writeFileSync } from "node:fs"; // biome-ignore format: one line
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { allocate } from "../../src/native/file.ts";

export type LoopKind = "ext4" | "xfs";
const MKFS: Record<LoopKind, { program: string; options: string[]; package: string; bytesMin: number }> = {
  // Blocks as a large one has them, and nothing kept back for root: what is free is free.
  ext4: { program: "mkfs.ext4", options: ["-q", "-b", "4096", "-m", "0"], package: "e2fsprogs", bytesMin: 8 << 20 },
  xfs: { program: "mkfs.xfs", options: ["-q"], package: "xfsprogs", bytesMin: 300 << 20 },
};
const LIMIT_MS = 20_000;
const TMPFS_MAGIC = 0x01021994;
const SHARED_MEMORY = "/dev/shm";
/** An older snapshot, and the one that replaces it. */
const TMPFS_BYTES_MIN = 256 << 20;

/** Why a file system of this kind cannot be mounted from a file here; null if it can, which is found out by mounting it. */
export function whyNoLoop(kind: LoopKind): string | null {
  const { program, package: name } = MKFS[kind];
  if (!Bun.which(program)) return `no ${program}: package ${name}`;
  if (!existsSync("/dev/loop-control")) return "no /dev/loop-control";
  if (!found.has(kind)) found.set(kind, findReason(kind));
  return found.get(kind) ?? null;
}
const found = new Map<LoopKind, string | null>();

function findReason(kind: LoopKind): string | null {
  try {
    Place.loop(kind).remove();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

export function whyNoTmpfs(): string | null {
  if (!existsSync(SHARED_MEMORY)) return `no ${SHARED_MEMORY}`;
  const { type, bavail, bsize } = statfsSync(SHARED_MEMORY);
  if (type !== TMPFS_MAGIC) return `${SHARED_MEMORY} is no tmpfs`;
  return bavail * bsize < TMPFS_BYTES_MIN ? `${SHARED_MEMORY} has less than ${TMPFS_BYTES_MIN >> 20} MiB free` : null;
}

/** Whether files in this folder can be opened to be read and written past the page cache. */
export function opensDirectly(folder: string): boolean {
  const path = join(folder, "direct");
  writeFileSync(path, "");
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  } finally {
    rmSync(path);
  }
}

function run(argv: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(argv, { stdout: "ignore", stderr: "pipe", timeout: LIMIT_MS });
  if (exitCode !== 0) throw new Error(`${argv.slice(0, 3).join(" ")}: ${stderr.toString().trim().split("\n")[0]}`);
}

export class Place {
  /** Empty, and on that file system. */
  readonly folder: string;
  readonly #top: string;
  readonly #isMounted: boolean;

  private constructor(top: string, mounted: string | null) {
    this.#top = top;
    this.#isMounted = mounted !== null;
    this.folder = join(mounted ?? top, "files");
    mkdirSync(this.folder);
  }

  /** `options`: mount's, as -o has them. */
  static loop(kind: LoopKind, { bytes = 0, options = [] as string[] } = {}): Place {
    const { program, options: flags, bytesMin } = MKFS[kind];
    const top = mkdtempSync(join(tmpdir(), `tram-${kind}-`));
    const [image, mounted] = [join(top, "image"), join(top, "mounted")];
    try {
      writeFileSync(image, "");
      truncateSync(image, Math.max(bytes, bytesMin));
      run([program, ...flags, image]);
      mkdirSync(mounted);
      run(["mount", "-o", ["loop", ...options].join(","), image, mounted]);
      return new Place(top, mounted);
    } catch (error) {
      rmSync(top, { recursive: true, force: true });
      throw error;
    }
  }

  static tmpfs(): Place {
    return new Place(mkdtempSync(join(SHARED_MEMORY, "tram-tmpfs-")), null);
  }

  /** From here on nothing in it can be changed. */
  makeReadOnly(): void {
    run(["mount", "-o", "remount,ro", join(this.#top, "mounted")]);
  }

  freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.folder);
    return bavail * bsize;
  }

  /** From here on there is that much room, about: a file that is beside `folder` takes the rest. */
  leaveFree(bytes: number): void {
    const ballast = join(dirname(this.folder), "ballast");
    rmSync(ballast, { force: true });
    const fd = openSync(ballast, "w");
    try {
      const rest = Math.floor(this.freeBytes() - bytes);
      if (rest > 0) allocate(fd, 0, rest);
    } finally {
      closeSync(fd);
    }
  }

  remove(): void {
    const mounted = join(this.#top, "mounted");
    if (this.#isMounted) {
      const isMounted = () => readFileSync("/proc/self/mounts", "utf8").includes(` ${mounted} `);
      for (const way of [[], ["-l"]])
        if (isMounted()) Bun.spawnSync(["umount", ...way, mounted], { timeout: LIMIT_MS });
      if (isMounted()) throw new Error(`${mounted} is still mounted`);
    }
    rmSync(this.#top, { recursive: true, force: true });
  }
}
