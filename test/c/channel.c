/* channel.c: real sockets, the kernel's real completions, a reader that is slow, gone, or somebody's whose memory is short. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

enum { PAGES = 256, HEAD_BYTES = 1344, NO_LIMIT = 1 << 30 };

struct ends {
  int from, to;
};

static struct ends tcp_pair(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t bytes = sizeof address;
  struct ends ends;
  int door = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(door, (struct sockaddr *)&address, sizeof address) < 0 || listen(door, 1) < 0) abort();
  getsockname(door, (struct sockaddr *)&address, &bytes);
  ends.from = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(ends.from, (struct sockaddr *)&address, sizeof address) < 0) abort();
  ends.to = accept(door, NULL, NULL);
  close(door);
  return ends;
}

static struct ends unix_pair(void) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) abort();
  return (struct ends){fds[0], fds[1]};
}

static struct ends pipe_pair(void) {
  int fds[2];
  if (pipe(fds) < 0) abort();
  return (struct ends){fds[1], fds[0]};
}

static struct tram_ram *filled(void) {
  struct tram_ram *ram = as_ram(tram_ram_create((uint64_t)PAGES * PAGE_BYTES));
  uint32_t state = 1;
  for (uint32_t i = 0; i < PAGES * PAGE_BYTES / 4; i++) ((uint32_t *)(void *)ram->base)[i] = next_random(&state);
  return ram;
}

static struct tram_channel *opened_for(int fd, int is_socket, int zero_copy, int timeout_ms) {
  return (struct tram_channel *)(uintptr_t)tram_channel_open(fd, is_socket, zero_copy, timeout_ms);
}

static struct tram_channel *opened(int fd, int is_socket, int zero_copy) { return opened_for(fd, is_socket, zero_copy, -1); }

/* Reads everything until the end, after a while. */
struct reader {
  int fd, delay_ms;
  uint8_t *bytes;
  size_t count, room;
  pthread_t thread;
};

static void *read_all(void *argument) {
  struct reader *reader = argument;
  usleep((useconds_t)reader->delay_ms * 1000);
  for (;;) {
    ssize_t n = read(reader->fd, reader->bytes + reader->count, reader->room - reader->count);
    if (n <= 0) return NULL;
    reader->count += (size_t)n;
  }
}

static void start_reader(struct reader *reader, int fd, int delay_ms, size_t room) {
  *reader = (struct reader){.fd = fd, .delay_ms = delay_ms, .bytes = calloc(1, room), .room = room};
  pthread_create(&reader->thread, NULL, read_all, reader);
}

static void end_reader(struct reader *reader) {
  pthread_join(reader->thread, NULL);
  free(reader->bytes);
}

/* --- the same bytes, however they are sent ------------------------------------------------------------------------------ */

/* Scattered pages, neighbours, one alone, none; and not in order. */
static const uint32_t INDEX[] = {3, 4, 5, 6, 9, 200, 201, 100, 7, 255, 0, 1};
enum { INDEXED = sizeof INDEX / sizeof *INDEX };

static size_t expected_bytes(const struct tram_ram *ram, const uint8_t *head, uint8_t *out) {
  size_t at = 0;
  for (uint32_t count = 0; count <= INDEXED; count += INDEXED / 2) {
    memcpy(out + at, head, HEAD_BYTES);
    at += HEAD_BYTES;
    for (uint32_t i = 0; i < count; i++, at += PAGE_BYTES) memcpy(out + at, ram->base + (size_t)INDEX[i] * PAGE_BYTES, PAGE_BYTES);
  }
  return at;
}

static void same_bytes(struct ends ends, int is_socket, int may_zero_copy, int zero_copy, uint32_t iov_max) {
  struct tram_ram *ram = filled();
  uint8_t head[HEAD_BYTES], *wanted = malloc(1 << 20);
  memset(head, 'h', sizeof head);
  size_t bytes = expected_bytes(ram, head, wanted);
  struct reader reader;
  start_reader(&reader, ends.to, 0, 1 << 20);
  struct tram_channel *channel = opened(ends.from, is_socket, may_zero_copy);
  CHECK((intptr_t)channel > 0);
  int64_t sent = 0;
  for (uint32_t count = 0; count <= INDEXED; count += INDEXED / 2)
    sent += tram_channel_send(channel, head, sizeof head, ram, INDEX, count, zero_copy, iov_max, NO_LIMIT, NULL);
  CHECK_EQ(sent, (int64_t)bytes);
  CHECK_EQ(tram_channel_flush(channel, NULL), 0);
  struct tram_channel_counts counts;
  tram_channel_counts(channel, &counts);
  CHECK_EQ(counts.in_flight_bytes, 0);
  CHECK_EQ(counts.zero_copy_bytes, zero_copy == TRAM_ZERO_COPY_OFF ? 0 : 3 * (INDEXED / 2) * PAGE_BYTES);
  if (zero_copy != TRAM_ZERO_COPY_OFF) CHECK_EQ(counts.copied_bytes, counts.zero_copy_bytes); /* as always over loopback */
  tram_channel_close(channel);
  close(ends.from);
  pthread_join(reader.thread, NULL);
  CHECK_EQ(reader.count, bytes);
  CHECK(memcmp(reader.bytes, wanted, bytes) == 0);
  free(reader.bytes);
  free(wanted);
  close(ends.to);
  tram_ram_destroy(ram);
}

static void the_bytes_are_the_same(void) {
  static const uint32_t iov[] = {1, 2, 3, 1024};
  for (unsigned i = 0; i < sizeof iov / sizeof *iov && !test_failed; i++) {
    test_where = iov[i];
    same_bytes(tcp_pair(), 1, 0, TRAM_ZERO_COPY_OFF, iov[i]);
    same_bytes(tcp_pair(), 1, 1, TRAM_ZERO_COPY_AUTO, iov[i]);
    same_bytes(tcp_pair(), 1, 1, TRAM_ZERO_COPY_ON, iov[i]);
    same_bytes(unix_pair(), 1, 0, TRAM_ZERO_COPY_OFF, iov[i]);
    same_bytes(pipe_pair(), 0, 0, TRAM_ZERO_COPY_OFF, iov[i]);
  }
}

static void neighbours_share_an_iovec(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[128];
  for (uint32_t i = 0; i < 128; i++) index[i] = i;
  struct reader reader;
  start_reader(&reader, ends.to, 0, 1 << 20);
  struct tram_channel *channel = opened(ends.from, 1, 0);
  /* Two iovecs a call: a header and 128 neighbours are one call, if the socket takes them at once. */
  int room = 4 << 20;
  setsockopt(ends.from, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  CHECK_EQ(tram_channel_send(channel, "head", 4, ram, index, 128, TRAM_ZERO_COPY_OFF, 2, NO_LIMIT, NULL), 4 + 128 * 4096);
  struct tram_channel_counts counts;
  tram_channel_counts(channel, &counts);
  CHECK(counts.system_calls < 16);
  tram_channel_close(channel);
  close(ends.from);
  end_reader(&reader);
  close(ends.to);
  tram_ram_destroy(ram);
}

static void pages_outside_of_memory_are_refused(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  struct tram_channel *channel = opened(ends.from, 1, 1);
  const uint32_t index[] = {1, PAGES};
  CHECK_EQ(tram_channel_send(channel, "h", 1, ram, index, 2, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, NULL), -ERANGE);
  CHECK_EQ(tram_channel_send(channel, "h", 1, ram, index, 1, TRAM_ZERO_COPY_ON, 0, NO_LIMIT, NULL), -EINVAL);
  CHECK_EQ(tram_channel_send(channel, "h", 1, ram, index, 1, TRAM_ZERO_COPY_ON, 1025, NO_LIMIT, NULL), -EINVAL);
  CHECK_EQ(tram_receive_pages(ends.to, ram, index, 2, 100, NULL), -ERANGE);
  char byte;
  CHECK_EQ(recv(ends.to, &byte, 1, MSG_DONTWAIT), -1); /* nothing of them has left */
  tram_channel_close(channel);
  close(ends.from);
  close(ends.to);
  tram_ram_destroy(ram);
}

static void what_cannot_be_sent_uncopied_says_so(void) {
  struct ends ends = unix_pair(), pipes = pipe_pair();
  CHECK_EQ(tram_channel_open(ends.from, 1, 1, -1), -EOPNOTSUPP);
  CHECK_EQ(tram_channel_open(pipes.from, 0, 1, -1), -ENOTSOCK);
  close(ends.from), close(ends.to), close(pipes.from), close(pipes.to);
}

/* --- pages come to their places ------------------------------------------------------------------------------------------ */

static void pages_are_received_in_place(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled(), *other = as_ram(tram_ram_create((uint64_t)PAGES * PAGE_BYTES));
  struct tram_channel *channel = opened(ends.from, 1, 1);
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, INDEX, INDEXED, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, NULL), INDEXED * 4096);
  CHECK_EQ(tram_receive_pages(ends.to, other, INDEX, INDEXED, 1000, NULL), INDEXED * 4096);
  for (uint32_t page = 0, i; page < PAGES; page++) {
    for (i = 0; i < INDEXED && INDEX[i] != page; i++);
    const uint8_t *wanted = i < INDEXED ? ram->base + (size_t)page * PAGE_BYTES : NULL;
    test_where = page;
    CHECK(wanted ? memcmp(other->base + (size_t)page * PAGE_BYTES, wanted, PAGE_BYTES) == 0
                 : page_is_zero(other->base + (size_t)page * PAGE_BYTES));
  }
  CHECK_EQ(tram_receive_pages(ends.to, other, INDEX, 1, 50, NULL), -ETIMEDOUT);
  CHECK_EQ(write(ends.from, "short", 5), 5);
  tram_channel_close(channel);
  close(ends.from);
  CHECK_EQ(tram_receive_pages(ends.to, other, INDEX, 1, 1000, NULL), 5);
  close(ends.to);
  tram_ram_destroy(ram);
  tram_ram_destroy(other);
}

/* --- completions --------------------------------------------------------------------------------------------------------- */

static void completions_count_past_the_wrap(void) {
  struct ends ends = tcp_pair();
  struct tram_channel *channel = opened(ends.from, 1, 1);
  const uint64_t begin = ((uint64_t)1 << 32) - 3;
  channel->sends = channel->completed = begin;
  for (uint32_t i = 0; i < 8; i++) {
    channel->bytes_of[(begin + i) % CHANNEL_WINDOW] = 1u << i;
    channel->counts.in_flight_bytes += 1 << i;
    channel->sends++;
  }
  channel_complete(channel, 0xffffffff, 1, 1); /* the third to the fifth, out of order, and over the end of the numbers */
  CHECK_EQ(channel->completed - begin, 3);
  CHECK_EQ(channel->counts.in_flight_bytes, 255 - 4 - 8 - 16);
  CHECK_EQ(channel->counts.copied_bytes, 4 + 8 + 16);
  channel_complete(channel, 2, 4, 0);
  channel_complete(channel, 0xfffffffd, 0xfffffffe, 0);
  CHECK_EQ(channel->completed, channel->sends);
  CHECK_EQ(channel->counts.in_flight_bytes, 0);
  CHECK_EQ(channel->counts.copied_bytes, 28);
  CHECK_EQ(tram_channel_flush(channel, NULL), 0); /* nothing is left to wait for */
  tram_channel_close(channel);
  close(ends.from);
  close(ends.to);
}

static void a_flush_waits_for_a_slow_reader(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
  struct tram_channel *channel = opened(ends.from, 1, 1);
  struct tram_channel_counts counts;
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, PAGES, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, NULL), PAGES * 4096);
  tram_channel_counts(channel, &counts);
  CHECK(counts.in_flight_bytes > 0); /* nobody has read yet */
  struct reader reader;
  start_reader(&reader, ends.to, 300, 2 << 20);
  CHECK_EQ(tram_channel_flush(channel, NULL), 0);
  tram_channel_counts(channel, &counts);
  CHECK_EQ(counts.in_flight_bytes, 0);
  CHECK(counts.flush_wait_ms >= 200);
  tram_channel_close(channel);
  close(ends.from);
  end_reader(&reader);
  close(ends.to);
  tram_ram_destroy(ram);
}

static void a_flush_ends_where_nobody_reads(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
  struct tram_channel *channel = opened_for(ends.from, 1, 1, 300);
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, PAGES, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, NULL), PAGES * 4096);
  CHECK_EQ(tram_channel_flush(channel, NULL), -ETIMEDOUT);
  tram_channel_close(channel);
  close(ends.from);
  close(ends.to);
  tram_ram_destroy(ram);
}

/* With completions it waits inside sendmsg, without them beside it. */
static void a_send_ends_where_nobody_reads(void) {
  enum { LIMIT_MS = 300 };
  for (int zero_copy = 0; zero_copy < 2; zero_copy++) {
    test_where = (unsigned)zero_copy;
    struct ends ends = tcp_pair();
    struct tram_ram *ram = filled();
    uint32_t index[PAGES];
    for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
    struct tram_channel *channel = opened_for(ends.from, 1, zero_copy, LIMIT_MS);
    int64_t result = 0;
    /* More than any buffer; the time counts from when they are full. */
    int64_t began_ms = now_ms();
    for (unsigned i = 0; i < 100000 && result >= 0; i++) {
      began_ms = now_ms();
      result = tram_channel_send(channel, "", 0, ram, index, PAGES, TRAM_ZERO_COPY_OFF, 1024, NO_LIMIT, NULL);
    }
    CHECK_EQ(result, -ETIMEDOUT);
    CHECK(now_ms() - began_ms >= LIMIT_MS);
    CHECK(now_ms() - began_ms < 20 * LIMIT_MS);
    const int32_t stop = 1;
    CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, PAGES, TRAM_ZERO_COPY_OFF, 1024, NO_LIMIT, &stop), -ECANCELED);
    tram_channel_close(channel);
    close(ends.from);
    close(ends.to);
    tram_ram_destroy(ram);
  }
}

/* AF_UNIX has no error queue: what asks for it reads the bytes of the other side, of which none were to come. */
static void a_reader_that_has_spoken_and_dies_is_seen(void) {
  struct ends ends = unix_pair();
  struct tram_ram *ram = filled();
  uint32_t index[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
  struct tram_channel *channel = opened(ends.from, 1, 0);
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, 8, TRAM_ZERO_COPY_OFF, 1024, NO_LIMIT, NULL), 8 * 4096);
  CHECK_EQ(write(ends.to, "x", 1), 1);
  close(ends.to); /* with bytes unread */
  int result = tram_channel_sleep(channel, 5000, NULL);
  CHECK(result == -EPIPE || result == -ECONNRESET);
  tram_channel_close(channel);
  close(ends.from);
  tram_ram_destroy(ram);
}

static void in_flight_bytes_are_bounded(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[32];
  for (uint32_t i = 0; i < 32; i++) index[i] = i;
  struct tram_channel *channel = opened(ends.from, 1, 1);
  struct reader reader;
  start_reader(&reader, ends.to, 200, 8 << 20);
  const uint64_t most = 64 * PAGE_BYTES; /* two of these packets */
  double seen = 0;
  for (int i = 0; i < 20; i++) {
    struct tram_channel_counts counts;
    CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, 32, TRAM_ZERO_COPY_ON, 1024, most, NULL), 32 * 4096);
    tram_channel_counts(channel, &counts);
    if (counts.in_flight_bytes > seen) seen = counts.in_flight_bytes;
  }
  CHECK(seen > 0);
  CHECK(seen <= (double)most);
  CHECK_EQ(tram_channel_flush(channel, NULL), 0);
  tram_channel_close(channel);
  close(ends.from);
  end_reader(&reader);
  close(ends.to);
  tram_ram_destroy(ram);
}

static void a_stop_ends_every_wait(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
  struct tram_channel *channel = opened(ends.from, 1, 1);
  int32_t stop = 0;
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, 16, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, &stop), 16 * 4096);
  stop = 1;
  CHECK_EQ(tram_channel_flush(channel, &stop), -ECANCELED);
  CHECK_EQ(tram_channel_sleep(channel, 10000, &stop), -ECANCELED);
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, 16, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, &stop), -ECANCELED);
  tram_channel_close(channel);
  close(ends.from);
  close(ends.to);
  tram_ram_destroy(ram);
}

static void a_reader_that_dies_is_seen(void) {
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
  struct tram_channel *channel = opened(ends.from, 1, 1);
  CHECK_EQ(tram_channel_send(channel, "", 0, ram, index, PAGES, TRAM_ZERO_COPY_ON, 1024, NO_LIMIT, NULL), PAGES * 4096);
  close(ends.to); /* with bytes unread: a reset */
  int result = tram_channel_sleep(channel, 5000, NULL);
  CHECK(result == -EPIPE || result == -ECONNRESET);
  result = tram_channel_flush(channel, NULL); /* what was in flight is given back, or the error told again: no wait */
  CHECK(result <= 0);
  tram_channel_close(channel);
  close(ends.from);
  tram_ram_destroy(ram);
}

/* --- a kernel without memory to hold pages with: in a process that has no right to lock as much as it likes --------------- */

enum { HELD_KIB = 256 };

/* 0: as it should be; else the line that was not. */
static int child_without_memory(int zero_copy) {
  struct rlimit limit = {HELD_KIB << 10, HELD_KIB << 10};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0) return __LINE__;
  if (setgid(65534) < 0 || setuid(65534) < 0) return __LINE__; /* CAP_IPC_LOCK goes with it */
  struct ends ends = tcp_pair();
  struct tram_ram *ram = filled();
  uint32_t index[PAGES];
  for (uint32_t i = 0; i < PAGES; i++) index[i] = i;
  struct tram_channel *channel = opened(ends.from, 1, 1);
  struct tram_channel_counts counts;
  if (zero_copy == TRAM_ZERO_COPY_ON) { /* nobody reads: draining does not help */
    struct timeval silence = {.tv_sec = 3};
    setsockopt(ends.from, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence);
    if (tram_channel_send(channel, "", 0, ram, index, PAGES, zero_copy, 1024, NO_LIMIT, NULL) != -ENOBUFS) return __LINE__;
    return 0;
  }
  struct reader reader;
  start_reader(&reader, ends.to, 100, 16 << 20);
  for (int i = 0; i < 10; i++)
    if (tram_channel_send(channel, "", 0, ram, index, PAGES, zero_copy, 1024, NO_LIMIT, NULL) != PAGES * 4096) return __LINE__;
  if (tram_channel_flush(channel, NULL) < 0) return __LINE__;
  tram_channel_counts(channel, &counts);
  if (counts.fallbacks < 1) return __LINE__; /* the premise: the kernel did say ENOBUFS */
  close(ends.from);
  pthread_join(reader.thread, NULL);
  if (reader.count != (size_t)10 * PAGES * PAGE_BYTES) return __LINE__;
  for (int i = 0; i < 10; i++)
    if (memcmp(reader.bytes + (size_t)i * PAGES * PAGE_BYTES, ram->base, (size_t)PAGES * PAGE_BYTES)) return __LINE__;
  return 0;
}

static void without_memory(int zero_copy) {
  if (geteuid() != 0) SKIP("only root can become somebody else");
  pid_t child = fork();
  if (child == 0) _exit(child_without_memory(zero_copy) ? 1 : 0);
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

static void auto_copies_what_the_kernel_cannot_hold(void) { without_memory(TRAM_ZERO_COPY_AUTO); }
static void on_ends_where_the_kernel_cannot_hold_it(void) { without_memory(TRAM_ZERO_COPY_ON); }

const struct test channel_tests[] = {
    {"channel: the bytes are the same over TCP, AF_UNIX and pipes, copied or not, whatever the iovecs", the_bytes_are_the_same},
    {"channel: neighbours share an iovec", neighbours_share_an_iovec},
    {"channel: pages outside of memory are refused before a byte leaves", pages_outside_of_memory_are_refused},
    {"channel: what cannot be sent uncopied says so", what_cannot_be_sent_uncopied_says_so},
    {"channel: pages are received in their places, and no others", pages_are_received_in_place},
    {"channel: completions count past the wrap of their numbers, in any order", completions_count_past_the_wrap},
    {"channel: a flush waits for a slow reader", a_flush_waits_for_a_slow_reader},
    {"channel: a flush ends where nobody reads", a_flush_ends_where_nobody_reads},
    {"channel: a send ends where nobody reads", a_send_ends_where_nobody_reads},
    {"channel: a reader that has spoken and dies is seen", a_reader_that_has_spoken_and_dies_is_seen},
    {"channel: the bytes in flight are bounded", in_flight_bytes_are_bounded},
    {"channel: a stop ends every wait", a_stop_ends_every_wait},
    {"channel: a reader that dies is seen while nothing is sent", a_reader_that_dies_is_seen},
    {"channel: auto copies what the kernel has no memory to hold", auto_copies_what_the_kernel_cannot_hold},
    {"channel: on ends where the kernel has no memory", on_ends_where_the_kernel_cannot_hold_it},
    {0},
};
