/* Guest memory that is filled as it is touched: whoever touches a page that is not there waits until it is placed.
 * Source: ioctl_userfaultfd(2), the kernel's Documentation/admin-guide/mm/userfaultfd.rst. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

static int control(int fd, unsigned long request, void *argument) {
  while (ioctl(fd, request, argument) < 0)
    if (errno != EINTR) return -errno;
  return 0;
}

int tram_uffd_begin(int fd, const struct tram_ram *ram) {
  struct uffdio_api api = {.api = UFFD_API};
  struct uffdio_register all = {
      .range = {.start = (uintptr_t)ram->base, .len = ram->bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  int result = control(fd, UFFDIO_API, &api);
  return result < 0 ? result : control(fd, UFFDIO_REGISTER, &all);
}

int tram_uffd_end(int fd, const struct tram_ram *ram) {
  struct uffdio_range all = {.start = (uintptr_t)ram->base, .len = ram->bytes};
  return control(fd, UFFDIO_UNREGISTER, &all);
}

int tram_uffd_wait(int fd, const struct tram_ram *ram, uint32_t *index, uint32_t count, int timeout_ms) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  struct uffd_msg message;
  uint32_t found = 0;
  int ready = poll(&one, 1, timeout_ms);
  if (ready < 0) return errno == EINTR ? 0 : -errno;
  while (ready && found < count) {
    ssize_t got = read(fd, &message, sizeof message);
    if (got < 0 && errno == EAGAIN) break; /* the descriptor never blocks */
    if (got < 0 && errno == EINTR) continue;
    if (got != (ssize_t)sizeof message) return got < 0 ? -errno : -EIO;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    uint64_t offset = message.arg.pagefault.address - (uintptr_t)ram->base;
    if (offset < ram->bytes) index[found++] = (uint32_t)(offset / PAGE_BYTES);
  }
  return (int)found;
}

/* A page that is there already is left as it is: the guest may have written to it since. */
static int place(int fd, uint8_t *at, const uint8_t *from) {
  struct uffdio_copy copy = {.dst = (uintptr_t)at, .src = (uintptr_t)from, .len = PAGE_BYTES};
  struct uffdio_zeropage zero = {.range = {.start = (uintptr_t)at, .len = PAGE_BYTES}};
  for (;;) {
    int result = from ? control(fd, UFFDIO_COPY, &copy) : control(fd, UFFDIO_ZEROPAGE, &zero);
    if (result == -EEXIST) {
      struct uffdio_range range = {.start = (uintptr_t)at, .len = PAGE_BYTES};
      return control(fd, UFFDIO_WAKE, &range); /* who waits for it may have asked just before it came */
    }
    if (result != -EAGAIN) return result;
  }
}

int tram_uffd_place(int fd, struct tram_ram *ram, const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index,
                    const uint32_t *offset, uint32_t count) {
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++)
    if ((uint64_t)offset[i] + PAGE_BYTES > buffer_bytes) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    int result = place(fd, checked_page(ram, index[i]), buffer + offset[i]);
    if (result < 0) return result;
  }
  return 0;
}

int tram_uffd_place_zero(int fd, struct tram_ram *ram, const uint32_t *index, uint32_t count) {
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    int result = place(fd, checked_page(ram, index[i]), NULL);
    if (result < 0) return result;
  }
  return 0;
}

int tram_uffd_wake(int fd, const struct tram_ram *ram, uint32_t page) {
  struct uffdio_range range = {.start = (uintptr_t)checked_page(ram, page), .len = PAGE_BYTES};
  return range.start ? control(fd, UFFDIO_WAKE, &range) : -ERANGE;
}
