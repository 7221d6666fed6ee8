/* The bare limit of a snapshot: the non-zero runs of a RAM image, from anonymous memory of its own, are written at their own
 * offsets into a new file by some threads, and the file is synced. Where the runs are is known before the clock starts: no
 * zero scan, no bitmaps, nothing that describes. As in tram each thread takes the next 16 MiB, and no run is longer. It lives as
 * long as its standard input, of which each line asks for one thing and is answered with one line of JSON:
 *   write cached|direct THREADS plain|hash|zeros FILE   hash: XXH3 of each page, too, before its run is written; zeros: the
 *                                                       zero pages are written, too, so that a piece is one run
 *   hash                                                XXH3 of all of these pages, in one thread, and nothing written */
#pragma GCC target("avx2") /* as in tram's own hash.c */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR 2 /* AVX2 */
#include <xxhash.h>

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, PIECE = 16 << 20, THREADS_MAX = 64, LINE_BYTES = 4096 };

struct run {
  uint64_t at, bytes;
};

static uint8_t *memory;
static uint64_t size;
static struct run *runs;
static uint64_t *first_run; /* of each piece, and of the end */
static uint64_t pieces;
static uint64_t *table; /* each page's hash */

/* What one line asks for. */
static int file, hashing, with_zeros;
static atomic_uint_fast64_t next_piece, written;

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

/* All of it is touched, and in huge pages where the host has them, as a guest's memory is. */
static void take_memory(const char *path) {
  int ram = open(path, O_RDONLY);
  struct stat status;
  require(ram >= 0 && fstat(ram, &status) == 0, path);
  size = (uint64_t)status.st_size;
  uint8_t *raw = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(raw != MAP_FAILED, "mmap");
  memory = raw + (HUGE_PAGE - (uintptr_t)raw % HUGE_PAGE) % HUGE_PAGE;
  (void)madvise(memory, size, MADV_HUGEPAGE);
  for (uint64_t at = 0; at < size;) {
    ssize_t n = pread(ram, memory + at, size - at, (off_t)at);
    require(n > 0, path);
    at += (uint64_t)n;
  }
  close(ram);
}

static void find_runs(void) {
  static const uint8_t zero[PAGE];
  uint64_t count = 0;
  pieces = (size + PIECE - 1) / PIECE;
  runs = calloc(size / PAGE + 1, sizeof *runs);
  first_run = calloc(pieces + 1, sizeof *first_run);
  table = calloc(size / PAGE, sizeof *table);
  require(runs && first_run && table, "calloc");
  memset(table, 0xff, size / PAGE * sizeof *table); /* touched */
  for (uint64_t at = 0; at < size; at += PAGE) {
    int begins = at % PIECE == 0;
    if (begins) first_run[at / PIECE] = count;
    if (!memcmp(memory + at, zero, PAGE)) continue;
    if (begins || count == 0 || runs[count - 1].at + runs[count - 1].bytes != at) runs[count++] = (struct run){at, 0};
    runs[count - 1].bytes += PAGE;
  }
  first_run[pieces] = count;
}

static void hash_run(const struct run *run) {
  for (uint64_t at = run->at; at < run->at + run->bytes; at += PAGE) table[at / PAGE] = XXH3_64bits(memory + at, PAGE);
}

static void write_run(struct run run) {
  while (run.bytes > 0) {
    ssize_t n = pwrite(file, memory + run.at, run.bytes, (off_t)run.at);
    require(n > 0, "pwrite");
    run.at += (uint64_t)n;
    run.bytes -= (uint64_t)n;
  }
}

static void *carry(void *unused) {
  for (;;) {
    uint64_t piece = atomic_fetch_add(&next_piece, 1);
    if (piece >= pieces) return unused;
    /* As tram does: all of the piece's pages, then all of its runs. */
    for (uint64_t i = first_run[piece]; hashing && i < first_run[piece + 1]; i++) hash_run(&runs[i]);
    uint64_t at = piece * PIECE;
    if (with_zeros) write_run((struct run){at, size - at < PIECE ? size - at : PIECE});
    for (uint64_t i = first_run[piece]; i < first_run[piece + 1]; i++) {
      if (!with_zeros) write_run(runs[i]);
      atomic_fetch_add(&written, runs[i].bytes);
    }
  }
}

static void answer(double started, double cpu) {
  printf("{\"seconds\":%.6f,\"bytes\":%llu,\"txCpuSeconds\":%.6f,\"rxCpuSeconds\":0}\n", now() - started,
         (unsigned long long)written, cpu_seconds() - cpu);
  fflush(stdout);
}

static void write_all(int direct, unsigned threads, const char *path) {
  pthread_t thread[THREADS_MAX];
  double started = now(), cpu = cpu_seconds();
  next_piece = written = 0;
  file = open(path, O_WRONLY | O_CREAT | O_EXCL | (direct ? O_DIRECT : 0), 0600);
  require(file >= 0 && ftruncate(file, (off_t)size) == 0, path);
  for (unsigned i = 1; i < threads; i++) require(pthread_create(&thread[i], NULL, carry, NULL) == 0, "pthread_create");
  carry(NULL);
  for (unsigned i = 1; i < threads; i++) pthread_join(thread[i], NULL);
  require(fsync(file) == 0, "fsync");
  close(file);
  answer(started, cpu);
}

static void hash_all(void) {
  double started = now(), cpu = cpu_seconds();
  written = 0;
  for (uint64_t i = 0; i < first_run[pieces]; i++) {
    hash_run(&runs[i]);
    written += runs[i].bytes;
  }
  answer(started, cpu);
}

int main(int argc, char **argv) {
  char line[LINE_BYTES], path[LINE_BYTES], way[8], kind[8];
  unsigned threads;
  if (argc != 2) {
    fprintf(stderr, "usage: bare-snapshot RAM\n");
    return 2;
  }
  take_memory(argv[1]);
  find_runs();
  while (fgets(line, sizeof line, stdin)) {
    if (!strcmp(line, "hash\n")) {
      hash_all();
    } else if (sscanf(line, "write %7s %u %7s %4095[^\n]", way, &threads, kind, path) == 4 && threads >= 1 && threads <= THREADS_MAX) {
      hashing = !strcmp(kind, "hash");
      with_zeros = !strcmp(kind, "zeros");
      write_all(!strcmp(way, "direct"), threads, path);
    } else {
      fprintf(stderr, "bare-snapshot: %s", line);
      return 2;
    }
  }
  return 0;
}
