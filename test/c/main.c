/* Runs every C test, one line each; exit 1 if one failed. */
#include "test.h"

int test_failed;
const char *test_skipped;
unsigned long test_where;

/* The faults here are meant: c/guard.c handles them, and what it does not handle ends a child by its signal. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "handle_segv=0:handle_sigbus=0:allow_user_segv_handler=1"; }

int main(void) {
  const struct test *const suites[] = {memory_tests, map_tests,    uffd_tests,   file_tests,
                                       hash_tests,   inflate_tests, walker_tests, net_tests,
                                       channel_tests, index_tests,   marks_tests, look_tests};
  unsigned passed = 0, failed = 0, skipped = 0;
  for (unsigned i = 0; i < sizeof suites / sizeof *suites; i++) {
    for (const struct test *one = suites[i]; one->name; one++) {
      test_failed = 0;
      test_skipped = NULL;
      test_where = 0;
      one->run();
      if (test_failed)
        failed++;
      else if (test_skipped)
        skipped++;
      else
        passed++;
      const char *verdict = test_failed ? "FAIL" : test_skipped ? "skip" : "ok  ";
      printf(test_skipped ? "%s %s: %s\n" : "%s %s\n", verdict, one->name, test_skipped);
      fflush(stdout);
    }
  }
  printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
  return failed ? 1 : 0;
}
