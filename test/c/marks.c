/* marks.c: sets of pages against a naive one, what lies outside of them, and several threads at one. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 203, WORDS = (PAGES + 31) / 32, LIST = 64, THREADS = 4 };

static struct tram_marks *create(uint32_t pages) {
  const int64_t handle = tram_marks_create(pages);
  if (handle < 0) abort();
  return (struct tram_marks *)(uintptr_t)handle;
}

static int has(const uint32_t *words, uint32_t page) { return words[page / 32] >> page % 32 & 1; }

/* What is in it, by reading all of it: 1 if it is what `naive` says, and nothing stands behind its last page. */
static int is(const struct tram_marks *marks, const uint8_t *naive) {
  uint32_t words[WORDS];
  int expected = 0;
  memset(words, 0xaa, sizeof words); /* they are set, not added to */
  const int found = tram_marks_read(marks, 0, PAGES, words);
  for (uint32_t page = 0; page < WORDS * 32; page++) {
    const int wanted = page < PAGES && naive[page];
    if (has(words, page) != wanted) return 0;
    expected += wanted;
  }
  return found == expected;
}

static void marks_are_what_a_naive_set_is(void) {
  struct tram_marks *marks = create(PAGES);
  uint8_t naive[PAGES] = {0};
  uint32_t state = 11, taken = 0, split = 0;
  for (unsigned round = 0; round < 4000; round++) {
    test_where = round;
    const uint32_t first = next_random(&state) % (PAGES + 1), count = next_random(&state) % (PAGES + 1 - first);
    switch (next_random(&state) % 5) {
    case 0:
      CHECK_EQ(tram_marks_add(marks, first, count), 0);
      memset(naive + first, 1, count);
      break;
    case 1:
      CHECK_EQ(tram_marks_remove(marks, first, count), 0);
      memset(naive + first, 0, count);
      break;
    case 2: { /* a part of it, which begins at a word */
      uint32_t words[WORDS], begin = first / 32 * 32, bits = 0;
      const uint32_t pages = next_random(&state) % (PAGES + 1 - begin), used = (pages + 31) / 32;
      memset(words, 0xaa, sizeof words);
      for (uint32_t i = 0; i < pages; i++) bits += naive[begin + i];
      CHECK_EQ(tram_marks_read(marks, begin, pages, words), bits);
      for (uint32_t i = 0; i < used * 32; i++) CHECK_EQ(has(words, i), i < pages && naive[begin + i]);
      for (uint32_t i = used; i < WORDS; i++) CHECK_EQ(words[i], 0xaaaaaaaa); /* not written to */
      break;
    }
    case 3: {
      uint32_t index[LIST], sorted[LIST], others = 0, listed = next_random(&state) % LIST;
      uint8_t left[PAGES] = {0};
      for (uint32_t i = 0; i < listed; i++) index[i] = next_random(&state) % PAGES;
      for (uint32_t i = 0; i < listed; i++) {
        left[index[i]]++;
        if (!naive[index[i]]) sorted[others++] = index[i];
      }
      CHECK_EQ(tram_marks_split(marks, index, listed), others);
      CHECK(memcmp(index, sorted, others * sizeof *index) == 0); /* in their order */
      for (uint32_t i = others; i < listed; i++) CHECK(naive[index[i]]);
      for (uint32_t i = 0; i < listed; i++) CHECK(left[index[i]]-- > 0); /* the same pages as before */
      split += others > 0 && others < listed;
      break;
    }
    default: { /* rarely, so that there is something to take */
      if (round % 8) break;
      uint32_t words[WORDS];
      for (unsigned i = 0; i < WORDS; i++) words[i] = next_random(&state) & (i == WORDS - 1 ? (1 << PAGES % 32) - 1 : ~0u);
      uint32_t before[WORDS];
      memcpy(before, words, sizeof words);
      CHECK_EQ(tram_marks_take(marks, words, PAGES), 0);
      for (uint32_t page = 0; page < PAGES; page++) {
        CHECK_EQ(has(words, page), has(before, page) | naive[page]);
        taken += naive[page];
      }
      memset(naive, 0, sizeof naive);
    }
    }
    CHECK(is(marks, naive));
  }
  CHECK(taken > 1000 && split > 100); /* it did happen */
  free(marks);
}

/* Every two bounds around the borders of words. */
static void ranges_end_where_they_end(void) {
  static const uint32_t bounds[] = {0, 1, 31, 32, 33, 63, 64, 65, 96, 127, 128, 159, 160, 192, 202, 203};
  enum { BOUNDS = sizeof bounds / sizeof *bounds };
  for (unsigned i = 0; i < BOUNDS; i++)
    for (unsigned j = i; j < BOUNDS; j++) {
      test_where = i * 100 + j;
      struct tram_marks *marks = create(PAGES);
      uint8_t naive[PAGES] = {0};
      CHECK_EQ(tram_marks_add(marks, bounds[i], bounds[j] - bounds[i]), 0);
      memset(naive + bounds[i], 1, bounds[j] - bounds[i]);
      CHECK(is(marks, naive));
      CHECK_EQ(tram_marks_add(marks, 0, PAGES), 0);
      CHECK_EQ(tram_marks_remove(marks, bounds[i], bounds[j] - bounds[i]), 0);
      for (unsigned page = 0; page < PAGES; page++) naive[page] = !naive[page];
      CHECK(is(marks, naive));
      free(marks);
    }
}

static void what_is_no_range_of_it_is_refused(void) {
  static const struct {
    uint32_t first, count;
  } rows[] = {{0, PAGES + 1},      {PAGES, 1},          {PAGES + 1, 0}, {1, PAGES},        {UINT32_MAX, 1},
              {UINT32_MAX, 0},     {1, UINT32_MAX},     {0, UINT32_MAX}, {PAGES - 1, 2},    {UINT32_MAX, UINT32_MAX},
              {192, PAGES - 191}, {224, 0},            {32, UINT32_MAX - 31}};
  struct tram_marks *marks = create(PAGES);
  uint8_t naive[PAGES] = {0};
  uint32_t words[WORDS + 1] = {0};
  naive[7] = naive[PAGES - 1] = 1;
  CHECK_EQ(tram_marks_add(marks, 7, 1), 0);
  CHECK_EQ(tram_marks_add(marks, PAGES - 1, 1), 0);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    CHECK_EQ(tram_marks_add(marks, rows[i].first, rows[i].count), -ERANGE);
    CHECK_EQ(tram_marks_remove(marks, rows[i].first, rows[i].count), -ERANGE);
    CHECK_EQ(tram_marks_read(marks, rows[i].first, rows[i].count, words), -ERANGE);
    CHECK(is(marks, naive));
  }
  CHECK_EQ(tram_marks_read(marks, 31, 1, words), -ERANGE); /* no word begins there */
  CHECK_EQ(tram_marks_take(marks, words, PAGES - 1), -ERANGE);
  CHECK_EQ(tram_marks_take(marks, words, PAGES + 1), -ERANGE);
  for (unsigned i = 0; i <= WORDS; i++) CHECK_EQ(words[i], 0);

  uint32_t index[] = {8, 7, PAGES}, before[3];
  memcpy(before, index, sizeof index);
  CHECK_EQ(tram_marks_split(marks, index, 3), -ERANGE);
  CHECK(memcmp(index, before, sizeof index) == 0);
  CHECK_EQ(tram_marks_split(marks, index, 2), 1);

  CHECK_EQ(tram_marks_add(NULL, 0, 0), -ERANGE);
  CHECK_EQ(tram_marks_remove(NULL, 0, 0), -ERANGE);
  CHECK_EQ(tram_marks_read(NULL, 0, 0, words), -ERANGE);
  mark(marks, PAGES); /* nothing, and no harm */
  CHECK(is(marks, naive));
  free(marks);
}

static void a_set_of_no_pages_has_none(void) {
  struct tram_marks *marks = create(0);
  uint32_t word = 0xaa;
  CHECK_EQ(tram_marks_add(marks, 0, 0), 0);
  CHECK_EQ(tram_marks_add(marks, 0, 1), -ERANGE);
  CHECK_EQ(tram_marks_take(marks, &word, 0), 0);
  CHECK_EQ(tram_marks_read(marks, 0, 0, &word), 0);
  CHECK_EQ(word, 0xaa);
  free(marks);
}

static struct tram_marks *shared;
static pthread_barrier_t gate; /* they begin together: each alone is done before the next has started */

static int run_together(void *(*const bodies[])(void *), unsigned count) {
  pthread_t threads[THREADS];
  pthread_barrier_init(&gate, NULL, count);
  for (uintptr_t i = 0; i < count; i++)
    if (pthread_create(&threads[i], NULL, bodies[i], (void *)i)) abort();
  uintptr_t wrong = 0;
  for (unsigned i = 0; i < count; i++) {
    void *found;
    pthread_join(threads[i], &found);
    wrong += (uintptr_t)found;
  }
  pthread_barrier_destroy(&gate);
  return (int)wrong;
}

static int is_marked(uint32_t page) {
  uint32_t word;
  if (tram_marks_read(shared, 0, WORD_BITS, &word) < 0) abort();
  return has(&word, page);
}

/* Adds and removes pages of its own in a word that all of them change. How often one was not what it had made it. */
static void *change_own(void *argument) {
  const uint32_t mine = (uint32_t)(uintptr_t)argument * (WORD_BITS / THREADS);
  uintptr_t wrong = 0;
  pthread_barrier_wait(&gate);
  for (unsigned round = 0; round < 200000; round++) {
    const uint32_t page = mine + round % 4, count = 1 + round % 5;
    if (tram_marks_add(shared, page, count) < 0) abort();
    for (uint32_t i = 0; i < count; i++) wrong += !is_marked(page + i);
    if (tram_marks_remove(shared, page, count) < 0) abort();
    for (uint32_t i = 0; i < count; i++) wrong += is_marked(page + i);
  }
  return (void *)wrong;
}

static void threads_change_no_page_but_their_own(void) {
  void *(*const bodies[])(void *) = {change_own, change_own, change_own, change_own};
  uint32_t words[WORDS];
  shared = create(PAGES);
  const int wrong = run_together(bodies, THREADS);
  const int left = tram_marks_read(shared, 0, PAGES, words);
  free(shared);
  CHECK_EQ(wrong, 0);
  CHECK_EQ(left, 0);
}

static uint32_t takes, adders, taken_of[WORD_BITS]; /* whole passes, who still adds, and how often each page was taken */

static uint32_t look_at(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

static void *take_all(void *argument) {
  (void)argument;
  pthread_barrier_wait(&gate);
  while (look_at(&adders)) {
    uint32_t words[WORDS] = {0};
    if (tram_marks_add(shared, 0, 1) < 0) abort(); /* a word with nothing in it is passed over */
    if (tram_marks_take(shared, words, PAGES) < 0) abort();
    for (uint32_t page = 1; page < WORD_BITS; page++)
      if (has(words, page)) __atomic_fetch_add(&taken_of[page], 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&takes, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}

/* Adds a page, and waits until it was taken: two passes later it must have been. How many were not. */
static void *add_one_by_one(void *argument) {
  const uint32_t mine = (uint32_t)(uintptr_t)argument;
  uintptr_t lost = 0;
  pthread_barrier_wait(&gate);
  for (unsigned round = 0; round < 20000; round++) {
    const uint32_t page = mine + round % 8 * THREADS, taken = look_at(&taken_of[page]);
    if (tram_marks_add(shared, page, 1) < 0) abort();
    for (const uint32_t before = look_at(&takes); look_at(&taken_of[page]) == taken;) {
      if (look_at(&takes) - before < 3) {
        if (round % 64 == 0) sched_yield();
        continue;
      }
      lost += look_at(&taken_of[page]) == taken;
      break;
    }
  }
  __atomic_fetch_sub(&adders, 1, __ATOMIC_SEQ_CST);
  return (void *)lost;
}

static void threads_lose_nothing_to_who_takes(void) {
  void *(*const bodies[])(void *) = {take_all, add_one_by_one, add_one_by_one};
  uint32_t words[WORDS] = {0};
  shared = create(PAGES);
  adders = 2;
  const int lost = run_together(bodies, 3);
  if (tram_marks_take(shared, words, PAGES) < 0) abort();
  uint32_t all = 0;
  for (uint32_t page = 1; page < WORD_BITS; page++) all += taken_of[page];
  free(shared);
  CHECK_EQ(lost, 0);
  CHECK_EQ(all, 2 * 20000); /* each once */
}

const struct test marks_tests[] = {
    {"marks: they are what a naive set is", marks_are_what_a_naive_set_is},
    {"marks: ranges end where they end", ranges_end_where_they_end},
    {"marks: what is no range of it is refused, and changes nothing", what_is_no_range_of_it_is_refused},
    {"marks: a set of no pages has none", a_set_of_no_pages_has_none},
    {"marks: threads change no page but their own", threads_change_no_page_but_their_own},
    {"marks: threads lose nothing to who takes", threads_lose_nothing_to_who_takes},
    {0},
};
