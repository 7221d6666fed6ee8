/* net.c, and the kick of kvm.c: real sockets and pipes, a slow reader, signals, and short writes. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "test.h"
#include "tram.h"

/* --- the two calls that write, watched: each may be made to write less than it was asked to ---------------------------- */

static struct {
  size_t most;               /* bytes one call takes; 0: as many as the kernel takes */
  unsigned calls, short_ones; /* calls, and those that wrote less than they were given */
  size_t longest;            /* most iovecs in one call */
} writes;

static ssize_t watched(long number, int fd, const struct iovec *iov, size_t count, struct msghdr *message, int flags) {
  struct iovec some[1024];
  size_t wanted = 0, used = 0, left = writes.most ? writes.most : SIZE_MAX;
  for (size_t i = 0; i < count; i++) {
    wanted += iov[i].iov_len;
    if (left == 0) continue;
    some[used] = iov[i];
    if (some[used].iov_len > left) some[used].iov_len = left;
    left -= some[used++].iov_len;
  }
  writes.calls++;
  if (count > writes.longest) writes.longest = count;
  ssize_t n;
  if (message) {
    struct msghdr shorter = *message;
    shorter.msg_iov = some;
    shorter.msg_iovlen = used;
    n = syscall(number, fd, &shorter, flags);
  } else {
    n = syscall(number, fd, some, used);
  }
  if (n >= 0 && (size_t)n < wanted) writes.short_ones++;
  return n;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  struct msghdr copy = *message;
  return watched(SYS_sendmsg, fd, message->msg_iov, message->msg_iovlen, &copy, flags);
}

ssize_t writev(int fd, const struct iovec *iov, int count) { return watched(SYS_writev, fd, iov, (size_t)count, NULL, 0); }

/* --- helpers ------------------------------------------------------------------------------------------------------- */


enum kind { SOCKET, PIPE };

/* fds[1] is written, fds[0] read; both hold as little as the kernel allows. */
static void channel(enum kind kind, int32_t *fds) {
  if (kind == PIPE) {
    tram_pipe(fds);
    fcntl(fds[1], F_SETPIPE_SZ, 4096);
    return;
  }
  int small = 1;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) abort();
  setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
}

static void close_both(const int32_t *fds) {
  close(fds[0]);
  close(fds[1]);
}

static unsigned open_descriptors(void) {
  unsigned count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (readdir(folder)) count++;
  closedir(folder);
  return count;
}

static int is_cloexec(int fd) { return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }
static int is_blocking(int fd) { return (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0; }

/* A temporary folder, and the paths in it. */
static char folder[64];

static const char *in_folder(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void make_folder(void) {
  strcpy(folder, "/tmp/tram-c-XXXXXX");
  if (!mkdtemp(folder)) abort();
}

/* Reads everything, in pieces of any size, now and then pausing. */
struct slow_reader {
  int fd;
  uint8_t *out;
  uint64_t room, bytes;
};

static void *read_slowly(void *argument) {
  struct slow_reader *self = argument;
  uint32_t state = 99;
  while (self->bytes < self->room) {
    uint64_t want = 1 + next_random(&state) % 9000;
    if (want > self->room - self->bytes) want = self->room - self->bytes;
    ssize_t n = read(self->fd, self->out + self->bytes, want);
    if (n <= 0) break;
    self->bytes += (uint64_t)n;
    if (next_random(&state) % 16 == 0) usleep(100);
  }
  return NULL;
}

/* Kicks one thread until told to stop; before the first kick it waits, and may set a word. */
struct kicker {
  int thread;
  unsigned wait_us;
  int32_t *word;
  atomic_int done;
  unsigned kicks;
};

static void *kick_on(void *argument) {
  struct kicker *self = argument;
  usleep(self->wait_us);
  if (self->word) __atomic_store_n(self->word, 1, __ATOMIC_SEQ_CST);
  while (!atomic_load(&self->done)) {
    tram_kick(NULL, self->thread);
    self->kicks++;
    usleep(300);
  }
  return NULL;
}

/* --- pages ----------------------------------------------------------------------------------------------------------- */

enum { RAM_PAGES = 64, SENT_PAGES = 600, HEAD_BYTES = 29 };

struct sample {
  struct tram_ram *ram;
  uint8_t head[HEAD_BYTES], words[SENT_PAGES * 8];
  uint32_t index[SENT_PAGES];
  uint8_t *expected, *found;
  uint64_t bytes;
};

static void make_sample(struct sample *self, uint32_t count) {
  uint32_t state = 5;
  self->ram = as_ram(tram_ram_create(RAM_PAGES * PAGE_BYTES));
  uint8_t *page = checked_page(self->ram, 0);
  for (uint64_t i = 0; i < RAM_PAGES * PAGE_BYTES; i++) page[i] = (uint8_t)next_random(&state);
  for (unsigned i = 0; i < HEAD_BYTES; i++) self->head[i] = (uint8_t)next_random(&state);
  for (unsigned i = 0; i < SENT_PAGES * 8; i++) self->words[i] = (uint8_t)next_random(&state);
  for (unsigned i = 0; i < SENT_PAGES; i++) self->index[i] = next_random(&state) % RAM_PAGES;
  const uint64_t room = HEAD_BYTES + (uint64_t)SENT_PAGES * (PAGE_BYTES + 8);
  self->expected = malloc(room);
  self->found = calloc(1, room);
  self->bytes = (uint64_t)tram_pages_gather(self->ram, self->head, HEAD_BYTES, self->words, self->index, count, self->expected, room);
}

static void drop_sample(struct sample *self) {
  free(self->expected);
  free(self->found);
  tram_ram_destroy(self->ram);
}

/* Writes the sample against the slow reader, kicked meanwhile if so wished; the number of short writes is in `writes`. */
static int64_t send_sample(struct sample *self, enum kind kind, uint32_t count, uint32_t iov_max, struct kicker *kicker) {
  int32_t fds[2];
  pthread_t reader, kicking;
  channel(kind, fds);
  struct slow_reader slow = {.fd = fds[0], .out = self->found, .room = self->bytes};
  memset(self->found, 0, self->bytes);
  writes.calls = writes.short_ones = 0;
  writes.longest = 0;
  pthread_create(&reader, NULL, read_slowly, &slow);
  if (kicker) {
    kicker->thread = tram_thread_id();
    pthread_create(&kicking, NULL, kick_on, kicker);
  }
  const int64_t written = tram_write_pages(fds[1], kind == SOCKET, self->ram, self->head, HEAD_BYTES, self->words, self->index,
                                           count, iov_max, -1, NULL);
  if (kicker) {
    atomic_store(&kicker->done, 1);
    pthread_join(kicking, NULL);
  }
  close(fds[1]);
  pthread_join(reader, NULL);
  close(fds[0]);
  return written;
}

static const uint32_t iov_maxes[] = {1, 2, 3, 16, 64, 1024};

static void pages_survive_signals(void) {
  struct sample sample;
  make_sample(&sample, SENT_PAGES);
  CHECK_EQ(tram_kick_install(), 0);
  for (int kind = SOCKET; kind <= PIPE; kind++) {
    for (unsigned i = 0; i < sizeof iov_maxes / sizeof *iov_maxes; i++) {
      test_where = (unsigned)kind * 10000 + iov_maxes[i];
      struct kicker kicker = {0};
      CHECK_EQ(send_sample(&sample, (enum kind)kind, SENT_PAGES, iov_maxes[i], &kicker), (int64_t)sample.bytes);
      CHECK(memcmp(sample.found, sample.expected, sample.bytes) == 0);
      CHECK_EQ(writes.longest, iov_maxes[i] < 2 * SENT_PAGES ? iov_maxes[i] : 2 * SENT_PAGES);
      if (iov_maxes[i] >= 16) CHECK(writes.short_ones > 0); /* a kick must have hit a blocked call */
    }
  }
  drop_sample(&sample);
}

static void pages_survive_short_writes(void) {
  static const size_t most[] = {1, 7, 8, 9, 29, 4095, 4096, 4097, 4104, 10000};
  enum { FEW = 5 };
  struct sample sample;
  make_sample(&sample, FEW);
  for (int kind = SOCKET; kind <= PIPE; kind++) {
    for (unsigned m = 0; m < sizeof most / sizeof *most; m++) {
      for (unsigned i = 0; i < sizeof iov_maxes / sizeof *iov_maxes; i++) {
        if (most[m] == 1 && i > 1) continue; /* 20 000 calls each */
        test_where = (unsigned)kind * 100000000 + most[m] * 10000 + iov_maxes[i];
        writes.most = most[m];
        const int64_t written = send_sample(&sample, (enum kind)kind, FEW, iov_maxes[i], NULL);
        writes.most = 0;
        CHECK_EQ(written, (int64_t)sample.bytes);
        CHECK(memcmp(sample.found, sample.expected, sample.bytes) == 0);
        CHECK(writes.calls >= sample.bytes / most[m]);
      }
    }
  }
  drop_sample(&sample);
}

static void pages_survive_a_nonblocking_pipe(void) {
  struct sample sample;
  make_sample(&sample, 100);
  int32_t fds[2];
  pthread_t reader;
  channel(PIPE, fds);
  fcntl(fds[1], F_SETFL, O_NONBLOCK);
  struct slow_reader slow = {.fd = fds[0], .out = sample.found, .room = sample.bytes};
  writes.short_ones = 0;
  pthread_create(&reader, NULL, read_slowly, &slow);
  const int64_t written =
      tram_write_pages(fds[1], 0, sample.ram, sample.head, HEAD_BYTES, sample.words, sample.index, 100, 64, -1, NULL);
  close(fds[1]);
  pthread_join(reader, NULL);
  close(fds[0]);
  CHECK_EQ(written, (int64_t)sample.bytes);
  CHECK(memcmp(sample.found, sample.expected, sample.bytes) == 0);
  CHECK(writes.short_ones > 0);
  drop_sample(&sample);
}

static void pages_are_checked_before_the_first_byte(void) {
  struct sample sample;
  make_sample(&sample, 2);
  int32_t fds[2];
  uint8_t some[HEAD_BYTES + 1];
  channel(SOCKET, fds);
  static const uint32_t bad[] = {0, RAM_PAGES};
  CHECK_EQ(tram_write_pages(fds[1], 1, sample.ram, sample.head, HEAD_BYTES, sample.words, bad, 2, 16, -1, NULL), -ERANGE);
  CHECK_EQ(tram_write_pages(fds[1], 1, sample.ram, sample.head, HEAD_BYTES, sample.words, sample.index, 1, 0, -1, NULL), -EINVAL);
  CHECK_EQ(tram_write_pages(fds[1], 1, sample.ram, sample.head, HEAD_BYTES, sample.words, sample.index, 1, 1025, -1, NULL), -EINVAL);
  CHECK_EQ(recv(fds[0], some, sizeof some, MSG_DONTWAIT), -1);
  CHECK_EQ(tram_write_pages(fds[1], 1, sample.ram, sample.head, HEAD_BYTES, sample.words, sample.index, 0, 16, -1, NULL), HEAD_BYTES);
  CHECK_EQ(recv(fds[0], some, sizeof some, MSG_DONTWAIT), HEAD_BYTES);
  CHECK(memcmp(some, sample.head, HEAD_BYTES) == 0);
  close_both(fds);
  drop_sample(&sample);
}

/* --- ends ------------------------------------------------------------------------------------------------------------- */

static void stop_ends_a_blocked_write(void) {
  static uint8_t much[16 << 20]; /* more than any buffer */
  CHECK_EQ(tram_kick_install(), 0);
  for (int kind = SOCKET; kind <= PIPE; kind++) {
    test_where = (unsigned)kind;
    int32_t fds[2], word = 0;
    pthread_t kicking;
    channel((enum kind)kind, fds);
    struct kicker kicker = {.thread = tram_thread_id(), .wait_us = 30000, .word = &word};
    pthread_create(&kicking, NULL, kick_on, &kicker);
    const int64_t result = tram_write(fds[1], kind == SOCKET, much, sizeof much, -1, &word);
    atomic_store(&kicker.done, 1);
    pthread_join(kicking, NULL);
    close_both(fds);
    CHECK_EQ(result, -ECANCELED);
    CHECK_EQ(word, 1);
  }
}

static void stop_ends_a_blocked_read_and_accept(void) {
  CHECK_EQ(tram_kick_install(), 0);
  const int listener = tram_listen_tcp("127.0.0.1", "0");
  CHECK(listener >= 0);
  for (unsigned i = 0; i < 3; i++) {
    test_where = i;
    int32_t fds[2], word = 0;
    uint8_t byte;
    pthread_t kicking;
    channel(i == 0 ? SOCKET : PIPE, fds);
    struct kicker kicker = {.thread = tram_thread_id(), .wait_us = 30000, .word = &word};
    pthread_create(&kicking, NULL, kick_on, &kicker);
    const int64_t result = i == 2 ? tram_accept(listener, -1, &word) : tram_read(fds[0], &byte, 1, -1, &word);
    atomic_store(&kicker.done, 1);
    pthread_join(kicking, NULL);
    close_both(fds);
    CHECK_EQ(result, -ECANCELED);
    CHECK_EQ(word, 1);
  }
  close(listener);
}

static void stop_set_before_ends_at_once(void) {
  const int32_t word = 1;
  int32_t fds[2];
  uint8_t byte = 0;
  channel(SOCKET, fds);
  CHECK_EQ(tram_write(fds[1], 1, &byte, 1, -1, &word), -ECANCELED);
  CHECK_EQ(tram_read(fds[0], &byte, 1, -1, &word), -ECANCELED);
  CHECK_EQ(recv(fds[0], &byte, 1, MSG_DONTWAIT), -1); /* nothing was written */
  close_both(fds);
}

static void silent_peers_time_out(void) {
  static uint8_t much[16 << 20]; /* more than any buffer */
  enum { LIMIT_MS = 60 };
  int32_t fds[2];
  uint8_t byte;
  channel(SOCKET, fds);
  const int listener = tram_listen_tcp("127.0.0.1", "0");
  CHECK(listener >= 0);
  for (unsigned i = 0; i < 3; i++) {
    test_where = i;
    const int64_t start = now_ms();
    const int64_t result = i == 0   ? tram_write(fds[1], 1, much, sizeof much, LIMIT_MS, NULL)
                           : i == 1 ? tram_read(fds[1], &byte, 1, LIMIT_MS, NULL)
                                    : tram_accept(listener, LIMIT_MS, NULL);
    CHECK_EQ(result, -ETIMEDOUT);
    CHECK(now_ms() - start >= LIMIT_MS - 5);
    CHECK(now_ms() - start < 5000);
  }
  close(listener);
  close_both(fds);
  int32_t pipe_ends[2];
  CHECK_EQ(tram_pipe(pipe_ends), 0);
  CHECK_EQ(tram_tune(pipe_ends[1]), -ENOTSOCK);
  close_both(pipe_ends);
}

static void a_closed_peer_is_told(void) {
  static uint8_t much[1 << 16];
  for (int kind = SOCKET; kind <= PIPE; kind++) {
    test_where = (unsigned)kind;
    int32_t fds[2];
    uint8_t byte;
    channel((enum kind)kind, fds);
    close(fds[0]);
    /* A socket must not raise SIGPIPE, whoever embeds the library; a pipe cannot be kept from it. */
    signal(SIGPIPE, kind == SOCKET ? SIG_DFL : SIG_IGN);
    const int64_t result = tram_write(fds[1], kind == SOCKET, much, sizeof much, -1, NULL);
    signal(SIGPIPE, SIG_DFL);
    close(fds[1]);
    CHECK_EQ(result, -EPIPE);
    channel((enum kind)kind, fds);
    CHECK_EQ(tram_write(fds[1], kind == SOCKET, much, 1, -1, NULL), 1);
    close(fds[1]);
    CHECK_EQ(tram_read(fds[0], &byte, 1, -1, NULL), 1);
    CHECK_EQ(tram_read(fds[0], &byte, 1, -1, NULL), 0);
    close(fds[0]);
  }
}

/* --- messages ------------------------------------------------------------------------------------------------------ */

static void a_descriptor_is_passed_close_on_exec(void) {
  int32_t fds[2], got[8];
  uint32_t count = 99;
  char text[16];
  channel(SOCKET, fds);
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  uint64_t value = 1;
  CHECK_EQ(tram_send_message(fds[1], "hello", 5, event), 5);
  CHECK_EQ(tram_receive_message(fds[0], text, sizeof text, got, &count), 5);
  CHECK(memcmp(text, "hello", 5) == 0);
  CHECK_EQ(count, 1);
  CHECK(got[0] != event);
  CHECK(is_cloexec(got[0]));
  CHECK_EQ(write(got[0], &value, sizeof value), sizeof value); /* the same object: what is signalled here is seen there */
  struct pollfd ready = {.fd = event, .events = POLLIN};
  CHECK_EQ(tram_poll(&ready, 1, 0), 1);
  CHECK_EQ(read(event, &value, sizeof value), sizeof value);
  CHECK_EQ(tram_poll(&ready, 1, 0), 0);
  CHECK_EQ(tram_send_message(fds[1], "x", 1, -1), 1);
  CHECK_EQ(tram_receive_message(fds[0], text, sizeof text, got, &count), 1);
  CHECK_EQ(count, 0);
  CHECK_EQ(tram_receive_message(fds[0], text, sizeof text, got, &count), -EAGAIN);
  close(fds[1]);
  CHECK_EQ(tram_receive_message(fds[0], text, sizeof text, got, &count), 0);
  close(fds[0]);
  close(event);
}

static void too_many_descriptors_do_not_leak(void) {
  enum { PASSED = 12, TAKEN = 8 };
  int32_t fds[2], got[TAKEN];
  int many[PASSED];
  uint32_t count = 0;
  char text[4];
  channel(SOCKET, fds);
  const unsigned before = open_descriptors();
  for (unsigned i = 0; i < PASSED; i++) many[i] = dup(fds[0]);
  union {
    char bytes[CMSG_SPACE(sizeof many)];
    struct cmsghdr align;
  } control = {{0}};
  struct iovec one = {.iov_base = text, .iov_len = 1};
  struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof many);
  memcpy(CMSG_DATA(c), many, sizeof many);
  CHECK_EQ(sendmsg(fds[1], &message, 0), 1);
  for (unsigned i = 0; i < PASSED; i++) close(many[i]);
  CHECK_EQ(tram_receive_message(fds[0], text, sizeof text, got, &count), 1);
  CHECK_EQ(count, TAKEN);
  CHECK_EQ(open_descriptors(), before + TAKEN);
  for (unsigned i = 0; i < TAKEN; i++) {
    CHECK(is_cloexec(got[i]));
    close(got[i]);
  }
  CHECK_EQ(open_descriptors(), before);
  close_both(fds);
}

/* --- addresses ------------------------------------------------------------------------------------------------------- */

static void a_unix_path_has_107_bytes_at_most(void) {
  char path[200];
  make_folder();
  const size_t used = strlen(folder) + 1;
  for (size_t length = 107; length <= 109; length++) {
    test_where = length;
    memset(path, 'x', sizeof path);
    memcpy(path, in_folder(""), used);
    path[length] = 0;
    const int listener = tram_listen_unix(path);
    if (length == 107) {
      CHECK(listener >= 0);
      const int fd = tram_connect_unix(path, 1000, NULL);
      CHECK(fd >= 0);
      close(fd);
      close(listener);
      unlink(path);
    } else {
      CHECK_EQ(listener, -ENAMETOOLONG);
      CHECK_EQ(tram_connect_unix(path, 1000, NULL), -ENAMETOOLONG);
    }
  }
  rmdir(folder);
}

struct early {
  const char *path;
  int refused;
};

/* Connects from the moment on that the path is there. */
static void *connect_early(void *argument) {
  struct early *early = argument;
  int fd;
  while ((fd = tram_connect_unix(early->path, 1000, NULL)) == -ENOENT)
    ;
  early->refused = fd < 0;
  if (fd >= 0) close(fd);
  return NULL;
}

static void a_unix_socket_that_is_there_listens(void) {
  make_folder();
  const char *path = in_folder("s");
  for (size_t round = 0; round < 500; round++) {
    test_where = round;
    struct early early = {path, 0};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, connect_early, &early), 0);
    const int listener = tram_listen_unix(path);
    pthread_join(thread, NULL);
    CHECK(listener >= 0);
    CHECK(!early.refused);
    close(listener);
    unlink(path);
  }
  CHECK_EQ(rmdir(folder), 0); /* nothing is left beside the path */
}

static void a_unix_socket_is_its_owners(void) {
  make_folder();
  const char *path = in_folder("s");
  const mode_t mask = umask(0);
  const int listener = tram_listen_unix(path);
  umask(mask);
  CHECK(listener >= 0);
  struct stat info;
  CHECK_EQ(stat(path, &info), 0);
  CHECK(S_ISSOCK(info.st_mode));
  CHECK_EQ(info.st_mode & 0777, 0600);
  CHECK_EQ(tram_listen_unix(path), -EADDRINUSE);
  const int there = tram_connect_unix(path, 1000, NULL), here = tram_accept(listener, 1000, NULL);
  CHECK(there >= 0);
  CHECK(here >= 0);
  CHECK(is_cloexec(listener) && is_cloexec(there) && is_cloexec(here));
  CHECK(is_blocking(there) && is_blocking(here));
  CHECK_EQ(tram_port(here), -EAFNOSUPPORT);
  close(there);
  close(here);
  close(listener);
  CHECK_EQ(tram_connect_unix(path, 1000, NULL), -ECONNREFUSED);
  unlink(path);
  CHECK_EQ(tram_connect_unix(path, 1000, NULL), -ENOENT);
  rmdir(folder);
}

static void tcp_connects_and_reports_its_port(void) {
  char port[8];
  const int listener = tram_listen_tcp("127.0.0.1", "0");
  CHECK(listener >= 0);
  const int number = tram_port(listener);
  CHECK(number > 0 && number < 65536);
  snprintf(port, sizeof port, "%d", number);
  const int there = tram_connect_tcp("127.0.0.1", port, 1000, NULL), here = tram_accept(listener, 1000, NULL);
  CHECK(there >= 0);
  CHECK(here >= 0);
  CHECK(is_cloexec(listener) && is_cloexec(there) && is_cloexec(here));
  CHECK(is_blocking(there) && is_blocking(here));
  CHECK_EQ(tram_tune(there), 0);
  uint8_t text[4] = {0};
  CHECK_EQ(tram_write(there, 1, "abc", 3, -1, NULL), 3);
  CHECK_EQ(tram_read(here, text, sizeof text, 1000, NULL), 3);
  CHECK(memcmp(text, "abc", 3) == 0);
  for (int64_t end = now_ms() + 2000; tram_unsent(there) > 0 && now_ms() < end;) usleep(1000);
  CHECK_EQ(tram_unsent(there), 0);
  CHECK_EQ(tram_shutdown(there, SHUT_WR), 0);
  CHECK_EQ(tram_read(here, text, sizeof text, 1000, NULL), 0);
  CHECK_EQ(tram_listen_tcp("127.0.0.1", port), -EADDRINUSE);
  close(there);
  close(here);
  close(listener);
  CHECK_EQ(tram_connect_tcp("127.0.0.1", port, 1000, NULL), -ECONNREFUSED);
}

/* --- descriptors ------------------------------------------------------------------------------------------------- */

static void descriptors_are_told_apart(void) {
  int32_t fds[2];
  make_folder();
  const char *path = in_folder("f");
  const int file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600), null = open("/dev/null", O_RDWR | O_CLOEXEC);
  channel(SOCKET, fds);
  CHECK_EQ(tram_fd_type(fds[0]), 1);
  close_both(fds);
  CHECK_EQ(tram_pipe(fds), 0);
  CHECK(is_cloexec(fds[0]) && is_cloexec(fds[1]));
  CHECK_EQ(tram_fd_type(fds[0]), 2);
  CHECK_EQ(tram_fd_type(file), 3);
  CHECK_EQ(tram_fd_type(null), 4);
  CHECK_EQ(tram_fd_type(-1), -EBADF);
  CHECK_EQ(tram_sync(file), 0);
  CHECK_EQ(tram_sync(fds[1]), -EINVAL);
  const int copy = tram_duplicate(file);
  CHECK(copy >= 3 && copy != file);
  CHECK(is_cloexec(copy));
  CHECK_EQ(tram_close(copy), 0);
  CHECK_EQ(tram_close(copy), -EBADF);
  CHECK_EQ(tram_duplicate(-1), -EBADF);
  close_both(fds);
  close(file);
  close(null);
  unlink(path);
  rmdir(folder);
}

static void a_listeners_process_is_known(void) {
  make_folder();
  const char *path = in_folder("s");
  const int listener = tram_listen_unix(path), fd = tram_connect_unix(path, 1000, NULL);
  CHECK(listener >= 0 && fd >= 0);
  CHECK_EQ(tram_peer_pid(fd), getpid());
  close(fd);
  close(listener);
  CHECK_EQ(tram_peer_pid(fd), -EBADF);
  unlink(path);
  rmdir(folder);
}

static void a_folder_is_locked_for_one(void) {
  make_folder();
  const int lock = tram_lock_folder(folder), other = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  CHECK(lock >= 0);
  CHECK(is_cloexec(lock));
  CHECK_EQ(flock(other, LOCK_EX | LOCK_NB), -1);
  CHECK_EQ(errno, EWOULDBLOCK);
  close(lock);
  CHECK_EQ(flock(other, LOCK_EX | LOCK_NB), 0);
  close(other);
  rmdir(folder);
  CHECK_EQ(tram_lock_folder(folder), -ENOENT);
}

static void a_kick_sets_the_flag_first(void) {
  struct kvm_run run;
  memset(&run, 0, sizeof run);
  CHECK_EQ(tram_kick_install(), 0);
  CHECK_EQ(tram_kick(&run, tram_thread_id()), 0);
  CHECK_EQ(run.immediate_exit, 1);
  CHECK_EQ(tram_kick(NULL, 0x3fffffff), -ESRCH);
}

const struct test net_tests[] = {
    {"net: pages arrive as they are while signals cut the writes short, for any number of iovecs", pages_survive_signals},
    {"net: pages arrive as they are wherever a write stops", pages_survive_short_writes},
    {"net: pages arrive as they are through a pipe somebody made non-blocking", pages_survive_a_nonblocking_pipe},
    {"net: pages and limits are checked before the first byte is written", pages_are_checked_before_the_first_byte},
    {"net: a stop word and a kick end a blocked write", stop_ends_a_blocked_write},
    {"net: a stop word and a kick end a blocked read and a pending accept", stop_ends_a_blocked_read_and_accept},
    {"net: a stop word that was set before ends a call at once", stop_set_before_ends_at_once},
    {"net: a peer that neither reads, writes nor connects is a timeout", silent_peers_time_out},
    {"net: a peer that closed is EPIPE to the writer and the end to the reader", a_closed_peer_is_told},
    {"net: a passed descriptor is the same object, closed on exec", a_descriptor_is_passed_close_on_exec},
    {"net: of more than 8 passed descriptors none leaks", too_many_descriptors_do_not_leak},
    {"net: a socket path has at most 107 bytes", a_unix_path_has_107_bytes_at_most},
    {"net: a unix socket that is there listens", a_unix_socket_that_is_there_listens},
    {"net: a listening unix socket has mode 0600 and belongs to one", a_unix_socket_is_its_owners},
    {"net: TCP connects, reports its port, and drains", tcp_connects_and_reports_its_port},
    {"net: sockets, pipes, files and devices are told apart", descriptors_are_told_apart},
    {"net: a listener's process is known to who connects", a_listeners_process_is_known},
    {"net: a folder is locked for one at a time", a_folder_is_locked_for_one},
    {"kvm: a kick sets immediate_exit, and a thread that is gone is ESRCH", a_kick_sets_the_flag_first},
    {0},
};
