/* The C side of tram: what Bun cannot do itself, what blocks in the kernel, and what touches every byte of guest memory.
 *
 * Rules. No threads, no callbacks, no logging; no allocation once a guest runs. Calls return >= 0, or -errno. Nothing
 * keeps a caller's buffer after it returns. A call that may block takes `stop`, the address of a 32-bit word in shared
 * memory: when the word is not zero the call ends with -ECANCELED. Whoever sets the word kicks the blocked thread
 * (tram_kick) until it has answered, because a signal may come just before the system call. `timeout_ms` < 0 waits for
 * ever; when nothing moved for that long the call ends with -ETIMEDOUT.
 */
#ifndef TRAM_H
#define TRAM_H

#include <stdint.h>

#define TRAM_API __attribute__((visibility("default")))

/* ram.c: the guest's memory. The only way from a page index to an address is a tram_ram, and it checks. */
struct tram_ram;
TRAM_API int64_t tram_ram_create(uint64_t bytes); /* the handle; anonymous, 2 MiB aligned, huge pages advised */
TRAM_API int64_t tram_ram_host(const struct tram_ram *ram, uint64_t offset, uint64_t bytes); /* address, for KVM only */
TRAM_API int tram_ram_populate(struct tram_ram *ram);
TRAM_API int tram_ram_destroy(struct tram_ram *ram);
TRAM_API int tram_ram_read(const struct tram_ram *ram, uint64_t offset, void *out, uint32_t bytes);
TRAM_API int tram_ram_write(struct tram_ram *ram, uint64_t offset, const void *in, uint32_t bytes);
/* These and all calls below that take guest memory return -EFAULT where it cannot be read or written: it may be a file's. */
/* [offset, offset + bytes) becomes the file's content from file_offset on, privately: writes stay here. Whole pages. */
TRAM_API int tram_ram_map_file(struct tram_ram *ram, uint64_t offset, uint64_t bytes, int fd, uint64_t file_offset);
/* Brings pages in, so that nobody waits for them later; `own`: as copies of ours, whatever they were before. Where their file
 * is cut they are gone all the same. */
TRAM_API int tram_ram_populate_range(struct tram_ram *ram, uint64_t offset, uint64_t bytes, int own);
/* [offset, offset + bytes) keeps its content and is no file's any longer, whatever becomes of it. Nobody writes there
 * meanwhile: that would be lost. Who reads may go on. Whole pages. */
TRAM_API int tram_ram_detach(struct tram_ram *ram, uint64_t offset, uint64_t bytes);
/* What [offset, offset + bytes) holds is nobody's any more: its memory is given back, and it is zero. `is_file`: it may be a
 * file's. Any thread may read or write there meanwhile. Whole pages. */
TRAM_API int tram_ram_discard(struct tram_ram *ram, uint64_t offset, uint64_t bytes, int is_file);
TRAM_API int tram_ram_forbid(struct tram_ram *ram, uint32_t page); /* whoever touches it fails: its content is known to be bad */
TRAM_API int tram_guard_install(void); /* guard.c, before memory is a file's or forbidden: faults become -EFAULT */

/* uffd.c: memory that is filled as it is touched; `fd` is a userfaultfd, and `ram` has been touched nowhere yet. */
TRAM_API int tram_uffd_begin(int fd, const struct tram_ram *ram);
TRAM_API int tram_uffd_end(int fd, const struct tram_ram *ram);
/* The pages that somebody waits for, at most `count`, after at most `timeout_ms`. */
TRAM_API int tram_uffd_wait(int fd, const struct tram_ram *ram, uint32_t *index, uint32_t count, int timeout_ms);
/* Page i from buffer + offset[i] to page index[i], where it is not there yet; whoever waits for it goes on. */
TRAM_API int tram_uffd_place(int fd, struct tram_ram *ram, const uint8_t *buffer, uint64_t buffer_bytes,
                             const uint32_t *index, const uint32_t *offset, uint32_t count);
TRAM_API int tram_uffd_place_zero(int fd, struct tram_ram *ram, const uint32_t *index, uint32_t count);
TRAM_API int tram_uffd_wake(int fd, const struct tram_ram *ram, uint32_t page); /* they look again */

/* wp.c: which pages this process writes to. `fd` is from tram_wp_open; tram_uffd_end ends what begins here. */
/* A userfaultfd that any user may have; async: the kernel notes writes by itself, or -EINVAL. */
TRAM_API int tram_wp_open(int async);
TRAM_API int tram_wp_begin(int fd, const struct tram_ram *ram);
/* Off: who waits for it waits on, until tram_uffd_wake. */
TRAM_API int tram_wp_protect(int fd, const struct tram_ram *ram, uint32_t first, uint32_t pages, int on);
/* async: adds all pages written since the last time to a set, and protects them again, in one step. */
TRAM_API int tram_wp_scan(int pagemap_fd, const struct tram_ram *ram, uint32_t *words, uint32_t pages);

/* page.c: whole pages, by index. */
/* Moves the indexes of pages that are not zero to the front, in order, and those of zero pages behind them, in order;
 * returns how many are not zero. Gaps of at most `gap_max` zero pages between neighbours that are not zero do not count, as
 * long as there are no more of them than of what is not zero before. */
TRAM_API int tram_pages_split_zero(const struct tram_ram *ram, uint32_t *index, uint32_t count, uint32_t gap_max);
/* Moves the indexes of pages that the page tables have nothing for behind the others, both in order; returns how many there are
 * of the others. In anonymous memory such pages are zero, and nobody has written to them. `pagemap_fd`: /proc/self/pagemap. */
TRAM_API int tram_pages_split_untouched(const struct tram_ram *ram, int pagemap_fd, uint32_t *index, uint32_t count);
/* Copies page i from buffer + offset[i] into guest page index[i]. All are checked before the first byte is written. */
TRAM_API int tram_pages_scatter(struct tram_ram *ram, const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index,
                                const uint32_t *offset, uint32_t count);
/* Makes pages zero; a page that is zero already is not written. */
TRAM_API int tram_pages_clear(struct tram_ram *ram, const uint32_t *index, uint32_t count);
/* The plain stream's page records as one run of bytes: head, page index[0], then for i >= 1 words + 8*i, page index[i]. */
TRAM_API int64_t tram_pages_gather(const struct tram_ram *ram, const uint8_t *head, uint32_t head_bytes,
                                   const uint8_t *words, const uint32_t *index, uint32_t count, uint8_t *out,
                                   uint64_t out_bytes);

/* index.c: lists of page numbers, out of sets and into them (page i is bit i % 32 of word i / 32), and as the big-endian
 * offsets in a multifd packet's header. */
/* Takes pages out of [from, end), ascending, as many as there are and index[] has room for; how many. For one thread. */
TRAM_API int tram_set_take(uint32_t *words, uint32_t pages, uint32_t from, uint32_t end, uint32_t *index, uint32_t max);
/* These two for any number of threads at once. -ERANGE, and nothing is changed, where an index is none of the set's. */
TRAM_API int tram_set_add(uint32_t *words, uint32_t pages, const uint32_t *index, uint32_t count); /* how many were not in it */
TRAM_API int tram_set_remove(uint32_t *words, uint32_t pages, const uint32_t *index, uint32_t count,
                             uint32_t *removed); /* those that were in it; how many */
TRAM_API int tram_offsets_encode(uint8_t *out, const uint32_t *index, uint32_t count);
/* How many come before the first that is none of a block's pages. */
TRAM_API int tram_offsets_decode(const uint8_t *in, uint32_t *index, uint32_t count, uint32_t pages);

/* file.c: pages in a file where each has its place, at pages_offset + 4096 * its index, which is below `pages`. */
struct tram_file;
/* The handle, for one thread. `direct_fd`: the same file with O_DIRECT, for long runs, or for all of guest memory's with
 * `only_direct`; -1: none. Neither is closed. */
TRAM_API int64_t tram_file_attach(int fd, int direct_fd, int only_direct);
TRAM_API int tram_file_detach(struct tram_file *file);
/* Page i from buffer + offset[i] to page index[i]; neighbours by one call. All are checked before the first is written.
 * Returns the bytes that were written directly. */
TRAM_API int64_t tram_file_write_pages(struct tram_file *file, uint64_t pages_offset, uint64_t pages,
                                       const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index,
                                       const uint32_t *offset, uint32_t count);
/* The mirror: page index[i] to buffer + offset[i]; -ENODATA where the file ends before them. */
TRAM_API int tram_file_read_pages(struct tram_file *file, uint64_t pages_offset, uint64_t pages, uint8_t *buffer,
                                  uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset, uint32_t count);
/* Page index[i] of guest memory to or from its place in the file, uncopied; neighbours by one call. Returns the bytes that
 * went past the page cache; reading, -ENODATA where the file ends before them. */
TRAM_API int64_t tram_file_write_ram(struct tram_file *file, uint64_t pages_offset, uint64_t pages,
                                     const struct tram_ram *ram, const uint32_t *index, uint32_t count);
TRAM_API int64_t tram_file_read_ram(struct tram_file *file, uint64_t pages_offset, uint64_t pages, struct tram_ram *ram,
                                    const uint32_t *index, uint32_t count);
/* Makes pages holes. */
TRAM_API int tram_file_punch_pages(struct tram_file *file, uint64_t pages_offset, uint64_t pages, const uint32_t *index,
                                   uint32_t count);

TRAM_API int tram_file_allocate(int fd, uint64_t offset, uint64_t bytes); /* blocks for it; the file grows no longer */
TRAM_API int64_t tram_file_seek_data(int fd, uint64_t offset); /* the first byte from there on that is in no hole; or -ENXIO */
/* Shared or exclusive, or -EWOULDBLOCK, and then what was held before is gone, too. */
TRAM_API int tram_file_lock(int fd, int exclusive);
TRAM_API int tram_file_unlock(int fd);
/* A read lease: who wants to write to the file waits, for some time, until it is ended. */
TRAM_API int tram_file_lease(int fd);
TRAM_API int tram_file_lease_holds(int fd); /* 0: somebody wants to write */
TRAM_API int tram_file_lease_end(int fd);

/* disk.c: between a disk's file and guest memory. `segments`: offset and bytes of each, at most IOV_MAX, read or written in
 * their order from byte `at` of the file on; all are checked before anything is moved. */
TRAM_API int tram_disk_move(const struct tram_ram *ram, int fd, int writing, uint64_t at, const double *segments,
                            uint32_t count);
TRAM_API int tram_disk_clear(int fd, uint64_t at, uint64_t bytes, int keeps_blocks); /* zeros, as a hole or not */
TRAM_API int64_t tram_disk_bytes(int fd);          /* of a file or a block device */
TRAM_API int tram_disk_clone(int fd, int from);    /* fd, which is empty, has from's bytes, and shares its blocks */
TRAM_API int tram_disk_forget(int fd);             /* what of it lies in the page cache, and is on the disk as well */

/* A tap interface that there is already, or that is made until it is closed; packets have a struct virtio_net_hdr of so many
 * bytes before them. Reading and writing do not wait. */
TRAM_API int tram_tap_open(const char *name, uint32_t header_bytes);
/* One packet, with `segments` as above; its bytes, or -EAGAIN: there is none, or no room for it. */
TRAM_API int64_t tram_packet_move(const struct tram_ram *ram, int fd, int writing, const double *segments, uint32_t count);

/* hash.c: XXH3-64 (seed 0) of pages, in a table with one hash for each page of a block. */
TRAM_API int tram_hash_ram(const struct tram_ram *ram, const uint32_t *index, uint32_t count, uint64_t *table, uint64_t pages);
TRAM_API int tram_hash_pages(const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset,
                             uint32_t count, uint64_t *table, uint64_t pages);
/* How many of the pages have another hash than the table says; their indexes in bad[]. */
TRAM_API int tram_hash_differing_ram(const struct tram_ram *ram, const uint32_t *index, uint32_t count,
                                     const uint64_t *table, uint64_t pages, uint32_t *bad);
TRAM_API int tram_hash_differing(const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index,
                                 const uint32_t *offset, uint32_t count, const uint64_t *table, uint64_t pages, uint32_t *bad);
struct tram_hash;
TRAM_API int64_t tram_hash_open(void); /* of bytes that come in pieces; the handle */
TRAM_API int tram_hash_update(struct tram_hash *hash, const void *data, uint64_t bytes);
TRAM_API int tram_hash_close(struct tram_hash *hash, uint64_t *out);

/* look.c: what pages look like. `looks` has a byte for each page of a block: 0 until somebody looks at it; then that it is zero,
 * or the entropy of its bytes (from 0 to 8 bits per byte, of a sample), in parts of a bit. */
enum { TRAM_LOOK_ZERO = 1, TRAM_LOOK_DATA = 2, TRAM_LOOK_BIT = 30 };
TRAM_API int tram_look_pages(const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset,
                             uint32_t count, uint8_t *looks, uint64_t pages);
/* Of `count` pages each: how many bytes of page i differ, and whether it is zero in a, and in b. */
enum { TRAM_ZERO_BEFORE = 0x4000, TRAM_ZERO_AFTER = 0x8000 };
TRAM_API int tram_look_changes(const uint8_t *a, const uint8_t *b, uint32_t count, uint16_t *changes);

/* inflate.c: a multifd channel's compressed pages, one zlib or zstd stream for the whole channel. */
struct tram_inflate;
TRAM_API int64_t tram_inflate_open(int zstd); /* the handle */
/* The next piece of the stream: all of `in` becomes exactly `out_bytes`, or -EBADMSG. */
TRAM_API int tram_inflate(struct tram_inflate *one, const void *in, uint32_t in_bytes, void *out, uint32_t out_bytes);
TRAM_API int tram_inflate_close(struct tram_inflate *one);

/* deflate.c: the mirror of inflate.c, for zstd. Pages of guest memory as one flushed piece of the stream; its bytes. */
struct tram_deflate;
TRAM_API int64_t tram_deflate_open(int level);
TRAM_API int64_t tram_deflate_ram(struct tram_deflate *one, const struct tram_ram *ram, const uint32_t *index, uint32_t count,
                                  void *out, uint64_t out_bytes);
TRAM_API int tram_deflate_close(struct tram_deflate *one);

/* walker.c: the host's half of the walker guest (guest/walker.h). */
/* Writes the parameter page's fill and the records of pass 0 into all memory from WALKER_RAM_START. */
TRAM_API int tram_walker_fill(struct tram_ram *ram, const void *params);
/* Checks every page of a paused walker; `result` is 8 + 4 * WALKER_CPUS_MAX u32 words, see walker.c. */
TRAM_API int tram_walker_check(const struct tram_ram *ram, uint32_t *result);
/* Looks at a running one every so often: for each look the milliseconds of CLOCK_MONOTONIC, and all pages written so far. */
TRAM_API int tram_walker_watch(const struct tram_ram *ram, double *samples, uint32_t count, uint32_t interval_us);

/* twin.c: the walker without KVM. */
TRAM_API int64_t tram_twin_create(void); /* what stands for a vCPU's kvm_run: tram_kick takes it */
/* Writes up to `granted` pages, until a kick; how many. -EBADMSG: it has found an error, and is at its end. `marks`: where
 * it notes what it writes to, or NULL. */
struct tram_marks;
TRAM_API int tram_twin_run(struct tram_ram *ram, const void *run, uint32_t cpu, uint32_t granted, struct tram_marks *marks);

/* marks.c: a set of pages that lives as long as its guest: any thread that has the handle may add to it, and look at it. */
TRAM_API int64_t tram_marks_create(uint32_t pages);
TRAM_API int tram_marks_add(struct tram_marks *marks, uint32_t first, uint32_t count);
TRAM_API int tram_marks_remove(struct tram_marks *marks, uint32_t first, uint32_t count);
TRAM_API int tram_marks_take(struct tram_marks *marks, uint32_t *words, uint32_t pages); /* adds them to a set, and forgets them */
/* Which of [first, first + count) are in it, as words of a set that begins at `first`, a multiple of 32; how many. */
TRAM_API int tram_marks_read(const struct tram_marks *marks, uint32_t first, uint32_t count, uint32_t *words);
/* Moves the pages that are in it behind the others; how many others there are. */
TRAM_API int tram_marks_split(const struct tram_marks *marks, uint32_t *index, uint32_t count);

/* kvm.c */
TRAM_API int tram_ioctl(int fd, uint32_t request, void *argument);
TRAM_API int tram_ioctl_value(int fd, uint32_t request, uint64_t value);
TRAM_API int64_t tram_map_shared(int fd, uint64_t bytes);
TRAM_API int tram_vcpu_run(int fd); /* 0: an exit to look at in kvm_run; -EINTR: look at the command word */
TRAM_API int tram_thread_id(void);
TRAM_API int tram_kick_install(void); /* once a process: the handler of the kick signal */
TRAM_API int tram_kick(void *kvm_run, int thread); /* kvm_run may be NULL; sets immediate_exit first */
/* Kicks the calling thread again and again: what ends its time in the guest. The timer, until it is ended. */
TRAM_API int tram_kick_timer(int interval_ms);
TRAM_API int tram_kick_timer_end(int timer);

/* ring.c: what vCPUs have written to, by KVM's dirty rings of `entries` each. */
struct tram_rings;
TRAM_API int64_t tram_rings_create(int vm, uint32_t entries, uint32_t pages); /* the handle; `pages` of guest memory */
TRAM_API int tram_rings_add_slot(struct tram_rings *rings, uint32_t slot, uint32_t first_page, uint32_t pages);
TRAM_API int tram_rings_add_cpu(struct tram_rings *rings, int vcpu);
/* The vCPU has left the guest because its ring is full: there is room again. Only for the thread that runs it. */
TRAM_API int tram_rings_full(struct tram_rings *rings, uint32_t cpu);
/* Adds all pages written since the last time to a set. -EOVERFLOW: the kernel has lost some, now or before. */
TRAM_API int tram_rings_take(struct tram_rings *rings, uint32_t *words, uint32_t pages);
TRAM_API int tram_rings_state(const struct tram_rings *rings, uint32_t *out); /* some were lost; how often one was full */

/* channel.c: one channel of a move, whose pages the kernel may send without copying them. Such pages may change, or be sent
 * twice, until the kernel is done with them: what became of them stands in the counts. */
struct tram_channel;
struct tram_channel_counts { /* doubles, so that all of them are numbers in JavaScript */
  double system_calls;
  double zero_copy_bytes; /* sent with MSG_ZEROCOPY */
  double copied_bytes;    /* of these, those that the kernel has copied after all */
  double fallbacks;       /* calls that were made to copy, because the kernel had no memory to hold pages with */
  double in_flight_bytes; /* pages that the kernel holds now */
  double flush_wait_ms;
};
enum { TRAM_ZERO_COPY_OFF, TRAM_ZERO_COPY_AUTO, TRAM_ZERO_COPY_ON }; /* ON: ENOBUFS that does not pass is an error */
/* The descriptor stays the caller's. `timeout_ms` bounds a silence, in which the kernel takes nothing and gives nothing back. */
TRAM_API int64_t tram_channel_open(int fd, int is_socket, int zero_copy, int timeout_ms);
TRAM_API int tram_channel_close(struct tram_channel *channel);
TRAM_API int tram_channel_counts(const struct tram_channel *channel, struct tram_channel_counts *out);
/* A packet: its head, then pages of guest memory in the order of the index. Returns all of its bytes. */
TRAM_API int64_t tram_channel_send(struct tram_channel *channel, const void *head, uint32_t head_bytes,
                                   const struct tram_ram *ram, const uint32_t *index, uint32_t count, int zero_copy,
                                   uint32_t iov_max, uint64_t in_flight_max, const int32_t *stop);
/* A packet whose payload is made of bytes. */
TRAM_API int64_t tram_channel_write(struct tram_channel *channel, const void *head, uint32_t head_bytes, const void *data,
                                    uint64_t data_bytes, const int32_t *stop);
/* Until the kernel holds no page any more. */
TRAM_API int tram_channel_flush(struct tram_channel *channel, const int32_t *stop);
/* As long as it says, or until the other side is gone: -EPIPE, or what it left with. */
TRAM_API int tram_channel_sleep(struct tram_channel *channel, int ms, const int32_t *stop);
/* Pages from a descriptor to their places. Returns the bytes: fewer than asked for at the end. */
TRAM_API int64_t tram_receive_pages(int fd, struct tram_ram *ram, const uint32_t *index, uint32_t count, int timeout_ms,
                                    const int32_t *stop);

/* net.c: sockets, pipes, descriptors. All descriptors made here are close-on-exec and blocking. */
/* -ENXIO: no host has that name; -EAGAIN: who knows the names does not answer. */
TRAM_API int tram_connect_tcp(const char *host, const char *port, int timeout_ms, const int32_t *stop);
TRAM_API int tram_connect_unix(const char *path, int timeout_ms, const int32_t *stop);
TRAM_API int tram_listen_tcp(const char *host, const char *port);
TRAM_API int tram_listen_unix(const char *path);
TRAM_API int tram_port(int fd); /* the local TCP port */
TRAM_API int tram_accept(int fd, int timeout_ms, const int32_t *stop);
TRAM_API int tram_poll(void *pollfds, uint32_t count, int timeout_ms); /* struct pollfd[count] */
TRAM_API int tram_tune(int fd); /* a socket's buffer (AF_UNIX), keepalive and no delay (TCP) */
/* Writes everything; returns the bytes written, which are all. `is_socket` chooses sendmsg(MSG_NOSIGNAL) over writev.
 * `timeout_ms` bounds a silence, in which the other side takes nothing; negative: as long as it likes. */
TRAM_API int64_t tram_write(int fd, int is_socket, const void *data, uint64_t bytes, int timeout_ms, const int32_t *stop);
/* The plain stream's page records (see tram_pages_gather), straight from guest memory, `iov_max` iovecs a call. */
TRAM_API int64_t tram_write_pages(int fd, int is_socket, const struct tram_ram *ram, const uint8_t *head,
                                  uint32_t head_bytes, const uint8_t *words, const uint32_t *index, uint32_t count,
                                  uint32_t iov_max, int timeout_ms, const int32_t *stop);
/* What a socket has ready, not consumed: up to `bytes`, 0 at the end, -EAGAIN if nothing is there yet. */
TRAM_API int64_t tram_peek(int fd, void *out, uint64_t bytes);
/* At least one byte, or 0 at the end. */
TRAM_API int64_t tram_read(int fd, void *out, uint64_t bytes, int timeout_ms, const int32_t *stop);
TRAM_API int64_t tram_receive_message(int fd, void *out, uint64_t bytes, int32_t *fds, uint32_t *fd_count);
TRAM_API int64_t tram_send_message(int fd, const void *data, uint64_t bytes, int pass_fd); /* pass_fd < 0: none */
TRAM_API int tram_unsent(int fd);                          /* bytes the peer's kernel has not acknowledged */
/* AF_UNIX: the process that made the other end, or listens there; 0 where this process cannot see it, by a PID namespace. */
TRAM_API int tram_peer_pid(int fd);
TRAM_API int tram_shutdown(int fd, int how);
TRAM_API int tram_close(int fd);
TRAM_API int tram_socket_pair(int32_t *fds);
TRAM_API int tram_pipe(int32_t *fds);
TRAM_API int tram_fd_type(int fd); /* 1 socket, 2 pipe, 3 regular file, 4 other */
TRAM_API int tram_duplicate(int fd);
TRAM_API int tram_lock_folder(const char *path); /* an exclusive flock on a folder; close to unlock */
TRAM_API int tram_sync(int fd);
TRAM_API int tram_link(int fd, const char *path); /* gives a file opened with O_TMPFILE its name */

/* host.c: what this host can do. */
TRAM_API double tram_host_clock_ms(void); /* CLOCK_MONOTONIC: the same for all threads and processes */
TRAM_API int tram_host_userfaultfd(void); /* one that also sees the kernel's accesses, as a guest's memory needs */
/* alignment[0] of the memory, [1] of the offset; zeros: no direct I/O. -ENODATA: kernel or filesystem do not say. */
TRAM_API int tram_host_direct_alignment(int fd, uint32_t *alignment);
TRAM_API int64_t tram_host_direct_write(int fd, uint32_t bytes); /* zeros at offset 0, from page-aligned memory */
TRAM_API int tram_host_punch_hole(int fd, uint64_t offset, uint64_t bytes);
TRAM_API int64_t tram_host_seek_hole(int fd, uint64_t offset); /* the first hole from there on; the end is one */

#endif
