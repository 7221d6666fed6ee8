/* The bare limit of keeping a guest: the non-zero runs of a RAM file, written at their own offsets into a new file, which is
 * then synced. Where the runs are is known before the clock starts: no zero scan, no stream. Prints one line of JSON. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct run {
  uint64_t at, bytes;
};

static void require(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* Every page is touched on the way. */
static uint64_t find_runs(const uint8_t *memory, uint64_t bytes, struct run *runs) {
  static const uint8_t zero[PAGE];
  uint64_t count = 0;
  for (uint64_t at = 0; at < bytes; at += PAGE) {
    if (!memcmp(memory + at, zero, PAGE)) continue;
    if (count == 0 || runs[count - 1].at + runs[count - 1].bytes != at) runs[count++] = (struct run){at, 0};
    runs[count - 1].bytes += PAGE;
  }
  return count;
}

int main(int argc, char **argv) {
  int direct = argc == 4 && !strcmp(argv[1], "direct");
  if (argc != 4 || (!direct && strcmp(argv[1], "cached"))) {
    fprintf(stderr, "usage: bare-file cached|direct RAM FILE\n");
    return 2;
  }
  int ram = open(argv[2], O_RDONLY);
  struct stat status;
  require(ram >= 0 && fstat(ram, &status) == 0, argv[2]);
  uint64_t size = (uint64_t)status.st_size;
  uint8_t *memory = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, ram, 0);
  require(memory != MAP_FAILED, "mmap");
  struct run *runs = calloc(size / PAGE / 2 + 1, sizeof *runs);
  require(runs != NULL, "calloc");
  uint64_t count = find_runs(memory, size, runs), written = 0;

  double started = now(), cpu = cpu_seconds();
  int file = open(argv[3], O_WRONLY | O_CREAT | O_EXCL | (direct ? O_DIRECT : 0), 0600);
  require(file >= 0 && ftruncate(file, (off_t)size) == 0, argv[3]);
  for (struct run *run = runs; run < runs + count; run++) {
    while (run->bytes > 0) {
      ssize_t n = pwrite(file, memory + run->at, run->bytes, (off_t)run->at);
      require(n > 0, "pwrite");
      run->at += (uint64_t)n;
      run->bytes -= (uint64_t)n;
      written += (uint64_t)n;
    }
  }
  require(fsync(file) == 0, "fsync");
  double seconds = now() - started;
  printf("{\"seconds\":%.6f,\"bytes\":%llu,\"txCpuSeconds\":0,\"rxCpuSeconds\":%.6f}\n", seconds, (unsigned long long)written,
         cpu_seconds() - cpu);
  return 0;
}
