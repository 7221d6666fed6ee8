/* look.c: pages whose entropy is known without computing it, and differences counted a byte at a time. Against a twin that computes
 * entropies as a book has them it is held in test/unit/look.test.ts. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 8, BYTES = PAGES * PAGE_BYTES, UNTOUCHED = 0x5a };

static int look_of(const uint8_t *page) {
  uint8_t looks[3] = {UNTOUCHED, UNTOUCHED, UNTOUCHED};
  if (tram_look_pages(page, PAGE_BYTES, (uint32_t[]){1}, (uint32_t[]){0}, 1, looks, 3) < 0) return -1;
  return looks[0] == UNTOUCHED && looks[2] == UNTOUCHED ? looks[1] : -2;
}

static void fill_page(uint8_t *page, unsigned values) {
  for (unsigned i = 0; i < PAGE_BYTES; i++) page[i] = (uint8_t)(1 + (i * 7 + i / 256) % values);
}

static void known_pages_have_their_entropy(void) {
  uint8_t page[PAGE_BYTES] = {0};
  CHECK_EQ(look_of(page), TRAM_LOOK_ZERO);
  page[PAGE_BYTES - 1] = 1; /* in no sample */
  CHECK_EQ(look_of(page), TRAM_LOOK_DATA);
  memset(page, 0xff, sizeof page);
  CHECK_EQ(look_of(page), TRAM_LOOK_DATA);
  for (unsigned bits = 1; bits <= 8; bits++) { /* 2^bits values, as often as each other */
    test_where = bits;
    fill_page(page, 1u << bits);
    const int expected = TRAM_LOOK_DATA + (int)bits * TRAM_LOOK_BIT;
    const int off = look_of(page) - expected; /* what a sample is thought to miss: 0.18 bits at most */
    CHECK(bits == 8 ? off == 0 : off >= 0 && off <= 3);
  }
  uint32_t state = 9;
  for (unsigned i = 0; i < sizeof page; i++) page[i] = (uint8_t)next_random(&state);
  CHECK(look_of(page) >= TRAM_LOOK_DATA + 8 * TRAM_LOOK_BIT - 2);
}

static void looks_come_to_stand_at_their_pages(void) {
  enum { BUFFER = PAGES * PAGE_BYTES + 64 };
  uint8_t *buffer = malloc(BUFFER), looks[PAGES];
  uint32_t state = 3;
  for (unsigned i = 0; i < BUFFER; i++) buffer[i] = (uint8_t)(next_random(&state) % (1 + i / 1000));
  static const uint32_t index[] = {5, 0, PAGES - 1, 2}, offset[] = {0, 4097, BUFFER - PAGE_BYTES, 63};
  memset(looks, UNTOUCHED, sizeof looks);
  CHECK_EQ(tram_look_pages(buffer, BUFFER, index, offset, 4, looks, PAGES), 0);
  for (unsigned page = 0; page < PAGES; page++) {
    int expected = UNTOUCHED;
    for (unsigned i = 0; i < 4; i++)
      if (index[i] == page) expected = look_of(buffer + offset[i]);
    test_where = page;
    CHECK_EQ(looks[page], expected);
  }
  free(buffer);
}

static void all_is_checked_before_anything_is_written(void) {
  static const struct {
    uint64_t pages, buffer_bytes;
    uint32_t index, offset;
  } rows[] = {
      {PAGES, BYTES, PAGES, 0},          {PAGES, BYTES, UINT32_MAX, 0},          {0, BYTES, 0, 0},
      {PAGES, BYTES, 2, UINT32_MAX},     {PAGES, BYTES, 2, BYTES - PAGE_BYTES + 1}, {PAGES, PAGE_BYTES - 1, 2, 0},
      {PAGES, BYTES, 2, 0xfffff000u}, /* with a page behind it, 2^32 */
  };
  uint8_t *buffer = malloc(BYTES), looks[PAGES];
  memset(buffer, 1, BYTES);
  for (unsigned row = 0; row < sizeof rows / sizeof *rows; row++) {
    test_where = row;
    memset(looks, UNTOUCHED, sizeof looks);
    const uint32_t index[] = {0, rows[row].index}, offset[] = {0, rows[row].offset};
    CHECK_EQ(tram_look_pages(buffer, rows[row].buffer_bytes, index, offset, 2, looks, rows[row].pages), -ERANGE);
    for (unsigned page = 0; page < PAGES; page++) CHECK_EQ(looks[page], UNTOUCHED);
  }
  CHECK_EQ(tram_look_pages(NULL, 0, NULL, NULL, 0, NULL, 0), 0);
  free(buffer);
}

static void changes_are_counted(void) {
  uint8_t *a = calloc(PAGES, PAGE_BYTES), *b = calloc(PAGES, PAGE_BYTES);
  uint32_t state = 17;
  for (unsigned round = 0; round < 300; round++) {
    test_where = round;
    for (unsigned page = 0; page < PAGES; page++) {
      uint8_t *at[] = {a + page * PAGE_BYTES, b + page * PAGE_BYTES};
      const int zero = (int)(next_random(&state) % 4); /* bit 0: the first one; bit 1: the second */
      for (unsigned i = 0; i < PAGE_BYTES; i++) at[0][i] = at[1][i] = (uint8_t)next_random(&state);
      for (uint32_t n = next_random(&state) % 3 * (next_random(&state) % 5000); n; n--)
        at[1][next_random(&state) % PAGE_BYTES] = (uint8_t)next_random(&state);
      for (int side = 0; side < 2; side++)
        if (zero >> side & 1) memset(at[side], 0, PAGE_BYTES);
    }
    uint16_t changes[PAGES + 1];
    changes[PAGES] = UNTOUCHED;
    CHECK_EQ(tram_look_changes(a, b, PAGES, changes), 0);
    CHECK_EQ(changes[PAGES], UNTOUCHED);
    for (unsigned page = 0; page < PAGES; page++) {
      unsigned differing = 0, any[2] = {0, 0};
      for (unsigned i = page * PAGE_BYTES; i < (page + 1) * PAGE_BYTES; i++)
        differing += a[i] != b[i], any[0] |= a[i], any[1] |= b[i];
      CHECK_EQ(changes[page], differing | (any[0] ? 0 : TRAM_ZERO_BEFORE) | (any[1] ? 0 : TRAM_ZERO_AFTER));
    }
  }
  CHECK_EQ(tram_look_changes(NULL, NULL, 0, NULL), 0);
  free(a);
  free(b);
}

const struct test look_tests[] = {
    {"look: pages of so many different bytes have that entropy", known_pages_have_their_entropy},
    {"look: each page's look comes to stand at its place, and nothing else is written", looks_come_to_stand_at_their_pages},
    {"look: everything is checked before anything is written", all_is_checked_before_anything_is_written},
    {"look: differing bytes are counted, and zero pages seen", changes_are_counted},
    {0},
};
