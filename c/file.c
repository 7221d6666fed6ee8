/* Pages in a file where each has its place: written and read in runs, made holes in runs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

/* Runs of at least DIRECT_BYTES_MIN go to the disk directly, where that can be: copied into memory that is aligned for it
 * they cost a tenth of what the page cache costs, and there is nothing left to sync. Shorter ones would each wait for the
 * disk; the page cache gathers them. */
enum { RUN_PAGES_MAX = 1024 /* IOV_MAX */, DIRECT_BYTES_MIN = 16 << 10, STAGING_BYTES = 1 << 20 };

struct tram_file {
  int fd, direct_fd; /* direct_fd: the same file opened with O_DIRECT, or -1 */
  int only_direct;   /* nothing goes through the page cache */
  uint8_t *staging;
};

int64_t tram_file_attach(int fd, int direct_fd, int only_direct) {
  struct tram_file *file = calloc(1, sizeof *file);
  if (!file) return -ENOMEM;
  file->fd = fd;
  file->direct_fd = direct_fd;
  file->only_direct = only_direct;
  if (direct_fd >= 0 && !(file->staging = aligned_alloc(PAGE_BYTES, STAGING_BYTES))) {
    free(file);
    return -ENOMEM;
  }
  return (int64_t)(uintptr_t)file;
}

int tram_file_detach(struct tram_file *file) {
  free(file->staging);
  free(file);
  return 0;
}

/* pwritev or preadv of one run, continued after partial ones. The array is consumed. */
static int move_run(int fd, int writing, struct iovec *iov, unsigned count, uint64_t at) {
  while (count) {
    ssize_t n = writing ? pwritev(fd, iov, (int)count, (off_t)at) : preadv(fd, iov, (int)count, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    if (n == 0) return writing ? -EIO : -ENODATA; /* the file ends here */
    at += (uint64_t)n;
    for (; count && (size_t)n >= iov->iov_len; iov++, count--) n -= (ssize_t)iov->iov_len;
    if (count) {
      iov->iov_base = (uint8_t *)iov->iov_base + n;
      iov->iov_len -= (size_t)n;
    }
  }
  return 0;
}

static int is_aligned(const struct iovec *iov, unsigned count) {
  for (unsigned i = 0; i < count; i++)
    if ((uintptr_t)iov[i].iov_base % PAGE_BYTES) return 0;
  return 1;
}

static int goes_directly(const struct tram_file *file, uint64_t bytes) {
  return file->direct_fd >= 0 && (file->only_direct || bytes >= DIRECT_BYTES_MIN);
}

/* 1: moved directly. 0: it cannot be, and is not to be tried again. The array is consumed. */
static int move_direct(struct tram_file *file, int writing, struct iovec *iov, unsigned count, uint64_t at) {
  int result = move_run(file->direct_fd, writing, iov, count, at);
  if (file->only_direct || (result != -EINVAL && result != -EOPNOTSUPP)) return result < 0 ? result : 1;
  file->direct_fd = -1;
  return 0;
}

/* The bytes of it that were written directly, or -errno. */
static int64_t write_run(struct tram_file *file, struct iovec *iov, unsigned count, uint64_t bytes, uint64_t at) {
  if (goes_directly(file, bytes) && bytes <= STAGING_BYTES) {
    struct iovec run[RUN_PAGES_MAX];
    unsigned runs = count;
    if (is_aligned(iov, count)) {
      memcpy(run, iov, count * sizeof *run);
    } else {
      uint64_t used = 0;
      for (unsigned i = 0; i < count; used += iov[i++].iov_len) memcpy(file->staging + used, iov[i].iov_base, iov[i].iov_len);
      run[0] = (struct iovec){.iov_base = file->staging, .iov_len = bytes};
      runs = 1;
    }
    int result = move_direct(file, 1, run, runs, at);
    if (result) return result < 0 ? result : (int64_t)bytes;
  }
  return move_run(file->fd, 1, iov, count, at);
}

static int64_t move_pages(struct tram_file *file, int writing, uint64_t pages_offset, uint64_t pages, uint8_t *buffer,
                          uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset, uint32_t count) {
  struct iovec iov[RUN_PAGES_MAX];
  int64_t direct = 0;
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= pages || (uint64_t)offset[i] + PAGE_BYTES > buffer_bytes) return -ERANGE;
  for (uint32_t i = 0; i < count;) {
    /* A run: pages that are neighbours in the file. Neighbours in the buffer as well share an iovec. */
    uint32_t first = i;
    unsigned used = 0;
    do {
      uint8_t *at = buffer + offset[i];
      if (used && (uint8_t *)iov[used - 1].iov_base + iov[used - 1].iov_len == at)
        iov[used - 1].iov_len += PAGE_BYTES;
      else
        iov[used++] = (struct iovec){.iov_base = at, .iov_len = PAGE_BYTES};
      i++;
    } while (i < count && index[i] == index[i - 1] + 1 && used < RUN_PAGES_MAX);
    uint64_t at = pages_offset + (uint64_t)index[first] * PAGE_BYTES, bytes = (uint64_t)(i - first) * PAGE_BYTES;
    int64_t result = writing ? write_run(file, iov, used, bytes, at) : move_run(file->fd, 0, iov, used, at);
    if (result < 0) return result;
    direct += result;
  }
  return direct;
}

int64_t tram_file_write_pages(struct tram_file *file, uint64_t pages_offset, uint64_t pages, const uint8_t *buffer,
                              uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset, uint32_t count) {
  return move_pages(file, 1, pages_offset, pages, (uint8_t *)(uintptr_t)buffer, buffer_bytes, index, offset, count);
}

int tram_file_read_pages(struct tram_file *file, uint64_t pages_offset, uint64_t pages, uint8_t *buffer,
                         uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset, uint32_t count) {
  return (int)move_pages(file, 0, pages_offset, pages, buffer, buffer_bytes, index, offset, count);
}

/* Runs of pages between the file and guest memory: neighbours in one are neighbours in the other, so each run is one call
 * and nothing is copied. Returns the bytes that went directly. */
static int64_t move_ram(struct tram_file *file, int writing, uint64_t pages_offset, uint64_t pages,
                        const struct tram_ram *ram, const uint32_t *index, uint32_t count) {
  int64_t direct = 0;
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= pages) return -ERANGE;
  for (uint32_t i = 0; i < count;) {
    uint32_t first = i++;
    while (i < count && index[i] == index[i - 1] + 1) i++;
    uint64_t at = pages_offset + (uint64_t)index[first] * PAGE_BYTES, bytes = (uint64_t)(i - first) * PAGE_BYTES;
    struct iovec run = {.iov_base = checked_page(ram, index[first]), .iov_len = bytes}, again = run;
    int result = goes_directly(file, bytes) ? move_direct(file, writing, &run, 1, at) : 0;
    if (result > 0) direct += (int64_t)bytes;
    if (result == 0) result = move_run(file->fd, writing, &again, 1, at);
    if (result < 0) return result;
  }
  return direct;
}

int64_t tram_file_write_ram(struct tram_file *file, uint64_t pages_offset, uint64_t pages, const struct tram_ram *ram,
                            const uint32_t *index, uint32_t count) {
  return move_ram(file, 1, pages_offset, pages, ram, index, count);
}

int64_t tram_file_read_ram(struct tram_file *file, uint64_t pages_offset, uint64_t pages, struct tram_ram *ram,
                           const uint32_t *index, uint32_t count) {
  return move_ram(file, 0, pages_offset, pages, ram, index, count);
}

int tram_file_punch_pages(struct tram_file *file, uint64_t pages_offset, uint64_t pages, const uint32_t *index, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= pages) return -ERANGE;
  for (uint32_t i = 0; i < count;) {
    uint32_t first = i++;
    while (i < count && index[i] == index[i - 1] + 1) i++;
    uint64_t at = pages_offset + (uint64_t)index[first] * PAGE_BYTES, bytes = (uint64_t)(i - first) * PAGE_BYTES;
    while (fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) < 0)
      if (errno != EINTR) return -errno;
  }
  return 0;
}

int tram_file_allocate(int fd, uint64_t offset, uint64_t bytes) {
  while (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes) < 0)
    if (errno != EINTR) return -errno;
  return 0;
}

int64_t tram_file_seek_data(int fd, uint64_t offset) {
  off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
  return data < 0 ? -errno : data;
}

/* The lock belongs to the description: whoever has a duplicate of the descriptor holds it, too. */
int tram_file_lock(int fd, int exclusive) {
  while (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0)
    if (errno != EINTR) return -errno;
  return 0;
}

/* It never waits; but a FUSE server that must not wait (virtiofsd) wants to hear so. */
int tram_file_unlock(int fd) { return flock(fd, LOCK_UN | LOCK_NB) < 0 ? -errno : 0; }

/* SIGURG tells nobody anything by default, unlike SIGIO, which kills: the holder asks instead. */
int tram_file_lease(int fd) {
  if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) < 0) return -errno;
  return 0;
}

int tram_file_lease_holds(int fd) {
  int type = fcntl(fd, F_GETLEASE);
  return type < 0 ? -errno : type == F_RDLCK;
}

int tram_file_lease_end(int fd) { return fcntl(fd, F_SETLEASE, F_UNLCK) < 0 ? -errno : 0; }
