/* Shared by the C files only. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <errno.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tram.h"

#define PAGE_BYTES 4096u

struct tram_ram {
  uint8_t *base;
  uint64_t bytes;
};

/* The checked door: NULL unless [offset, offset + bytes) lies in the guest's memory. */
static inline uint8_t *checked(const struct tram_ram *ram, uint64_t offset, uint64_t bytes) {
  if (!ram || bytes > ram->bytes || offset > ram->bytes - bytes) return NULL;
  return ram->base + offset;
}

static inline uint8_t *checked_page(const struct tram_ram *ram, uint32_t index) {
  return checked(ram, (uint64_t)index * PAGE_BYTES, PAGE_BYTES);
}

/* Sets of pages: page i is bit i % 32 of word i / 32. */
enum { WORD_BITS = 32 };
static inline uint32_t bit_of(uint64_t page) { return UINT32_C(1) << (page % WORD_BITS); }

/* net.c: what all waiting calls share. */
enum { WAIT_SLICE_MS = 20 };
int stopped(const int32_t *stop);
int64_t now_ms(void);
/* What is left of *iov behind n bytes; returns how many iovecs, and *iov the first of them. */
unsigned advance(struct iovec **iov, unsigned count, size_t n);
/* One read of at least one byte into iov[0, count), which waits: the bytes, 0 at the end, or -errno. */
int64_t receive_some(int fd, const struct iovec *iov, unsigned count, int timeout_ms, const int32_t *stop);

struct tram_marks {
  uint32_t pages, words[];
};
/* After the bytes that it tells of: what is taken between the two comes again, and has them. */
void mark(struct tram_marks *marks, uint32_t page);

int page_is_zero(const uint8_t *page);
int all_are_pages(const struct tram_ram *ram, const uint32_t *index, uint32_t count);

enum { CHANNEL_WINDOW = 1024 /* sends whose pages the kernel may hold at once: a power of two */ };

struct tram_channel {
  int fd, is_socket, waits_inside, timeout_ms, hung_up;
  /* Sends with MSG_ZEROCOPY so far, and of these the ones that the kernel is done with. A send's number in the kernel's
   * messages is the low half of its number here. */
  uint64_t sends, completed;
  uint32_t bytes_of[CHANNEL_WINDOW];
  struct tram_channel_counts counts;
};

/* The kernel is done with the sends of these numbers, first to last; the numbers wrap. */
void channel_complete(struct tram_channel *channel, uint32_t first, uint32_t last, int copied);

/* The result of `call`, which touches guest memory; -EFAULT where that cannot be read (guard.c). `call` holds nothing that
 * would have to be given back. The fences keep it inside: a compiler sees no connection between the guard and plain words
 * that are read, and would drop the one or move the others. Initial-exec, because a signal handler must not allocate. */
extern __thread sigjmp_buf *guard_point __attribute__((tls_model("initial-exec")));
#define GUARDED(call)                            \
  __extension__({                                \
    sigjmp_buf point_, *const outer_ = guard_point; \
    int64_t result_;                             \
    if (sigsetjmp(point_, 0)) {                  \
      result_ = -EFAULT;                         \
    } else {                                     \
      guard_point = &point_;                     \
      __atomic_signal_fence(__ATOMIC_SEQ_CST);   \
      result_ = (call);                          \
      __atomic_signal_fence(__ATOMIC_SEQ_CST);   \
    }                                            \
    guard_point = outer_;                        \
    result_;                                     \
  })

#endif
