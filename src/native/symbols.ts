// The C library: the only dlopen, and every symbol's signature, in the order of c/tram.h.
import { dlopen, type FFIFunction } from "bun:ffi";
import { readFileSync } from "node:fs";
import libraryFile from "../../build/libtram.so" with { type: "file" };
import { TramError } from "../errors.ts";

const SIGNATURES = {
  tram_ram_create: { args: ["u64_fast"], returns: "i64_fast" },
  tram_ram_host: { args: ["u64_fast", "u64_fast", "u64_fast"], returns: "i64_fast" },
  tram_ram_populate: { args: ["u64_fast"], returns: "i32" },
  tram_ram_destroy: { args: ["u64_fast"], returns: "i32" },
  tram_ram_read: { args: ["u64_fast", "u64_fast", "ptr", "u32"], returns: "i32" },
  tram_ram_write: { args: ["u64_fast", "u64_fast", "ptr", "u32"], returns: "i32" },
  tram_ram_map_file: { args: ["u64_fast", "u64_fast", "u64_fast", "i32", "u64_fast"], returns: "i32" },
  tram_ram_populate_range: { args: ["u64_fast", "u64_fast", "u64_fast", "i32"], returns: "i32" },
  tram_ram_detach: { args: ["u64_fast", "u64_fast", "u64_fast"], returns: "i32" },
  tram_ram_discard: { args: ["u64_fast", "u64_fast", "u64_fast", "i32"], returns: "i32" },
  tram_ram_forbid: { args: ["u64_fast", "u32"], returns: "i32" },
  tram_guard_install: { args: [], returns: "i32" },
  tram_uffd_begin: { args: ["i32", "u64_fast"], returns: "i32" },
  tram_uffd_end: { args: ["i32", "u64_fast"], returns: "i32" },
  tram_uffd_wait: { args: ["i32", "u64_fast", "ptr", "u32", "i32"], returns: "i32" },
  tram_uffd_place: { args: ["i32", "u64_fast", "ptr", "u64_fast", "ptr", "ptr", "u32"], returns: "i32" },
  tram_uffd_place_zero: { args: ["i32", "u64_fast", "ptr", "u32"], returns: "i32" },
  tram_uffd_wake: { args: ["i32", "u64_fast", "u32"], returns: "i32" },
  tram_wp_open: { args: ["i32"], returns: "i32" },
  tram_wp_begin: { args: ["i32", "u64_fast"], returns: "i32" },
  tram_wp_protect: { args: ["i32", "u64_fast", "u32", "u32", "i32"], returns: "i32" },
  tram_wp_scan: { args: ["i32", "u64_fast", "ptr", "u32"], returns: "i32" },
  tram_pages_split_zero: { args: ["u64_fast", "ptr", "u32", "u32"], returns: "i32" },
  tram_pages_split_untouched: { args: ["u64_fast", "i32", "ptr", "u32"], returns: "i32" },
  tram_pages_scatter: { args: ["u64_fast", "ptr", "u64_fast", "ptr", "ptr", "u32"], returns: "i32" },
  tram_pages_clear: { args: ["u64_fast", "ptr", "u32"], returns: "i32" },
  tram_pages_gather: {
    args: ["u64_fast", "ptr", "u32", "ptr", "ptr", "u32", "ptr", "u64_fast"],
    returns: "i64_fast",
  },
  tram_set_take: { args: ["ptr", "u32", "u32", "u32", "ptr", "u32"], returns: "i32" },
  tram_set_add: { args: ["ptr", "u32", "ptr", "u32"], returns: "i32" },
  tram_set_remove: { args: ["ptr", "u32", "ptr", "u32", "ptr"], returns: "i32" },
  tram_offsets_encode: { args: ["ptr", "ptr", "u32"], returns: "i32" },
  tram_offsets_decode: { args: ["ptr", "ptr", "u32", "u32"], returns: "i32" },
  tram_file_attach: { args: ["i32", "i32", "i32"], returns: "i64_fast" },
  tram_file_detach: { args: ["u64_fast"], returns: "i32" },
  tram_file_write_pages: {
    args: ["u64_fast", "u64_fast", "u64_fast", "ptr", "u64_fast", "ptr", "ptr", "u32"],
    returns: "i64_fast",
  },
  tram_file_read_pages: {
    args: ["u64_fast", "u64_fast", "u64_fast", "ptr", "u64_fast", "ptr", "ptr", "u32"],
    returns: "i32",
  },
  tram_file_write_ram: {
    args: ["u64_fast", "u64_fast", "u64_fast", "u64_fast", "ptr", "u32"],
    returns: "i64_fast",
  },
  tram_file_read_ram: {
    args: ["u64_fast", "u64_fast", "u64_fast", "u64_fast", "ptr", "u32"],
    returns: "i64_fast",
  },
  tram_file_punch_pages: { args: ["u64_fast", "u64_fast", "u64_fast", "ptr", "u32"], returns: "i32" },
  tram_file_allocate: { args: ["i32", "u64_fast", "u64_fast"], returns: "i32" },
  tram_file_seek_data: { args: ["i32", "u64_fast"], returns: "i64_fast" },
  tram_file_lock: { args: ["i32", "i32"], returns: "i32" },
  tram_file_unlock: { args: ["i32"], returns: "i32" },
  tram_file_lease: { args: ["i32"], returns: "i32" },
  tram_file_lease_holds: { args: ["i32"], returns: "i32" },
  tram_file_lease_end: { args: ["i32"], returns: "i32" },
  tram_disk_move: { args: ["u64_fast", "i32", "i32", "u64_fast", "ptr", "u32"], returns: "i32" },
  tram_disk_clear: { args: ["i32", "u64_fast", "u64_fast", "i32"], returns: "i32" },
  tram_disk_bytes: { args: ["i32"], returns: "i64_fast" },
  tram_disk_clone: { args: ["i32", "i32"], returns: "i32" },
  tram_disk_forget: { args: ["i32"], returns: "i32" },
  tram_tap_open: { args: ["ptr", "u32"], returns: "i32" },
  tram_packet_move: { args: ["u64_fast", "i32", "i32", "ptr", "u32"], returns: "i64_fast" },
  tram_hash_ram: { args: ["u64_fast", "ptr", "u32", "ptr", "u64_fast"], returns: "i32" },
  tram_hash_pages: { args: ["ptr", "u64_fast", "ptr", "ptr", "u32", "ptr", "u64_fast"], returns: "i32" },
  tram_hash_differing_ram: { args: ["u64_fast", "ptr", "u32", "ptr", "u64_fast", "ptr"], returns: "i32" },
  tram_hash_differing: { args: ["ptr", "u64_fast", "ptr", "ptr", "u32", "ptr", "u64_fast", "ptr"], returns: "i32" },
  tram_hash_open: { args: [], returns: "i64_fast" },
  tram_hash_update: { args: ["u64_fast", "ptr", "u64_fast"], returns: "i32" },
  tram_hash_close: { args: ["u64_fast", "ptr"], returns: "i32" },
  tram_look_pages: { args: ["ptr", "u64_fast", "ptr", "ptr", "u32", "ptr", "u64_fast"], returns: "i32" },
  tram_look_changes: { args: ["ptr", "ptr", "u32", "ptr"], returns: "i32" },
  tram_inflate_open: { args: ["i32"], returns: "i64_fast" },
  tram_inflate: { args: ["u64_fast", "ptr", "u32", "ptr", "u32"], returns: "i32" },
  tram_inflate_close: { args: ["u64_fast"], returns: "i32" },
  tram_deflate_open: { args: ["i32"], returns: "i64_fast" },
  tram_deflate_ram: { args: ["u64_fast", "u64_fast", "ptr", "u32", "ptr", "u64_fast"], returns: "i64_fast" },
  tram_deflate_close: { args: ["u64_fast"], returns: "i32" },
  tram_walker_fill: { args: ["u64_fast", "ptr"], returns: "i32" },
  tram_walker_check: { args: ["u64_fast", "ptr"], returns: "i32" },
  tram_walker_watch: { args: ["u64_fast", "ptr", "u32", "u32"], returns: "i32" },
  tram_twin_create: { args: [], returns: "i64_fast" },
  tram_twin_run: { args: ["u64_fast", "u64_fast", "u32", "u32", "u64_fast"], returns: "i32" },
  tram_marks_create: { args: ["u32"], returns: "i64_fast" },
  tram_marks_add: { args: ["u64_fast", "u32", "u32"], returns: "i32" },
  tram_marks_remove: { args: ["u64_fast", "u32", "u32"], returns: "i32" },
  tram_marks_take: { args: ["u64_fast", "ptr", "u32"], returns: "i32" },
  tram_marks_read: { args: ["u64_fast", "u32", "u32", "ptr"], returns: "i32" },
  tram_marks_split: { args: ["u64_fast", "ptr", "u32"], returns: "i32" },
  tram_ioctl: { args: ["i32", "u32", "ptr"], returns: "i32" },
  tram_ioctl_value: { args: ["i32", "u32", "u64_fast"], returns: "i32" },
  tram_map_shared: { args: ["i32", "u64_fast"], returns: "i64_fast" },
  tram_vcpu_run: { args: ["i32"], returns: "i32" },
  tram_thread_id: { args: [], returns: "i32" },
  tram_kick_install: { args: [], returns: "i32" },
  tram_kick: { args: ["u64_fast", "i32"], returns: "i32" },
  tram_kick_timer: { args: ["i32"], returns: "i32" },
  tram_kick_timer_end: { args: ["i32"], returns: "i32" },
  tram_rings_create: { args: ["i32", "u32", "u32"], returns: "i64_fast" },
  tram_rings_add_slot: { args: ["u64_fast", "u32", "u32", "u32"], returns: "i32" },
  tram_rings_add_cpu: { args: ["u64_fast", "i32"], returns: "i32" },
  tram_rings_full: { args: ["u64_fast", "u32"], returns: "i32" },
  tram_rings_take: { args: ["u64_fast", "ptr", "u32"], returns: "i32" },
  tram_rings_state: { args: ["u64_fast", "ptr"], returns: "i32" },
  tram_channel_open: { args: ["i32", "i32", "i32", "i32"], returns: "i64_fast" },
  tram_channel_close: { args: ["u64_fast"], returns: "i32" },
  tram_channel_counts: { args: ["u64_fast", "ptr"], returns: "i32" },
  tram_channel_send: {
    args: ["u64_fast", "ptr", "u32", "u64_fast", "ptr", "u32", "i32", "u32", "u64_fast", "ptr"],
    returns: "i64_fast",
  },
  tram_channel_write: { args: ["u64_fast", "ptr", "u32", "ptr", "u64_fast", "ptr"], returns: "i64_fast" },
  tram_channel_flush: { args: ["u64_fast", "ptr"], returns: "i32" },
  tram_channel_sleep: { args: ["u64_fast", "i32", "ptr"], returns: "i32" },
  tram_receive_pages: { args: ["i32", "u64_fast", "ptr", "u32", "i32", "ptr"], returns: "i64_fast" },
  tram_connect_tcp: { args: ["ptr", "ptr", "i32", "ptr"], returns: "i32" },
  tram_connect_unix: { args: ["ptr", "i32", "ptr"], returns: "i32" },
  tram_listen_tcp: { args: ["ptr", "ptr"], returns: "i32" },
  tram_listen_unix: { args: ["ptr"], returns: "i32" },
  tram_port: { args: ["i32"], returns: "i32" },
  tram_accept: { args: ["i32", "i32", "ptr"], returns: "i32" },
  tram_poll: { args: ["ptr", "u32", "i32"], returns: "i32" },
  tram_tune: { args: ["i32"], returns: "i32" },
  tram_write: { args: ["i32", "i32", "ptr", "u64_fast", "i32", "ptr"], returns: "i64_fast" },
  tram_write_pages: {
    args: ["i32", "i32", "u64_fast", "ptr", "u32", "ptr", "ptr", "u32", "u32", "i32", "ptr"],
    returns: "i64_fast",
  },
  tram_peek: { args: ["i32", "ptr", "u64_fast"], returns: "i64_fast" },
  tram_read: { args: ["i32", "ptr", "u64_fast", "i32", "ptr"], returns: "i64_fast" },
  tram_receive_message: { args: ["i32", "ptr", "u64_fast", "ptr", "ptr"], returns: "i64_fast" },
  tram_send_message: { args: ["i32", "ptr", "u64_fast", "i32"], returns: "i64_fast" },
  tram_unsent: { args: ["i32"], returns: "i32" },
  tram_peer_pid: { args: ["i32"], returns: "i32" },
  tram_shutdown: { args: ["i32", "i32"], returns: "i32" },
  tram_close: { args: ["i32"], returns: "i32" },
  tram_socket_pair: { args: ["ptr"], returns: "i32" },
  tram_pipe: { args: ["ptr"], returns: "i32" },
  tram_fd_type: { args: ["i32"], returns: "i32" },
  tram_duplicate: { args: ["i32"], returns: "i32" },
  tram_lock_folder: { args: ["ptr"], returns: "i32" },
  tram_sync: { args: ["i32"], returns: "i32" },
  tram_link: { args: ["i32", "ptr"], returns: "i32" },
  tram_host_clock_ms: { args: [], returns: "f64" },
  tram_host_userfaultfd: { args: [], returns: "i32" },
  tram_host_direct_alignment: { args: ["i32", "ptr"], returns: "i32" },
  tram_host_direct_write: { args: ["i32", "u32"], returns: "i64_fast" },
  tram_host_punch_hole: { args: ["i32", "u64_fast", "u64_fast"], returns: "i32" },
  tram_host_seek_hole: { args: ["i32", "u64_fast"], returns: "i64_fast" },
} as const;

export const SYMBOL_NAMES = Object.keys(SIGNATURES);

/** Its soname: a Worker finds by it what the main thread has loaded. */
const LOADED = "libtram.so";

/**
 * Copies the embedded library into a memfd, because the dynamic loader wants a file and the temporary folder may be
 * read-only or noexec.
 */
function inMemory(): string {
  const bytes = readFileSync(libraryFile);
  const libc = dlopen("libc.so.6", {
    memfd_create: { args: ["ptr", "u32"], returns: "i32" },
    write: { args: ["i32", "ptr", "u64"], returns: "i64" },
  });
  const MFD_CLOEXEC = 1;
  const fd = libc.symbols.memfd_create(Buffer.from("libtram.so\0"), MFD_CLOEXEC);
  const written = fd < 0 ? -1 : Number(libc.symbols.write(fd, bytes, BigInt(bytes.length)));
  if (written !== bytes.length)
    throw new TramError("E_NATIVE_LOAD", "cannot hold the embedded C library in memory", {
      expected: `memfd_create and a write of ${bytes.length} bytes`,
      found: `descriptor ${fd}, ${written} bytes`,
    });
  return `/proc/self/fd/${fd}`;
}

type Argument<T> = T extends "ptr" ? NodeJS.TypedArray | null : number;
type Arguments<A extends readonly unknown[]> = { -readonly [I in keyof A]: Argument<A[I]> };
/** Bun's own types give `number | bigint` for the fast 64-bit ones; all of ours are below 2^53, so they are numbers. */
type Calls = { [K in keyof typeof SIGNATURES]: (...args: Arguments<(typeof SIGNATURES)[K]["args"]>) => number };

export const symbols = dlopen(
  Bun.isMainThread ? inMemory() : LOADED,
  SIGNATURES as unknown as Record<string, FFIFunction>,
).symbols as unknown as Calls;
