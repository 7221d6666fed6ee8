/* Sets of pages that live as long as their guest: any thread of the process may add to one, and look at it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "tram.h"

static uint32_t words_of(uint32_t pages) { return pages / WORD_BITS + 1; }

int64_t tram_marks_create(uint32_t pages) {
  struct tram_marks *marks = calloc(1, sizeof *marks + words_of(pages) * sizeof *marks->words);
  if (!marks) return -ENOMEM;
  marks->pages = pages;
  return (int64_t)(uintptr_t)marks;
}

/* Always as one locked step: a look whether it is set already could come before the bytes that it tells of are seen by others. */
void mark(struct tram_marks *marks, uint32_t page) {
  if (page < marks->pages) __atomic_fetch_or(&marks->words[page / WORD_BITS], bit_of(page), __ATOMIC_SEQ_CST);
}

static int is_range(const struct tram_marks *marks, uint32_t first, uint32_t count) {
  return marks && count <= marks->pages && first <= marks->pages - count;
}

/* The bits of word i that lie in [first, end). */
static uint32_t bits_in(uint32_t i, uint64_t first, uint64_t end) {
  uint64_t from = (uint64_t)i * WORD_BITS, to = from + WORD_BITS;
  uint32_t low = first > from ? UINT32_MAX << (first - from) : UINT32_MAX;
  return end < to ? low & (UINT32_MAX >> (to - end)) : low;
}

static int change(struct tram_marks *marks, uint32_t first, uint32_t count, int add) {
  uint64_t end = (uint64_t)first + count;
  if (!is_range(marks, first, count)) return -ERANGE;
  for (uint32_t i = first / WORD_BITS; (uint64_t)i * WORD_BITS < end; i++) {
    if (add)
      __atomic_fetch_or(&marks->words[i], bits_in(i, first, end), __ATOMIC_SEQ_CST);
    else
      __atomic_fetch_and(&marks->words[i], ~bits_in(i, first, end), __ATOMIC_SEQ_CST);
  }
  return 0;
}

int tram_marks_add(struct tram_marks *marks, uint32_t first, uint32_t count) { return change(marks, first, count, 1); }

int tram_marks_remove(struct tram_marks *marks, uint32_t first, uint32_t count) { return change(marks, first, count, 0); }

int tram_marks_take(struct tram_marks *marks, uint32_t *words, uint32_t pages) {
  if (pages != marks->pages) return -ERANGE;
  for (uint32_t i = 0; (uint64_t)i * WORD_BITS < pages; i++)
    if (marks->words[i]) words[i] |= __atomic_exchange_n(&marks->words[i], 0, __ATOMIC_SEQ_CST);
  return 0;
}

int tram_marks_read(const struct tram_marks *marks, uint32_t first, uint32_t count, uint32_t *words) {
  uint64_t end = (uint64_t)first + count;
  int found = 0;
  if (!is_range(marks, first, count) || first % WORD_BITS) return -ERANGE;
  for (uint32_t i = first / WORD_BITS; (uint64_t)i * WORD_BITS < end; i++) {
    uint32_t word = __atomic_load_n(&marks->words[i], __ATOMIC_SEQ_CST) & bits_in(i, first, end);
    words[i - first / WORD_BITS] = word;
    found += __builtin_popcount(word);
  }
  return found;
}

int tram_marks_split(const struct tram_marks *marks, uint32_t *index, uint32_t count) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= marks->pages) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t page = index[i];
    if (__atomic_load_n(&marks->words[page / WORD_BITS], __ATOMIC_RELAXED) & bit_of(page)) continue;
    index[i] = index[kept];
    index[kept++] = page;
  }
  return (int)kept;
}
