// Somebody who may not lock as much memory as it likes: what the kernel holds of pages that are sent without a copy counts
// against RLIMIT_MEMLOCK then.

const NOBODY = "65534";
const limit = (bytes: number) => ["prlimit", `--memlock=${bytes}:${bytes}`, "--"];

/** What goes before a command line that somebody without any privilege is to run. */
export const asNobody = (memlockBytes: number): string[] => [
  ...["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"],
  ...limit(memlockBytes),
];

/** The same for root without the right to lock memory, who may use /dev/kvm whatever its mode is. */
export const asRootWhoMayNotLock = (memlockBytes: number): string[] => [
  ...["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"],
  ...limit(memlockBytes),
];

/** Why nobody can be limited here; null if somebody can. */
export function whyNotLimited(): string | null {
  if (process.getuid?.() !== 0) return "only root can become somebody else";
  for (const tool of ["setpriv", "prlimit"]) if (!Bun.which(tool)) return `no ${tool}: package util-linux`;
  return null;
}
