/* hash.c, against the same hash computed without vector instructions and the values that xxHash itself publishes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR
#include <xxhash.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 16, BYTES = PAGES * PAGE_BYTES };
#define UNTOUCHED 0x5555aaaa3333ccccull

static uint8_t *random_bytes(uint64_t bytes, uint32_t seed) {
  uint8_t *out = malloc(bytes);
  uint32_t state = seed;
  for (uint64_t i = 0; i < bytes; i++) out[i] = (uint8_t)next_random(&state);
  return out;
}

static uint64_t hash_of_page(const uint8_t *page) { return XXH3_64bits(page, PAGE_BYTES); }

static struct tram_hash *opened(void) { return (struct tram_hash *)(uintptr_t)tram_hash_open(); }

static uint64_t hash_of(const void *data, uint64_t bytes) {
  struct tram_hash *hash = opened();
  uint64_t out = 0;
  if (tram_hash_update(hash, data, bytes) < 0) abort();
  tram_hash_close(hash, &out);
  return out;
}

/* From xxHash's own sanity check, seed 0: one for each way in which it treats short, middling and long input. */
static const struct {
  uint32_t bytes;
  uint64_t hash;
} published[] = {
    {0, 0x2d06800538d394c2},   {1, 0xc44bdff4074eecdb},   {6, 0x27b56a84cd2d7325},    {12, 0xa713daf0dfbb77e7},
    {24, 0xa3fe70bf9d3510eb},  {48, 0x397da259ecba1f11},  {80, 0xbcdefbbb2c47c90a},   {195, 0xcd94217ee362ec3a},
    {403, 0xcdeb804d65c6dea4}, {512, 0x617e49599013cb6b}, {2048, 0xdd59e2c3a5f038e0}, {2240, 0x6e73a90539cf2948},
    {2367, 0xcb37aeb9e5d361ed},
};

static void published_values_come_out(void) {
  uint8_t bytes[2367];
  uint64_t generator = 2654435761u;
  for (unsigned i = 0; i < sizeof bytes; i++, generator *= 11400714785074694797ull) bytes[i] = (uint8_t)(generator >> 56);
  for (unsigned i = 0; i < sizeof published / sizeof *published; i++) {
    test_where = published[i].bytes;
    CHECK(XXH3_64bits(bytes, published[i].bytes) == published[i].hash); /* what the other tests compare with is right */
    CHECK(hash_of(bytes, published[i].bytes) == published[i].hash);
  }
}

/* The table is by page index, and only the entries that were asked for are written. */
static void pages_have_their_hashes(void) {
  enum { BUFFER = PAGES * PAGE_BYTES + 64 };
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t *content = random_bytes(BYTES, 11), *buffer = random_bytes(BUFFER, 12);
  memset(content + 3 * PAGE_BYTES, 0, PAGE_BYTES);
  memset(content + 4 * PAGE_BYTES, 0xff, PAGE_BYTES);
  CHECK_EQ(tram_ram_write(ram, 0, content, BYTES), 0);
  static const struct {
    uint32_t count, index[6], offset[6];
  } rows[] = {{0, {0}, {0}},
              {1, {0}, {0}},
              {1, {PAGES - 1}, {BUFFER - PAGE_BYTES}},
              {6, {3, 4, 5, 1, 15, 3}, {0, 1, 2, 3, 4097, 63}},
              {4, {9, 8, 7, 6}, {5, 5, 5, 5}}};
  for (unsigned row = 0; row < sizeof rows / sizeof *rows; row++) {
    test_where = row;
    uint64_t of_ram[PAGES], of_buffer[PAGES], expected_ram[PAGES], expected_buffer[PAGES];
    for (unsigned i = 0; i < PAGES; i++) of_ram[i] = of_buffer[i] = expected_ram[i] = expected_buffer[i] = UNTOUCHED;
    for (uint32_t i = 0; i < rows[row].count; i++) {
      const uint32_t page = rows[row].index[i];
      expected_ram[page] = hash_of_page(content + (uint64_t)page * PAGE_BYTES);
      expected_buffer[page] = hash_of_page(buffer + rows[row].offset[i]);
    }
    CHECK_EQ(tram_hash_ram(ram, rows[row].index, rows[row].count, of_ram, PAGES), 0);
    CHECK(memcmp(of_ram, expected_ram, sizeof of_ram) == 0);
    CHECK_EQ(tram_hash_pages(buffer, BUFFER, rows[row].index, rows[row].offset, rows[row].count, of_buffer, PAGES), 0);
    CHECK(memcmp(of_buffer, expected_buffer, sizeof of_buffer) == 0);
  }
  free(content);
  free(buffer);
  tram_ram_destroy(ram);
}

static void differing_pages_are_named(void) {
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t *content = random_bytes(BYTES, 21);
  uint32_t all[PAGES], offset[PAGES], bad[PAGES + 1], state = 5;
  uint64_t table[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) {
    all[i] = (i * 7 + 3) % PAGES; /* every page once, in no order */
    offset[i] = all[i] * PAGE_BYTES;
  }
  CHECK_EQ(tram_ram_write(ram, 0, content, BYTES), 0);
  CHECK_EQ(tram_hash_ram(ram, all, PAGES, table, PAGES), 0);
  CHECK_EQ(tram_hash_differing_ram(ram, all, PAGES, table, PAGES, bad), 0);
  CHECK_EQ(tram_hash_differing(content, BYTES, all, offset, PAGES, table, PAGES, bad), 0);
  for (unsigned round = 0; round < 400; round++) {
    test_where = round;
    /* One bit each in some pages, or one in the table: a page is named either way, in the order of the list. */
    uint32_t damaged[PAGES] = {0}, expected[PAGES], found = 0;
    for (uint32_t i = round % 5; i; i--) {
      const uint32_t page = next_random(&state) % PAGES, at = next_random(&state) % PAGE_BYTES;
      if (damaged[page]++ == 0) content[page * PAGE_BYTES + at] ^= (uint8_t)(1 << next_random(&state) % 8);
    }
    const uint32_t torn = next_random(&state) % PAGES;
    const uint64_t kept = table[torn], torn_bit = round % 3 == 0 ? (uint64_t)1 << next_random(&state) % 64 : 0;
    table[torn] ^= torn_bit;
    for (uint32_t i = 0; i < PAGES; i++)
      if (damaged[all[i]] || (torn_bit && all[i] == torn)) expected[found++] = all[i];
    CHECK_EQ(tram_ram_write(ram, 0, content, BYTES), 0);
    memset(bad, 0xee, sizeof bad);
    CHECK_EQ(tram_hash_differing_ram(ram, all, PAGES, table, PAGES, bad), found);
    CHECK(memcmp(bad, expected, found * sizeof *bad) == 0);
    for (uint32_t i = found; i <= PAGES; i++) CHECK(bad[i] == 0xeeeeeeee);
    memset(bad, 0xee, sizeof bad);
    CHECK_EQ(tram_hash_differing(content, BYTES, all, offset, PAGES, table, PAGES, bad), found);
    CHECK(memcmp(bad, expected, found * sizeof *bad) == 0);
    for (uint32_t i = found; i <= PAGES; i++) CHECK(bad[i] == 0xeeeeeeee);
    table[torn] = kept;
    for (uint32_t page = 0; page < PAGES; page++)
      if (damaged[page]) table[page] = hash_of_page(content + page * PAGE_BYTES);
  }
  const uint32_t twice[] = {2, 2};
  table[2]++;
  CHECK_EQ(tram_hash_differing_ram(ram, twice, 2, table, PAGES, bad), 2);
  CHECK_EQ(tram_hash_differing_ram(ram, twice, 0, table, PAGES, bad), 0);
  free(content);
  tram_ram_destroy(ram);
}

static void all_is_checked_before_the_table_is_written(void) {
  static const struct {
    uint64_t pages, buffer_bytes;
    uint32_t index, offset;
    int ram_too; /* what is wrong concerns guest memory as well */
  } rows[] = {
      {PAGES, BYTES, PAGES, 0, 1},
      {PAGES, BYTES, UINT32_MAX, 0, 1},
      {4, BYTES, 4, 0, 1}, /* guest memory has it, the table has not */
      {0, BYTES, 0, 0, 1},
      {UINT64_MAX, BYTES, PAGES, BYTES - PAGE_BYTES + 1, 1}, /* the table has it, guest memory has not */
      {PAGES, BYTES, 2, BYTES - PAGE_BYTES + 1, 0},
      {PAGES, BYTES, 2, UINT32_MAX, 0},
      {PAGES, BYTES, 2, 0xfffff000u, 0}, /* with a page behind it, 2^32 */
      {PAGES, PAGE_BYTES - 1, 2, 0, 0},
      {PAGES, 0, 2, 0, 0},
  };
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t *buffer = random_bytes(BYTES, 31);
  CHECK_EQ(tram_ram_write(ram, 0, buffer, BYTES), 0);
  for (unsigned row = 0; row < sizeof rows / sizeof *rows; row++) {
    test_where = row;
    uint64_t table[PAGES];
    uint32_t bad[PAGES], index[] = {0, 1, rows[row].index}, offset[] = {0, 0, rows[row].offset};
    for (unsigned i = 0; i < PAGES; i++) table[i] = UNTOUCHED, bad[i] = 0xeeeeeeee;
    CHECK_EQ(tram_hash_pages(buffer, rows[row].buffer_bytes, index, offset, 3, table, rows[row].pages), -ERANGE);
    CHECK_EQ(tram_hash_differing(buffer, rows[row].buffer_bytes, index, offset, 3, table, rows[row].pages, bad), -ERANGE);
    if (rows[row].ram_too) {
      CHECK_EQ(tram_hash_ram(ram, index, 3, table, rows[row].pages), -ERANGE);
      CHECK_EQ(tram_hash_differing_ram(ram, index, 3, table, rows[row].pages, bad), -ERANGE);
    }
    for (unsigned i = 0; i < PAGES; i++) CHECK(table[i] == UNTOUCHED && bad[i] == 0xeeeeeeee);
    /* It was the last one only: the two before it are hashed, and named. */
    if (rows[row].pages >= 2 && rows[row].buffer_bytes == BYTES) {
      CHECK_EQ(tram_hash_differing(buffer, BYTES, index, offset, 2, table, rows[row].pages, bad), 2);
      CHECK_EQ(tram_hash_ram(ram, index, 2, table, rows[row].pages), 0);
      CHECK(table[0] == hash_of_page(buffer) && table[1] == hash_of_page(buffer + PAGE_BYTES) && table[2] == UNTOUCHED);
    }
  }
  CHECK_EQ(tram_hash_ram(NULL, (uint32_t[]){0}, 1, (uint64_t[]){0}, 1), -ERANGE);
  free(buffer);
  tram_ram_destroy(ram);
}

/* Two handles at once, each given its bytes in pieces of any length, some of them empty. */
static void pieces_make_the_same_hash(void) {
  enum { MOST = 300000 };
  uint8_t *bytes = random_bytes(MOST, 41);
  uint32_t state = 77;
  for (unsigned round = 0; round < 300; round++) {
    test_where = round;
    const uint32_t total = round < 100 ? round * 13 : next_random(&state) % MOST;
    const uint32_t longest = round % 3 == 0 ? 7 : round % 3 == 1 ? 5000 : MOST;
    struct tram_hash *one = opened(), *other = opened();
    uint32_t other_at = 0;
    for (uint32_t at = 0; at < total;) {
      uint32_t piece = next_random(&state) % (longest + 1);
      if (piece > total - at) piece = total - at;
      CHECK_EQ(tram_hash_update(one, bytes + at, piece), 0);
      at += piece;
      uint32_t step = next_random(&state) % 100;
      if (step > total - other_at) step = total - other_at;
      CHECK_EQ(tram_hash_update(other, bytes + other_at, step), 0);
      other_at += step;
    }
    uint64_t found = 0, others = 0;
    CHECK_EQ(tram_hash_close(one, &found), 0);
    CHECK_EQ(tram_hash_close(other, &others), 0);
    CHECK(found == XXH3_64bits(bytes, total));
    CHECK(others == XXH3_64bits(bytes, other_at));
    CHECK(found == hash_of(bytes, total));
  }
  /* And a page's hash is the same, whichever of the three ways it was made. */
  uint64_t table[1];
  CHECK_EQ(tram_hash_pages(bytes, MOST, (uint32_t[]){0}, (uint32_t[]){1234}, 1, table, 1), 0);
  CHECK(table[0] == hash_of(bytes + 1234, PAGE_BYTES) && table[0] == hash_of_page(bytes + 1234));
  free(bytes);
}

const struct test hash_tests[] = {
    {"hash: the values that xxHash publishes come out", published_values_come_out},
    {"hash: each page's hash comes to stand at its place, and nothing else is written", pages_have_their_hashes},
    {"hash: exactly the pages that differ are named, in order", differing_pages_are_named},
    {"hash: everything is checked before the table is written", all_is_checked_before_the_table_is_written},
    {"hash: bytes have the same hash however they are cut", pieces_make_the_same_hash},
    {0},
};
