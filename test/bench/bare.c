/* The bare limit of a move: one process sends the same bytes in the same iovec series, another reads them straight into
 * place. No zero scan, no records decoded, no second copy. Prints one line of JSON. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, IOVECS_MAX = 1024, READ_BYTES = 1 << 20 };

struct result {
  double ended, cpu;
  uint64_t bytes;
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

static uint8_t *reserve(uint64_t bytes) {
  uint8_t *raw = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(raw != MAP_FAILED, "mmap");
  uint8_t *base = raw + (HUGE_PAGE - (uintptr_t)raw % HUGE_PAGE) % HUGE_PAGE;
  madvise(base, bytes, MADV_HUGEPAGE);
  return base;
}

static void prefault(uint8_t *memory, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += PAGE) *(volatile uint8_t *)(memory + at) = 0;
}

/* The walker's mix: every fourth page is zero and not sent. */
static int is_sent(uint64_t page) { return page % 4 != 3; }

static void fill(uint8_t *memory, uint64_t pages) {
  uint64_t x = 0x9e3779b97f4a7c15u;
  for (uint64_t page = 0; page < pages; page++) {
    uint64_t *word = (uint64_t *)(void *)(memory + page * PAGE);
    for (unsigned i = 0; i < PAGE / 8 && is_sent(page); i++) {
      x ^= x << 13;
      x ^= x >> 7;
      x ^= x << 17;
      word[i] = x;
    }
  }
}

static void stay_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  require(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

static void connect_pair(int tcp, int ends[2]) {
  if (!tcp) {
    require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    return;
  }
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  require(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 1) == 0, "listen");
  require(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
  ends[0] = socket(AF_INET, SOCK_STREAM, 0);
  require(connect(ends[0], (struct sockaddr *)&address, length) == 0, "connect");
  ends[1] = accept(listener, NULL, NULL);
  require(ends[1] >= 0, "accept");
  setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  close(listener);
}

static void send_all(int fd, struct iovec *iov, unsigned count) {
  while (count) {
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
    require(n >= 0, "sendmsg");
    for (; count && (size_t)n >= iov->iov_len; iov++, count--) n -= (ssize_t)iov->iov_len;
    if (count == 0) return;
    iov->iov_base = (uint8_t *)iov->iov_base + n;
    iov->iov_len -= (size_t)n;
  }
}

static void send_pages(int fd, uint8_t *memory, uint64_t pages, unsigned iov_max) {
  struct iovec iov[IOVECS_MAX];
  static uint64_t words[IOVECS_MAX];
  unsigned used = 0;
  for (uint64_t page = 0; page < pages; page++) {
    if (!is_sent(page)) continue;
    for (int piece = 0; piece < 2; piece++) {
      words[used] = page;
      iov[used] = piece ? (struct iovec){memory + page * PAGE, PAGE} : (struct iovec){&words[used], sizeof words[used]};
      if (++used < iov_max) continue;
      send_all(fd, iov, used);
      used = 0;
    }
  }
  send_all(fd, iov, used);
}

/* The child: reads until the end, straight into place. */
static void receive(int fd, int report, uint64_t bytes, int cold) {
  uint8_t *memory = reserve(bytes);
  if (!cold) prefault(memory, bytes);
  struct result result = {0};
  require(write(report, "r", 1) == 1, "ready");
  double cpu = cpu_seconds();
  for (uint64_t at = 0;; at = at > bytes - READ_BYTES ? 0 : at) {
    ssize_t n = read(fd, memory + at, READ_BYTES);
    require(n >= 0, "read");
    if (n == 0) break;
    at += (uint64_t)n;
    result.bytes += (uint64_t)n;
  }
  result.ended = now();
  result.cpu = cpu_seconds() - cpu;
  require(write(report, &result, sizeof result) == sizeof result, "report");
  exit(0);
}

int main(int argc, char **argv) {
  int given = argc == 6;
  int tcp = given && !strcmp(argv[1], "tcp"), cold = given && !strcmp(argv[4], "cold"), apart = given && !strcmp(argv[5], "apart");
  uint64_t bytes = given ? strtoull(argv[2], NULL, 10) << 20 : 0;
  unsigned iov_max = given ? (unsigned)atoi(argv[3]) : 0;
  if (bytes < 4 * READ_BYTES || iov_max < 1 || iov_max > IOVECS_MAX) {
    fprintf(stderr, "usage: bare unix|tcp MIB IOVECS warm|cold free|apart\n");
    return 2;
  }
  int ends[2], report[2];
  connect_pair(tcp, ends);
  require(pipe(report) == 0, "pipe");
  pid_t child = fork();
  require(child >= 0, "fork");
  if (apart) stay_on(child == 0);
  if (child == 0) {
    close(ends[0]);
    receive(ends[1], report[1], bytes, cold);
  }
  close(ends[1]);
  close(report[1]);
  uint8_t *memory = reserve(bytes);
  prefault(memory, bytes);
  fill(memory, bytes / PAGE);
  char ready;
  require(read(report[0], &ready, 1) == 1, "ready");
  struct result result;
  double started = now(), cpu = cpu_seconds();
  send_pages(ends[0], memory, bytes / PAGE, iov_max);
  close(ends[0]);
  cpu = cpu_seconds() - cpu;
  require(read(report[0], &result, sizeof result) == sizeof result, "result");
  waitpid(child, NULL, 0);
  printf("{\"seconds\":%.6f,\"bytes\":%llu,\"txCpuSeconds\":%.6f,\"rxCpuSeconds\":%.6f}\n", result.ended - started,
         (unsigned long long)result.bytes, cpu, result.cpu);
  return 0;
}
