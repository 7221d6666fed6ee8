/* index.c: sets of pages against a naive one, several threads at one set, and the offsets of a packet. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 200, WORDS = (PAGES + 31) / 32, LIST = 64, SHARED_PAGES = 1 << 16, THREADS = 4 };

static void sets_are_what_a_naive_one_is(void) {
  uint32_t state = 7, words[WORDS] = {0}, index[LIST], removed[LIST];
  uint8_t naive[PAGES] = {0};
  for (unsigned round = 0; round < 2000; round++) {
    test_where = round;
    uint32_t count = next_random(&state) % LIST, expected = 0;
    for (uint32_t i = 0; i < count; i++) index[i] = next_random(&state) % PAGES;
    switch (round % 3) {
    case 0:
      for (uint32_t i = 0; i < count; i++) expected += !naive[index[i]], naive[index[i]] = 1;
      CHECK_EQ(tram_set_add(words, PAGES, index, count), expected);
      break;
    case 1: {
      uint32_t were[LIST];
      for (uint32_t i = 0; i < count; i++)
        if (naive[index[i]]) were[expected++] = index[i], naive[index[i]] = 0;
      CHECK_EQ(tram_set_remove(words, PAGES, index, count, removed), expected);
      CHECK(memcmp(removed, were, expected * sizeof *were) == 0);
      break;
    }
    default: {
      uint32_t from = next_random(&state) % (PAGES + 1), end = from + next_random(&state) % (PAGES + 1 - from), were[LIST];
      for (uint32_t page = from; page < end && expected < count; page++)
        if (naive[page]) were[expected++] = page, naive[page] = 0;
      CHECK_EQ(tram_set_take(words, PAGES, from, end, index, count), expected);
      CHECK(memcmp(index, were, expected * sizeof *were) == 0);
    }
    }
    for (uint32_t page = 0; page < PAGES; page++) CHECK_EQ(words[page / 32] >> page % 32 & 1, naive[page]);
  }
}

static void pages_of_no_set_are_refused(void) {
  uint32_t words[WORDS] = {0}, index[] = {3, PAGES}, removed[2];
  CHECK_EQ(tram_set_add(words, PAGES, index, 2), -ERANGE);
  CHECK_EQ(tram_set_take(words, PAGES, 0, PAGES + 1, index, 2), -ERANGE);
  for (unsigned i = 0; i < WORDS; i++) CHECK_EQ(words[i], 0);
  CHECK_EQ(tram_set_add(words, PAGES, index, 1), 1);
  CHECK_EQ(tram_set_remove(words, PAGES, index, 2, removed), -ERANGE);
  CHECK_EQ(words[0], 1 << 3);
}

static uint32_t shared_words[SHARED_PAGES / 32];
static int found[THREADS];

/* Each thread adds every page of its own number, and all of them the first thousand. */
static void *add_some(void *argument) {
  int *sum = argument;
  uint32_t mine = (uint32_t)(sum - found);
  for (uint32_t page = 0; page < SHARED_PAGES; page++)
    if (page % THREADS == mine || page < 1000) *sum += tram_set_add(shared_words, SHARED_PAGES, &page, 1);
  return NULL;
}

static void threads_lose_nothing_to_each_other(void) {
  pthread_t threads[THREADS];
  int sum = 0;
  for (unsigned i = 0; i < THREADS; i++) CHECK_EQ(pthread_create(&threads[i], NULL, add_some, &found[i]), 0);
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < THREADS; i++) sum += found[i];
  CHECK_EQ(sum, SHARED_PAGES); /* each was new to one thread alone */
  for (unsigned i = 0; i < SHARED_PAGES / 32; i++) CHECK_EQ(shared_words[i], UINT32_MAX);
}

static void offsets_come_back(void) {
  const uint32_t index[] = {0, 1, 0x12345678, UINT32_MAX - 1};
  const uint8_t third[] = {0, 0, 0x01, 0x23, 0x45, 0x67, 0x80, 0};
  uint32_t back[4];
  uint8_t bytes[32];
  CHECK_EQ(tram_offsets_encode(bytes, index, 4), 0);
  CHECK(memcmp(bytes + 16, third, 8) == 0);
  CHECK_EQ(tram_offsets_decode(bytes, back, 4, UINT32_MAX), 4);
  CHECK(memcmp(back, index, sizeof index) == 0);
  CHECK_EQ(tram_offsets_decode(bytes, back, 4, 0x12345678), 2); /* the third is no page of such a block */
  bytes[15] = 1;
  CHECK_EQ(tram_offsets_decode(bytes, back, 4, UINT32_MAX), 1); /* the second is inside a page */
  bytes[0] = 0xff;
  CHECK_EQ(tram_offsets_decode(bytes, back, 4, UINT32_MAX), 0);
}

const struct test index_tests[] = {
    {"index: sets are what a naive one is", sets_are_what_a_naive_one_is},
    {"index: pages of no set are refused", pages_of_no_set_are_refused},
    {"index: threads lose nothing to each other", threads_lose_nothing_to_each_other},
    {"index: offsets come back", offsets_come_back},
    {0},
};
