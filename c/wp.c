/* Which pages of memory this process has written to: for guests that no KVM tracks. Pages are write-protected by a userfaultfd;
 * the kernel notes writes by itself, where it can (PAGEMAP_SCAN, Linux 6.7), or somebody is told of each page's first one.
 * Source: the kernel's Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

/* Of <linux/fs.h> and <linux/userfaultfd.h>, which older distributions have without these. */
struct scan { /* struct pm_scan_arg */
  uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages;
  uint64_t inverted, mask, any_of, wanted;
};
struct region { /* struct page_region */
  uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan)
enum { SCAN_PROTECT = 1, SCAN_CHECK_ASYNC = 2, PAGE_WRITTEN = 2, REGIONS = 512 };
#define FEATURE_WP_ASYNC (UINT64_C(1) << 15)
#define USER_MODE_ONLY 1

static int control(int fd, unsigned long request, void *argument) {
  while (ioctl(fd, request, argument) < 0)
    if (errno != EINTR && errno != EAGAIN) return -errno;
  return 0;
}

int tram_wp_open(int async) {
  struct uffdio_api api = {.api = UFFD_API, .features = async ? FEATURE_WP_ASYNC : UFFD_FEATURE_PAGEFAULT_FLAG_WP};
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
  if (fd < 0) return -errno;
  int result = control(fd, UFFDIO_API, &api);
  if (result == 0) return fd;
  close(fd);
  return result;
}

int tram_wp_begin(int fd, const struct tram_ram *ram) {
  struct uffdio_register all = {.range = {.start = (uintptr_t)ram->base, .len = ram->bytes}, .mode = UFFDIO_REGISTER_MODE_WP};
  return control(fd, UFFDIO_REGISTER, &all);
}

int tram_wp_protect(int fd, const struct tram_ram *ram, uint32_t first, uint32_t pages, int on) {
  uint8_t *at = checked(ram, (uint64_t)first * PAGE_BYTES, (uint64_t)pages * PAGE_BYTES);
  if (!at) return -ERANGE;
  struct uffdio_writeprotect range = {
      .range = {.start = (uintptr_t)at, .len = (uint64_t)pages * PAGE_BYTES},
      .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
  };
  return control(fd, UFFDIO_WRITEPROTECT, &range);
}

static void add(uint32_t *words, uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end; page++) words[page / WORD_BITS] |= bit_of(page);
}

int tram_wp_scan(int pagemap_fd, const struct tram_ram *ram, uint32_t *words, uint32_t pages) {
  const uint64_t base = (uintptr_t)ram->base, end = base + ram->bytes;
  struct region regions[REGIONS];
  if (pages != ram->bytes / PAGE_BYTES) return -ERANGE;
  for (uint64_t at = base; at < end;) {
    struct scan one = {.size = sizeof one, .flags = SCAN_PROTECT | SCAN_CHECK_ASYNC, .start = at, .end = end,
                       .regions = (uintptr_t)regions, .region_count = REGIONS, .mask = PAGE_WRITTEN, .wanted = PAGE_WRITTEN};
    int count = ioctl(pagemap_fd, SCAN, &one);
    if (count < 0) return -errno; /* nothing was taken that is not in regions[] */
    for (int i = 0; i < count; i++) add(words, (regions[i].start - base) / PAGE_BYTES, (regions[i].end - base) / PAGE_BYTES);
    at = one.walk_end;
  }
  return 0;
}
