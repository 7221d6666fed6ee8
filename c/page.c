/* Whole pages of guest memory, by index. */
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

/* Bun itself needs AVX2, so whoever runs this has it. */
#define WITH_AVX2 __attribute__((target("avx2")))

/* Most pages differ from zero in their first words; only zero pages are read to the end, 128 bytes a step. */
WITH_AVX2 int page_is_zero(const uint8_t *page) {
  const __m256i *at = (const __m256i *)(const void *)page;
  for (unsigned i = 0; i < PAGE_BYTES / 32; i += 4) {
    __m256i ab = _mm256_or_si256(_mm256_loadu_si256(at + i), _mm256_loadu_si256(at + i + 1));
    __m256i cd = _mm256_or_si256(_mm256_loadu_si256(at + i + 2), _mm256_loadu_si256(at + i + 3));
    __m256i any = _mm256_or_si256(ab, cd);
    if (!_mm256_testz_si256(any, any)) return 0;
  }
  return 1;
}

/* Past the cache: a page that arrives is not read again soon, and its old content need not be fetched to be overwritten. */
WITH_AVX2 static void copy_page(uint8_t *to, const uint8_t *from) {
  for (unsigned i = 0; i < PAGE_BYTES; i += 128) {
    __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(from + i));
    __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(from + i + 32));
    __m256i c = _mm256_loadu_si256((const __m256i *)(const void *)(from + i + 64));
    __m256i d = _mm256_loadu_si256((const __m256i *)(const void *)(from + i + 96));
    _mm256_stream_si256((__m256i *)(void *)(to + i), a);
    _mm256_stream_si256((__m256i *)(void *)(to + i + 32), b);
    _mm256_stream_si256((__m256i *)(void *)(to + i + 64), c);
    _mm256_stream_si256((__m256i *)(void *)(to + i + 96), d);
  }
}

/* The scan's cost is the first access to each page: this many are fetched ahead. */
enum { PREFETCH_PAGES = 8, SPLIT_PAGES_MAX = 4096 };

int all_are_pages(const struct tram_ram *ram, const uint32_t *index, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (!checked_page(ram, index[i])) return 0;
  return 1;
}

/* Zero pages become content where they lie between neighbours with content, at most `gap_max` of them. In no stretch are there
 * more of them than of real content before. */
static void close_gaps(const uint32_t *index, uint8_t *is_zero, uint32_t count, uint32_t gap_max) {
  for (uint32_t i = 0, surplus = 0, gap = 0; i < count; i++) {
    if (i && index[i] != index[i - 1] + 1) surplus = gap = 0;
    if (is_zero[i]) {
      gap++;
      continue;
    }
    if (gap > gap_max || gap > surplus) {
      surplus = 0;
    } else {
      memset(is_zero + i - gap, 0, gap);
      surplus -= gap;
    }
    gap = 0;
    surplus++;
  }
}

static int split_zero(const struct tram_ram *ram, uint32_t *index, uint32_t count, uint32_t gap_max) {
  uint32_t zero[SPLIT_PAGES_MAX], zeros = 0, kept = 0;
  uint8_t is_zero[SPLIT_PAGES_MAX];
  for (uint32_t i = 0; i < count; i++) {
    if (i + PREFETCH_PAGES < count) __builtin_prefetch(checked_page(ram, index[i + PREFETCH_PAGES]));
    is_zero[i] = (uint8_t)page_is_zero(checked_page(ram, index[i]));
  }
  if (gap_max) close_gaps(index, is_zero, count, gap_max);
  for (uint32_t i = 0; i < count; i++) {
    if (is_zero[i])
      zero[zeros++] = index[i];
    else
      index[kept++] = index[i];
  }
  memcpy(index + kept, zero, zeros * sizeof *zero);
  return (int)kept;
}

int tram_pages_split_zero(const struct tram_ram *ram, uint32_t *index, uint32_t count, uint32_t gap_max) {
  if (count > SPLIT_PAGES_MAX) return -EINVAL;
  return all_are_pages(ram, index, count) ? (int)GUARDED(split_zero(ram, index, count, gap_max)) : -ERANGE;
}

/* Source: admin-guide/mm/pagemap.rst. The upper two bits of an entry: in memory, or swapped out. */
enum { ENTRIES_MAX = 512, ENTRY_BYTES = 8, PRESENT_SHIFT = 62 };

int tram_pages_split_untouched(const struct tram_ram *ram, int pagemap_fd, uint32_t *index, uint32_t count) {
  uint32_t untouched[SPLIT_PAGES_MAX], absent = 0, kept = 0;
  uint64_t entries[ENTRIES_MAX], first = 0, known = 0;
  if (count > SPLIT_PAGES_MAX) return -EINVAL;
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    if (index[i] < first || index[i] >= first + known) {
      uint64_t left = ram->bytes / PAGE_BYTES - index[i];
      first = index[i];
      known = left < ENTRIES_MAX ? left : ENTRIES_MAX;
      off_t at = (off_t)((uintptr_t)checked_page(ram, index[i]) / PAGE_BYTES * ENTRY_BYTES);
      if (pread(pagemap_fd, entries, known * ENTRY_BYTES, at) != (ssize_t)(known * ENTRY_BYTES)) return -EIO;
    }
    if (entries[index[i] - first] >> PRESENT_SHIFT)
      index[kept++] = index[i];
    else
      untouched[absent++] = index[i];
  }
  memcpy(index + kept, untouched, absent * sizeof *untouched);
  return (int)kept;
}

static int scatter(struct tram_ram *ram, const uint8_t *buffer, const uint32_t *index, const uint32_t *offset, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) copy_page(checked_page(ram, index[i]), buffer + offset[i]);
  _mm_sfence(); /* streaming stores are not ordered with what other threads are told next */
  return 0;
}

int tram_pages_scatter(struct tram_ram *ram, const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index,
                       const uint32_t *offset, uint32_t count) {
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++)
    if (buffer_bytes < PAGE_BYTES || offset[i] > buffer_bytes - PAGE_BYTES) return -ERANGE;
  return (int)GUARDED(scatter(ram, buffer, index, offset, count));
}

static int clear(struct tram_ram *ram, const uint32_t *index, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *page = checked_page(ram, index[i]);
    if (!page_is_zero(page)) memset(page, 0, PAGE_BYTES);
  }
  return 0;
}

int tram_pages_clear(struct tram_ram *ram, const uint32_t *index, uint32_t count) {
  return all_are_pages(ram, index, count) ? (int)GUARDED(clear(ram, index, count)) : -ERANGE;
}

static int64_t gather(const struct tram_ram *ram, const uint8_t *head, uint32_t head_bytes, const uint8_t *words,
                      const uint32_t *index, uint32_t count, uint8_t *out) {
  uint8_t *at = out + head_bytes;
  memcpy(out, head, head_bytes);
  for (uint32_t i = 0; i < count; i++) {
    if (i) {
      memcpy(at, words + (uint64_t)i * 8, 8);
      at += 8;
    }
    memcpy(at, checked_page(ram, index[i]), PAGE_BYTES);
    at += PAGE_BYTES;
  }
  return at - out;
}

int64_t tram_pages_gather(const struct tram_ram *ram, const uint8_t *head, uint32_t head_bytes, const uint8_t *words,
                          const uint32_t *index, uint32_t count, uint8_t *out, uint64_t out_bytes) {
  uint64_t total = head_bytes + (uint64_t)count * PAGE_BYTES + (count ? (uint64_t)(count - 1) * 8 : 0);
  if (total > out_bytes) return -ENOBUFS;
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  return GUARDED(gather(ram, head, head_bytes, words, index, count, out));
}
