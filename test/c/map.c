/* guard.c, and the part of ram.c where memory is a file's: what is written there stays there, and a file that fails is an
 * error of the call that looked at it, not the end of the process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/walker.h"
#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 64, BYTES = PAGES * PAGE_BYTES };

/* --- helpers ------------------------------------------------------------------------------------------------------- */

/* Kernels before 5.14 do not know how to populate. */
static int without_populate;
int madvise(void *at, size_t bytes, int advice) {
  enum { POPULATE_READ = 22, POPULATE_WRITE = 23 };
  if (without_populate && (advice == POPULATE_READ || advice == POPULATE_WRITE)) {
    errno = EINVAL;
    return -1;
  }
  return (int)syscall(SYS_madvise, at, bytes, advice);
}

enum page_state page_state(const struct tram_ram *ram, uint32_t page) {
  const uint64_t present = (uint64_t)1 << 63, of_file = (uint64_t)1 << 61;
  uint64_t word = 0, address = (uintptr_t)checked_page(ram, page);
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pread(fd, &word, sizeof word, (off_t)(address / PAGE_BYTES * sizeof word)) != sizeof word) abort();
  close(fd);
  return !(word & present) ? PAGE_ABSENT : word & of_file ? PAGE_OF_FILE : PAGE_OWN;
}

static uint8_t *random_bytes(uint64_t bytes, uint32_t seed) {
  uint8_t *out = malloc(bytes);
  uint32_t state = seed;
  for (uint64_t i = 0; i < bytes; i++) out[i] = (uint8_t)next_random(&state);
  return out;
}

/* A file on disk, or in memory, with this content. */
static int file_with(const uint8_t *content, uint64_t bytes, int on_disk) {
  const int fd = on_disk ? open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : memfd_create("guest", MFD_CLOEXEC);
  if (fd < 0 || pwrite(fd, content, bytes, 0) != (ssize_t)bytes) abort();
  return fd;
}

struct mapped {
  int fd;
  struct tram_ram *ram;
  uint8_t *content;
};

/* Guest memory that is all one file. */
static struct mapped mapped_file(int on_disk) {
  struct mapped one = {.ram = as_ram(tram_ram_create(BYTES)), .content = random_bytes(BYTES, 3)};
  one.fd = file_with(one.content, BYTES, on_disk);
  if (tram_guard_install() < 0 || tram_ram_map_file(one.ram, 0, BYTES, one.fd, 0) < 0) abort();
  return one;
}

static void release(struct mapped *one) {
  tram_ram_destroy(one->ram);
  free(one->content);
  close(one->fd);
}

static int is_all(const struct tram_ram *ram, const uint8_t *expected) {
  uint8_t *found = malloc(BYTES);
  const int same = tram_ram_read(ram, 0, found, BYTES) == 0 && memcmp(found, expected, BYTES) == 0;
  free(found);
  return same;
}

/* How a child of this process ended that did this: as waitpid says. */
static int end_of(void (*body)(void)) {
  const pid_t child = fork();
  if (child == 0) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){0});
    alarm(20);
    body();
    _exit(0);
  }
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return status;
}

static int exits_with(int status, int code) { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
static int dies_of(int status, int signal) { return WIFSIGNALED(status) && WTERMSIG(status) == signal; }

/* --- every call that takes guest memory, made to touch one page of it ------------------------------------------------------ */

static int64_t by_read(struct tram_ram *ram, uint32_t page) {
  uint8_t some[300];
  return tram_ram_read(ram, (uint64_t)page * PAGE_BYTES + 1000, some, sizeof some);
}
static int64_t by_write(struct tram_ram *ram, uint32_t page) {
  return tram_ram_write(ram, (uint64_t)page * PAGE_BYTES + PAGE_BYTES - 5, "tram", 5);
}
static int64_t by_read_across(struct tram_ram *ram, uint32_t page) { /* from the page before it */
  uint8_t some[2];
  return page ? tram_ram_read(ram, (uint64_t)page * PAGE_BYTES - 1, some, 2) : by_read(ram, page);
}
static int64_t by_split_zero(struct tram_ram *ram, uint32_t page) { return tram_pages_split_zero(ram, &page, 1, 0); }
static int64_t by_clear(struct tram_ram *ram, uint32_t page) { return tram_pages_clear(ram, &page, 1); }
static int64_t by_scatter(struct tram_ram *ram, uint32_t page) {
  static const uint8_t content[PAGE_BYTES] = {1, 2, 3};
  return tram_pages_scatter(ram, content, sizeof content, &page, (uint32_t[]){0}, 1);
}
static int64_t by_gather(struct tram_ram *ram, uint32_t page) {
  uint8_t out[PAGE_BYTES + 1];
  return tram_pages_gather(ram, (const uint8_t *)"h", 1, NULL, &page, 1, out, sizeof out);
}
static int64_t by_hash(struct tram_ram *ram, uint32_t page) {
  uint64_t table[PAGES];
  return tram_hash_ram(ram, &page, 1, table, PAGES);
}
static int64_t by_differing(struct tram_ram *ram, uint32_t page) {
  const uint64_t table[PAGES] = {0};
  uint32_t bad[1];
  return tram_hash_differing_ram(ram, &page, 1, table, PAGES, bad);
}
static int64_t by_socket(struct tram_ram *ram, uint32_t page) {
  int32_t fds[2];
  tram_socket_pair(fds);
  const int64_t result = tram_write_pages(fds[1], 1, ram, (const uint8_t *)"", 0, NULL, &page, 1, 2, -1, NULL);
  close(fds[0]);
  close(fds[1]);
  return result;
}
static int64_t by_pipe(struct tram_ram *ram, uint32_t page) {
  int32_t fds[2];
  tram_pipe(fds);
  const int64_t result = tram_write_pages(fds[1], 0, ram, (const uint8_t *)"", 0, NULL, &page, 1, 2, -1, NULL);
  close(fds[0]);
  close(fds[1]);
  return result;
}
static int64_t by_file(struct tram_ram *ram, uint32_t page, int writing) {
  const int fd = memfd_create("scratch", MFD_CLOEXEC);
  struct tram_file *file = (struct tram_file *)(uintptr_t)tram_file_attach(fd, -1, 0);
  if (ftruncate(fd, BYTES) < 0) abort();
  const int64_t result = writing ? tram_file_write_ram(file, 0, PAGES, ram, &page, 1)
                                 : tram_file_read_ram(file, 0, PAGES, ram, &page, 1);
  tram_file_detach(file);
  close(fd);
  return result;
}
static int64_t by_file_write(struct tram_ram *ram, uint32_t page) { return by_file(ram, page, 1); }
static int64_t by_file_read(struct tram_ram *ram, uint32_t page) { return by_file(ram, page, 0); }
static int64_t by_populate(struct tram_ram *ram, uint32_t page) {
  return tram_ram_populate_range(ram, (uint64_t)page * PAGE_BYTES, PAGE_BYTES, 0);
}
static int64_t by_populate_own(struct tram_ram *ram, uint32_t page) {
  return tram_ram_populate_range(ram, (uint64_t)page * PAGE_BYTES, PAGE_BYTES, 1);
}

static int64_t (*const touchers[])(struct tram_ram *, uint32_t) = {
    by_read,      by_write,  by_read_across, by_split_zero, by_clear,     by_scatter,  by_gather,       by_hash,
    by_differing, by_socket, by_pipe,        by_file_write, by_file_read, by_populate, by_populate_own,
};
enum { TOUCHERS = sizeof touchers / sizeof *touchers };

/* Each call works on `good`, fails on `bad`, and works on `good` again. 0, or 1 + which of them does not. */
static int first_wrong(struct tram_ram *ram, uint32_t good, uint32_t bad) {
  for (int i = 0; i < TOUCHERS; i++)
    if (touchers[i](ram, good) < 0 || touchers[i](ram, bad) != -EFAULT || touchers[i](ram, good) < 0) return 1 + i;
  return 0;
}

/* --- faults that are not ours: each in a child, because the guard is put in once a process ----------------------------- */

static int guard_is_not_there_yet(void) {
  struct sigaction bus, segv;
  return sigaction(SIGBUS, NULL, &bus) == 0 && sigaction(SIGSEGV, NULL, &segv) == 0 && bus.sa_handler == SIG_DFL &&
         segv.sa_handler == SIG_DFL;
}

static uint8_t *closed; /* a page that nobody may touch */
static volatile sig_atomic_t repairs, was_blocked;

/* As JavaScript engines have them: some faults are put right, and the program goes on. */
static void repair(int signal, siginfo_t *info, void *context) {
  (void)context;
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  was_blocked = sigismember(&now, SIGUSR1) && sigismember(&now, signal);
  if (info->si_addr != closed) _exit(91);
  mprotect(closed, PAGE_BYTES, PROT_READ | PROT_WRITE);
  repairs++;
}

static void goes_on_beside_a_handler_that_repairs(void) {
  if (!guard_is_not_there_yet()) _exit(90);
  struct sigaction action = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO};
  sigaddset(&action.sa_mask, SIGUSR1);
  sigaction(SIGSEGV, &action, NULL);
  struct mapped one = mapped_file(0);
  closed = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (tram_ram_forbid(one.ram, 5) < 0 || ftruncate(one.fd, 10 * PAGE_BYTES) < 0) _exit(92);
  for (int round = 1; round <= 3; round++) {
    mprotect(closed, PAGE_BYTES, PROT_NONE);
    *(volatile uint8_t *)closed = 1;
    if (repairs != round || !was_blocked) _exit(93);
    if (first_wrong(one.ram, 1, 5) || first_wrong(one.ram, 2, 10)) _exit(94);
  }
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  if (sigismember(&now, SIGUSR1) || sigismember(&now, SIGSEGV) || sigismember(&now, SIGBUS)) _exit(95);
}

static void another_handler_keeps_its_faults(void) {
  const int status = end_of(goes_on_beside_a_handler_that_repairs);
  CHECK_EQ(status, 0);
}

static int told[2];
static void last_words(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)info, (void)context;
  if (write(told[1], "!", 1) != 1) _exit(91);
}

static void dies_with_last_words(void) {
  if (!guard_is_not_there_yet()) _exit(90);
  struct sigaction action = {.sa_sigaction = last_words, .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND)};
  sigaction(SIGSEGV, &action, NULL);
  if (tram_guard_install() < 0) _exit(92);
  *(volatile uint8_t *)closed = 1;
}

static void a_crash_handler_speaks_once(void) {
  char said[3];
  closed = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_EQ(pipe2(told, O_CLOEXEC), 0);
  CHECK(dies_of(end_of(dies_with_last_words), SIGSEGV));
  close(told[1]);
  CHECK_EQ(read(told[0], said, sizeof said), 1);
  close(told[0]);
  munmap(closed, PAGE_BYTES);
}

static struct sigaction below;
static void passes_on(int signal, siginfo_t *info, void *context) { below.sa_sigaction(signal, info, context); }

/* Somebody stands on top of the guard, and it is put in again: they must not send the fault round and round. */
static void dies_though_guarded_twice(void) {
  if (!guard_is_not_there_yet()) _exit(90);
  struct mapped one = mapped_file(0);
  struct sigaction action = {.sa_sigaction = passes_on, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGBUS, &action, &below);
  if (!below.sa_sigaction || tram_guard_install() < 0 || ftruncate(one.fd, 0) < 0) _exit(92);
  if (by_read(one.ram, 0) != -EFAULT) _exit(93); /* it is passed on to the guard */
  alarm(5);
  *(volatile uint8_t *)(uintptr_t)tram_ram_host(one.ram, 0, 1);
}

static void the_guard_is_put_in_once(void) { CHECK(dies_of(end_of(dies_though_guarded_twice), SIGBUS)); }

static void dies_of_the_file(void) {
  struct mapped one = mapped_file(0);
  if (ftruncate(one.fd, 0) < 0 || first_wrong(one.ram, 0, 1) != 1 || by_read(one.ram, 1) != -EFAULT) _exit(92);
  *(volatile uint8_t *)(uintptr_t)tram_ram_host(one.ram, 0, 1);
}
static void dies_of_a_forbidden_page(void) {
  struct mapped one = mapped_file(0);
  if (tram_ram_forbid(one.ram, 1) < 0 || first_wrong(one.ram, 0, 1)) _exit(92);
  *(volatile uint8_t *)(uintptr_t)tram_ram_host(one.ram, PAGE_BYTES, 1);
}
static void *dies_beside(void *unused) {
  dies_of_the_file();
  return unused;
}
static void dies_in_another_thread(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, dies_beside, NULL);
  pthread_join(thread, NULL);
}
static void is_killed(void) {
  tram_guard_install();
  kill(getpid(), SIGBUS);
}
static void lives(void) {
  struct mapped one = mapped_file(0);
  if (by_read(one.ram, 0) < 0 || *(volatile uint8_t *)(uintptr_t)tram_ram_host(one.ram, 0, 1) != one.content[0]) _exit(92);
}

static void a_fault_outside_kills(void) {
  CHECK(exits_with(end_of(lives), 0));
  CHECK(dies_of(end_of(dies_of_the_file), SIGBUS));
  CHECK(dies_of(end_of(dies_of_a_forbidden_page), SIGSEGV));
  CHECK(dies_of(end_of(dies_in_another_thread), SIGBUS));
  CHECK(dies_of(end_of(is_killed), SIGBUS));
}

/* --- the guard itself ------------------------------------------------------------------------------------------------ */

/* Nothing here that a compiler could not see through, as in the library, which is built without sanitizers: it must not move
 * what is guarded out of the guard, nor do without it. */
#define AS_IN_THE_LIBRARY __attribute__((no_sanitize("address", "undefined"), optimize("O2")))
AS_IN_THE_LIBRARY static int64_t first_of(const uint64_t *word) { return GUARDED((int64_t)(*word >> 20)); }
AS_IN_THE_LIBRARY static int64_t sum_of(const uint64_t *word, unsigned words) {
  int64_t total = 0;
  for (unsigned i = 0; i < words; i++) total += (int64_t)(word[i] >> 20);
  return total;
}
AS_IN_THE_LIBRARY static int64_t guarded_sum_of(const uint64_t *word, unsigned words) { return GUARDED(sum_of(word, words)); }

static void sums_what_is_not_there(void) {
  struct mapped one = mapped_file(0);
  const uint64_t *word = (const uint64_t *)(const void *)checked_page(one.ram, 0);
  if (guarded_sum_of(word, 1024) != sum_of(word, 1024)) _exit(91);
  if (ftruncate(one.fd, PAGE_BYTES) < 0 || guarded_sum_of(word, 512) != sum_of(word, 512)) _exit(92);
  if (guarded_sum_of(word, 513) != -EFAULT || first_of(word + 512) != -EFAULT || first_of(word) < 0) _exit(93);
  if (guard_point) _exit(94);
}

static int64_t inner_then_outer(struct tram_ram *ram) {
  const int64_t inner = by_read(ram, 1), after = by_read(ram, 0);
  if (inner != -EFAULT || after != 0) return 1;
  return *(volatile uint8_t *)checked_page(ram, 1);
}
static void guards_within_a_guard(void) {
  struct mapped one = mapped_file(0);
  if (ftruncate(one.fd, PAGE_BYTES) < 0) _exit(92);
  if (GUARDED(inner_then_outer(one.ram)) != -EFAULT) _exit(93);
  if (guard_point) _exit(94);
}

static void the_guard_is_around_all_of_it(void) {
  CHECK(exits_with(end_of(sums_what_is_not_there), 0));
  CHECK(exits_with(end_of(guards_within_a_guard), 0));
}

/* --- a file as memory ------------------------------------------------------------------------------------------------ */

static void writes_stay_in_memory(void) {
  for (int on_disk = 0; on_disk < 2; on_disk++) {
    test_where = (unsigned long)on_disk;
    struct mapped one = mapped_file(on_disk);
    struct tram_ram *other = as_ram(tram_ram_create(BYTES));
    CHECK_EQ(tram_ram_map_file(other, 0, BYTES, one.fd, 0), 0);
    CHECK(is_all(one.ram, one.content));
    CHECK(is_all(other, one.content));

    uint8_t *expected = malloc(BYTES), *found = malloc(BYTES), *page = random_bytes(PAGE_BYTES, 9);
    memcpy(expected, one.content, BYTES);
    memcpy(expected + 3 * PAGE_BYTES + 17, "hello", 5);
    memcpy(expected + 7 * PAGE_BYTES, page, PAGE_BYTES);
    memset(expected + 9 * PAGE_BYTES, 0, PAGE_BYTES);
    CHECK_EQ(tram_ram_write(one.ram, 3 * PAGE_BYTES + 17, "hello", 5), 0);
    CHECK_EQ(tram_pages_scatter(one.ram, page, PAGE_BYTES, (uint32_t[]){7}, (uint32_t[]){0}, 1), 0);
    CHECK_EQ(tram_pages_clear(one.ram, (uint32_t[]){9}, 1), 0);
    CHECK(is_all(one.ram, expected));
    CHECK(is_all(other, one.content));
    CHECK_EQ(tram_ram_write(other, 3 * PAGE_BYTES + 17, "other", 5), 0); /* nor back */
    CHECK(is_all(one.ram, expected));
    CHECK_EQ(pread(one.fd, found, BYTES, 0), BYTES);
    CHECK(memcmp(found, one.content, BYTES) == 0);

    /* Mapped again, the file's content is back. */
    CHECK_EQ(tram_ram_map_file(one.ram, 2 * PAGE_BYTES, 4 * PAGE_BYTES, one.fd, 2 * PAGE_BYTES), 0);
    memcpy(expected + 3 * PAGE_BYTES, one.content + 3 * PAGE_BYTES, PAGE_BYTES);
    CHECK(is_all(one.ram, expected));
    free(expected);
    free(found);
    free(page);
    tram_ram_destroy(other);
    release(&one);
  }
}

/* Any whole pages of the file, anywhere; what lies beside them stays. A descriptor that only reads is enough, and is not
 * needed any longer. */
static void any_part_of_a_file_is_mapped_anywhere(void) {
  static const struct {
    uint32_t at, pages, from;
  } rows[] = {{0, 1, 0}, {0, PAGES, 0}, {PAGES - 1, 1, 0}, {0, 1, PAGES - 1}, {5, 7, 40}, {40, 7, 5}, {1, PAGES - 1, 1}};
  uint8_t *content = random_bytes(BYTES, 4), *before = random_bytes(BYTES, 5), *expected = malloc(BYTES);
  const int fd = file_with(content, BYTES, 0);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
    char name[32];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const int read_only = open(name, O_RDONLY | O_CLOEXEC);
    const uint64_t at = (uint64_t)rows[i].at * PAGE_BYTES, bytes = (uint64_t)rows[i].pages * PAGE_BYTES;
    CHECK_EQ(tram_ram_write(ram, 0, before, BYTES), 0);
    CHECK_EQ(tram_ram_map_file(ram, at, bytes, read_only, (uint64_t)rows[i].from * PAGE_BYTES), 0);
    close(read_only);
    memcpy(expected, before, BYTES);
    memcpy(expected + at, content + (uint64_t)rows[i].from * PAGE_BYTES, bytes);
    CHECK(is_all(ram, expected));
    CHECK_EQ(tram_ram_write(ram, at, "mine", 4), 0);
    memcpy(expected + at, "mine", 4);
    CHECK(is_all(ram, expected));
    tram_ram_destroy(ram);
  }
  free(content);
  free(before);
  free(expected);
  close(fd);
}

static void what_cannot_be_mapped_is_refused(void) {
  struct mapped one = mapped_file(0);
  int32_t ends[2];
  CHECK_EQ(tram_pipe(ends), 0);
  char name[32];
  snprintf(name, sizeof name, "/proc/self/fd/%d", one.fd);
  const int write_only = open(name, O_WRONLY | O_CLOEXEC), folder = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const struct {
    uint64_t offset, bytes, file_offset;
    int fd, result;
  } rows[] = {
      {1, PAGE_BYTES, 0, one.fd, -EINVAL},
      {PAGE_BYTES - 1, PAGE_BYTES, 0, one.fd, -EINVAL},
      {0, 1, 0, one.fd, -EINVAL},
      {0, PAGE_BYTES + 8, 0, one.fd, -EINVAL},
      {0, PAGE_BYTES, 1, one.fd, -EINVAL},
      {0, PAGE_BYTES, 512, one.fd, -EINVAL},
      {0, 0, 0, one.fd, -ERANGE},
      {0, BYTES + PAGE_BYTES, 0, one.fd, -ERANGE},
      {BYTES, PAGE_BYTES, 0, one.fd, -ERANGE},
      {PAGE_BYTES, BYTES, 0, one.fd, -ERANGE},
      {UINT64_MAX - PAGE_BYTES + 1, PAGE_BYTES, 0, one.fd, -ERANGE},
      {PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1, 0, one.fd, -ERANGE},
      {0, PAGE_BYTES, (uint64_t)1 << 63, one.fd, -EOVERFLOW},
      {0, PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1, one.fd, -EOVERFLOW},
      {0, PAGE_BYTES, 0, -1, -EBADF},
      {0, PAGE_BYTES, 0, write_only, -EACCES},
      {0, PAGE_BYTES, 0, ends[0], -ENODEV},
      {0, PAGE_BYTES, 0, folder, -ENODEV},
  };
  CHECK_EQ(tram_ram_write(one.ram, 0, "mine", 4), 0);
  memcpy(one.content, "mine", 4);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    CHECK_EQ(tram_ram_map_file(one.ram, rows[i].offset, rows[i].bytes, rows[i].fd, rows[i].file_offset), rows[i].result);
    CHECK(is_all(one.ram, one.content)); /* as it was before, and all of it still there */
  }
  CHECK_EQ(tram_ram_map_file(NULL, 0, PAGE_BYTES, one.fd, 0), -ERANGE);

  static const struct {
    uint64_t offset, bytes;
  } bad[] = {{1, PAGE_BYTES},         {0, 1},           {0, BYTES + PAGE_BYTES}, {BYTES, PAGE_BYTES},
             {UINT64_MAX, PAGE_BYTES}, {0, UINT64_MAX}, {PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1}};
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    test_where = 100 + i;
    for (int own = 0; own < 2; own++) CHECK_EQ(tram_ram_populate_range(one.ram, bad[i].offset, bad[i].bytes, own), -ERANGE);
  }
  CHECK_EQ(tram_ram_populate_range(one.ram, 0, 0, 1), 0);
  CHECK_EQ(tram_ram_forbid(one.ram, PAGES), -ERANGE);
  CHECK_EQ(tram_ram_forbid(one.ram, UINT32_MAX), -ERANGE);
  CHECK(is_all(one.ram, one.content));
  close(ends[0]);
  close(ends[1]);
  close(write_only);
  close(folder);
  release(&one);
}

/* Brought in as the file's, a page is what somebody writes there; brought in as our own, it is what it was then. The same by
 * a kernel that has no call for it. */
static void populate_all_ways(int on_disk) {
  struct mapped one = mapped_file(on_disk);
  /* 4: untouched; 5: the file's; 6: our own; 7: written to before, then made our own. */
  CHECK_EQ(tram_ram_write(one.ram, 7 * PAGE_BYTES + 1, "mine", 4), 0);
  memcpy(one.content + 7 * PAGE_BYTES + 1, "mine", 4);
  for (uint32_t page = 4; page < 7; page++) CHECK_EQ(page_state(one.ram, page), PAGE_ABSENT);
  CHECK_EQ(tram_ram_populate_range(one.ram, 6 * PAGE_BYTES, 2 * PAGE_BYTES, 1), 0);
  CHECK_EQ(page_state(one.ram, 6), PAGE_OWN);
  CHECK_EQ(page_state(one.ram, 7), PAGE_OWN);
  CHECK_EQ(tram_ram_populate_range(one.ram, 5 * PAGE_BYTES, PAGE_BYTES, 0), 0);
  CHECK_EQ(page_state(one.ram, 5), PAGE_OF_FILE);
  CHECK_EQ(tram_ram_populate_range(one.ram, 5 * PAGE_BYTES, 3 * PAGE_BYTES, 0), 0); /* what is ours stays ours */
  CHECK_EQ(page_state(one.ram, 6), PAGE_OWN);
  CHECK(is_all(one.ram, one.content));

  /* Somebody else writes to the file, and shortens it. */
  CHECK_EQ(pwrite(one.fd, "theirs", 6, 5 * PAGE_BYTES), 6);
  CHECK_EQ(pwrite(one.fd, "theirs", 6, 6 * PAGE_BYTES), 6);
  uint8_t *found = malloc(4 * PAGE_BYTES);
  CHECK_EQ(tram_ram_read(one.ram, 4 * PAGE_BYTES, found, 4 * PAGE_BYTES), 0);
  CHECK(memcmp(found + PAGE_BYTES, "theirs", 6) == 0);
  CHECK(memcmp(found + 2 * PAGE_BYTES, one.content + 6 * PAGE_BYTES, 2 * PAGE_BYTES) == 0);
  CHECK_EQ(ftruncate(one.fd, 4 * PAGE_BYTES), 0);
  for (uint32_t page = 4; page < 8; page++) /* the kernel takes even what is ours, where the file is cut */
    CHECK_EQ(tram_ram_read(one.ram, (uint64_t)page * PAGE_BYTES, found, 1), -EFAULT);
  CHECK_EQ(tram_ram_populate_range(one.ram, 4 * PAGE_BYTES, PAGE_BYTES, 0), -EFAULT);
  CHECK_EQ(tram_ram_populate_range(one.ram, 4 * PAGE_BYTES, PAGE_BYTES, 1), -EFAULT);
  CHECK_EQ(tram_ram_populate_range(one.ram, 0, BYTES, 1), -EFAULT); /* it goes beyond the file's end */
  free(found);
  release(&one);
}

static void populated_pages_are_there(void) {
  for (unsigned row = 0; row < 4; row++) {
    test_where = row;
    without_populate = row % 2;
    populate_all_ways(row / 2);
    without_populate = 0;
  }
}

/* The pages behind the end of a file that was cut short are gone, ours among them; the last half page reads as zeros. */
static void a_file_is_cut_where_its_last_page_ends(void) {
  struct mapped one = mapped_file(0);
  uint8_t page[PAGE_BYTES];
  CHECK_EQ(ftruncate(one.fd, 3 * PAGE_BYTES + 100), 0);
  CHECK_EQ(tram_ram_read(one.ram, 3 * PAGE_BYTES, page, PAGE_BYTES), 0);
  CHECK(memcmp(page, one.content + 3 * PAGE_BYTES, 100) == 0);
  for (unsigned i = 100; i < PAGE_BYTES; i++) CHECK_EQ(page[i], 0);
  CHECK_EQ(tram_ram_read(one.ram, 4 * PAGE_BYTES, page, 1), -EFAULT);
  CHECK_EQ(tram_ram_read(one.ram, 4 * PAGE_BYTES - 1, page, 1), 0);
  release(&one);

  /* Mapped beyond the end from the beginning: nothing is noticed before it is touched. */
  one = mapped_file(0);
  CHECK_EQ(tram_ram_map_file(one.ram, 0, 2 * PAGE_BYTES, one.fd, BYTES - PAGE_BYTES), 0);
  CHECK_EQ(first_wrong(one.ram, 0, 1), 0);
  release(&one);
}

/* Whatever takes guest memory: it works, the file ends before the page and it fails, the file is long again and it works. */
static void a_file_that_ends_is_an_error_of_the_call(void) {
  for (int on_disk = 0; on_disk < 2; on_disk++) {
    struct mapped one = mapped_file(on_disk);
    for (int i = 0; i < TOUCHERS; i++) {
      test_where = (unsigned long)(on_disk * 100 + i);
      CHECK(touchers[i](one.ram, 20) >= 0);
      CHECK_EQ(tram_ram_map_file(one.ram, 0, BYTES, one.fd, 0), 0); /* not our own any longer */
      CHECK_EQ(ftruncate(one.fd, 20 * PAGE_BYTES), 0);
      for (int again = 0; again < 3; again++) {
        CHECK_EQ(touchers[i](one.ram, 20), -EFAULT);
        CHECK_EQ(touchers[i](one.ram, PAGES - 1), -EFAULT);
        CHECK(touchers[i](one.ram, 19) >= 0);
      }
      CHECK_EQ(ftruncate(one.fd, BYTES), 0);
      CHECK(touchers[i](one.ram, 20) >= 0);
    }
    release(&one);
  }
}

/* Some pages are there, some are not: the call fails, and what it did to the first ones is done. */
static void a_call_fails_in_the_middle(void) {
  struct mapped one = mapped_file(0);
  static const uint32_t index[] = {0, 1, 40, 2}, offset[] = {0, 0, 0, 0};
  static const uint8_t content[PAGE_BYTES] = {7};
  uint8_t page[PAGE_BYTES], *out = malloc(BYTES);
  uint64_t table[PAGES] = {0};
  CHECK_EQ(ftruncate(one.fd, 40 * PAGE_BYTES), 0);
  CHECK_EQ(tram_hash_ram(one.ram, index, 4, table, PAGES), -EFAULT);
  CHECK(table[0] && table[1] && !table[40] && !table[2]);
  CHECK_EQ(tram_pages_scatter(one.ram, content, PAGE_BYTES, index, offset, 4), -EFAULT);
  CHECK_EQ(tram_ram_read(one.ram, PAGE_BYTES, page, PAGE_BYTES), 0);
  CHECK(memcmp(page, content, PAGE_BYTES) == 0);
  CHECK_EQ(tram_ram_read(one.ram, 2 * PAGE_BYTES, page, PAGE_BYTES), 0);
  CHECK(memcmp(page, one.content + 2 * PAGE_BYTES, PAGE_BYTES) == 0);
  CHECK_EQ(tram_pages_gather(one.ram, (const uint8_t *)"h", 1, content, index, 4, out, BYTES), -EFAULT);
  CHECK_EQ(tram_ram_read(one.ram, 0, out, BYTES), -EFAULT);
  free(out);
  release(&one);
}

static void the_walkers_check_fails_with_its_file(void) {
  enum { LOW = WALKER_RAM_START / PAGE_BYTES, ALL = LOW + 64, RESULT_WORDS = 8 + 4 * WALKER_CPUS_MAX };
  const struct walker_params params = {.magic = WALKER_MAGIC, .cpus = 2, .ram_pages = ALL, .low_pages = ALL,
                                       .first_page = LOW + 8, .set_pages = 40, .fill = WALKER_FILL_TEXT, .seed = 5};
  const uint64_t bytes = (uint64_t)ALL * PAGE_BYTES;
  struct tram_ram *ram = as_ram(tram_ram_create(bytes));
  uint32_t result[RESULT_WORDS];
  uint8_t *content = malloc(bytes);
  CHECK_EQ(tram_walker_fill(ram, &params), 0);
  CHECK_EQ(tram_ram_write(ram, WALKER_PARAMS, &params, sizeof params), 0);
  CHECK_EQ(tram_ram_read(ram, 0, content, (uint32_t)bytes), 0);
  const int fd = file_with(content, bytes, 0);
  static const uint32_t kept[] = {0, WALKER_PARAMS / PAGE_BYTES, WALKER_PARAMS / PAGE_BYTES + 1, LOW, LOW + 20, ALL - 1};
  for (unsigned i = 0; i < sizeof kept / sizeof *kept; i++) {
    test_where = kept[i];
    CHECK_EQ(tram_ram_map_file(ram, 0, bytes, fd, 0), 0);
    CHECK_EQ(tram_walker_check(ram, result), 0);
    CHECK_EQ(result[1], 0);
    CHECK_EQ(ftruncate(fd, (off_t)kept[i] * PAGE_BYTES), 0);
    CHECK_EQ(tram_walker_check(ram, result), -EFAULT);
    CHECK_EQ(tram_walker_fill(ram, &params), -EFAULT);
    CHECK_EQ(pwrite(fd, content, bytes, 0), (ssize_t)bytes);
    CHECK_EQ(tram_walker_check(ram, result), 0); /* nothing of the fill has reached the file */
  }
  free(content);
  close(fd);
  tram_ram_destroy(ram);
}

static void a_forbidden_page_fails(void) {
  for (unsigned row = 0; row < 6; row++) {
    test_where = row;
    struct mapped one = mapped_file(0);
    struct tram_ram *plain = as_ram(tram_ram_create(BYTES)), *ram = row % 2 ? plain : one.ram;
    if (row / 2 == 1) CHECK_EQ(tram_ram_write(ram, 8 * PAGE_BYTES, "x", 1), 0); /* our own already */
    if (row / 2 == 2) without_populate = 1;
    for (int i = 0; i < TOUCHERS; i++) CHECK(touchers[i](ram, 9) >= 0);
    CHECK_EQ(tram_ram_forbid(ram, 8), 0);
    CHECK_EQ(tram_ram_forbid(ram, 8), 0);
    CHECK_EQ(first_wrong(ram, 7, 8), 0);
    CHECK_EQ(first_wrong(ram, 10, 8), 0);
    CHECK_EQ(by_read(ram, 9), 0);
    CHECK_EQ(tram_ram_populate_range(ram, 7 * PAGE_BYTES, 3 * PAGE_BYTES, 1), -EFAULT);
    CHECK_EQ(tram_ram_populate_range(ram, 7 * PAGE_BYTES, 3 * PAGE_BYTES, 0), -EFAULT);
    CHECK_EQ(tram_ram_forbid(ram, 0), 0);
    CHECK_EQ(tram_ram_forbid(ram, PAGES - 1), 0);
    CHECK_EQ(first_wrong(ram, 2, 0), 0);
    CHECK_EQ(first_wrong(ram, PAGES - 2, PAGES - 1), 0);
    without_populate = 0;
    tram_ram_destroy(plain);
    release(&one);
  }
}

static void populating_loses_nothing(void) {
  uint8_t *content = random_bytes(BYTES, 8);
  for (without_populate = 0; without_populate < 2; without_populate++) {
    test_where = (unsigned long)without_populate;
    struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
    CHECK_EQ(tram_ram_write(ram, 0, content, BYTES / 2), 0);
    CHECK_EQ(tram_ram_populate(ram), 0);
    for (uint32_t page = 0; page < PAGES; page++) CHECK_EQ(page_state(ram, page), PAGE_OWN);
    uint8_t *found = malloc(BYTES);
    CHECK_EQ(tram_ram_read(ram, 0, found, BYTES), 0);
    CHECK(memcmp(found, content, BYTES / 2) == 0);
    for (uint32_t at = BYTES / 2; at < BYTES; at++) CHECK_EQ(found[at], 0);
    free(found);
    tram_ram_destroy(ram);
  }
  without_populate = 0;
  free(content);
}

/* --- memory that leaves its file ----------------------------------------------------------------------------------------- */

static void what_was_detached_outlives_the_file(void) {
  static const struct {
    uint32_t first, pages;
  } rows[] = {{0, PAGES}, {0, 1}, {PAGES - 1, 1}, {20, 30}, {1, PAGES - 2}};
  for (unsigned i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
    test_where = i;
    const uint32_t first = rows[i / 2].first, end = first + rows[i / 2].pages;
    struct mapped one = mapped_file(i % 2);
    uint8_t page[PAGE_BYTES];
    memset(one.content + first * PAGE_BYTES, 0, 100);
    CHECK_EQ(tram_ram_write(one.ram, (uint64_t)first * PAGE_BYTES, one.content + first * PAGE_BYTES, 100), 0);
    CHECK_EQ(tram_ram_detach(one.ram, (uint64_t)first * PAGE_BYTES, (uint64_t)rows[i / 2].pages * PAGE_BYTES), 0);
    CHECK(is_all(one.ram, one.content));
    CHECK_EQ(pwrite(one.fd, "theirs", 6, (off_t)first * PAGE_BYTES), 6);
    CHECK_EQ(ftruncate(one.fd, 0), 0);
    for (uint32_t at = 0; at < PAGES; at++) {
      const int result = tram_ram_read(one.ram, (uint64_t)at * PAGE_BYTES, page, PAGE_BYTES);
      CHECK_EQ(result, at >= first && at < end ? 0 : -EFAULT);
      if (result == 0) CHECK(memcmp(page, one.content + (uint64_t)at * PAGE_BYTES, PAGE_BYTES) == 0);
    }
    for (int call = 0; call < TOUCHERS; call++)
      if (touchers[call] != by_read_across) CHECK(touchers[call](one.ram, first) >= 0);
    release(&one);
  }
}

static void what_cannot_be_detached_stays_as_it_was(void) {
  static const struct {
    uint64_t offset, bytes;
  } bad[] = {{1, PAGE_BYTES},          {0, 1},           {0, 0},
             {0, BYTES + PAGE_BYTES},  {BYTES, PAGE_BYTES}, {PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1}};
  struct mapped one = mapped_file(0);
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    test_where = i;
    CHECK_EQ(tram_ram_detach(one.ram, bad[i].offset, bad[i].bytes), -ERANGE);
  }
  CHECK_EQ(tram_ram_detach(NULL, 0, PAGE_BYTES), -ERANGE);
  CHECK(is_all(one.ram, one.content));
  for (uint32_t page = 0; page < PAGES; page++) CHECK_EQ(page_state(one.ram, page), PAGE_OF_FILE);
  CHECK_EQ(ftruncate(one.fd, (PAGES - 1) * PAGE_BYTES), 0);
  CHECK_EQ(tram_ram_detach(one.ram, 0, BYTES), -EFAULT);
  CHECK_EQ(ftruncate(one.fd, BYTES), 0);
  memset(one.content + (PAGES - 1) * PAGE_BYTES, 0, PAGE_BYTES);
  CHECK(is_all(one.ram, one.content));
  CHECK_EQ(tram_ram_forbid(one.ram, 7), 0);
  CHECK_EQ(tram_ram_detach(one.ram, 0, BYTES), -EFAULT);
  CHECK_EQ(by_read(one.ram, 7), -EFAULT);
  release(&one);
}

/* --- several threads --------------------------------------------------------------------------------------------------- */

enum { THREADS = 6 };

struct worker {
  struct mapped *own, *shared;
  uint32_t number;
  int wrong;
};

static atomic_int started;

static void *fails_and_goes_on(void *argument) {
  struct worker *self = argument;
  atomic_fetch_add(&started, 1);
  while (atomic_load(&started) < THREADS) sched_yield();
  for (unsigned round = 0; round < 40 && !self->wrong; round++) {
    self->wrong = first_wrong(self->own->ram, 1, 40);
    if (!self->wrong) self->wrong = first_wrong(self->shared->ram, self->number, 32 + self->number);
  }
  if (guard_point) self->wrong = 100;
  return NULL;
}

static void threads_fail_each_for_itself(void) {
  struct mapped shared = mapped_file(0), own[THREADS];
  struct worker workers[THREADS];
  pthread_t threads[THREADS];
  CHECK_EQ(ftruncate(shared.fd, 32 * PAGE_BYTES), 0);
  atomic_store(&started, 0);
  for (uint32_t i = 0; i < THREADS; i++) {
    own[i] = mapped_file(i % 2);
    CHECK_EQ(ftruncate(own[i].fd, 40 * PAGE_BYTES), 0);
    workers[i] = (struct worker){.own = &own[i], .shared = &shared, .number = i};
  }
  for (uint32_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, fails_and_goes_on, &workers[i]);
  for (uint32_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (uint32_t i = 0; i < THREADS; i++) {
    test_where = i;
    CHECK_EQ(workers[i].wrong, 0);
    release(&own[i]);
  }
  release(&shared);
}

static atomic_int over;
struct reader {
  const struct mapped *of;
  unsigned long read, failed;
  int whole; /* all of it is there, always; else the first 16 pages */
  int wrong;
};

static void *reads_on(void *argument) {
  struct reader *self = argument;
  uint8_t page[PAGE_BYTES];
  uint64_t table[PAGES];
  for (uint32_t at = 0; !atomic_load(&over); at = (at + 13) % PAGES) {
    const int result = tram_ram_read(self->of->ram, (uint64_t)at * PAGE_BYTES, page, PAGE_BYTES);
    const int hashed = tram_hash_ram(self->of->ram, &at, 1, table, PAGES);
    if (result == 0)
      self->read++;
    else
      self->failed++;
    if (result != 0 && result != -EFAULT) self->wrong = 1;
    if (hashed != 0 && hashed != -EFAULT) self->wrong = 2;
    const int always = self->whole || at < 16;
    if (always && result < 0) self->wrong = 3;
    if (always && memcmp(page, self->of->content + (uint64_t)at * PAGE_BYTES, PAGE_BYTES)) self->wrong = 4;
  }
  return NULL;
}

/* Its end moves to and fro while threads look: a call has read the page, or has failed. */
static void the_end_moves_while_threads_read(void) {
  struct mapped one = mapped_file(0);
  struct reader readers[THREADS];
  pthread_t threads[THREADS];
  atomic_store(&over, 0);
  for (unsigned i = 0; i < THREADS; i++) {
    readers[i] = (struct reader){.of = &one};
    pthread_create(&threads[i], NULL, reads_on, &readers[i]);
  }
  for (unsigned round = 0; round < 300; round++) {
    if (ftruncate(one.fd, 16 * PAGE_BYTES) < 0) abort();
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    if (pwrite(one.fd, one.content, BYTES, 0) != BYTES) abort();
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
  }
  atomic_store(&over, 1);
  unsigned long read_all = 0, failed_all = 0;
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < THREADS; i++) {
    CHECK_EQ(readers[i].wrong, 0);
    read_all += readers[i].read;
    failed_all += readers[i].failed;
  }
  CHECK(read_all > 0 && failed_all > 0); /* it did happen */
  CHECK(is_all(one.ram, one.content));
  release(&one);
}

/* While it leaves its file, whoever reads sees what has always been there. */
static void threads_read_while_memory_is_detached(void) {
  struct mapped one = mapped_file(0);
  struct reader readers[THREADS];
  pthread_t threads[THREADS];
  atomic_store(&over, 0);
  for (unsigned i = 0; i < THREADS; i++) {
    readers[i] = (struct reader){.of = &one, .whole = 1};
    pthread_create(&threads[i], NULL, reads_on, &readers[i]);
  }
  for (unsigned round = 0; round < 200; round++) {
    for (uint32_t page = 0; page < PAGES; page += 16)
      if (tram_ram_detach(one.ram, (uint64_t)page * PAGE_BYTES, 16 * PAGE_BYTES)) abort();
    if (tram_ram_map_file(one.ram, 0, BYTES, one.fd, 0)) abort();
  }
  atomic_store(&over, 1);
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < THREADS; i++) {
    CHECK_EQ(readers[i].wrong, 0);
    CHECK(readers[i].read > 0 && readers[i].failed == 0);
  }
  release(&one);
}

/* --- 32-bit page numbers ------------------------------------------------------------------------------------------------- */

/* --- memory that is given back ------------------------------------------------------------------------------------------- */

/* The same content, in memory that is no file's. */
static struct mapped anonymous_memory(void) {
  struct mapped one = mapped_file(0);
  tram_ram_destroy(one.ram);
  one.ram = as_ram(tram_ram_create(BYTES));
  if (tram_ram_write(one.ram, 0, one.content, BYTES) < 0) abort();
  return one;
}

static void what_is_discarded_is_zero(void) {
  static const struct {
    uint32_t at, pages;
  } rows[] = {{0, 1}, {PAGES - 1, 1}, {3, 5}, {17, 30}, {0, PAGES}};
  for (int kind = 0; kind < 3; kind++) /* anonymous; a file in memory; one on disk */
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
      test_where = (unsigned long)kind * 100 + i;
      struct mapped one = kind ? mapped_file(kind == 2) : anonymous_memory();
      const uint64_t at = (uint64_t)rows[i].at * PAGE_BYTES, bytes = (uint64_t)rows[i].pages * PAGE_BYTES;
      CHECK_EQ(tram_ram_write(one.ram, at + 17, "mine", 4), 0); /* the first page is its own, the others the file's */
      uint8_t *expected = malloc(BYTES), *found = malloc(BYTES);
      memcpy(expected, one.content, BYTES);
      memset(expected + at, 0, bytes);
      CHECK(!is_all(one.ram, expected));
      CHECK_EQ(page_state(one.ram, rows[i].at), PAGE_OWN);

      CHECK_EQ(tram_ram_discard(one.ram, at, bytes, kind > 0), 0);
      for (uint32_t page = rows[i].at; page < rows[i].at + rows[i].pages; page++) {
        if (kind == 0) CHECK_EQ(page_state(one.ram, page), PAGE_ABSENT); /* it is given back */
        CHECK(page_state(one.ram, page) != PAGE_OF_FILE);
      }
      CHECK(is_all(one.ram, expected));
      CHECK_EQ(pread(one.fd, found, BYTES, 0), BYTES);
      CHECK(memcmp(found, one.content, BYTES) == 0); /* the file's own bytes stay */

      CHECK_EQ(tram_ram_write(one.ram, at + 17, "more", 4), 0); /* it is memory like any other */
      memcpy(expected + at + 17, "more", 4);
      CHECK(is_all(one.ram, expected));
      CHECK_EQ(tram_ram_discard(one.ram, at, bytes, kind > 0), 0);
      memset(expected + at, 0, bytes);
      CHECK(is_all(one.ram, expected));
      if (kind) { /* no file is beneath it any more: its end is nobody's */
        CHECK_EQ(ftruncate(one.fd, 0), 0);
        CHECK_EQ(tram_ram_read(one.ram, at, found, (uint32_t)bytes), 0);
        CHECK(memcmp(found, expected + at, bytes) == 0);
      }
      free(expected);
      free(found);
      release(&one);
    }
}

static void what_cannot_be_discarded_stays_as_it_was(void) {
  static const struct {
    uint64_t offset, bytes;
  } rows[] = {{1, PAGE_BYTES},
              {PAGE_BYTES - 1, PAGE_BYTES},
              {0, 1},
              {0, PAGE_BYTES + 8},
              {0, 0},
              {0, BYTES + PAGE_BYTES},
              {BYTES, PAGE_BYTES},
              {PAGE_BYTES, BYTES},
              {UINT64_MAX - PAGE_BYTES + 1, PAGE_BYTES},
              {PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1},
              {0, UINT64_MAX}};
  struct mapped one = mapped_file(0);
  for (int is_file = 0; is_file < 2; is_file++)
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
      test_where = (unsigned long)is_file * 100 + i;
      CHECK_EQ(tram_ram_discard(one.ram, rows[i].offset, rows[i].bytes, is_file), -ERANGE);
      CHECK(is_all(one.ram, one.content));
    }
  CHECK_EQ(tram_ram_discard(NULL, 0, PAGE_BYTES, 0), -ERANGE);
  release(&one);
}

struct discard_reader {
  const struct mapped *of;
  unsigned long old, zero, wrong;
};

/* A page is read whole as it was, or as zeros, or, since it goes while it is read, as one and then the other. */
static void *reads_what_goes(void *argument) {
  struct discard_reader *self = argument;
  uint8_t page[PAGE_BYTES];
  uint32_t state = 7;
  while (!atomic_load(&over)) {
    const uint32_t at = next_random(&state) % PAGES;
    if (tram_ram_read(self->of->ram, (uint64_t)at * PAGE_BYTES, page, PAGE_BYTES) < 0) {
      self->wrong++;
      continue;
    }
    const uint8_t *content = self->of->content + (uint64_t)at * PAGE_BYTES;
    if (memcmp(page, content, PAGE_BYTES) == 0)
      self->old++;
    else if (page_is_zero(page))
      self->zero++;
    else
      for (uint32_t i = 0; i < PAGE_BYTES; i++) self->wrong += page[i] && page[i] != content[i];
  }
  return NULL;
}

static void threads_read_while_memory_is_discarded(void) {
  for (int is_file = 0; is_file < 2; is_file++) {
    test_where = (unsigned long)is_file;
    struct mapped one = is_file ? mapped_file(0) : anonymous_memory();
    struct discard_reader readers[THREADS];
    pthread_t threads[THREADS];
    atomic_store(&over, 0);
    for (unsigned i = 0; i < THREADS; i++) {
      readers[i] = (struct discard_reader){.of = &one};
      pthread_create(&threads[i], NULL, reads_what_goes, &readers[i]);
    }
    for (unsigned round = 0; round < 100; round++) {
      if (is_file ? tram_ram_map_file(one.ram, 0, BYTES, one.fd, 0) : tram_ram_write(one.ram, 0, one.content, BYTES)) abort();
      nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
      for (uint32_t page = 0; page < PAGES; page += 4)
        if (tram_ram_discard(one.ram, (uint64_t)page * PAGE_BYTES, 4 * PAGE_BYTES, is_file) < 0) abort();
      nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    atomic_store(&over, 1);
    unsigned long old = 0, zero = 0;
    for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < THREADS; i++) {
      CHECK_EQ(readers[i].wrong, 0);
      old += readers[i].old;
      zero += readers[i].zero;
    }
    CHECK(old > 0 && zero > 0); /* it did happen */
    release(&one);
  }
}

static void the_last_page_number_is_a_page(void) {
  const uint64_t most = ((uint64_t)UINT32_MAX + 1) * PAGE_BYTES;
  CHECK_EQ(tram_ram_create(most + PAGE_BYTES), -EINVAL);
  const int64_t handle = tram_ram_create(most);
  if (handle == -ENOMEM) SKIP("this system does not reserve 16 TiB");
  CHECK(handle > 0);
  struct tram_ram *ram = as_ram(handle);
  const uint32_t last = UINT32_MAX;
  const int fd = file_with((const uint8_t *)"the last one", 13, 0);
  char found[13];
  CHECK_EQ(ftruncate(fd, PAGE_BYTES), 0);
  CHECK_EQ(tram_guard_install(), 0);
  CHECK_EQ(tram_ram_map_file(ram, most - PAGE_BYTES, PAGE_BYTES, fd, 0), 0);
  CHECK_EQ(tram_ram_populate_range(ram, most - PAGE_BYTES, PAGE_BYTES, 1), 0);
  CHECK_EQ(page_state(ram, last), PAGE_OWN);
  CHECK_EQ(tram_ram_read(ram, (uint64_t)last * PAGE_BYTES, found, sizeof found), 0);
  CHECK(memcmp(found, "the last one", 13) == 0);
  CHECK_EQ(tram_ram_forbid(ram, last), 0);
  CHECK_EQ(tram_ram_read(ram, (uint64_t)last * PAGE_BYTES, found, sizeof found), -EFAULT);
  close(fd);
  tram_ram_destroy(ram);
}

const struct test map_tests[] = {
    /* These are the first of all that put the guard in, so that it is not there yet in their children. */
    {"guard: another handler keeps the faults that it can put right, and so does the guard",
     another_handler_keeps_its_faults},
    {"guard: a handler for a crash is asked once", a_crash_handler_speaks_once},
    {"guard: put in again beneath another handler, it sends nothing in circles", the_guard_is_put_in_once},
    {"guard: a fault outside of a guarded call kills, and so does a signal that somebody sends", a_fault_outside_kills},
    {"guard: it is around all of a call, and around another one", the_guard_is_around_all_of_it},
    {"map: what is written stays in this memory", writes_stay_in_memory},
    {"map: any pages of a file, anywhere in memory", any_part_of_a_file_is_mapped_anywhere},
    {"map: what cannot be mapped, populated or forbidden is refused, and leaves memory as it was",
     what_cannot_be_mapped_is_refused},
    {"map: populated pages are there, and our own are not what somebody writes to the file", populated_pages_are_there},
    {"map: populating loses nothing that was written", populating_loses_nothing},
    {"map: a file ends where its last page ends", a_file_is_cut_where_its_last_page_ends},
    {"map: every call that takes guest memory fails where the file has ended, and goes on",
     a_file_that_ends_is_an_error_of_the_call},
    {"map: a call that fails in the middle has done the first half", a_call_fails_in_the_middle},
    {"map: the walker's fill and check fail where their file has ended", the_walkers_check_fails_with_its_file},
    {"map: a forbidden page fails every call, and its neighbours do not", a_forbidden_page_fails},
    {"map: what was detached outlives its file", what_was_detached_outlives_the_file},
    {"map: what cannot be detached stays as it was", what_cannot_be_detached_stays_as_it_was},
    {"map: threads read while memory is detached", threads_read_while_memory_is_detached},
    {"map: what is discarded is zero, and no file's", what_is_discarded_is_zero},
    {"map: what cannot be discarded stays as it was", what_cannot_be_discarded_stays_as_it_was},
    {"map: threads read while memory is discarded", threads_read_while_memory_is_discarded},
    {"map: threads fail each for itself", threads_fail_each_for_itself},
    {"map: the file's end moves while threads read", the_end_moves_while_threads_read},
    {"map: page 2^32 - 1 is a page, and there is none behind it", the_last_page_number_is_a_page},
    {0},
};
