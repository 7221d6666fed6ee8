/* Lists of page numbers: out of sets of pages and into them, and as the offsets in a multifd packet's header. */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"
#include "tram.h"

int tram_set_take(uint32_t *words, uint32_t pages, uint32_t from, uint32_t end, uint32_t *index, uint32_t max) {
  uint32_t count = 0;
  if (end > pages || max > INT32_MAX) return -ERANGE;
  for (uint32_t page = from; page < end && count < max;) {
    uint32_t *word = &words[page / WORD_BITS], left = *word >> (page % WORD_BITS);
    if (!left) {
      page += WORD_BITS - page % WORD_BITS;
      continue;
    }
    page += (uint32_t)__builtin_ctz(left);
    if (page >= end) break;
    index[count++] = page;
    *word &= ~bit_of(page++);
  }
  return (int)count;
}

static int all_below(const uint32_t *index, uint32_t count, uint32_t pages) {
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= pages) return 0;
  return 1;
}

int tram_set_add(uint32_t *words, uint32_t pages, const uint32_t *index, uint32_t count) {
  uint32_t added = 0;
  if (!all_below(index, count, pages)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t *word = &words[index[i] / WORD_BITS], bit = bit_of(index[i]);
    if (__atomic_load_n(word, __ATOMIC_RELAXED) & bit) continue;
    added += !(__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST) & bit);
  }
  return (int)added;
}

int tram_set_remove(uint32_t *words, uint32_t pages, const uint32_t *index, uint32_t count, uint32_t *removed) {
  uint32_t found = 0;
  if (!all_below(index, count, pages)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t *word = &words[index[i] / WORD_BITS], bit = bit_of(index[i]);
    if (!(__atomic_load_n(word, __ATOMIC_RELAXED) & bit)) continue;
    if (__atomic_fetch_and(word, ~bit, __ATOMIC_SEQ_CST) & bit) removed[found++] = index[i];
  }
  return (int)found;
}

int tram_offsets_encode(uint8_t *out, const uint32_t *index, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uint64_t offset = htobe64((uint64_t)index[i] * PAGE_BYTES);
    memcpy(out + i * sizeof offset, &offset, sizeof offset);
  }
  return 0;
}

int tram_offsets_decode(const uint8_t *in, uint32_t *index, uint32_t count, uint32_t pages) {
  for (uint32_t i = 0; i < count; i++) {
    uint64_t offset;
    memcpy(&offset, in + i * sizeof offset, sizeof offset);
    offset = be64toh(offset);
    if (offset % PAGE_BYTES || offset / PAGE_BYTES >= pages) return (int)i;
    index[i] = (uint32_t)(offset / PAGE_BYTES);
  }
  return (int)count;
}
