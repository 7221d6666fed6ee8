/* Whole pages of guest memory, by index. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "internal.h"
#include "tram.h"

/* Random pages differ from zero in their first words; only zero pages are read to the end. Comparing 64 bytes a step lets
 * the compiler use the widest registers it may. */
int page_is_zero(const uint8_t *page) {
  const uint64_t *word = (const uint64_t *)(const void *)page;
  for (unsigned i = 0; i < PAGE_BYTES / 8; i += 8) {
    if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] | word[i + 6] | word[i + 7])
      return 0;
  }
  return 1;
}

int tram_pages_split_zero(const struct tram_ram *ram, uint32_t *index, uint32_t count) {
  uint32_t zero[4096], zeros = 0, kept = 0;
  if (count > 4096) return -EINVAL;
  for (uint32_t i = 0; i < count; i++)
    if (!checked_page(ram, index[i])) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    if (page_is_zero(checked_page(ram, index[i])))
      zero[zeros++] = index[i];
    else
      index[kept++] = index[i];
  }
  memcpy(index + kept, zero, zeros * sizeof *zero);
  return (int)kept;
}

int tram_pages_scatter(struct tram_ram *ram, const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index,
                       const uint32_t *offset, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (!checked_page(ram, index[i]) || buffer_bytes < PAGE_BYTES || offset[i] > buffer_bytes - PAGE_BYTES)
      return -ERANGE;
  for (uint32_t i = 0; i < count; i++) memcpy(checked_page(ram, index[i]), buffer + offset[i], PAGE_BYTES);
  return 0;
}

int tram_pages_clear(struct tram_ram *ram, const uint32_t *index, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (!checked_page(ram, index[i])) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *page = checked_page(ram, index[i]);
    if (!page_is_zero(page)) memset(page, 0, PAGE_BYTES);
  }
  return 0;
}

int64_t tram_pages_gather(const struct tram_ram *ram, const uint8_t *head, uint32_t head_bytes, const uint8_t *words,
                          const uint32_t *index, uint32_t count, uint8_t *out, uint64_t out_bytes) {
  uint64_t total = head_bytes + (uint64_t)count * PAGE_BYTES + (count ? (uint64_t)(count - 1) * 8 : 0);
  if (total > out_bytes) return -ENOBUFS;
  for (uint32_t i = 0; i < count; i++)
    if (!checked_page(ram, index[i])) return -ERANGE;
  memcpy(out, head, head_bytes);
  uint8_t *at = out + head_bytes;
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
