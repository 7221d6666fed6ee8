/* Runs every C test, one line each; exit 1 if one failed. */
#include "test.h"

int test_failed;
unsigned long test_where;

int main(void) {
  const struct test *const suites[] = {memory_tests, file_tests, inflate_tests, walker_tests, net_tests};
  unsigned passed = 0, failed = 0;
  for (unsigned i = 0; i < sizeof suites / sizeof *suites; i++) {
    for (const struct test *one = suites[i]; one->name; one++) {
      test_failed = 0;
      test_where = 0;
      one->run();
      printf("%s %s\n", test_failed ? "FAIL" : "ok  ", one->name);
      fflush(stdout);
      if (test_failed)
        failed++;
      else
        passed++;
    }
  }
  printf("%u passed, %u failed\n", passed, failed);
  return failed ? 1 : 0;
}
