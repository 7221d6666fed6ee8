/* The C tests' harness: a test is a function without arguments, a failed check names itself and ends the test. */
#ifndef TEST_H
#define TEST_H

#include <stdint.h>
#include <stdio.h>

extern int test_failed;
extern const char *test_skipped; /* why it cannot run here */
extern unsigned long test_where; /* what a table's loop is at: printed with a failure */

#define CHECK(condition)                                                                                  \
  do {                                                                                                    \
    if (!(condition)) {                                                                                   \
      fprintf(stderr, "%s:%d: (at %lu) %s\n", __FILE__, __LINE__, test_where, #condition);                \
      test_failed = 1;                                                                                    \
      return;                                                                                             \
    }                                                                                                     \
  } while (0)

#define CHECK_EQ(found, expected)                                                                         \
  do {                                                                                                    \
    long long found_ = (long long)(found), expected_ = (long long)(expected);                             \
    if (found_ != expected_) {                                                                            \
      fprintf(stderr, "%s:%d: (at %lu) %s is %lld, not %lld\n", __FILE__, __LINE__, test_where, #found,   \
              found_, expected_);                                                                         \
      test_failed = 1;                                                                                    \
      return;                                                                                             \
    }                                                                                                     \
  } while (0)

#define SKIP(reason)                                                                                      \
  do {                                                                                                    \
    test_skipped = (reason);                                                                              \
    return;                                                                                               \
  } while (0)

struct test {
  const char *name;
  void (*run)(void);
};

/* Each ends without a name. */
extern const struct test memory_tests[], map_tests[], uffd_tests[], file_tests[], hash_tests[], inflate_tests[],
    walker_tests[], net_tests[], channel_tests[], index_tests[], marks_tests[], look_tests[];

/* xorshift: the same numbers on every run. */
static inline uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

struct tram_ram;
static inline struct tram_ram *as_ram(int64_t handle) { return (struct tram_ram *)(uintptr_t)handle; }

/* What the kernel says of a guest page (map.c). */
enum page_state { PAGE_ABSENT, PAGE_OWN, PAGE_OF_FILE };
enum page_state page_state(const struct tram_ram *ram, uint32_t page);

#endif
