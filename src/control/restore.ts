// What is known of a guest that was restored from a file: how far its memory has come, and whether that can be trusted.
import type { ErrorData } from "../errors.ts";

/** How pages come. lazy: mapped from the file; first: each checked before anybody sees it; eager: all before it runs. */
export type RestoreMode = "lazy" | "first" | "eager";

export interface RestoreJournal {
  file: string;
  mode: RestoreMode;
  /** Pages are compared with the file's hashes. */
  verify: boolean;
  /** waiting: nobody reads ahead. */
  phase: "waiting" | "loading" | "done" | "failed";
  /** That the file has; that were read; that were found to be as they were saved. */
  totalPages: number;
  loadedPages: number;
  verifiedPages: number;
  elapsedMs: number;
  /** The guest's memory depends on the file still; and whoever wants to write to it waits. */
  mapped: boolean;
  held: boolean;
  error: ErrorData | null;
}

/** Pages of which nobody knows yet whether they are right. */
export const unverifiedPages = ({ totalPages, verifiedPages }: RestoreJournal): number => totalPages - verifiedPages;

/** Before anything runs or looks: its memory is not what it seems until all of it has come. */
export function beginRestore(
  what: Pick<RestoreJournal, "file" | "mode" | "verify" | "totalPages" | "held">,
  prefetch: boolean,
): RestoreJournal {
  const counts = { loadedPages: 0, verifiedPages: 0, elapsedMs: 0 };
  return { ...what, ...counts, phase: prefetch ? "loading" : "waiting", mapped: what.mode === "lazy", error: null };
}
