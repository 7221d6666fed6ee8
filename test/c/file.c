/* file.c: pages at their places in a file. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

/* More pages than one call takes iovecs (1024), so that a run is split. */
enum { PAGES = 2100, PAGES_OFFSET = 3 * PAGE_BYTES, FILE_BYTES = PAGES_OFFSET + PAGES * PAGE_BYTES };

/* The two calls that move pages, watched: each may be made to move less than it was asked to. */
static struct {
  int fd;              /* the one that is watched beside the others */
  unsigned calls, its; /* all of them, and those of that descriptor */
  size_t most;         /* bytes that one call moves; 0: as many as the kernel does */
} moves;

static ssize_t watched(long number, int fd, const struct iovec *iov, int count, off_t at) {
  struct iovec some[1024];
  size_t left = moves.most ? moves.most : SIZE_MAX;
  int used = 0;
  moves.calls++;
  if (fd == moves.fd) moves.its++;
  for (; used < count && left; used++) {
    some[used] = iov[used];
    if (some[used].iov_len > left) some[used].iov_len = left;
    left -= some[used].iov_len;
  }
  return syscall(number, fd, some, used, at, 0);
}
ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at) { return watched(SYS_pwritev, fd, iov, count, at); }
ssize_t preadv(int fd, const struct iovec *iov, int count, off_t at) { return watched(SYS_preadv, fd, iov, count, at); }

static void watch(int fd, size_t most) {
  moves.fd = fd;
  moves.calls = moves.its = 0;
  moves.most = most;
}

static int empty_file(void) { return memfd_create("pages", MFD_CLOEXEC); }

static uint8_t *random_bytes(uint64_t bytes, uint32_t seed) {
  uint8_t *out = malloc(bytes);
  uint32_t state = seed;
  for (uint64_t i = 0; i + 4 <= bytes; i += 4) {
    uint32_t word = next_random(&state);
    memcpy(out + i, &word, 4);
  }
  return out;
}

static uint8_t *whole(int fd, uint64_t bytes) {
  uint8_t *out = calloc(1, bytes);
  if (pread(fd, out, bytes, 0) < 0) abort();
  return out;
}

static struct tram_file *attached(int fd, int direct_fd) {
  return (struct tram_file *)(uintptr_t)tram_file_attach(fd, direct_fd, 0);
}

/* One call each on a handle that is made for it, and goes through the page cache. */
static int64_t write_pages(int fd, uint64_t pages_offset, uint64_t pages, const uint8_t *buffer, uint64_t buffer_bytes,
                           const uint32_t *index, const uint32_t *offset, uint32_t count) {
  struct tram_file *file = attached(fd, -1);
  int64_t result = tram_file_write_pages(file, pages_offset, pages, buffer, buffer_bytes, index, offset, count);
  tram_file_detach(file);
  return result;
}
static int read_pages(int fd, uint64_t pages_offset, uint64_t pages, uint8_t *buffer, uint64_t buffer_bytes,
                      const uint32_t *index, const uint32_t *offset, uint32_t count) {
  struct tram_file *file = attached(fd, -1);
  int result = tram_file_read_pages(file, pages_offset, pages, buffer, buffer_bytes, index, offset, count);
  tram_file_detach(file);
  return result;
}
static int punch_pages(int fd, uint64_t pages_offset, uint64_t pages, const uint32_t *index, uint32_t count) {
  struct tram_file *file = attached(fd, -1);
  int result = tram_file_punch_pages(file, pages_offset, pages, index, count);
  tram_file_detach(file);
  return result;
}

static int64_t size_of(int fd) { return lseek(fd, 0, SEEK_END); }

/* Any order, neighbours in the file or in the buffer or in both, a page twice: the last one wins. */
static void pages_lie_at_their_places(void) {
  static const struct {
    uint32_t count, index[6], offset[6];
  } rows[] = {
      {0, {0}, {0}},
      {1, {0}, {0}},
      {1, {PAGES - 1}, {17}},
      {4, {7, 8, 9, 10}, {0, PAGE_BYTES, 2 * PAGE_BYTES, 3 * PAGE_BYTES}},
      {4, {7, 8, 9, 10}, {8, PAGE_BYTES + 16, 2 * PAGE_BYTES + 24, 3 * PAGE_BYTES + 32}}, /* with their words between */
      {4, {10, 9, 8, 7}, {0, PAGE_BYTES, 2 * PAGE_BYTES, 3 * PAGE_BYTES}},
      {6, {1, 2, 500, 501, 502, 3}, {5, 9, 4096, 8192, 12288, 1}},
      {3, {4, 5, 4}, {0, 4096, 8192}},
      {3, {4, 4, 4}, {0, 0, 4096}},
  };
  enum { BUFFER = 5 * PAGE_BYTES };
  for (unsigned row = 0; row < sizeof rows / sizeof *rows; row++) {
    test_where = row;
    int fd = empty_file();
    uint8_t *buffer = random_bytes(BUFFER, row + 1), *expected = calloc(1, FILE_BYTES);
    uint32_t count = rows[row].count;
    for (uint32_t i = 0; i < count; i++)
      memcpy(expected + PAGES_OFFSET + rows[row].index[i] * PAGE_BYTES, buffer + rows[row].offset[i], PAGE_BYTES);
    CHECK_EQ(write_pages(fd, PAGES_OFFSET, PAGES, buffer, BUFFER, rows[row].index, rows[row].offset, count), 0);
    CHECK(size_of(fd) <= FILE_BYTES);
    uint8_t *found = whole(fd, FILE_BYTES);
    CHECK(memcmp(found, expected, FILE_BYTES) == 0);
    free(found);

    uint8_t *back = malloc(BUFFER);
    memset(back, 0xaa, BUFFER);
    static const uint32_t to[] = {0, 4096, 8192, 12288, 16384};
    uint32_t reads = count > 5 ? 5 : count;
    CHECK_EQ(read_pages(fd, PAGES_OFFSET, PAGES, back, BUFFER, rows[row].index, to, reads), 0);
    for (uint32_t i = 0; i < reads; i++)
      CHECK(memcmp(back + to[i], expected + PAGES_OFFSET + rows[row].index[i] * PAGE_BYTES, PAGE_BYTES) == 0);
    for (uint32_t at = reads * PAGE_BYTES; at < BUFFER; at++) CHECK_EQ(back[at], 0xaa);
    free(back);
    free(buffer);
    free(expected);
    close(fd);
  }
}

/* One run of more pages than a call takes, scattered in the buffer so that each is an iovec of its own. */
static void long_runs_are_split(void) {
  enum { STRIDE = PAGE_BYTES + 8, BUFFER = PAGES * STRIDE };
  uint8_t *buffer = random_bytes(BUFFER, 9), *back = malloc(BUFFER);
  uint32_t *index = malloc(PAGES * sizeof *index), *offset = malloc(PAGES * sizeof *offset);
  static const uint32_t counts[] = {1023, 1024, 1025, 2048, 2049, PAGES};
  for (unsigned row = 0; row < sizeof counts / sizeof *counts; row++) {
    test_where = counts[row];
    for (uint32_t i = 0; i < counts[row]; i++) {
      index[i] = i;
      offset[i] = i * STRIDE + 8;
    }
    int fd = empty_file();
    CHECK_EQ(write_pages(fd, PAGES_OFFSET, PAGES, buffer, BUFFER, index, offset, counts[row]), 0);
    CHECK_EQ(size_of(fd), PAGES_OFFSET + (int64_t)counts[row] * PAGE_BYTES);
    memset(back, 0, BUFFER);
    CHECK_EQ(read_pages(fd, PAGES_OFFSET, PAGES, back, BUFFER, index, offset, counts[row]), 0);
    for (uint32_t i = 0; i < counts[row]; i++)
      CHECK(memcmp(back + offset[i], buffer + offset[i], PAGE_BYTES) == 0);
    close(fd);
  }
  free(buffer);
  free(back);
  free(index);
  free(offset);
}

static void all_is_checked_before_the_first_byte(void) {
  static const struct {
    uint64_t pages, buffer_bytes;
    uint32_t index, offset;
  } rows[] = {
      {4, 3 * PAGE_BYTES, 4, 0},
      {4, 3 * PAGE_BYTES, UINT32_MAX, 0},
      {0, 3 * PAGE_BYTES, 0, 0},
      {4, 3 * PAGE_BYTES, 2, 2 * PAGE_BYTES + 1},
      {4, 3 * PAGE_BYTES, 2, UINT32_MAX},
      {4, 3 * PAGE_BYTES, 2, 0xfffff000u}, /* with a page behind it, 2^32 */
      {4, PAGE_BYTES - 1, 2, 0},
      {4, 0, 2, 0},
  };
  uint8_t *buffer = random_bytes(3 * PAGE_BYTES, 3), *kept = malloc(3 * PAGE_BYTES);
  memcpy(kept, buffer, 3 * PAGE_BYTES);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    int fd = empty_file();
    const uint32_t index[] = {0, 1, rows[i].index}, offset[] = {0, 0, rows[i].offset};
    CHECK_EQ(write_pages(fd, 0, rows[i].pages, buffer, rows[i].buffer_bytes, index, offset, 3), -ERANGE);
    CHECK_EQ(size_of(fd), 0);
    CHECK_EQ(ftruncate(fd, 4 * PAGE_BYTES), 0);
    CHECK_EQ(read_pages(fd, 0, rows[i].pages, buffer, rows[i].buffer_bytes, index, offset, 3), -ERANGE);
    CHECK(memcmp(buffer, kept, 3 * PAGE_BYTES) == 0);
    close(fd);
  }
  free(buffer);
  free(kept);
}

static void a_file_that_ends_early_is_no_data(void) {
  static const int64_t sizes[] = {0, PAGES_OFFSET, PAGES_OFFSET + PAGE_BYTES - 1, PAGES_OFFSET + PAGE_BYTES,
                                  PAGES_OFFSET + 2 * PAGE_BYTES - 1};
  uint8_t *buffer = malloc(2 * PAGE_BYTES);
  static const uint32_t index[] = {0, 1}, offset[] = {0, PAGE_BYTES};
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    test_where = i;
    int fd = empty_file();
    CHECK_EQ(ftruncate(fd, sizes[i]), 0);
    CHECK_EQ(read_pages(fd, PAGES_OFFSET, PAGES, buffer, 2 * PAGE_BYTES, index, offset, 2), -ENODATA);
    CHECK_EQ(ftruncate(fd, PAGES_OFFSET + 2 * PAGE_BYTES), 0);
    CHECK_EQ(read_pages(fd, PAGES_OFFSET, PAGES, buffer, 2 * PAGE_BYTES, index, offset, 2), 0);
    close(fd);
  }
  free(buffer);
}

/* A write that gets only half done is gone on with, and what stops the rest is reported. */
static void a_file_that_may_not_grow_is_an_error(void) {
  struct rlimit before, limit;
  CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  limit = before;
  limit.rlim_cur = PAGES_OFFSET + PAGE_BYTES + 100;
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  char path[] = "/tmp/tram-file-test-XXXXXX";
  int fd = mkstemp(path);
  uint8_t *buffer = random_bytes(3 * PAGE_BYTES, 5);
  static const uint32_t index[] = {0, 1, 2}, offset[] = {0, PAGE_BYTES, 2 * PAGE_BYTES};
  int64_t result = write_pages(fd, PAGES_OFFSET, PAGES, buffer, 3 * PAGE_BYTES, index, offset, 3);
  int64_t written = size_of(fd);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  unlink(path);
  close(fd);
  free(buffer);
  CHECK_EQ(result, -EFBIG);
  CHECK_EQ(written, PAGES_OFFSET + PAGE_BYTES + 100);
}

static void a_descriptor_that_is_none_is_an_error(void) {
  uint8_t page[PAGE_BYTES] = {0};
  static const uint32_t index[] = {0}, offset[] = {0};
  int pipe_ends[2];
  CHECK_EQ(pipe(pipe_ends), 0);
  CHECK_EQ(write_pages(-1, 0, 1, page, PAGE_BYTES, index, offset, 1), -EBADF);
  CHECK_EQ(read_pages(-1, 0, 1, page, PAGE_BYTES, index, offset, 1), -EBADF);
  CHECK_EQ(punch_pages(-1, 0, 1, index, 1), -EBADF);
  CHECK_EQ(write_pages(pipe_ends[1], 0, 1, page, PAGE_BYTES, index, offset, 1), -ESPIPE);
  CHECK_EQ(punch_pages(pipe_ends[1], 0, 1, index, 1), -ESPIPE);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

static void punch_makes_holes_and_nothing_else(void) {
  enum { FEW = 16 };
  static const struct {
    uint32_t count, index[5];
  } rows[] = {{0, {0}}, {1, {0}}, {1, {FEW - 1}}, {3, {4, 5, 6}}, {3, {6, 5, 4}}, {5, {1, 2, 9, 2, 1}}};
  for (unsigned row = 0; row < sizeof rows / sizeof *rows; row++) {
    test_where = row;
    int fd = empty_file();
    uint8_t *expected = random_bytes(PAGES_OFFSET + FEW * PAGE_BYTES, 8);
    CHECK_EQ(pwrite(fd, expected, PAGES_OFFSET + FEW * PAGE_BYTES, 0), PAGES_OFFSET + FEW * PAGE_BYTES);
    CHECK_EQ(punch_pages(fd, PAGES_OFFSET, FEW, rows[row].index, rows[row].count), 0);
    for (uint32_t i = 0; i < rows[row].count; i++) {
      uint64_t at = PAGES_OFFSET + (uint64_t)rows[row].index[i] * PAGE_BYTES;
      memset(expected + at, 0, PAGE_BYTES);
      CHECK_EQ(lseek(fd, (off_t)at, SEEK_HOLE), (int64_t)at);
    }
    CHECK_EQ(size_of(fd), PAGES_OFFSET + FEW * PAGE_BYTES); /* a hole at the end does not cut the file */
    uint8_t *found = whole(fd, PAGES_OFFSET + FEW * PAGE_BYTES);
    CHECK(memcmp(found, expected, PAGES_OFFSET + FEW * PAGE_BYTES) == 0);
    free(found);

    static const uint32_t bad[][2] = {{3, FEW}, {3, UINT32_MAX}};
    for (unsigned i = 0; i < 2; i++) CHECK_EQ(punch_pages(fd, PAGES_OFFSET, FEW, bad[i], 2), -ERANGE);
    found = whole(fd, PAGES_OFFSET + FEW * PAGE_BYTES);
    CHECK(memcmp(found, expected, PAGES_OFFSET + FEW * PAGE_BYTES) == 0); /* refused before anything was punched */
    free(found);
    free(expected);
    close(fd);
  }
}

/* The last pages of 2^32: 16 TiB into a sparse file, where 32 bits would come to lie at its beginning. */
static void offsets_have_64_bits(void) {
  int fd = empty_file();
  uint8_t page[PAGE_BYTES], back[PAGE_BYTES];
  memset(page, 0x5a, sizeof page);
  static const uint32_t index[] = {UINT32_MAX - 1}, offset[] = {0};
  const int64_t at = PAGES_OFFSET + (int64_t)(UINT32_MAX - 1) * PAGE_BYTES;
  CHECK_EQ(write_pages(fd, PAGES_OFFSET, UINT32_MAX, page, PAGE_BYTES, index, offset, 1), 0);
  CHECK_EQ(size_of(fd), at + PAGE_BYTES);
  CHECK_EQ(lseek(fd, 0, SEEK_DATA), at);
  CHECK_EQ(read_pages(fd, PAGES_OFFSET, UINT32_MAX, back, PAGE_BYTES, index, offset, 1), 0);
  CHECK(memcmp(page, back, PAGE_BYTES) == 0);
  CHECK_EQ(punch_pages(fd, PAGES_OFFSET, UINT32_MAX, index, 1), 0);
  CHECK_EQ(lseek(fd, 0, SEEK_DATA), -1);
  close(fd);
}

static char direct_path[] = "/tmp/tram-direct-XXXXXX";

/* A file on a disk, open twice; `direct` is -1 where its file system has no such thing. */
static int disk_file(int *direct) {
  strcpy(direct_path + sizeof direct_path - 7, "XXXXXX");
  int fd = mkstemp(direct_path);
  *direct = open(direct_path, O_WRONLY | O_DIRECT | O_CLOEXEC);
  unlink(direct_path);
  return fd;
}

/* Long runs go to the disk directly, short ones do not, and what lies in the file afterwards is the same. */
static void direct_writes_are_the_same_bytes(void) {
  enum { BUFFER = 600 * PAGE_BYTES };
  uint8_t *room = aligned_alloc(PAGE_BYTES, BUFFER + PAGE_BYTES), *random = random_bytes(BUFFER, 4);
  uint32_t index[300], offset[300], state = 99;
  for (uint32_t misaligned = 0; misaligned < 2; misaligned++) {
    int direct, fd = disk_file(&direct), plain = empty_file();
    CHECK(fd >= 0);
    uint8_t *buffer = room + (misaligned ? 24 : 0);
    memcpy(buffer, random, BUFFER - PAGE_BYTES);
    struct tram_file *both = attached(fd, direct);
    int64_t written = 0;
    for (uint32_t round = 0; round < 60; round++) {
      test_where = misaligned * 1000 + round;
      uint32_t count = 1 + next_random(&state) % 300, page = next_random(&state) % PAGES;
      for (uint32_t i = 0; i < count; i++) {
        if (next_random(&state) % (round % 3 ? 100 : 3) == 0) page = next_random(&state) % PAGES;
        index[i] = page;
        page = (page + 1) % PAGES;
        offset[i] = next_random(&state) % 598 * PAGE_BYTES + (round % 2 ? 8 : 0);
      }
      int64_t result = tram_file_write_pages(both, PAGES_OFFSET, PAGES, buffer, BUFFER, index, offset, count);
      CHECK(result >= 0 && result <= (int64_t)count * PAGE_BYTES && result % PAGE_BYTES == 0);
      written += result;
      CHECK_EQ(write_pages(plain, PAGES_OFFSET, PAGES, buffer, BUFFER, index, offset, count), 0);
    }
    CHECK_EQ(size_of(fd), size_of(plain));
    uint8_t *found = whole(fd, FILE_BYTES), *expected = whole(plain, FILE_BYTES);
    CHECK(memcmp(found, expected, FILE_BYTES) == 0);
    if (direct >= 0) CHECK(written > 0);
    /* What was written directly is read back, and becomes a hole, as everything else. */
    index[0] = 0, index[1] = PAGES - 1, offset[0] = 0, offset[1] = PAGE_BYTES;
    CHECK_EQ(tram_file_read_pages(both, PAGES_OFFSET, PAGES, buffer, BUFFER, index, offset, 2), 0);
    CHECK(memcmp(buffer, expected + PAGES_OFFSET, PAGE_BYTES) == 0);
    CHECK_EQ(tram_file_punch_pages(both, PAGES_OFFSET, PAGES, index, 2), 0);
    CHECK_EQ(tram_file_read_pages(both, PAGES_OFFSET, PAGES, buffer, BUFFER, index, offset, 2), 0);
    for (uint32_t at = 0; at < 2 * PAGE_BYTES; at++) CHECK_EQ(buffer[at], 0);
    tram_file_detach(both);
    free(found);
    free(expected);
    close(direct);
    close(fd);
    close(plain);
  }
  free(room);
  free(random);
}

/* At an odd place in the file the disk takes nothing directly: the page cache does, then and afterwards. */
static void what_cannot_be_direct_goes_through_the_cache(void) {
  enum { RUN = 16 };
  int direct, fd = disk_file(&direct);
  uint8_t *buffer = random_bytes(RUN * PAGE_BYTES, 6);
  uint32_t index[RUN], offset[RUN];
  for (uint32_t i = 0; i < RUN; i++) index[i] = i, offset[i] = i * PAGE_BYTES;
  struct tram_file *file = attached(fd, direct);
  for (uint32_t at = 100; at <= 4096; at += 3996) { /* the second one could be, but is not tried again */
    test_where = at;
    CHECK_EQ(tram_file_write_pages(file, at, RUN, buffer, RUN * PAGE_BYTES, index, offset, RUN), 0);
    uint8_t *found = whole(fd, at + RUN * PAGE_BYTES);
    CHECK(memcmp(found + at, buffer, RUN * PAGE_BYTES) == 0);
    free(found);
  }
  tram_file_detach(file);
  free(buffer);
  close(direct);
  close(fd);
}

static void a_direct_write_that_fails_is_an_error(void) {
  enum { RUN = 16 };
  uint8_t *buffer = random_bytes(RUN * PAGE_BYTES, 6);
  uint32_t index[RUN], offset[RUN];
  for (uint32_t i = 0; i < RUN; i++) index[i] = i, offset[i] = i * PAGE_BYTES;
  int fd = empty_file(), read_only = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct tram_file *file = attached(fd, read_only);
  CHECK_EQ(tram_file_write_pages(file, 0, RUN, buffer, RUN * PAGE_BYTES, index, offset, RUN), -EBADF);
  CHECK_EQ(size_of(fd), 0);
  tram_file_detach(file);
  free(buffer);
  close(read_only);
  close(fd);
}

/* --- guest memory ------------------------------------------------------------------------------------------------------ */

static struct tram_ram *ram_with(const uint8_t *content, uint32_t pages) {
  struct tram_ram *ram = as_ram(tram_ram_create((uint64_t)pages * PAGE_BYTES));
  if (tram_guard_install() < 0 || tram_ram_write(ram, 0, content, pages * PAGE_BYTES) < 0) abort();
  return ram;
}

/* A file without a name in this folder, open twice; `direct` is -1 where its file system has no such thing. */
static int unnamed_file(int *direct) {
  char name[32];
  const int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  *direct = open(name, O_RDWR | O_DIRECT | O_CLOEXEC);
  return fd;
}
static const char *const NO_DIRECT = "the file system of this folder has no direct I/O";
static int has_direct(void) {
  int direct, fd = unnamed_file(&direct);
  if (direct >= 0) close(direct);
  close(fd);
  return direct >= 0;
}
/* As disks do. */
static int refuses_odd_places(void) {
  int direct, fd = unnamed_file(&direct);
  void *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
  memset(page, 0, PAGE_BYTES);
  const int refuses = pwrite(direct, page, PAGE_BYTES, 100) < 0 && errno == EINVAL;
  free(page);
  close(direct);
  close(fd);
  return refuses;
}

/* Which of the two ways a file is reached by. */
enum way { CACHED, LONG_DIRECT, ONLY_DIRECT, WAYS };

struct both {
  int fd, direct;
  struct tram_file *file;
};

static struct both both_ways(enum way way) {
  struct both one = {.direct = -1};
  one.fd = unnamed_file(&one.direct);
  if (one.fd < 0) abort();
  one.file = (struct tram_file *)(uintptr_t)tram_file_attach(one.fd, way == CACHED ? -1 : one.direct, way == ONLY_DIRECT);
  return one;
}
static void let_go(struct both *one) {
  tram_file_detach(one->file);
  if (one->direct >= 0) close(one->direct);
  close(one->fd);
}

static int64_t move_ram(const struct both *one, int writing, uint64_t pages_offset, struct tram_ram *ram, const uint32_t *index,
                        uint32_t count) {
  return writing ? tram_file_write_ram(one->file, pages_offset, PAGES, ram, index, count)
                 : tram_file_read_ram(one->file, pages_offset, PAGES, ram, index, count);
}

/* Any order; a page twice. How many runs of neighbours there are, each of which is one call; and how much is in the runs that
 * are long enough to go directly. */
static const struct {
  uint32_t count, index[8], runs, long_pages;
} ram_rows[] = {
    {0, {0}, 0, 0},
    {1, {0}, 1, 0},
    {1, {PAGES - 1}, 1, 0},
    {3, {7, 8, 9}, 1, 0},
    {4, {7, 8, 9, 10}, 1, 4},
    {4, {10, 9, 8, 7}, 4, 0},
    {8, {1, 2, 3, 4, 5, 500, 501, 502}, 2, 5},
    {8, {1, 2, 3, 500, 501, 502, 503, 0}, 3, 4},
    {4, {4, 4, 5, 5}, 3, 0},
    {8, {0, 1, 2, 3, 0, 1, 2, 3}, 2, 8},
};

static void ram_moves_run_by_run(enum way way, size_t most) {
  if (way != CACHED && !has_direct()) SKIP(NO_DIRECT);
  uint8_t *content = random_bytes(PAGES * PAGE_BYTES, 2);
  for (unsigned row = 0; row < sizeof ram_rows / sizeof *ram_rows; row++) {
    test_where = row;
    const uint32_t count = ram_rows[row].count, *index = ram_rows[row].index;
    struct tram_ram *ram = ram_with(content, PAGES), *back = as_ram(tram_ram_create(PAGES * PAGE_BYTES));
    struct both one = both_ways(way);
    uint8_t *expected = calloc(1, FILE_BYTES), *found = malloc(PAGES * PAGE_BYTES);
    uint64_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
      const uint64_t at = (uint64_t)index[i] * PAGE_BYTES;
      memcpy(expected + PAGES_OFFSET + at, content + at, PAGE_BYTES);
      if (PAGES_OFFSET + at + PAGE_BYTES > end) end = PAGES_OFFSET + at + PAGE_BYTES;
    }
    const int64_t direct = way == CACHED ? 0 : (way == ONLY_DIRECT ? count : ram_rows[row].long_pages) * PAGE_BYTES;
    watch(one.direct, most);
    CHECK_EQ(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, count), direct);
    if (!most) CHECK_EQ(moves.calls, ram_rows[row].runs);
    CHECK_EQ(moves.its > 0, direct > 0);
    if (way == ONLY_DIRECT) CHECK_EQ(moves.its, moves.calls);
    CHECK_EQ(size_of(one.fd), end);
    uint8_t *in_file = whole(one.fd, FILE_BYTES);
    CHECK(memcmp(in_file, expected, FILE_BYTES) == 0);

    watch(one.direct, most);
    CHECK_EQ(tram_file_read_ram(one.file, PAGES_OFFSET, PAGES, back, index, count), direct);
    if (!most) CHECK_EQ(moves.calls, ram_rows[row].runs);
    CHECK_EQ(moves.its > 0, direct > 0);
    CHECK_EQ(tram_ram_read(back, 0, found, PAGES * PAGE_BYTES), 0);
    CHECK(memcmp(found, expected + PAGES_OFFSET, PAGES * PAGE_BYTES) == 0); /* and the pages beside them are untouched */
    watch(-1, 0);
    free(expected);
    free(found);
    free(in_file);
    tram_ram_destroy(ram);
    tram_ram_destroy(back);
    let_go(&one);
  }
  free(content);
}

static void ram_lies_at_its_places(void) { ram_moves_run_by_run(CACHED, 0); }
static void ram_goes_on_after_short_calls(void) {
  ram_moves_run_by_run(CACHED, 3000);
  watch(-1, 0);
}
static void ram_goes_directly_in_long_runs(void) { ram_moves_run_by_run(LONG_DIRECT, 0); }
static void ram_goes_only_directly(void) { ram_moves_run_by_run(ONLY_DIRECT, 0); }
static void direct_ram_goes_on_after_short_calls(void) {
  ram_moves_run_by_run(ONLY_DIRECT, 2 * PAGE_BYTES);
  watch(-1, 0);
}

/* More pages than one call takes iovecs are one call all the same, and random lists are what the other functions say. */
static void a_long_run_of_ram_is_one_call(void) {
  uint32_t index[PAGES], offset[PAGES], state = 17;
  for (enum way way = CACHED; way < WAYS; way++) {
    if (way != CACHED && !has_direct()) SKIP(NO_DIRECT);
    uint8_t *content = random_bytes(PAGES * PAGE_BYTES, 3);
    struct tram_ram *ram = ram_with(content, PAGES);
    struct both one = both_ways(way), other = both_ways(CACHED);
    for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
    watch(one.direct, 0);
    CHECK_EQ(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, PAGES), way == CACHED ? 0 : PAGES * PAGE_BYTES);
    CHECK_EQ(moves.calls, 1);
    CHECK_EQ(ftruncate(one.fd, 0), 0);
    for (unsigned round = 0; round < 30; round++) {
      test_where = way * 100u + round;
      uint32_t count = 1 + next_random(&state) % 300, page = next_random(&state) % PAGES;
      for (uint32_t i = 0; i < count; i++) {
        if (next_random(&state) % (round % 3 ? 50 : 3) == 0) page = next_random(&state) % PAGES;
        index[i] = page;
        offset[i] = page * PAGE_BYTES;
        page = (page + 1) % PAGES;
      }
      CHECK(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, count) >= 0);
      CHECK_EQ(tram_file_write_pages(other.file, PAGES_OFFSET, PAGES, content, PAGES * PAGE_BYTES, index, offset, count), 0);
    }
    uint8_t *found = whole(one.fd, FILE_BYTES), *expected = whole(other.fd, FILE_BYTES);
    CHECK_EQ(size_of(one.fd), size_of(other.fd));
    CHECK(memcmp(found, expected, FILE_BYTES) == 0);
    free(found);
    free(expected);
    let_go(&one);
    let_go(&other);
    free(content);
    tram_ram_destroy(ram);
  }
}

static void ram_is_checked_before_the_first_byte(void) {
  enum { FEW = 8 };
  static const struct {
    uint64_t pages;
    uint32_t index;
  } rows[] = {{FEW, FEW}, {FEW, UINT32_MAX}, {4, 4}, {0, 0}, {PAGES, FEW} /* the file has it, guest memory has not */};
  uint8_t *content = random_bytes(FEW * PAGE_BYTES, 3), *kept = random_bytes(FEW * PAGE_BYTES, 4);
  uint8_t *found = malloc(FEW * PAGE_BYTES);
  struct tram_ram *ram = ram_with(content, FEW);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    const int fd = empty_file();
    struct tram_file *file = attached(fd, -1);
    const uint32_t index[] = {0, 1, rows[i].index};
    CHECK_EQ(tram_file_write_ram(file, 0, rows[i].pages, ram, index, 3), -ERANGE);
    CHECK_EQ(size_of(fd), 0);
    CHECK_EQ(pwrite(fd, kept, FEW * PAGE_BYTES, 0), FEW * PAGE_BYTES);
    CHECK_EQ(tram_file_read_ram(file, 0, rows[i].pages, ram, index, 3), -ERANGE);
    CHECK_EQ(tram_ram_read(ram, 0, found, FEW * PAGE_BYTES), 0);
    CHECK(memcmp(found, content, FEW * PAGE_BYTES) == 0);
    tram_file_detach(file);
    close(fd);
  }
  struct tram_file *none = attached(-1, -1);
  CHECK_EQ(tram_file_write_ram(none, 0, FEW, ram, (uint32_t[]){0}, 1), -EBADF);
  CHECK_EQ(tram_file_read_ram(none, 0, FEW, ram, (uint32_t[]){0}, 1), -EBADF);
  CHECK_EQ(tram_file_write_ram(none, 0, FEW, NULL, (uint32_t[]){0}, 1), -ERANGE);
  tram_file_detach(none);
  free(content);
  free(kept);
  free(found);
  tram_ram_destroy(ram);
}

/* At an odd place in the file the disk takes nothing directly. Then the page cache does, and goes on to; but not if nothing
 * may. */
static void what_cannot_be_direct_is_cached_or_an_error(void) {
  enum { RUN = 16 };
  if (!has_direct()) SKIP(NO_DIRECT);
  if (!refuses_odd_places()) SKIP("the file system of this folder takes direct writes at any place");
  uint8_t *content = random_bytes(RUN * PAGE_BYTES, 6);
  uint32_t index[RUN];
  for (uint32_t i = 0; i < RUN; i++) index[i] = i;
  for (enum way way = LONG_DIRECT; way < WAYS; way++) {
    for (int writing = 0; writing < 2; writing++) {
      test_where = way * 10u + (unsigned)writing;
      struct both one = both_ways(way);
      uint8_t *found = malloc(RUN * PAGE_BYTES);
      struct tram_ram *ram = writing ? ram_with(content, RUN) : as_ram(tram_ram_create(RUN * PAGE_BYTES));
      if (!writing) CHECK_EQ(pwrite(one.fd, content, RUN * PAGE_BYTES, 100), RUN * PAGE_BYTES);
      watch(one.direct, 0);
      CHECK_EQ(move_ram(&one, writing, 100, ram, index, RUN), way == ONLY_DIRECT ? -EINVAL : 0);
      CHECK(moves.its == 1 && moves.calls == (way == ONLY_DIRECT ? 1 : 2));
      if (way == ONLY_DIRECT) {
        CHECK_EQ(size_of(one.fd), writing ? 0 : 100 + RUN * PAGE_BYTES);
      } else {
        CHECK_EQ(writing ? pread(one.fd, found, RUN * PAGE_BYTES, 100) : tram_ram_read(ram, 0, found, RUN * PAGE_BYTES),
                 writing ? RUN * PAGE_BYTES : 0);
        CHECK(memcmp(found, content, RUN * PAGE_BYTES) == 0);
        CHECK_EQ(ftruncate(one.fd, (RUN + 1) * PAGE_BYTES), 0);
        CHECK_EQ(move_ram(&one, writing, PAGE_BYTES, ram, index, RUN), 0); /* it could be, but is not tried again */
        CHECK_EQ(moves.its, 1);
      }
      watch(-1, 0);
      free(found);
      tram_ram_destroy(ram);
      let_go(&one);
    }
  }
  free(content);
}

static void a_file_that_ends_early_is_no_ram(void) {
  enum { RUN = 8 };
  static const int64_t sizes[] = {0, PAGES_OFFSET, PAGES_OFFSET + 1, PAGES_OFFSET + 512, PAGES_OFFSET + PAGE_BYTES,
                                  PAGES_OFFSET + 3 * PAGE_BYTES + 100, PAGES_OFFSET + 3 * PAGE_BYTES + 512,
                                  PAGES_OFFSET + RUN * PAGE_BYTES - 512, PAGES_OFFSET + RUN * PAGE_BYTES - 1};
  uint32_t index[RUN];
  for (uint32_t i = 0; i < RUN; i++) index[i] = i;
  for (enum way way = CACHED; way < WAYS; way++) {
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      test_where = way * 100u + i;
      if (way != CACHED && !has_direct()) SKIP(NO_DIRECT);
      struct both one = both_ways(way);
      struct tram_ram *ram = as_ram(tram_ram_create(RUN * PAGE_BYTES));
      CHECK_EQ(ftruncate(one.fd, sizes[i]), 0);
      CHECK_EQ(tram_file_read_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN), -ENODATA);
      CHECK_EQ(ftruncate(one.fd, PAGES_OFFSET + RUN * PAGE_BYTES), 0);
      CHECK(tram_file_read_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN) >= 0);
      tram_ram_destroy(ram);
      let_go(&one);
    }
  }
}

/* A limit stands in for a full disk: what did fit is written, and the rest is an error. */
static void ram_that_does_not_fit_is_an_error(void) {
  enum { RUN = 8 };
  static const struct {
    enum way way;
    int64_t limit, result;
  } rows[] = {
      {CACHED, PAGES_OFFSET + 3 * PAGE_BYTES + 100, -EFBIG}, {CACHED, PAGES_OFFSET, -EFBIG},
      {LONG_DIRECT, PAGES_OFFSET + 3 * PAGE_BYTES, -EFBIG},  {LONG_DIRECT, PAGES_OFFSET + 3 * PAGE_BYTES + 100, -EFBIG},
      {ONLY_DIRECT, PAGES_OFFSET + 3 * PAGE_BYTES, -EFBIG},  {ONLY_DIRECT, PAGES_OFFSET, -EFBIG},
  };
  uint32_t index[RUN];
  for (uint32_t i = 0; i < RUN; i++) index[i] = i;
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    if (rows[i].way != CACHED && !has_direct()) SKIP(NO_DIRECT);
    uint8_t *content = random_bytes(RUN * PAGE_BYTES, 7);
    struct both one = both_ways(rows[i].way);
    struct tram_ram *ram = ram_with(content, RUN);
    struct rlimit before, limit;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)rows[i].limit;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const int64_t result = tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    CHECK_EQ(result, rows[i].result);
    CHECK_EQ(size_of(one.fd), rows[i].limit > PAGES_OFFSET ? rows[i].limit : 0);
    CHECK(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN) >= 0); /* without the limit it fits */
    CHECK_EQ(size_of(one.fd), PAGES_OFFSET + RUN * PAGE_BYTES);
    free(content);
    tram_ram_destroy(ram);
    let_go(&one);
  }
}

/* Guest memory that is another file, which has been cut; and a page that is forbidden. */
static void ram_that_is_not_there_is_an_error(void) {
  enum { RUN = 16 };
  uint32_t index[RUN];
  for (uint32_t i = 0; i < RUN; i++) index[i] = i;
  for (enum way way = CACHED; way < WAYS; way++) {
    for (int forbidden = 0; forbidden < 2; forbidden++) {
      test_where = way * 10u + (unsigned)forbidden;
      if (way != CACHED && !has_direct()) SKIP(NO_DIRECT);
      uint8_t *content = random_bytes(RUN * PAGE_BYTES, 8);
      struct both one = both_ways(way);
      struct tram_ram *ram = as_ram(tram_ram_create(RUN * PAGE_BYTES));
      const int memory = empty_file();
      CHECK_EQ(pwrite(memory, content, RUN * PAGE_BYTES, 0), RUN * PAGE_BYTES);
      CHECK_EQ(tram_ram_map_file(ram, 0, RUN * PAGE_BYTES, memory, 0), 0);
      CHECK(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN) >= 0);
      uint8_t *found = whole(one.fd, PAGES_OFFSET + RUN * PAGE_BYTES);
      CHECK(memcmp(found + PAGES_OFFSET, content, RUN * PAGE_BYTES) == 0);
      free(found);
      if (forbidden)
        CHECK_EQ(tram_ram_forbid(ram, RUN - 1), 0);
      else
        CHECK_EQ(ftruncate(memory, (RUN - 1) * PAGE_BYTES), 0);
      CHECK_EQ(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN), -EFAULT);
      CHECK_EQ(tram_file_read_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN), -EFAULT);
      CHECK(tram_file_write_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN - 1) >= 0);
      CHECK(tram_file_read_ram(one.file, PAGES_OFFSET, PAGES, ram, index, RUN - 1) >= 0);
      close(memory);
      free(content);
      tram_ram_destroy(ram);
      let_go(&one);
    }
  }
}

/* --- room, holes, locks, leases ------------------------------------------------------------------------------------------- */

static int64_t blocks_of(int fd) {
  struct stat info;
  return fstat(fd, &info) < 0 ? -1 : info.st_blocks * 512;
}

static void allocated_room_is_taken(void) {
  enum { ROOM = 1 << 20 };
  int direct, fd = unnamed_file(&direct);
  if (direct >= 0) close(direct);
  CHECK_EQ(pwrite(fd, "before", 6, 0), 6);
  const int64_t before = blocks_of(fd);
  CHECK_EQ(ftruncate(fd, 4 * ROOM), 0);
  CHECK(blocks_of(fd) < ROOM); /* a hole takes none */
  const int result = tram_file_allocate(fd, ROOM, ROOM);
  if (result == -EOPNOTSUPP) SKIP("the file system of this folder does not allocate room");
  CHECK_EQ(result, 0);
  CHECK(blocks_of(fd) >= before + ROOM);
  CHECK_EQ(size_of(fd), 4 * ROOM);
  CHECK_EQ(tram_file_allocate(fd, 4 * ROOM, ROOM), 0);
  CHECK(blocks_of(fd) >= before + 2 * ROOM);
  CHECK_EQ(size_of(fd), 4 * ROOM); /* behind its end it does not grow */
  char found[7] = {0};
  CHECK_EQ(pread(fd, found, 6, 0), 6);
  CHECK(strcmp(found, "before") == 0);
  uint8_t *room = malloc(ROOM);
  CHECK_EQ(pread(fd, room, ROOM, ROOM), ROOM);
  for (uint32_t i = 0; i < ROOM; i++) CHECK_EQ(room[i], 0);
  const int64_t full = blocks_of(fd);
  CHECK_EQ(pwrite(fd, room, ROOM, ROOM), ROOM);
  CHECK_EQ(fsync(fd), 0);
  CHECK_EQ(blocks_of(fd), full); /* what is written there had its room already */
  free(room);

  int32_t ends[2];
  CHECK_EQ(tram_pipe(ends), 0);
  const int reads = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  CHECK_EQ(tram_file_allocate(fd, 0, 0), -EINVAL);
  CHECK_EQ(tram_file_allocate(fd, UINT64_MAX, ROOM), -EINVAL);
  CHECK_EQ(tram_file_allocate(fd, INT64_MAX - PAGE_BYTES, ROOM), -EFBIG);
  CHECK_EQ(tram_file_allocate(-1, 0, ROOM), -EBADF);
  CHECK_EQ(tram_file_allocate(reads, 0, ROOM), -EBADF);
  CHECK_EQ(tram_file_allocate(ends[1], 0, ROOM), -ESPIPE);
  close(ends[0]);
  close(ends[1]);
  close(reads);
  close(fd);
}

static void data_is_found_behind_holes(void) {
  enum { HOLE = 1 << 20 };
  const int fd = empty_file();
  CHECK_EQ(tram_file_seek_data(fd, 0), -ENXIO); /* it has nothing */
  CHECK_EQ(pwrite(fd, "x", 1, HOLE), 1);
  CHECK_EQ(pwrite(fd, "x", 1, 3 * HOLE + 5), 1);
  CHECK_EQ(ftruncate(fd, 4 * HOLE), 0);
  CHECK_EQ(tram_host_seek_hole(fd, 0), 0); /* it does have holes */
  static const int64_t rows[][2] = {{0, HOLE},
                                    {HOLE - 1, HOLE},
                                    {HOLE, HOLE},
                                    {HOLE + 17, HOLE + 17},
                                    {HOLE + PAGE_BYTES, 3 * HOLE},
                                    {3 * HOLE + 4, 3 * HOLE + 4},
                                    {3 * HOLE + PAGE_BYTES, -ENXIO},
                                    {4 * HOLE, -ENXIO},
                                    {(int64_t)1 << 60, -ENXIO}};
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    CHECK_EQ(tram_file_seek_data(fd, (uint64_t)rows[i][0]), rows[i][1]);
  }
  CHECK(tram_file_seek_data(fd, UINT64_MAX) < 0);
  CHECK_EQ(tram_file_seek_data(-1, 0), -EBADF);
  int32_t ends[2];
  CHECK_EQ(tram_pipe(ends), 0);
  CHECK_EQ(tram_file_seek_data(ends[0], 0), -ESPIPE);
  close(ends[0]);
  close(ends[1]);
  close(fd);
}

/* The same file, described anew. */
static int opened_again(int fd, int flags) {
  char name[32];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  return open(name, flags | O_CLOEXEC);
}

static void a_lock_belongs_to_a_description(void) {
  int direct, one = unnamed_file(&direct);
  if (direct >= 0) close(direct);
  const int other = opened_again(one, O_RDONLY), duplicate = tram_duplicate(one);
  CHECK(other >= 0 && duplicate >= 0);
  const int result = tram_file_lock(one, 1);
  if (result == -ENOLCK || result == -EOPNOTSUPP) SKIP("the file system of this folder has no locks");
  CHECK_EQ(result, 0);
  CHECK_EQ(tram_file_lock(other, 1), -EWOULDBLOCK);
  CHECK_EQ(tram_file_lock(other, 0), -EWOULDBLOCK);
  CHECK_EQ(tram_file_lock(duplicate, 1), 0); /* it is the same one's */
  CHECK_EQ(tram_file_lock(one, 1), 0);
  close(one);
  CHECK_EQ(tram_file_lock(other, 0), -EWOULDBLOCK); /* the duplicate holds it still */
  close(duplicate);
  CHECK_EQ(tram_file_lock(other, 0), 0);

  const int third = opened_again(other, O_RDONLY), fourth = opened_again(other, O_RDONLY);
  CHECK_EQ(tram_file_lock(third, 0), 0);
  CHECK_EQ(tram_file_lock(fourth, 1), -EWOULDBLOCK);
  /* Who wants more than it may have is left with nothing: the kernel takes the old lock first. */
  CHECK_EQ(tram_file_lock(third, 1), -EWOULDBLOCK);
  CHECK_EQ(tram_file_lock(other, 1), 0);
  CHECK_EQ(tram_file_lock(third, 0), -EWOULDBLOCK);
  CHECK_EQ(tram_file_lock(other, 0), 0); /* from exclusive to shared */
  CHECK_EQ(tram_file_lock(third, 0), 0);
  CHECK_EQ(tram_file_lock(-1, 0), -EBADF);
  close(third);
  close(fourth);
  close(other);
}

struct writer {
  int of, fd;
  atomic_int is_open;
};
static void *opens_for_writing(void *argument) {
  struct writer *self = argument;
  self->fd = opened_again(self->of, O_WRONLY);
  atomic_store(&self->is_open, 1);
  return NULL;
}

static void a_lease_makes_writers_wait(void) {
  int direct, made = unnamed_file(&direct);
  if (direct >= 0) close(direct);
  CHECK_EQ(pwrite(made, "content", 7, 0), 7);
  const int fd = opened_again(made, O_RDONLY);
  CHECK_EQ(tram_file_lease(fd), -EAGAIN); /* somebody has it open for writing */
  CHECK_EQ(tram_file_lease_holds(fd), 0);
  close(made);
  const int result = tram_file_lease(fd);
  if (result == -EINVAL || result == -EOPNOTSUPP) SKIP("the file system of this folder has no leases");
  CHECK_EQ(result, 0);
  CHECK_EQ(tram_file_lease_holds(fd), 1);
  const int reader = opened_again(fd, O_RDONLY); /* readers do not mind */
  CHECK(reader >= 0);
  CHECK_EQ(tram_file_lease(reader), 0);
  CHECK_EQ(tram_file_lease_end(reader), 0);
  close(reader);
  CHECK_EQ(tram_file_lease_holds(fd), 1);

  for (int flags = O_WRONLY; flags <= O_RDWR; flags++) {
    for (int truncating = 0; truncating < 2; truncating++) {
      test_where = (unsigned)flags * 10 + (unsigned)truncating;
      CHECK_EQ(opened_again(fd, flags | O_NONBLOCK | (truncating ? O_TRUNC : 0)), -1);
      CHECK_EQ(errno, EWOULDBLOCK);
      CHECK_EQ(tram_file_lease_holds(fd), 0);
      CHECK_EQ(size_of(fd), 7);
      CHECK_EQ(tram_file_lease_end(fd), 0);
      const int writer = opened_again(fd, flags | O_NONBLOCK);
      CHECK(writer >= 0);
      close(writer);
      CHECK_EQ(tram_file_lease(fd), 0); /* and once more */
      CHECK_EQ(tram_file_lease_holds(fd), 1);
    }
  }

  /* One who does wait goes on when the lease is ended. */
  struct writer writer = {.of = fd, .fd = -1};
  pthread_t thread;
  pthread_create(&thread, NULL, opens_for_writing, &writer);
  for (int i = 0; i < 5000 && tram_file_lease_holds(fd) == 1; i++) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  CHECK_EQ(tram_file_lease_holds(fd), 0);
  nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  CHECK_EQ(atomic_load(&writer.is_open), 0);
  CHECK_EQ(tram_file_lease_end(fd), 0);
  pthread_join(thread, NULL);
  CHECK(writer.fd >= 0);
  close(writer.fd);
  CHECK_EQ(tram_file_lease_holds(fd), 0);
  CHECK_EQ(tram_file_lease_end(fd), -EAGAIN); /* there is none */
  CHECK_EQ(tram_file_lease(-1), -EBADF);
  CHECK_EQ(tram_file_lease_holds(-1), -EBADF);
  CHECK_EQ(tram_file_lease_end(-1), -EBADF);

  /* It goes with its descriptor. */
  CHECK_EQ(tram_file_lease(fd), 0);
  const int last = opened_again(fd, O_RDONLY);
  close(fd);
  const int writes = opened_again(last, O_WRONLY | O_NONBLOCK);
  CHECK(writes >= 0);
  close(writes);
  close(last);
}

/* --- disk.c --------------------------------------------------------------------------------------------------------- */

enum { DISK_BYTES = 64 << 10, DISK_RAM_PAGES = 32 };

static struct tram_ram *disk_ram(void) { return (struct tram_ram *)(uintptr_t)tram_ram_create(DISK_RAM_PAGES * PAGE_BYTES); }

/* Parts of any length and in any order; the kernel moves as little at a time as it likes. */
static void a_disk_moves_parts_of_memory(void) {
  static const double segments[] = {5000, 100, 70000, 924, 0, 3072, 8192, 4096};
  static const size_t most[] = {0, 1, 700, 5000};
  uint8_t *content = random_bytes(DISK_BYTES, 5), *back = malloc(DISK_BYTES);
  for (size_t row = 0; row < sizeof most / sizeof *most; row++) {
    test_where = row;
    const int fd = empty_file();
    CHECK_EQ(pwrite(fd, content, DISK_BYTES, 0), DISK_BYTES);
    struct tram_ram *ram = disk_ram();
    watch(fd, most[row]);
    CHECK_EQ(tram_disk_move(ram, fd, 0, 512, segments, 4), 0);
    CHECK(moves.its > 0);
    uint64_t at = 512;
    for (int i = 0; i < 4; at += (uint64_t)segments[2 * i++ + 1]) {
      CHECK_EQ(tram_ram_read(ram, (uint64_t)segments[2 * i], back, (uint32_t)segments[2 * i + 1]), 0);
      CHECK(memcmp(back, content + at, (size_t)segments[2 * i + 1]) == 0);
    }
    const int copy = empty_file();
    CHECK_EQ(ftruncate(copy, DISK_BYTES), 0);
    CHECK_EQ(tram_disk_move(ram, copy, 1, 1024, segments, 4), 0);
    watch(-1, 0);
    CHECK_EQ(pread(copy, back, 8192, 1024), 8192);
    CHECK(memcmp(back, content + 512, 8192) == 0);
    close(copy);
    close(fd);
    tram_ram_destroy(ram);
  }
  free(back);
  free(content);
}

static void a_disk_checks_all_parts_first(void) {
  static const double rows[][4] = {{0, 4096, DISK_RAM_PAGES * PAGE_BYTES - 1, 2},
                                   {0, 4096, DISK_RAM_PAGES * PAGE_BYTES, 1},
                                   {0, 4096, 9007199254740991.0, 9007199254740991.0}};
  struct tram_ram *ram = disk_ram();
  const int fd = empty_file();
  CHECK_EQ(ftruncate(fd, DISK_BYTES), 0);
  uint8_t *ones = malloc(4096), *back = malloc(4096);
  memset(ones, 0xff, 4096);
  CHECK_EQ(tram_ram_write(ram, 0, ones, 4096), 0);
  for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
    test_where = row;
    CHECK_EQ(tram_disk_move(ram, fd, 0, 0, rows[row], 2), -ERANGE);
    CHECK_EQ(tram_disk_move(ram, fd, 1, 0, rows[row], 2), -ERANGE);
  }
  CHECK_EQ(tram_disk_move(ram, fd, 0, 0, rows[0], 1025), -ERANGE);
  CHECK_EQ(tram_ram_read(ram, 0, back, 4096), 0);
  CHECK(memcmp(back, ones, 4096) == 0);
  CHECK_EQ(pread(fd, back, 4096, 0), 4096);
  CHECK_EQ(back[0], 0);
  free(back);
  free(ones);
  close(fd);
  tram_ram_destroy(ram);
}

static void a_disk_that_has_become_shorter_fails(void) {
  static const double segments[] = {0, 8192};
  struct tram_ram *ram = disk_ram();
  const int fd = empty_file();
  CHECK_EQ(ftruncate(fd, 4096), 0);
  CHECK_EQ(tram_disk_move(ram, fd, 0, 0, segments, 1), -EIO);
  CHECK_EQ(tram_disk_move(ram, -1, 0, 0, segments, 1), -EBADF);
  close(fd);
  tram_ram_destroy(ram);
}

static void a_disk_is_cleared_in_part(void) {
  uint8_t *content = random_bytes(DISK_BYTES, 6), *back = malloc(DISK_BYTES);
  const int fd = empty_file(); /* a memfd has holes, and no zeroing without them */
  CHECK_EQ(pwrite(fd, content, DISK_BYTES, 0), DISK_BYTES);
  CHECK_EQ(tram_disk_clear(fd, 4096, 8192, 1), -EOPNOTSUPP);
  CHECK_EQ(tram_disk_clear(fd, 4096, 8192, 0), 0);
  memset(content + 4096, 0, 8192);
  CHECK_EQ(pread(fd, back, DISK_BYTES, 0), DISK_BYTES);
  CHECK(memcmp(back, content, DISK_BYTES) == 0);
  CHECK_EQ(tram_disk_clear(fd, 1 << 20, 4096, 0), 0);
  CHECK_EQ(size_of(fd), DISK_BYTES); /* no longer for it */
  close(fd);
  free(back);
  free(content);
}

const struct test file_tests[] = {
    {"disk: parts of memory are read and written in their order", a_disk_moves_parts_of_memory},
    {"disk: all parts are checked before anything is moved", a_disk_checks_all_parts_first},
    {"disk: one that has become shorter fails", a_disk_that_has_become_shorter_fails},
    {"disk: a part of it is cleared", a_disk_is_cleared_in_part},
    {"file: pages come to lie at their places, and are read back from there", pages_lie_at_their_places},
    {"file: a run of more pages than one call takes is split", long_runs_are_split},
    {"file: everything is checked before the first byte moves", all_is_checked_before_the_first_byte},
    {"file: a file that ends before its pages is no data", a_file_that_ends_early_is_no_data},
    {"file: a file that may not grow is an error, after what did fit", a_file_that_may_not_grow_is_an_error},
    {"file: a descriptor that is no file is an error", a_descriptor_that_is_none_is_an_error},
    {"file: punch makes its pages holes and touches no others", punch_makes_holes_and_nothing_else},
    {"file: page 2^32 - 2 lies at 16 TiB", offsets_have_64_bits},
    {"file: what is written directly is the same bytes, from any address", direct_writes_are_the_same_bytes},
    {"file: what cannot be written directly goes through the cache", what_cannot_be_direct_goes_through_the_cache},
    {"file: a direct write that fails is an error", a_direct_write_that_fails_is_an_error},
    {"file: guest pages come to lie at their places by one call for each run, and are read back", ram_lies_at_its_places},
    {"file: guest pages are gone on with wherever a call stops", ram_goes_on_after_short_calls},
    {"file: long runs of guest pages go directly, and short ones do not", ram_goes_directly_in_long_runs},
    {"file: all guest pages go directly if nothing else may be", ram_goes_only_directly},
    {"file: direct guest pages are gone on with wherever a call stops", direct_ram_goes_on_after_short_calls},
    {"file: a long run of guest pages is one call, and any list is what it would be from a buffer",
     a_long_run_of_ram_is_one_call},
    {"file: guest pages are checked before the first byte moves", ram_is_checked_before_the_first_byte},
    {"file: guest pages that cannot go directly go through the cache, or are an error",
     what_cannot_be_direct_is_cached_or_an_error},
    {"file: a file that ends before guest memory's pages is no data, by either way", a_file_that_ends_early_is_no_ram},
    {"file: guest pages that do not fit are an error, after those that did", ram_that_does_not_fit_is_an_error},
    {"file: guest memory that is not there is an error of both directions", ram_that_is_not_there_is_an_error},
    {"file: room is taken before anything is written, and the file grows no longer", allocated_room_is_taken},
    {"file: data is found behind holes", data_is_found_behind_holes},
    {"file: a lock belongs to a description, and goes with the last of its descriptors", a_lock_belongs_to_a_description},
    {"file: a lease makes writers wait until it is ended", a_lease_makes_writers_wait},
    {0},
};
