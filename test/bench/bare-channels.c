/* The bare limit of a move over several connections: one process sends the runs of pages that are not zero in packets of 128
 * pages behind a header of the same size as a multifd packet's, one thread for each socket; another process reads all of it
 * straight into its memory, one thread for each socket. Where the runs are is known before the clock starts: no zero scan, no
 * packets decoded. Both memories were touched before. Prints one line of JSON. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
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

#include <linux/errqueue.h> /* needs struct timespec */

enum {
  PAGE = 4096,
  HUGE_PAGE = 2 << 20,
  READ_BYTES = 1 << 20,
  CHANNELS_MAX = 16,
  PACKET_PAGES = 128,
  HEAD_BYTES = 1344,
  RUNS_MAX = PACKET_PAGES + 1,
  UNANSWERED = 32 /* sends between two looks into the error queue */
};

struct result {
  double ended, cpu;
  uint64_t bytes;
};

struct packet {
  struct iovec iov[RUNS_MAX];
  unsigned count;
};

struct channel {
  int fd;
  uint64_t sends, completed, calls; /* of the sender */
  uint64_t copied;
  uint8_t *memory; /* of the receiver */
  uint64_t size, bytes;
};

static int zero_copy;
static struct channel channels[CHANNELS_MAX];
static struct packet *packets;
static uint64_t packet_count;
static atomic_uint_fast64_t next_packet;
static uint8_t head[HEAD_BYTES]; /* never changes, so that it may go without a copy */

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
static uint8_t *take_memory(uint64_t bytes) {
  uint8_t *raw = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(raw != MAP_FAILED, "mmap");
  uint8_t *base = raw + (HUGE_PAGE - (uintptr_t)raw % HUGE_PAGE) % HUGE_PAGE;
  (void)madvise(base, bytes, MADV_HUGEPAGE);
  for (uint64_t at = 0; at < bytes; at += PAGE) *(volatile uint8_t *)(base + at) = 0;
  return base;
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

/* Returns how many pages they hold. */
static uint64_t find_packets(uint8_t *memory, uint64_t pages) {
  uint64_t sent = 0;
  packets = calloc(pages / PACKET_PAGES + 1, sizeof *packets);
  require(packets != NULL, "calloc");
  for (uint64_t page = 0; page < pages; page++) {
    if (!is_sent(page)) continue;
    struct packet *packet = &packets[sent / PACKET_PAGES];
    if (sent++ % PACKET_PAGES == 0) packet->iov[packet->count++] = (struct iovec){head, HEAD_BYTES};
    struct iovec *last = &packet->iov[packet->count - 1];
    if ((uint8_t *)last->iov_base + last->iov_len == memory + page * PAGE)
      last->iov_len += PAGE;
    else
      packet->iov[packet->count++] = (struct iovec){memory + page * PAGE, PAGE};
  }
  packet_count = (sent + PACKET_PAGES - 1) / PACKET_PAGES;
  return sent;
}

static void connect_pair(int ends[2]) {
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
  if (zero_copy) require(setsockopt(ends[0], SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) == 0, "SO_ZEROCOPY");
  close(listener);
}

/* Takes what stands in the error queue; waits until something does, if told to. */
static void drain(struct channel *channel, int wait) {
  struct pollfd one = {.fd = channel->fd};
  channel->calls += wait != 0;
  if (wait) require(poll(&one, 1, -1) == 1, "poll");
  for (;;) {
    char control[256];
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
    channel->calls++;
    if (recvmsg(channel->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
      require(errno == EAGAIN, "recvmsg");
      return;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
      struct sock_extended_err what;
      memcpy(&what, CMSG_DATA(c), sizeof what);
      if (what.ee_origin != SO_EE_ORIGIN_ZEROCOPY) continue;
      uint32_t count = what.ee_data - what.ee_info + 1;
      channel->completed += count;
      if (what.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) channel->copied += count;
    }
  }
}

static void send_packet(struct channel *channel, const struct packet *packet) {
  struct iovec array[RUNS_MAX], *iov = array;
  unsigned count = packet->count;
  memcpy(array, packet->iov, count * sizeof *array);
  while (count) {
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    channel->calls++;
    ssize_t n = sendmsg(channel->fd, &message, MSG_NOSIGNAL | (zero_copy ? MSG_ZEROCOPY : 0));
    if (n < 0 && errno == ENOBUFS && channel->sends > channel->completed) {
      drain(channel, 1);
      continue;
    }
    require(n >= 0, "sendmsg");
    channel->sends++;
    for (; count && (size_t)n >= iov->iov_len; iov++, count--) n -= (ssize_t)iov->iov_len;
    if (count == 0) break;
    iov->iov_base = (uint8_t *)iov->iov_base + n;
    iov->iov_len -= (size_t)n;
  }
  if (zero_copy && channel->sends - channel->completed >= UNANSWERED) drain(channel, 0);
}

static void *send_some(void *argument) {
  struct channel *channel = argument;
  for (uint64_t i; (i = atomic_fetch_add(&next_packet, 1)) < packet_count;) send_packet(channel, &packets[i]);
  shutdown(channel->fd, SHUT_WR);
  while (zero_copy && channel->completed < channel->sends) drain(channel, 1);
  return NULL;
}

/* Until the end, over and over into its own part of the memory. */
static void *receive_some(void *argument) {
  struct channel *channel = argument;
  for (uint64_t at = 0;; at = at > channel->size - READ_BYTES ? 0 : at) {
    ssize_t n = read(channel->fd, channel->memory + at, READ_BYTES);
    require(n >= 0, "read");
    if (n == 0) return NULL;
    at += (uint64_t)n;
    channel->bytes += (uint64_t)n;
  }
}

static void run_all(unsigned count, void *(*work)(void *)) {
  pthread_t thread[CHANNELS_MAX];
  for (unsigned i = 0; i < count; i++) require(pthread_create(&thread[i], NULL, work, &channels[i]) == 0, "pthread_create");
  for (unsigned i = 0; i < count; i++) pthread_join(thread[i], NULL);
}

static void receive(unsigned count, int report, uint64_t bytes) {
  uint8_t *memory = take_memory(bytes);
  struct result result = {0};
  for (unsigned i = 0; i < count; i++) {
    channels[i].size = bytes / count;
    channels[i].memory = memory + i * channels[i].size;
  }
  require(write(report, "r", 1) == 1, "ready");
  double cpu = cpu_seconds();
  run_all(count, receive_some);
  result.ended = now();
  result.cpu = cpu_seconds() - cpu;
  for (unsigned i = 0; i < count; i++) result.bytes += channels[i].bytes;
  require(write(report, &result, sizeof result) == sizeof result, "report");
  exit(0);
}

int main(int argc, char **argv) {
  uint64_t bytes = argc == 4 ? strtoull(argv[1], NULL, 10) << 20 : 0;
  unsigned count = argc == 4 ? (unsigned)atoi(argv[2]) : 0;
  zero_copy = argc == 4 && !strcmp(argv[3], "zero-copy");
  if (count < 1 || count > CHANNELS_MAX || bytes / count < 4 * READ_BYTES || (!zero_copy && strcmp(argv[3], "copy"))) {
    fprintf(stderr, "usage: bare-channels MIB CHANNELS copy|zero-copy\n");
    return 2;
  }
  int ends[CHANNELS_MAX][2], report[2];
  for (unsigned i = 0; i < count; i++) connect_pair(ends[i]);
  require(pipe(report) == 0, "pipe");
  pid_t child = fork();
  require(child >= 0, "fork");
  for (unsigned i = 0; i < count; i++) {
    close(ends[i][child != 0]);
    channels[i].fd = ends[i][child == 0];
  }
  if (child == 0) receive(count, report[1], bytes);
  close(report[1]);
  uint8_t *memory = take_memory(bytes);
  fill(memory, bytes / PAGE);
  uint64_t sent = find_packets(memory, bytes / PAGE) * PAGE, calls = 0, sends = 0, copied = 0;
  char ready;
  require(read(report[0], &ready, 1) == 1, "ready");
  struct result result;
  double started = now(), cpu = cpu_seconds();
  run_all(count, send_some);
  cpu = cpu_seconds() - cpu;
  require(read(report[0], &result, sizeof result) == sizeof result, "result");
  waitpid(child, NULL, 0);
  require(result.bytes == sent + packet_count * HEAD_BYTES, "not all has come");
  for (unsigned i = 0; i < count; i++) {
    calls += channels[i].calls;
    sends += channels[i].sends;
    copied += channels[i].copied;
  }
  printf("{\"seconds\":%.6f,\"bytes\":%llu,\"txCpuSeconds\":%.6f,\"rxCpuSeconds\":%.6f,\"systemCalls\":%llu,\"copiedShare\":%.3f}\n",
         result.ended - started, (unsigned long long)sent, cpu, result.cpu, (unsigned long long)calls,
         zero_copy ? (double)copied / (double)sends : 0.0);
  return 0;
}
