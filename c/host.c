/* The questions about a host that only a system call can answer. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tram.h"

double tram_host_clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

int tram_host_userfaultfd(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int tram_host_direct_alignment(int fd, uint32_t *alignment) {
  /* struct statx by its offsets: the headers of older distributions lack these two fields. */
  enum { DIOALIGN = 0x2000, MASK_AT = 0, MEMORY_AT = 152, OFFSET_AT = 156, STATX_BYTES = 256 };
  uint8_t raw[STATX_BYTES];
  uint32_t mask;
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, DIOALIGN, raw) < 0) return -errno;
  memcpy(&mask, raw + MASK_AT, sizeof mask);
  if (!(mask & DIOALIGN)) return -ENODATA;
  memcpy(&alignment[0], raw + MEMORY_AT, sizeof alignment[0]);
  memcpy(&alignment[1], raw + OFFSET_AT, sizeof alignment[1]);
  return 0;
}

int64_t tram_host_direct_write(int fd, uint32_t bytes) {
  void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return -errno;
  ssize_t written = pwrite(fd, pages, bytes, 0);
  int64_t result = written < 0 ? -errno : written;
  munmap(pages, bytes);
  return result;
}

int tram_host_punch_hole(int fd, uint64_t offset, uint64_t bytes) {
  int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return fallocate(fd, mode, (off_t)offset, (off_t)bytes) < 0 ? -errno : 0;
}

int64_t tram_host_seek_hole(int fd, uint64_t offset) {
  off_t hole = lseek(fd, (off_t)offset, SEEK_HOLE);
  return hole < 0 ? -errno : hole;
}
