/* ram.c and page.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 16, BYTES = PAGES * PAGE_BYTES };

static void fill(uint8_t *out, uint64_t bytes, uint32_t seed) {
  uint32_t state = seed;
  for (uint64_t i = 0; i < bytes; i++) out[i] = (uint8_t)next_random(&state);
}

static void create_refuses_sizes(void) {
  static const uint64_t bad[] = {0, 1, PAGE_BYTES - 1, PAGE_BYTES + 1, ((uint64_t)1 << 44) + PAGE_BYTES, UINT64_MAX};
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    test_where = i;
    CHECK_EQ(tram_ram_create(bad[i]), -EINVAL);
  }
  CHECK_EQ(tram_ram_destroy(NULL), -EINVAL);
}

static void create_gives_aligned_zeros(void) {
  static const uint64_t sizes[] = {PAGE_BYTES, 2 << 20, (2 << 20) + PAGE_BYTES, 5 << 20};
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    test_where = i;
    struct tram_ram *ram = as_ram(tram_ram_create(sizes[i]));
    int64_t host = tram_ram_host(ram, 0, sizes[i]);
    CHECK(host > 0);
    CHECK_EQ(host % (2 << 20), 0);
    CHECK_EQ(tram_ram_populate(ram), 0);
    for (uint64_t at = 0; at < sizes[i]; at += PAGE_BYTES) CHECK(page_is_zero((const uint8_t *)(uintptr_t)host + at));
    CHECK_EQ(tram_ram_destroy(ram), 0);
  }
}

static void read_is_what_was_written(void) {
  static const struct {
    uint64_t offset;
    uint32_t bytes;
  } rows[] = {{0, 1}, {0, BYTES}, {4095, 2}, {BYTES - 1, 1}, {12345, 6789}, {BYTES, 0}, {0, 0}};
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t *in = malloc(BYTES), *out = malloc(BYTES);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    fill(in, BYTES, i + 1);
    memset(out, 0, BYTES);
    CHECK_EQ(tram_ram_write(ram, rows[i].offset, in, rows[i].bytes), 0);
    CHECK_EQ(tram_ram_read(ram, rows[i].offset, out, rows[i].bytes), 0);
    CHECK(memcmp(in, out, rows[i].bytes) == 0);
  }
  free(in);
  free(out);
  tram_ram_destroy(ram);
}

static void bounds_are_exact(void) {
  static const struct {
    uint64_t offset;
    uint32_t bytes;
  } rows[] = {{BYTES, 1},          {BYTES - 1, 2},        {0, BYTES + 1},      {BYTES + 1, 0},
              {UINT64_MAX, 1},     {UINT64_MAX - 3, 8},   {UINT64_MAX, 0},     {(uint64_t)1 << 63, PAGE_BYTES},
              {0, UINT32_MAX},     {BYTES, UINT32_MAX}};
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t some[8] = {0};
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    CHECK_EQ(tram_ram_read(ram, rows[i].offset, some, rows[i].bytes), -ERANGE);
    CHECK_EQ(tram_ram_write(ram, rows[i].offset, some, rows[i].bytes), -ERANGE);
    CHECK_EQ(tram_ram_host(ram, rows[i].offset, rows[i].bytes), -ERANGE);
  }
  CHECK_EQ(tram_ram_host(ram, 1, UINT64_MAX), -ERANGE);
  CHECK_EQ(tram_ram_read(NULL, 0, some, 1), -ERANGE);
  tram_ram_destroy(ram);
}

/* Pages 0, 3, 6 … are zero, but for a last byte that is missed by a scan that stops too early. */
static struct tram_ram *striped(void) {
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t page[PAGE_BYTES];
  for (uint32_t i = 0; i < PAGES; i++) {
    if (i % 3 == 0) continue;
    memset(page, 0, sizeof page);
    if (i % 3 == 1)
      page[PAGE_BYTES - 1] = 1;
    else
      fill(page, sizeof page, i);
    tram_ram_write(ram, (uint64_t)i * PAGE_BYTES, page, sizeof page);
  }
  return ram;
}

static void zero_test_sees_every_byte(void) {
  _Alignas(8) uint8_t page[PAGE_BYTES] = {0};
  CHECK(page_is_zero(page));
  for (unsigned i = 0; i < PAGE_BYTES; i++) {
    test_where = i;
    page[i] = (uint8_t)(1 << i % 8);
    CHECK(!page_is_zero(page));
    page[i] = 0;
  }
}

static void split_zero_keeps_the_order(void) {
  struct tram_ram *ram = striped();
  uint32_t index[] = {15, 1, 0, 2, 9, 4, 3, 14, 4};
  static const uint32_t sorted[] = {1, 2, 4, 14, 4, 15, 0, 9, 3};
  CHECK_EQ(tram_pages_split_zero(ram, index, 9, 0), 5);
  CHECK(memcmp(index, sorted, sizeof sorted) == 0);
  CHECK_EQ(tram_pages_split_zero(ram, index, 0, 0), 0);
  tram_ram_destroy(ram);
}

/* `map`: a guest's pages, '0' the zero ones; `kept`: those that count as content, '1', in the same order. */
static void gaps_become(const char *map, uint32_t gap_max, const char *kept) {
  struct tram_ram *ram = (struct tram_ram *)(uintptr_t)tram_ram_create(64 << 12);
  uint32_t index[64], count = (uint32_t)strlen(map);
  char found[65] = {0};
  for (uint32_t i = 0; i < count; i++) {
    if (map[i] != '0') CHECK_EQ(tram_ram_write(ram, (uint64_t)i << 12, "x", 1), 0);
    index[i] = i;
    found[i] = '0';
  }
  int pages = tram_pages_split_zero(ram, index, count, gap_max);
  CHECK(pages >= 0);
  for (int i = 0; i < pages; i++) {
    found[index[i]] = '1';
    if (i) CHECK(index[i] > index[i - 1]);
  }
  if (strcmp(found, kept)) printf("  %s, gaps to %u: %s, not %s\n", map, gap_max, found, kept);
  CHECK(strcmp(found, kept) == 0);
  tram_ram_destroy(ram);
}

static void split_zero_closes_short_gaps(void) {
  gaps_become("111011101110", 4, "111111111110"); /* not the last: nothing follows */
  gaps_become("111011101110", 0, "111011101110");
  gaps_become("0111", 4, "0111"); /* nothing before */
  gaps_become("1111100001", 4, "1111111111");
  gaps_become("11111000001", 4, "11111000001");
  gaps_become("100001", 4, "100001"); /* less content than gap */
  gaps_become("10101010", 4, "11111110");
  gaps_become("1100110011", 4, "1111111111");
  gaps_become("11001000100010001", 4, "11111000100010001"); /* what was closed is no content for the next */
}

static void split_zero_refuses_what_is_not_there(void) {
  struct tram_ram *ram = striped();
  static const uint32_t bad[] = {PAGES, PAGES + 1, 1 << 20, UINT32_MAX};
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    test_where = i;
    uint32_t index[] = {0, 1, bad[i]}, before[3];
    memcpy(before, index, sizeof index);
    CHECK_EQ(tram_pages_split_zero(ram, index, 3, 0), -ERANGE);
    CHECK(memcmp(before, index, sizeof index) == 0);
  }
  uint32_t *many = calloc(4097, sizeof *many);
  CHECK_EQ(tram_pages_split_zero(ram, many, 4097, 0), -EINVAL);
  CHECK_EQ(tram_pages_split_zero(ram, many, 4096, 0), 0);
  free(many);
  tram_ram_destroy(ram);
}

static void scatter_places_pages(void) {
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  enum { BUFFER = 3 * PAGE_BYTES + 17 };
  uint8_t *buffer = malloc(BUFFER), page[PAGE_BYTES];
  fill(buffer, BUFFER, 7);
  static const uint32_t index[] = {15, 0, 7, 0}, offset[] = {0, 5, BUFFER - PAGE_BYTES, 17};
  CHECK_EQ(tram_pages_scatter(ram, buffer, BUFFER, index, offset, 4), 0);
  for (unsigned i = 0; i < 4; i++) {
    test_where = i;
    tram_ram_read(ram, (uint64_t)index[i] * PAGE_BYTES, page, PAGE_BYTES);
    unsigned last = i == 1 ? 3 : i; /* page 0 comes twice: the last one wins */
    CHECK(memcmp(page, buffer + offset[last], PAGE_BYTES) == 0);
  }
  free(buffer);
  tram_ram_destroy(ram);
}

static void scatter_checks_all_before_it_writes(void) {
  static const struct {
    uint64_t buffer_bytes;
    uint32_t index, offset;
  } rows[] = {{2 * PAGE_BYTES, PAGES, 0},        {2 * PAGE_BYTES, UINT32_MAX, 0},  {2 * PAGE_BYTES, 2, PAGE_BYTES + 1},
              {2 * PAGE_BYTES, 2, UINT32_MAX},   {2 * PAGE_BYTES, 2, 0xfffff000u}, {PAGE_BYTES - 1, 2, 0},
              {0, 2, 0}};
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  uint8_t *buffer = malloc(2 * PAGE_BYTES), *found = malloc(BYTES);
  memset(buffer, 0xaa, 2 * PAGE_BYTES);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    const uint32_t index[] = {0, 1, rows[i].index}, offset[] = {0, 0, rows[i].offset};
    CHECK_EQ(tram_pages_scatter(ram, buffer, rows[i].buffer_bytes, index, offset, 3), -ERANGE);
    tram_ram_read(ram, 0, found, BYTES);
    for (unsigned at = 0; at < BYTES; at++) CHECK_EQ(found[at], 0);
  }
  free(buffer);
  free(found);
  tram_ram_destroy(ram);
}

static void clear_makes_zero_and_nothing_else(void) {
  struct tram_ram *ram = striped();
  uint8_t before[PAGE_BYTES], after[PAGE_BYTES];
  tram_ram_read(ram, 5 * PAGE_BYTES, before, PAGE_BYTES);
  static const uint32_t index[] = {4, 0, 6};
  CHECK_EQ(tram_pages_clear(ram, index, 3), 0);
  tram_ram_read(ram, 4 * PAGE_BYTES, after, PAGE_BYTES);
  for (unsigned i = 0; i < PAGE_BYTES; i++) CHECK_EQ(after[i], 0);
  tram_ram_read(ram, 5 * PAGE_BYTES, after, PAGE_BYTES);
  CHECK(memcmp(before, after, PAGE_BYTES) == 0);

  static const uint32_t bad[] = {5, PAGES};
  CHECK_EQ(tram_pages_clear(ram, bad, 2), -ERANGE);
  tram_ram_read(ram, 5 * PAGE_BYTES, after, PAGE_BYTES);
  CHECK(memcmp(before, after, PAGE_BYTES) == 0); /* refused before anything was written */
  tram_ram_destroy(ram);
}

static void gather_is_the_concatenation(void) {
  struct tram_ram *ram = striped();
  uint8_t head[37], words[PAGES * 8], *out = malloc(BYTES * 2), *expected = malloc(BYTES * 2);
  fill(head, sizeof head, 3);
  fill(words, sizeof words, 4);
  static const uint32_t index[] = {5, 1, 0, 15, 5};
  for (uint32_t count = 0; count <= 5; count++) {
    test_where = count;
    uint8_t *end = expected;
    memcpy(end, head, sizeof head);
    end += sizeof head;
    for (uint32_t i = 0; i < count; i++) {
      if (i) {
        memcpy(end, words + 8 * i, 8);
        end += 8;
      }
      tram_ram_read(ram, (uint64_t)index[i] * PAGE_BYTES, end, PAGE_BYTES);
      end += PAGE_BYTES;
    }
    const uint64_t bytes = (uint64_t)(end - expected);
    CHECK_EQ(tram_pages_gather(ram, head, sizeof head, words, index, count, out, bytes), (int64_t)bytes);
    CHECK(memcmp(out, expected, bytes) == 0);
    memset(out, 0xee, bytes);
    CHECK_EQ(tram_pages_gather(ram, head, sizeof head, words, index, count, out, bytes - 1), -ENOBUFS);
    for (uint64_t at = 0; at < bytes; at++) CHECK_EQ(out[at], 0xee);
  }
  static const uint32_t bad[] = {5, PAGES};
  CHECK_EQ(tram_pages_gather(ram, head, sizeof head, words, bad, 2, out, BYTES * 2), -ERANGE);
  free(out);
  free(expected);
  tram_ram_destroy(ram);
}

const struct test memory_tests[] = {
    {"ram: a size that is no whole number of pages, or absurd, is refused", create_refuses_sizes},
    {"ram: new memory is zero and aligned to huge pages", create_gives_aligned_zeros},
    {"ram: what is read is what was written", read_is_what_was_written},
    {"ram: one byte too far is refused, and so is an overflow", bounds_are_exact},
    {"page: every byte of a page counts when it is tested for zero", zero_test_sees_every_byte},
    {"page: split_zero keeps the order of both halves", split_zero_keeps_the_order},
    {"page: split_zero closes short gaps where it is told to", split_zero_closes_short_gaps},
    {"page: split_zero refuses indexes outside memory and leaves the list alone", split_zero_refuses_what_is_not_there},
    {"page: scatter places pages from anywhere in the buffer, the last one winning", scatter_places_pages},
    {"page: scatter checks everything before it writes a byte", scatter_checks_all_before_it_writes},
    {"page: clear makes its pages zero and no others", clear_makes_zero_and_nothing_else},
    {"page: gather is head, pages and words in a row, or refused", gather_is_the_concatenation},
    {0},
};
