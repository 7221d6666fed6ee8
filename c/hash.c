/* XXH3-64 of pages and of runs of bytes. It finds accidents, not forgers. */
#pragma GCC target("avx2") /* Bun itself needs it, so whoever runs this has it */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR 2 /* AVX2 */
#include <xxhash.h>

#include "internal.h"
#include "tram.h"

static int hash_ram(const struct tram_ram *ram, const uint32_t *index, uint32_t count, uint64_t *table) {
  for (uint32_t i = 0; i < count; i++) table[index[i]] = XXH3_64bits(checked_page(ram, index[i]), PAGE_BYTES);
  return 0;
}

static int differing_ram(const struct tram_ram *ram, const uint32_t *index, uint32_t count, const uint64_t *table, uint32_t *bad) {
  int found = 0;
  for (uint32_t i = 0; i < count; i++)
    if (table[index[i]] != XXH3_64bits(checked_page(ram, index[i]), PAGE_BYTES)) bad[found++] = index[i];
  return found;
}

static int are_below(const uint32_t *index, uint32_t count, uint64_t pages) {
  for (uint32_t i = 0; i < count; i++)
    if (index[i] >= pages) return 0;
  return 1;
}

int tram_hash_ram(const struct tram_ram *ram, const uint32_t *index, uint32_t count, uint64_t *table, uint64_t pages) {
  if (!all_are_pages(ram, index, count) || !are_below(index, count, pages)) return -ERANGE;
  return (int)GUARDED(hash_ram(ram, index, count, table));
}

int tram_hash_differing_ram(const struct tram_ram *ram, const uint32_t *index, uint32_t count, const uint64_t *table,
                            uint64_t pages, uint32_t *bad) {
  if (!all_are_pages(ram, index, count) || !are_below(index, count, pages)) return -ERANGE;
  return (int)GUARDED(differing_ram(ram, index, count, table, bad));
}

static int lie_in(const uint32_t *offset, uint32_t count, uint64_t buffer_bytes) {
  for (uint32_t i = 0; i < count; i++)
    if ((uint64_t)offset[i] + PAGE_BYTES > buffer_bytes) return 0;
  return 1;
}

int tram_hash_pages(const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset,
                    uint32_t count, uint64_t *table, uint64_t pages) {
  if (!lie_in(offset, count, buffer_bytes) || !are_below(index, count, pages)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) table[index[i]] = XXH3_64bits(buffer + offset[i], PAGE_BYTES);
  return 0;
}

int tram_hash_differing(const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset,
                        uint32_t count, const uint64_t *table, uint64_t pages, uint32_t *bad) {
  int found = 0;
  if (!lie_in(offset, count, buffer_bytes) || !are_below(index, count, pages)) return -ERANGE;
  for (uint32_t i = 0; i < count; i++)
    if (table[index[i]] != XXH3_64bits(buffer + offset[i], PAGE_BYTES)) bad[found++] = index[i];
  return found;
}

/* A struct tram_hash is XXH3's own state. */
static XXH3_state_t *state_of(struct tram_hash *hash) { return (XXH3_state_t *)(void *)hash; }

int64_t tram_hash_open(void) {
  XXH3_state_t *state = XXH3_createState();
  if (!state) return -ENOMEM;
  XXH3_64bits_reset(state);
  return (int64_t)(uintptr_t)state;
}

int tram_hash_update(struct tram_hash *hash, const void *data, uint64_t bytes) {
  return XXH3_64bits_update(state_of(hash), data, bytes) == XXH_OK ? 0 : -EINVAL;
}

int tram_hash_close(struct tram_hash *hash, uint64_t *out) {
  *out = XXH3_64bits_digest(state_of(hash));
  XXH3_freeState(state_of(hash));
  return 0;
}
