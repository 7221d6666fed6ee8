/* file.c: pages at their places in a file. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

/* More pages than one call takes iovecs (1024), so that a run is split. */
enum { PAGES = 2100, PAGES_OFFSET = 3 * PAGE_BYTES, FILE_BYTES = PAGES_OFFSET + PAGES * PAGE_BYTES };

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

const struct test file_tests[] = {
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
    {0},
};
