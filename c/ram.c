/* Guest memory: reserved once, reached only through checked(). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"
#include "tram.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum { HUGE_PAGE = 2 << 20 };
#define RAM_BYTES_MAX (((uint64_t)UINT32_MAX + 1) * PAGE_BYTES) /* a page's number has 32 bits */

int64_t tram_ram_create(uint64_t bytes) {
  if (bytes == 0 || bytes % PAGE_BYTES || bytes > RAM_BYTES_MAX) return -EINVAL;
  struct tram_ram *ram = calloc(1, sizeof *ram);
  if (!ram) return -ENOMEM;
  /* Over-reserve to align: huge pages need it, and first touch is the dearest part of a move. */
  uint64_t span = bytes + HUGE_PAGE;
  uint8_t *raw = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    int error = errno;
    free(ram);
    return -error;
  }
  uint64_t skip = (HUGE_PAGE - (uintptr_t)raw % HUGE_PAGE) % HUGE_PAGE;
  if (skip) munmap(raw, skip);
  if (HUGE_PAGE - skip) munmap(raw + skip + bytes, HUGE_PAGE - skip);
  ram->base = raw + skip;
  ram->bytes = bytes;
  (void)madvise(ram->base, bytes, MADV_HUGEPAGE); /* advice: kernels without huge pages refuse it */
  (void)madvise(ram->base, bytes, MADV_DONTDUMP);
  return (int64_t)(uintptr_t)ram;
}

int64_t tram_ram_host(const struct tram_ram *ram, uint64_t offset, uint64_t bytes) {
  const uint8_t *host = checked(ram, offset, bytes);
  return host ? (int64_t)(uintptr_t)host : -ERANGE;
}

int tram_ram_populate(struct tram_ram *ram) { return tram_ram_populate_range(ram, 0, ram->bytes, 1); }

int tram_ram_destroy(struct tram_ram *ram) {
  if (!ram) return -EINVAL;
  int result = munmap(ram->base, ram->bytes) < 0 ? -errno : 0;
  free(ram);
  return result;
}

static int copy(void *to, const void *from, uint32_t bytes) {
  memcpy(to, from, bytes);
  return 0;
}

int tram_ram_read(const struct tram_ram *ram, uint64_t offset, void *out, uint32_t bytes) {
  const uint8_t *at = checked(ram, offset, bytes);
  return at ? (int)GUARDED(copy(out, at, bytes)) : -ERANGE;
}

int tram_ram_write(struct tram_ram *ram, uint64_t offset, const void *in, uint32_t bytes) {
  uint8_t *at = checked(ram, offset, bytes);
  return at ? (int)GUARDED(copy(at, in, bytes)) : -ERANGE;
}

/* --- memory that is a file's, or is filled as it is touched --- */

static int is_whole_pages(uint64_t offset, uint64_t bytes) { return offset % PAGE_BYTES == 0 && bytes % PAGE_BYTES == 0; }

int tram_ram_map_file(struct tram_ram *ram, uint64_t offset, uint64_t bytes, int fd, uint64_t file_offset) {
  uint8_t *at = checked(ram, offset, bytes);
  if (!at || bytes == 0) return -ERANGE;
  if (!is_whole_pages(offset, bytes) || file_offset % PAGE_BYTES) return -EINVAL;
  int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  if (mmap(at, bytes, PROT_READ | PROT_WRITE, flags, fd, (off_t)file_offset) == MAP_FAILED) return -errno;
  (void)madvise(at, bytes, MADV_DONTDUMP);
  return 0;
}

/* Writes what is there, in one step: a guest that runs writes to it, too. */
__attribute__((noinline)) static int touch(uint8_t *at, uint64_t bytes, int own) {
  for (uint64_t done = 0; done < bytes; done += PAGE_BYTES) {
    volatile uint8_t *page = at + done;
    if (own)
      __asm__ volatile("lock orb $0, %0" : "+m"(*page));
    else
      (void)*page;
  }
  return 0;
}

int tram_ram_populate_range(struct tram_ram *ram, uint64_t offset, uint64_t bytes, int own) {
  uint8_t *at = checked(ram, offset, bytes);
  if (!at || !is_whole_pages(offset, bytes)) return -ERANGE;
  if (madvise(at, bytes, own ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return 0;
  if (errno != EINVAL) return -errno;
  return (int)GUARDED(touch(at, bytes, own)); /* a kernel before 5.14; or one of them is forbidden */
}

static int copy_content(uint8_t *to, const uint8_t *from, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes; done += PAGE_BYTES) /* zero is what the copy is already */
    if (!page_is_zero(from + done)) memcpy(to + done, from + done, PAGE_BYTES);
  return 0;
}

int tram_ram_detach(struct tram_ram *ram, uint64_t offset, uint64_t bytes) {
  uint8_t *at = checked(ram, offset, bytes);
  if (!at || bytes == 0 || !is_whole_pages(offset, bytes)) return -ERANGE;
  const uint64_t span = bytes + HUGE_PAGE;
  uint8_t *raw = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return -errno;
  /* As far from a huge page's border as the place it goes to: huge pages are moved whole. */
  uint8_t *made = raw + ((uintptr_t)at - (uintptr_t)raw) % HUGE_PAGE;
  (void)madvise(made, bytes, MADV_HUGEPAGE);
  (void)madvise(made, bytes, MADV_DONTDUMP);
  int result = (int)GUARDED(copy_content(made, at, bytes));
  if (result == 0 && mremap(made, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED) result = -errno;
  if (result < 0) munmap(made, bytes);
  if (made > raw) munmap(raw, (size_t)(made - raw));
  munmap(made + bytes, span - bytes - (size_t)(made - raw));
  return result;
}

int tram_ram_discard(struct tram_ram *ram, uint64_t offset, uint64_t bytes, int is_file) {
  uint8_t *at = checked(ram, offset, bytes);
  if (!at || bytes == 0 || !is_whole_pages(offset, bytes)) return -ERANGE;
  if (!is_file) return madvise(at, bytes, MADV_DONTNEED) < 0 ? -errno : 0;
  /* Of a private mapping that would bring the file's bytes back, which the guest has long forgotten. */
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  if (mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return -errno;
  (void)madvise(at, bytes, MADV_HUGEPAGE);
  (void)madvise(at, bytes, MADV_DONTDUMP);
  return 0;
}

int tram_ram_forbid(struct tram_ram *ram, uint32_t page) {
  uint8_t *at = checked_page(ram, page);
  if (!at) return -ERANGE;
  return mprotect(at, PAGE_BYTES, PROT_NONE) < 0 ? -errno : 0;
}
