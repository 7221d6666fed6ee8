// The only process of a small Linux guest that writes its memory as the walker does: a word of each page, page after page, over and
// over, so many pages a second, in fiftieths of a second. Parameters, on the kernel's command line: writer.mib, writer.rate.
// Says on the console, ten times a second, how many pages it has written and when, by its own clock in milliseconds:
//
//   wrote 25600 at 3120
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, GRANTS_PER_SECOND = 50, FORGIVEN_MS = 200, SAY_MS = 100 };

static uint64_t parameter(const char *cmdline, const char *name) {
  const char *at = strstr(cmdline, name);
  return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static uint64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int main(void) {
  char cmdline[1024] = "";
  mkdir("/proc", 0555);
  if (mount("proc", "/proc", "proc", 0, NULL) == 0) {
    int fd = open("/proc/cmdline", O_RDONLY);
    if (read(fd, cmdline, sizeof(cmdline) - 1) < 0) cmdline[0] = 0;
    close(fd);
  }
  uint64_t pages = parameter(cmdline, "writer.mib=") << 8, rate = parameter(cmdline, "writer.rate=");
  volatile uint8_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || pages == 0 || rate == 0) {
    printf("BAD parameters or memory\n");
    for (;;) pause();
  }
  uint64_t x = 0x9e3779b97f4a7c15ull; // what no zero scan takes for zero
  for (uint64_t at = 0; at < pages * PAGE; at += 64) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *(volatile uint64_t *)(memory + at) = x;
  }
  uint64_t since = milliseconds(), granted = 0, written = 0, said = 0, page = 0;
  for (;;) {
    uint64_t due = since + granted * 1000 / rate, now = milliseconds();
    if (now > due + FORGIVEN_MS) {
      since = now;
      granted = 0;
    } else if (now < due) usleep((useconds_t)(due - now) * 1000);
    uint64_t grant = rate / GRANTS_PER_SECOND ? rate / GRANTS_PER_SECOND : 1;
    granted += grant;
    for (uint64_t i = 0; i < grant; i++, page = (page + 1) % pages)
      ++*(volatile uint64_t *)(memory + page * PAGE);
    written += grant;
    now = milliseconds();
    if (now - said < SAY_MS) continue;
    said = now;
    printf("wrote %llu at %llu\n", (unsigned long long)written, (unsigned long long)now);
    fflush(stdout);
  }
}
