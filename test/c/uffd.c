/* uffd.c: threads that touch memory before it is there, and those who place it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 1024, BYTES = PAGES * PAGE_BYTES, SOON_MS = 5000, WHILE_MS = 20 };
static const char *const NOT_PERMITTED = "userfaultfd is not permitted here: vm.unprivileged_userfaultfd";

/* --- helpers ------------------------------------------------------------------------------------------------------- */

struct watched {
  int fd;
  struct tram_ram *ram;
};

/* fd < 0: it may not be. */
static struct watched watched_ram(uint64_t bytes) {
  struct watched one = {.fd = tram_host_userfaultfd()};
  if (one.fd == -EPERM || one.fd == -ENOSYS) return one;
  one.ram = as_ram(tram_ram_create(bytes));
  if (one.fd < 0 || tram_guard_install() < 0 || tram_uffd_begin(one.fd, one.ram) < 0) abort();
  return one;
}

static void release(struct watched *one) {
  close(one->fd);
  tram_ram_destroy(one->ram);
}


static void nap(int ms) { nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL); }

/* Page `number` of pages that are all different, and different again with another seed. */
static void make_page(uint8_t *page, uint32_t number, uint32_t seed) {
  uint32_t state = (number + 1) * 2654435761u ^ (seed + 1) * 40503u;
  for (unsigned i = 0; i < PAGE_BYTES; i += 4) {
    const uint32_t word = next_random(&state);
    memcpy(page + i, &word, 4);
  }
}
static int is_page(const uint8_t *page, uint32_t number, uint32_t seed) {
  uint8_t expected[PAGE_BYTES];
  make_page(expected, number, seed);
  return memcmp(page, expected, PAGE_BYTES) == 0;
}

static int place_page(const struct watched *one, uint32_t page, uint32_t seed) {
  uint8_t content[PAGE_BYTES];
  make_page(content, page, seed);
  return tram_uffd_place(one->fd, one->ram, content, sizeof content, &page, (uint32_t[]){0}, 1);
}
static int place_zero(const struct watched *one, uint32_t page) { return tram_uffd_place_zero(one->fd, one->ram, &page, 1); }

static int read_page(const struct watched *one, uint32_t page, uint8_t *out) {
  return tram_ram_read(one->ram, (uint64_t)page * PAGE_BYTES, out, PAGE_BYTES);
}

/* A thread that touches one page: by itself, or by a system call that reads or writes there. */
enum way { READS, WRITES, KERNEL_READS, KERNEL_WRITES, WAYS };

struct visitor {
  struct tram_ram *ram;
  uint32_t page;
  enum way way;
  pthread_t thread;
  atomic_int state; /* 1: is about to; 2: is through */
  int64_t result;
  uint8_t found[PAGE_BYTES];
};

static void *visits(void *argument) {
  struct visitor *self = argument;
  const uint64_t at = (uint64_t)self->page * PAGE_BYTES;
  const int fd = memfd_create("visit", MFD_CLOEXEC);
  struct tram_file *file = (struct tram_file *)(uintptr_t)tram_file_attach(fd, -1, 0);
  if (pwrite(fd, "written", 7, (off_t)at) != 7 || ftruncate(fd, (off_t)at + PAGE_BYTES) < 0) abort();
  atomic_store(&self->state, 1);
  if (self->way == READS) self->result = tram_ram_read(self->ram, at, self->found, PAGE_BYTES);
  if (self->way == WRITES) self->result = tram_ram_write(self->ram, at, "written", 7);
  if (self->way == KERNEL_READS) {
    self->result = tram_file_write_ram(file, 0, UINT32_MAX, self->ram, &self->page, 1);
    if (self->result >= 0 && pread(fd, self->found, PAGE_BYTES, (off_t)at) != PAGE_BYTES) abort();
  }
  if (self->way == KERNEL_WRITES) self->result = tram_file_read_ram(file, 0, UINT32_MAX, self->ram, &self->page, 1);
  atomic_store(&self->state, 2);
  tram_file_detach(file);
  close(fd);
  return NULL;
}

static struct visitor *visit(const struct watched *one, uint32_t page, enum way way) {
  struct visitor *self = calloc(1, sizeof *self);
  self->ram = one->ram;
  self->page = page;
  self->way = way;
  if (pthread_create(&self->thread, NULL, visits, self)) abort();
  return self;
}

static int still_waits(struct visitor *self) {
  while (atomic_load(&self->state) == 0) sched_yield();
  nap(WHILE_MS);
  return atomic_load(&self->state) == 1;
}

/* Whether it gets through; if not, it and its thread are left behind. */
static int gets_through(struct visitor *self) {
  for (const int64_t end = now_ms() + SOON_MS; atomic_load(&self->state) != 2; nap(1))
    if (now_ms() > end) return 0;
  pthread_join(self->thread, NULL);
  return 1;
}

/* How many faults come within SOON_MS, at most `count`. */
static int faults(const struct watched *one, uint32_t *index, int count) {
  int found = 0;
  for (const int64_t end = now_ms() + SOON_MS; found < count && now_ms() < end;) {
    const int more = tram_uffd_wait(one->fd, one->ram, index + found, (uint32_t)(count - found), 100);
    if (more < 0) return more;
    found += more;
  }
  return found;
}

/* --- tests ----------------------------------------------------------------------------------------------------------- */

static void who_touches_waits_for_the_page(void) {
  static const uint32_t pages[] = {0, 1, 511, 512, PAGES - 1};
  for (unsigned i = 0; i < 2 * WAYS * sizeof pages / sizeof *pages; i++) {
    test_where = i;
    const uint32_t page = pages[i / (2 * WAYS)];
    const enum way way = i / 2 % WAYS;
    const int zero = i % 2, writes = way == WRITES || way == KERNEL_WRITES;
    struct watched one = watched_ram(BYTES);
    if (one.fd < 0) SKIP(NOT_PERMITTED);
    uint32_t index[4];
    CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index, 4, 0), 0);
    struct visitor *visitor = visit(&one, page, way);
    CHECK_EQ(faults(&one, index, 1), 1);
    CHECK_EQ(index[0], page);
    CHECK(still_waits(visitor));
    CHECK_EQ(page_state(one.ram, page), PAGE_ABSENT);
    CHECK_EQ(place_page(&one, (page + 1) % PAGES, 1), 0); /* its neighbour helps nobody */
    CHECK(still_waits(visitor));
    CHECK_EQ(zero ? place_zero(&one, page) : place_page(&one, page, 1), 0);
    CHECK(gets_through(visitor));
    CHECK_EQ(visitor->result, 0);
    uint8_t expected[PAGE_BYTES] = {0}, found[PAGE_BYTES];
    if (!zero) make_page(expected, page, 1);
    if (!writes) CHECK(memcmp(visitor->found, expected, PAGE_BYTES) == 0);
    if (way == WRITES) memcpy(expected, "written", 7);
    if (way == KERNEL_WRITES) memset(expected, 0, PAGE_BYTES), memcpy(expected, "written", 7);
    CHECK_EQ(read_page(&one, page, found), 0);
    CHECK(memcmp(found, expected, PAGE_BYTES) == 0);
    CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index, 4, 0), 0);
    for (uint32_t other = 0; other < PAGES; other++) /* and no huge page has come with it */
      CHECK_EQ(page_state(one.ram, other) != PAGE_ABSENT, other == page || other == (page + 1) % PAGES);
    free(visitor);
    release(&one);
  }
}

static void all_who_wait_go_on(void) {
  enum { VISITORS = 6 };
  struct watched one = watched_ram(BYTES);
  if (one.fd < 0) SKIP(NOT_PERMITTED);
  static const uint32_t pages[VISITORS] = {3, 900, 3, 3, 17, 900};
  struct visitor *visitors[VISITORS];
  uint32_t index[VISITORS + 1], seen[PAGES] = {0};
  for (unsigned i = 0; i < VISITORS; i++) visitors[i] = visit(&one, pages[i], i % 2 ? READS : KERNEL_READS);
  for (unsigned i = 0; i < VISITORS; i++) CHECK(still_waits(visitors[i]));
  /* No more at once than there is room for, and none is lost. */
  index[2] = 0xeeeeeeee;
  CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index, 2, SOON_MS), 2);
  CHECK(index[2] == 0xeeeeeeee);
  CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index + 2, 0, 0), 0);
  CHECK_EQ(faults(&one, index + 2, VISITORS - 2), VISITORS - 2);
  CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index + VISITORS, 1, 0), 0);
  for (unsigned i = 0; i < VISITORS; i++) seen[index[i]]++;
  CHECK(seen[3] == 3 && seen[900] == 2 && seen[17] == 1);
  /* Several pages by one call, from anywhere in the buffer. */
  uint8_t *buffer = malloc(4 * PAGE_BYTES);
  static const uint32_t placed[] = {900, 3, 40}, offset[] = {2 * PAGE_BYTES + 8, 0, PAGE_BYTES + 1};
  for (unsigned i = 0; i < 3; i++) make_page(buffer + offset[i], placed[i], 2);
  CHECK_EQ(tram_uffd_place(one.fd, one.ram, buffer, 3 * PAGE_BYTES + 8, placed, offset, 3), 0);
  for (unsigned i = 0; i < VISITORS; i++) {
    if (pages[i] == 17) continue;
    CHECK(gets_through(visitors[i]));
    CHECK(visitors[i]->result == 0 && is_page(visitors[i]->found, pages[i], 2));
  }
  CHECK(still_waits(visitors[4]));
  CHECK_EQ(place_page(&one, 17, 2), 0);
  CHECK(gets_through(visitors[4]));
  CHECK(is_page(visitors[4]->found, 17, 2));
  uint8_t found[PAGE_BYTES];
  CHECK_EQ(read_page(&one, 40, found), 0);
  CHECK(is_page(found, 40, 2));
  for (unsigned i = 0; i < VISITORS; i++) free(visitors[i]);
  free(buffer);
  release(&one);
}

static void what_is_there_stays(void) {
  struct watched one = watched_ram(BYTES);
  if (one.fd < 0) SKIP(NOT_PERMITTED);
  uint8_t found[PAGE_BYTES], expected[PAGE_BYTES];
  make_page(expected, 5, 1);
  memcpy(expected + 100, "the guest's", 11);
  CHECK_EQ(place_page(&one, 5, 1), 0);
  CHECK_EQ(tram_ram_write(one.ram, 5 * PAGE_BYTES + 100, "the guest's", 11), 0);
  CHECK_EQ(place_page(&one, 5, 2), 0);
  CHECK_EQ(place_zero(&one, 5), 0);
  CHECK_EQ(read_page(&one, 5, found), 0);
  CHECK(memcmp(found, expected, PAGE_BYTES) == 0);
  CHECK_EQ(place_zero(&one, 6), 0);
  CHECK_EQ(place_page(&one, 6, 2), 0);
  CHECK_EQ(read_page(&one, 6, found), 0);
  CHECK(page_is_zero(found));
  /* In the middle of others that are not there yet: those are placed. */
  uint8_t buffer[3 * PAGE_BYTES];
  static const uint32_t index[] = {4, 5, 7}, offset[] = {0, PAGE_BYTES, 2 * PAGE_BYTES};
  for (unsigned i = 0; i < 3; i++) make_page(buffer + offset[i], index[i], 3);
  CHECK_EQ(tram_uffd_place(one.fd, one.ram, buffer, sizeof buffer, index, offset, 3), 0);
  CHECK(read_page(&one, 4, found) == 0 && is_page(found, 4, 3));
  CHECK(read_page(&one, 7, found) == 0 && is_page(found, 7, 3));
  CHECK(read_page(&one, 5, found) == 0 && memcmp(found, expected, PAGE_BYTES) == 0);

  /* Somebody waits for a page that came without a word: whoever finds it there tells them. */
  for (int zero = 0; zero < 2; zero++) {
    const uint32_t page = 100 + (uint32_t)zero;
    uint32_t fault;
    struct visitor *visitor = visit(&one, page, READS);
    CHECK_EQ(faults(&one, &fault, 1), 1);
    make_page(expected, page, 4);
    struct uffdio_copy silent = {.dst = (uintptr_t)checked_page(one.ram, page), .src = (uintptr_t)expected,
                                 .len = PAGE_BYTES, .mode = UFFDIO_COPY_MODE_DONTWAKE};
    CHECK_EQ(ioctl(one.fd, UFFDIO_COPY, &silent), 0);
    CHECK(still_waits(visitor));
    CHECK_EQ(zero ? place_zero(&one, page) : place_page(&one, page, 5), 0);
    CHECK(gets_through(visitor));
    CHECK(is_page(visitor->found, page, 4));
    free(visitor);
  }
  release(&one);
}

static void who_waits_for_a_forbidden_page_fails(void) {
  for (unsigned way = 0; way < WAYS; way++) {
    test_where = way;
    struct watched one = watched_ram(BYTES);
    if (one.fd < 0) SKIP(NOT_PERMITTED);
    uint32_t index[2];
    uint8_t found[PAGE_BYTES];
    struct visitor *visitor = visit(&one, 77, way), *other = visit(&one, 78, way);
    CHECK_EQ(faults(&one, index, 2), 2);
    CHECK_EQ(tram_ram_forbid(one.ram, 77), 0);
    CHECK(still_waits(visitor)); /* they have not looked again yet */
    CHECK_EQ(tram_uffd_wake(one.fd, one.ram, 77), 0);
    CHECK(gets_through(visitor));
    CHECK_EQ(visitor->result, -EFAULT);
    CHECK(still_waits(other));
    CHECK_EQ(read_page(&one, 77, found), -EFAULT); /* and so does who comes later, without waiting */
    CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index, 2, 0), 0);
    /* Somebody else has read the page meanwhile, and places it: it stays forbidden. */
    (void)place_page(&one, 77, 1);
    (void)place_zero(&one, 77);
    CHECK_EQ(read_page(&one, 77, found), -EFAULT);
    /* A page that they are woken for without a reason: they wait on, and are heard again. */
    CHECK_EQ(tram_uffd_wake(one.fd, one.ram, 78), 0);
    CHECK_EQ(faults(&one, index, 1), 1);
    CHECK_EQ(index[0], 78);
    CHECK_EQ(place_page(&one, 78, 1), 0);
    CHECK(gets_through(other));
    CHECK_EQ(other->result, 0);
    CHECK_EQ(tram_ram_forbid(one.ram, 78), 0); /* one that was there already */
    CHECK_EQ(read_page(&one, 78, found), -EFAULT);
    CHECK_EQ(tram_uffd_end(one.fd, one.ram), 0);
    CHECK_EQ(read_page(&one, 77, found), -EFAULT);
    CHECK_EQ(read_page(&one, 79, found), 0);
    free(visitor);
    free(other);
    release(&one);
  }
}

static void all_is_checked_before_a_page_is_placed(void) {
  static const struct {
    uint64_t buffer_bytes;
    uint32_t index, offset;
    int zero_too;
  } rows[] = {
      {2 * PAGE_BYTES, PAGES, 0, 1},          {2 * PAGE_BYTES, UINT32_MAX, 0, 1},  {2 * PAGE_BYTES, 2, PAGE_BYTES + 1, 0},
      {2 * PAGE_BYTES, 2, UINT32_MAX, 0},     {2 * PAGE_BYTES, 2, 0xfffff000u, 0}, {PAGE_BYTES - 1, 2, 0, 0},
      {0, 2, 0, 0},
  };
  struct watched one = watched_ram(BYTES);
  if (one.fd < 0) SKIP(NOT_PERMITTED);
  uint8_t *buffer = calloc(2, PAGE_BYTES);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    const uint32_t index[] = {0, 1, rows[i].index}, offset[] = {0, 0, rows[i].offset};
    CHECK_EQ(tram_uffd_place(one.fd, one.ram, buffer, rows[i].buffer_bytes, index, offset, 3), -ERANGE);
    if (rows[i].zero_too) CHECK_EQ(tram_uffd_place_zero(one.fd, one.ram, index, 3), -ERANGE);
    for (uint32_t page = 0; page < 3; page++) CHECK_EQ(page_state(one.ram, page), PAGE_ABSENT);
  }
  CHECK_EQ(tram_uffd_wake(one.fd, one.ram, PAGES), -ERANGE);
  CHECK_EQ(tram_uffd_wake(one.fd, one.ram, UINT32_MAX), -ERANGE);
  CHECK_EQ(tram_uffd_place(one.fd, one.ram, buffer, 0, NULL, NULL, 0), 0);
  free(buffer);
  release(&one);
}

static void waiting_has_an_end(void) {
  struct watched one = watched_ram(BYTES);
  if (one.fd < 0) SKIP(NOT_PERMITTED);
  uint32_t index[1];
  for (int timeout_ms = 0; timeout_ms <= 60; timeout_ms += 30) {
    const int64_t from = now_ms();
    CHECK_EQ(tram_uffd_wait(one.fd, one.ram, index, 1, timeout_ms), 0);
    const int64_t took = now_ms() - from;
    CHECK(took >= timeout_ms - 1 && took < timeout_ms + SOON_MS);
  }
  release(&one);
}

/* After the end what was not placed is zero, and whoever waited goes on. */
static void the_end_lets_all_go_on(void) {
  struct watched one = watched_ram(BYTES);
  if (one.fd < 0) SKIP(NOT_PERMITTED);
  uint32_t fault;
  uint8_t found[PAGE_BYTES];
  CHECK_EQ(place_page(&one, 8, 1), 0);
  struct visitor *visitor = visit(&one, 9, READS);
  CHECK_EQ(faults(&one, &fault, 1), 1);
  CHECK(still_waits(visitor));
  CHECK_EQ(tram_uffd_end(one.fd, one.ram), 0);
  CHECK(gets_through(visitor));
  CHECK(visitor->result == 0 && page_is_zero(visitor->found));
  CHECK(read_page(&one, 8, found) == 0 && is_page(found, 8, 1));
  CHECK(read_page(&one, 600, found) == 0 && page_is_zero(found));
  CHECK_EQ(tram_uffd_wait(one.fd, one.ram, &fault, 1, 0), 0);
  CHECK_EQ(place_page(&one, 10, 1), -ENOENT); /* nobody watches that memory any longer */
  CHECK_EQ(tram_uffd_begin(one.fd, one.ram), -EINVAL);
  free(visitor);
  release(&one);
}

static void what_is_no_userfaultfd_is_an_error(void) {
  struct tram_ram *ram = as_ram(tram_ram_create(BYTES));
  struct watched none = {.fd = -1, .ram = ram}, file = {.fd = memfd_create("none", MFD_CLOEXEC), .ram = ram};
  uint32_t index[1];
  CHECK_EQ(tram_uffd_begin(none.fd, ram), -EBADF);
  CHECK_EQ(place_page(&none, 0, 1), -EBADF);
  CHECK_EQ(place_zero(&none, 0), -EBADF);
  CHECK_EQ(tram_uffd_wake(none.fd, ram, 0), -EBADF);
  CHECK_EQ(tram_uffd_end(none.fd, ram), -EBADF);
  CHECK_EQ(tram_uffd_begin(file.fd, ram), -ENOTTY);
  CHECK_EQ(place_page(&file, 0, 1), -ENOTTY);
  CHECK_EQ(tram_uffd_end(file.fd, ram), -ENOTTY);
  CHECK_EQ(tram_uffd_wait(file.fd, ram, index, 1, 0), -EIO); /* it has nothing to read */
  close(file.fd);
  tram_ram_destroy(ram);
}

static void the_last_page_of_all_is_told(void) {
  const uint64_t most = ((uint64_t)UINT32_MAX + 1) * PAGE_BYTES;
  const int64_t handle = tram_ram_create(most);
  if (handle == -ENOMEM) SKIP("this system does not reserve 16 TiB");
  CHECK(handle > 0);
  struct watched one = {.fd = tram_host_userfaultfd(), .ram = as_ram(handle)};
  if (one.fd == -EPERM || one.fd == -ENOSYS) {
    tram_ram_destroy(one.ram);
    SKIP(NOT_PERMITTED);
  }
  CHECK_EQ(tram_uffd_begin(one.fd, one.ram), 0);
  uint32_t fault;
  struct visitor *visitor = visit(&one, UINT32_MAX, READS);
  CHECK_EQ(faults(&one, &fault, 1), 1);
  CHECK(fault == UINT32_MAX);
  CHECK_EQ(place_page(&one, UINT32_MAX, 1), 0);
  CHECK(gets_through(visitor));
  CHECK(is_page(visitor->found, UINT32_MAX, 1));
  free(visitor);
  release(&one);
}

/* --- everybody at once ------------------------------------------------------------------------------------------------- */

enum { TOUCHERS = 3, PLACERS = 2 };

struct crowd {
  struct watched one;
  atomic_int number, wrong, over;
  atomic_uint waits;
};

static void *places(void *argument) {
  struct crowd *self = argument;
  uint32_t state = 1000u + (uint32_t)atomic_fetch_add(&self->number, 1);
  for (uint32_t i = 0; i < 2 * PAGES; i++) {
    const uint32_t page = next_random(&state) % PAGES;
    if (page % 8 == 0 ? place_zero(&self->one, page) : place_page(&self->one, page, 1)) atomic_store(&self->wrong, 1);
  }
  return NULL;
}

static void *answers(void *argument) {
  struct crowd *self = argument;
  uint32_t index[3];
  while (!atomic_load(&self->over)) {
    const int count = tram_uffd_wait(self->one.fd, self->one.ram, index, 3, 10);
    if (count < 0) atomic_store(&self->wrong, 2);
    for (int i = 0; i < count; i++) {
      atomic_fetch_add(&self->waits, 1);
      const uint32_t page = index[i];
      if (page % 8 == 0 ? place_zero(&self->one, page) : place_page(&self->one, page, 1)) atomic_store(&self->wrong, 3);
    }
  }
  return NULL;
}

/* Pages are as they were placed, or as one of these has left them: its number behind the content's first half. */
static void *touches(void *argument) {
  struct crowd *self = argument;
  const uint32_t number = (uint32_t)atomic_fetch_add(&self->number, 1);
  uint32_t state = number + 5;
  uint8_t page[PAGE_BYTES], expected[PAGE_BYTES];
  for (uint32_t i = 0; i < 3 * PAGES; i++) {
    const uint32_t at = next_random(&state) % PAGES;
    const uint64_t mine = (uint64_t)at * PAGE_BYTES + PAGE_BYTES / 2 + 8 * number;
    const uint64_t mark = (uint64_t)at << 32 | 0xabcdef;
    if (tram_ram_write(self->one.ram, mine, &mark, 8) < 0) atomic_store(&self->wrong, 4);
    if (read_page(&self->one, at, page) < 0) atomic_store(&self->wrong, 4);
    memset(expected, 0, sizeof expected);
    if (at % 8) make_page(expected, at, 1);
    if (memcmp(page, expected, PAGE_BYTES / 2)) atomic_store(&self->wrong, 5);
    if (memcmp(page + PAGE_BYTES / 2 + 8 * number, &mark, 8)) atomic_store(&self->wrong, 7);
    const unsigned rest = PAGE_BYTES / 2 + 8 * 8;
    if (memcmp(page + rest, expected + rest, PAGE_BYTES - rest)) atomic_store(&self->wrong, 6);
  }
  return NULL;
}

static void everybody_at_once(void) {
  for (unsigned round = 0; round < 5; round++) {
    test_where = round;
    struct crowd crowd = {.one = watched_ram(BYTES)};
    if (crowd.one.fd < 0) SKIP(NOT_PERMITTED);
    pthread_t threads[TOUCHERS + PLACERS], answerer;
    pthread_create(&answerer, NULL, answers, &crowd);
    for (unsigned i = 0; i < TOUCHERS; i++) pthread_create(&threads[i], NULL, touches, &crowd);
    for (unsigned i = TOUCHERS; i < TOUCHERS + PLACERS; i++) pthread_create(&threads[i], NULL, places, &crowd);
    for (unsigned i = 0; i < TOUCHERS + PLACERS; i++) pthread_join(threads[i], NULL);
    atomic_store(&crowd.over, 1);
    pthread_join(answerer, NULL);
    CHECK_EQ(crowd.wrong, 0);
    CHECK(crowd.waits > 0); /* somebody did wait */
    release(&crowd.one);
  }
}

const struct test uffd_tests[] = {
    {"uffd: who touches a page waits until it is placed, whether by itself or by a system call",
     who_touches_waits_for_the_page},
    {"uffd: all who wait for a page go on, and none is lost", all_who_wait_go_on},
    {"uffd: a page that is there stays as it is, and who waits for it goes on", what_is_there_stays},
    {"uffd: who waits for a forbidden page fails instead of waiting for ever", who_waits_for_a_forbidden_page_fails},
    {"uffd: everything is checked before the first page is placed", all_is_checked_before_a_page_is_placed},
    {"uffd: waiting ends when its time is over", waiting_has_an_end},
    {"uffd: at the end the rest is zero, and all go on", the_end_lets_all_go_on},
    {"uffd: what is no userfaultfd is an error", what_is_no_userfaultfd_is_an_error},
    {"uffd: page 2^32 - 1 is told as itself", the_last_page_of_all_is_told},
    {"uffd: threads that touch and threads that place, all at once", everybody_at_once},
    {0},
};
