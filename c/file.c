/* Pages in a file where each has its place: written and read in runs, made holes in runs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

enum { RUN_PAGES_MAX = 1024 }; /* IOV_MAX */

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

static int move_pages(int fd, int writing, uint64_t pages_offset, uint64_t pages, uint8_t *buffer, uint64_t buffer_bytes,
                      const uint32_t *index, const uint32_t *offset, uint32_t count) {
  struct iovec iov[RUN_PAGES_MAX];
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
    int result = move_run(fd, writing, iov, used, pages_offset + (uint64_t)index[first] * PAGE_BYTES);
    if (result < 0) return result;
  }
  return 0;
}

int tram_file_write_pages(int fd, uint64_t pages_offset, uint64_t pages, const uint8_t *buffer, uint64_t buffer_bytes,
                          const uint32_t *index, const uint32_t *offset, uint32_t count) {
  return move_pages(fd, 1, pages_offset, pages, (uint8_t *)(uintptr_t)buffer, buffer_bytes, index, offset, count);
}

int tram_file_read_pages(int fd, uint64_t pages_offset, uint64_t pages, uint8_t *buffer, uint64_t buffer_bytes,
                         const uint32_t *index, const uint32_t *offset, uint32_t count) {
  return move_pages(fd, 0, pages_offset, pages, buffer, buffer_bytes, index, offset, count);
}

int tram_file_punch_pages(int fd, uint64_t pages_offset, uint64_t pages, const uint32_t *index, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= pages) return -ERANGE;
  for (uint32_t i = 0; i < count;) {
    uint32_t first = i++;
    while (i < count && index[i] == index[i - 1] + 1) i++;
    uint64_t at = pages_offset + (uint64_t)index[first] * PAGE_BYTES, bytes = (uint64_t)(i - first) * PAGE_BYTES;
    while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) < 0)
      if (errno != EINTR) return -errno;
  }
  return 0;
}
