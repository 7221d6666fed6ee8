// The only process of a small Linux guest. It keeps rewriting its memory, keeps verifying it, and counts on the console:
// a page that a move lost, repeated or mixed up shows as a line that begins with BAD.
//
//   tick 17 ok          all pages looked at so far, in this and every earlier tick, were as they must be
//   BAD page 5 ...      this one was not
//   tick 18 bad 1       so many were not: from now on no tick is ok, should a BAD line itself get lost
//
// Parameters, on the kernel's command line: tram.mib, tram.ms, tram.dirty (see main).
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
// Tests find a page in the guest's RAM by this and its index behind it: see stamp.
#define MAGIC 0x6d61727420736920ull
#define BAD_LINES_PER_TICK 8
#define TICKS_PER_FULL_PASS 40
#define TICKS_PER_ROTATION 16

static uint32_t pages;
static uint64_t (*memory)[WORDS];
// What each page must hold now. Far from the pages themselves, so that a stale page meets a fresh entry, or the other
// way round; that all entries are stale at once is caught by their sum, which is kept on main's stack.
static uint32_t *generations;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  for (int done = 0; done < length;) {
    ssize_t n = write(1, line + done, length - done);
    if (n > 0) done += n;
  }
}

static uint64_t mix(uint64_t x) { // splitmix64's last steps
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

static void fill_random(uint64_t *page, uint64_t seed) {
  uint64_t x = mix(seed + 0x9e3779b97f4a7c15ull);
  for (size_t i = 0; i < WORDS; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    page[i] = x;
  }
}

static void stamp(uint64_t *page, uint32_t index, uint32_t generation) {
  page[0] = MAGIC;
  page[1] = (uint64_t)generation << 32 | index;
}

static const char *const words[] = {"the ", "guest ", "moves ", "while ", "it ", "runs ", "and ", "nobody\n"};

static void fill_text(uint64_t *page, uint64_t seed) {
  char *at = (char *)page, *end = at + PAGE;
  for (uint64_t bits = 0; at < end; bits >>= 3) {
    if (bits == 0) bits = seed = mix(seed + 1) | 1;
    for (const char *from = words[bits & 7]; *from && at < end;) *at++ = *from++;
  }
}

// What page `index` holds in a generation: one of the four kinds of pages that migration treats differently.
static void fill(uint64_t *page, uint32_t index, uint32_t generation) {
  uint64_t seed = (uint64_t)generation << 32 | index;
  switch (index % 4) {
  case 0: // incompressible
    fill_random(page, seed);
    break;
  case 1: // compressible
    fill_text(page, seed);
    break;
  case 2: // zero in every other generation
    if (generation % 2) {
      memset(page, 0, PAGE);
      return;
    }
    fill_random(page, seed);
    break;
  case 3: // a few bytes change: what XBZRLE is for
    fill_random(page, index);
    for (unsigned i = 0; i < 4; i++) ((uint8_t *)page)[mix(index + i) % PAGE] = generation >> i;
    break;
  }
  stamp(page, index, generation);
}

static int holds(const uint64_t *page, uint32_t index, uint32_t generation) {
  static uint64_t expected[WORDS] __attribute__((aligned(PAGE)));
  fill(expected, index, generation);
  return memcmp(page, expected, PAGE) == 0;
}

static void describe(uint32_t index) {
  static const uint64_t zero[WORDS];
  const uint64_t *page = memory[index];
  uint32_t generation = generations[index];
  const char *guess = "other bytes";
  uint32_t back = 0;
  if (memcmp(page, zero, PAGE) == 0) guess = "zero";
  else
    for (back = 1; back <= 8 && back <= generation; back++)
      if (holds(page, index, generation - back)) {
        guess = "stale";
        break;
      }
  say("BAD page %u generation %u: %s", index, generation, guess);
  if (*guess == 's') say(", of generation %u", generation - back);
  say("\n");
}

static unsigned bad;

static void verify(uint32_t from, uint32_t to, unsigned *lines) {
  for (uint32_t i = from; i < to; i++) {
    if (holds(memory[i], i, generations[i])) continue;
    bad++;
    if ((*lines)++ < BAD_LINES_PER_TICK) describe(i);
  }
}

static uint64_t parameter(const char *cmdline, const char *name, uint64_t otherwise) {
  const char *at = strstr(cmdline, name);
  return at ? strtoull(at + strlen(name), NULL, 10) : otherwise;
}

static uint64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

int main(void) {
  char cmdline[1024] = "";
  mkdir("/proc", 0555);
  if (mount("proc", "/proc", "proc", 0, NULL) == 0) {
    int fd = open("/proc/cmdline", O_RDONLY);
    if (read(fd, cmdline, sizeof(cmdline) - 1) < 0) cmdline[0] = 0;
    close(fd);
  }
  pages = parameter(cmdline, "tram.mib=", 24) << 8;             // how much memory to keep busy
  uint64_t period = parameter(cmdline, "tram.ms=", 50);         // a tick takes so long, or longer
  uint64_t rewrites = parameter(cmdline, "tram.dirty=", 256);   // pages rewritten in each

  memory = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  generations = mmap(NULL, pages * sizeof(*generations), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || generations == MAP_FAILED) {
    say("BAD start: no memory for %u pages\n", pages);
    for (;;) pause();
  }
  for (uint32_t i = 0; i < pages; i++) fill(memory[i], i, 0);

  uint64_t written = 0;
  for (uint32_t tick = 1;; tick++) {
    uint64_t start = milliseconds();
    unsigned lines = 0;

    // Every other page is one of few that are rewritten all the time: those leave more than once in a move.
    for (uint64_t i = 0; i < rewrites; i++, written++) {
      uint32_t index = mix(written) % (i % 2 ? pages : pages / 16);
      fill(memory[index], index, ++generations[index]);
    }

    uint64_t sum = 0;
    for (uint32_t i = 0; i < pages; i++) sum += generations[i];
    if (sum != written) {
      bad++;
      say("BAD table: %llu generations, expected %llu\n", (unsigned long long)sum, (unsigned long long)written);
      written = sum; // said once
    }

    uint32_t slice = tick % TICKS_PER_ROTATION;
    if (tick % TICKS_PER_FULL_PASS == 0) verify(0, pages, &lines);
    else verify(pages * slice / TICKS_PER_ROTATION, pages * (slice + 1) / TICKS_PER_ROTATION, &lines);

    if (bad) say("tick %u bad %u\n", tick, bad);
    else say("tick %u ok\n", tick);

    uint64_t took = milliseconds() - start;
    if (took < period) usleep((period - took) * 1000);
  }
}
