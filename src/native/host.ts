// What this host can do, asked of the kernel. Results are plain, >= 0 or -errno: a refusal is an answer here.
import { u32, u53 } from "./errno.ts";
import { symbols } from "./symbols.ts";

/** Capabilities that only decide what a host is good for. Source: <linux/kvm.h>; a test compares the numbers with it. */
export const HOST_CAP = {
  ADJUST_CLOCK: 39,
  TSC_CONTROL: 60,
  DIRTY_LOG_RING: 192,
  DIRTY_LOG_RING_ACQ_REL: 223,
} as const;

const USERFAULTFD_IOC_NEW = 0xaa00; // <linux/userfaultfd.h>
const O_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000;

export const host = {
  /** Milliseconds of the host's monotonic clock, the same for all threads: performance.now() is each one's own. */
  clockMs: (): number => symbols.tram_host_clock_ms(),
  /** A userfaultfd by the system call. */
  userfaultfd: (): number => symbols.tram_host_userfaultfd(),

  /** The same from an open /dev/userfaultfd. */
  userfaultfdFrom: (device: number): number =>
    symbols.tram_ioctl_value(device, USERFAULTFD_IOC_NEW, O_CLOEXEC_NONBLOCK),

  /** What statx says about direct I/O; zeros: there is none; null: it does not say. */
  directAlignment(fd: number): { memory: number; offset: number } | null {
    const alignment = new Uint32Array(2);
    if (symbols.tram_host_direct_alignment(fd, alignment) < 0) return null;
    return { memory: alignment[0], offset: alignment[1] };
  },

  /** Writes that many zeros to the beginning of a file that is open for direct I/O. */
  directWrite: (fd: number, bytes: number): number => symbols.tram_host_direct_write(fd, u32(bytes, "size")),

  punchHole: (fd: number, offset: number, bytes: number): number =>
    symbols.tram_host_punch_hole(fd, u53(offset, "offset"), u53(bytes, "size")),

  seekHole: (fd: number, offset: number): number => symbols.tram_host_seek_hole(fd, u53(offset, "offset")),
};
