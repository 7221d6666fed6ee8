/* Descriptors: connect, listen, wait, write guest pages uncopied, read, pass descriptors. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

enum { NAP_NS = 100000, UNIX_BUFFER_BYTES = 2 << 20, IOVECS_MAX = 1024, FDS_MAX = 8 };
enum { BACKLOG = 256 }; /* as many channels as a source may open before the first of them is looked at */

int stopped(const int32_t *stop) { return stop && __atomic_load_n(stop, __ATOMIC_SEQ_CST) != 0; }

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits for events on one descriptor. Slices make a missed kick harmless: cancel is seen within one. */
static int wait_for(int fd, short events, int timeout_ms, const int32_t *stop) {
  int64_t end = timeout_ms < 0 ? INT64_MAX : now_ms() + timeout_ms;
  for (;;) {
    if (stopped(stop)) return -ECANCELED;
    struct pollfd one = {.fd = fd, .events = events};
    int ready = poll(&one, 1, WAIT_SLICE_MS);
    if (ready > 0) return one.revents & POLLNVAL ? -EBADF : 0;
    if (ready < 0 && errno != EINTR) return -errno;
    if (now_ms() >= end) return -ETIMEDOUT;
  }
}

static int finish_connect(int fd, const struct sockaddr *address, socklen_t bytes, int timeout_ms, const int32_t *stop) {
  int flags = fcntl(fd, F_GETFL), result = 0;
  fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  if (connect(fd, address, bytes) < 0) {
    result = -errno;
    if (result == -EINPROGRESS) {
      result = wait_for(fd, POLLOUT, timeout_ms, stop);
      int error = 0;
      socklen_t length = sizeof error;
      if (result == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0) result = -error;
    }
  }
  if (result == 0 && fcntl(fd, F_SETFL, flags) < 0) result = -errno;
  return result;
}

static int resolve(const char *host, const char *port, int flags, struct addrinfo **list) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
  int error = getaddrinfo(*host ? host : NULL, port, &hints, list);
  if (error == 0) return 0;
  return error == EAI_SYSTEM ? -errno : error == EAI_AGAIN ? -EAGAIN : -ENXIO;
}

int tram_connect_tcp(const char *host, const char *port, int timeout_ms, const int32_t *stop) {
  struct addrinfo *list, *one;
  int result = resolve(host, port, 0, &list);
  if (result < 0) return result;
  result = -EHOSTUNREACH;
  for (one = list; one; one = one->ai_next) {
    int fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      result = -errno;
      continue;
    }
    result = finish_connect(fd, one->ai_addr, one->ai_addrlen, timeout_ms, stop);
    if (result == 0) {
      result = fd;
      break;
    }
    close(fd);
  }
  freeaddrinfo(list);
  return result;
}

static int unix_address(const char *path, struct sockaddr_un *address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
  strcpy(address->sun_path, path);
  return 0;
}

int tram_connect_unix(const char *path, int timeout_ms, const int32_t *stop) {
  struct sockaddr_un address;
  int result = unix_address(path, &address);
  if (result < 0) return result;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int64_t end = now_ms() + timeout_ms;
  for (;;) { /* a full backlog answers EAGAIN at once, and poll does not wait for it */
    result = finish_connect(fd, (struct sockaddr *)&address, sizeof address, timeout_ms, stop);
    if (result != -EAGAIN) break;
    if (stopped(stop)) result = -ECANCELED;
    if (timeout_ms >= 0 && now_ms() >= end) result = -ETIMEDOUT;
    if (result != -EAGAIN) break;
    usleep(5000);
  }
  if (result == 0) return fd;
  close(fd);
  return result;
}

int tram_listen_tcp(const char *host, const char *port) {
  struct addrinfo *list, *one;
  int result = resolve(host, port, AI_PASSIVE, &list);
  if (result < 0) return result;
  result = -EADDRNOTAVAIL;
  for (one = list; one; one = one->ai_next) {
    int fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) {
      result = -errno;
      continue;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, one->ai_addr, one->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) {
      result = fd;
      break;
    }
    result = -errno;
    close(fd);
  }
  freeaddrinfo(list);
  return result;
}

static int listen_at(const char *path) {
  struct sockaddr_un address;
  int result = unix_address(path, &address);
  if (result < 0) return result;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  fchmod(fd, 0600); /* before bind: the socket file never exists with a wider mode */
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && chmod(path, 0600) == 0 && listen(fd, BACKLOG) == 0)
    return fd;
  result = -errno;
  close(fd);
  return result;
}

int tram_listen_unix(const char *path) {
  /* Between bind and listen a connection is refused. Who waits for the path to be there must not meet that moment: the
   * socket gets the path when it listens. */
  char beside[sizeof((struct sockaddr_un *)0)->sun_path];
  if ((size_t)snprintf(beside, sizeof beside, "%s.%d", path, getpid()) < sizeof beside) {
    int fd = listen_at(beside);
    if (fd >= 0) {
      if (renameat2(AT_FDCWD, beside, AT_FDCWD, path, RENAME_NOREPLACE) == 0) return fd;
      int error = errno;
      unlink(beside);
      close(fd);
      if (error == EEXIST) return -EADDRINUSE;
      if (error != EINVAL && error != ENOSYS) return -error; /* a file system, or a sandbox, that cannot rename so */
    }
  }
  return listen_at(path); /* also when the longer name has no room */
}

int tram_port(int fd) {
  struct sockaddr_storage address;
  socklen_t bytes = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &bytes) < 0) return -errno;
  if (address.ss_family == AF_INET) return ntohs(((struct sockaddr_in *)&address)->sin_port);
  if (address.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
  return -EAFNOSUPPORT;
}

int tram_accept(int fd, int timeout_ms, const int32_t *stop) {
  for (;;) {
    int result = wait_for(fd, POLLIN, timeout_ms, stop);
    if (result < 0) return result;
    int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (accepted >= 0) return accepted;
    if (errno != EINTR && errno != ECONNABORTED) return -errno;
  }
}

int tram_poll(void *pollfds, uint32_t count, int timeout_ms) {
  int ready = poll(pollfds, count, timeout_ms);
  return ready < 0 ? -errno : ready;
}

static int is_unix(int fd) {
  int domain = 0;
  socklen_t bytes = sizeof domain;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 && domain == AF_UNIX;
}

int tram_tune(int fd) {
  int on = 1, idle = 5, interval = 2, probes = 3;
  if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0) return -errno;
  /* TCP sizes its buffers by itself; AF_UNIX keeps 208 KiB, which a reader empties between two wake-ups. More than the
   * system's limit is for root: others get what there is. */
  int room = UNIX_BUFFER_BYTES;
  if (is_unix(fd) && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) < 0)
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  /* Refused by sockets that are not TCP, which have no half-open state to detect. */
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  return 0;
}

unsigned advance(struct iovec **iov, unsigned count, size_t n) {
  while (count && n >= (*iov)->iov_len) {
    n -= (*iov)->iov_len;
    (*iov)++;
    count--;
  }
  if (count) {
    (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
    (*iov)->iov_len -= n;
  }
  return count;
}

/* Writes all of iov[0..count), continuing after partial writes. The array is consumed. */
static int64_t write_all(int fd, int is_socket, struct iovec *iov, unsigned count, int timeout_ms, const int32_t *stop) {
  int64_t total = 0;
  while (count) {
    if (stopped(stop)) return -ECANCELED;
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n = is_socket ? sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) : writev(fd, iov, (int)count);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return -errno;
      int result = wait_for(fd, POLLOUT, timeout_ms, stop);
      if (result < 0) return result;
      continue;
    }
    total += n;
    count = advance(&iov, count, (size_t)n);
  }
  return total;
}

int64_t tram_write(int fd, int is_socket, const void *data, uint64_t bytes, int timeout_ms, const int32_t *stop) {
  struct iovec one = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
  return bytes ? write_all(fd, is_socket, &one, 1, timeout_ms, stop) : 0;
}

int64_t tram_write_pages(int fd, int is_socket, const struct tram_ram *ram, const uint8_t *head, uint32_t head_bytes,
                         const uint8_t *words, const uint32_t *index, uint32_t count, uint32_t iov_max, int timeout_ms,
                         const int32_t *stop) {
  struct iovec iov[IOVECS_MAX];
  int64_t total = 0;
  if (iov_max < 1 || iov_max > IOVECS_MAX) return -EINVAL;
  for (uint32_t i = 0; i < count; i++)
    if (!checked_page(ram, index[i])) return -ERANGE;
  /* Piece 0 is the head, piece 2i + 1 page i, piece 2i + 2 the word before page i + 1. */
  uint32_t pieces = count ? 2 * count : 1, used = 0;
  for (uint32_t piece = 0; piece < pieces; piece++) {
    struct iovec *one = &iov[used];
    if (piece == 0)
      *one = (struct iovec){.iov_base = (void *)(uintptr_t)head, .iov_len = head_bytes};
    else if (piece % 2)
      *one = (struct iovec){.iov_base = checked_page(ram, index[piece / 2]), .iov_len = PAGE_BYTES};
    else
      *one = (struct iovec){.iov_base = (void *)(uintptr_t)(words + (uint64_t)(piece / 2) * 8), .iov_len = 8};
    if (one->iov_len) used++;
    if (used == iov_max || (piece == pieces - 1 && used)) {
      int64_t n = write_all(fd, is_socket, iov, used, timeout_ms, stop);
      if (n < 0) return n;
      total += n;
      used = 0;
    }
  }
  return total;
}

int64_t tram_peek(int fd, void *out, uint64_t bytes) {
  for (;;) {
    ssize_t n = recv(fd, out, bytes, MSG_PEEK | MSG_DONTWAIT);
    if (n >= 0) return n;
    if (errno != EINTR) return -errno;
  }
}

int64_t tram_read(int fd, void *out, uint64_t bytes, int timeout_ms, const int32_t *stop) {
  return receive_some(fd, &(struct iovec){.iov_base = out, .iov_len = bytes}, 1, timeout_ms, stop);
}

int64_t receive_some(int fd, const struct iovec *iov, unsigned count, int timeout_ms, const int32_t *stop) {
  for (int is_socket = 1, napped = 0;;) {
    if (stopped(stop)) return -ECANCELED;
    /* A busy socket has more to read already: only an empty one is waited for. Others cannot be asked. */
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
    ssize_t n = is_socket ? recvmsg(fd, &message, MSG_DONTWAIT) : readv(fd, iov, (int)count);
    if (n >= 0) return n;
    if (errno == ENOTSOCK)
      is_socket = 0;
    else if (errno != EINTR && errno != EAGAIN)
      return -errno;
    /* A reader that waits in poll is woken by each segment, and waking it costs the sender more than the segment. A short
     * sleep beside the socket lets a good piece gather: a quarter more speed over loopback TCP, and a third less CPU for the
     * reader. An AF_UNIX socket holds too little for that: its sender would stand still meanwhile. */
    if (is_socket && !napped && !is_unix(fd)) {
      napped = 1;
      nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
      continue;
    }
    int result = wait_for(fd, POLLIN, timeout_ms, stop);
    if (result < 0) return result;
  }
}

int64_t tram_receive_message(int fd, void *out, uint64_t bytes, int32_t *fds, uint32_t *fd_count) {
  char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
  struct iovec one = {.iov_base = out, .iov_len = bytes};
  struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  *fd_count = 0;
  ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return -errno;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t passed = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < passed; i++) {
      int one_fd;
      memcpy(&one_fd, CMSG_DATA(c) + i * sizeof one_fd, sizeof one_fd);
      if (*fd_count < FDS_MAX)
        fds[(*fd_count)++] = one_fd;
      else
        close(one_fd);
    }
  }
  return n;
}

int64_t tram_send_message(int fd, const void *data, uint64_t bytes, int pass_fd) {
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control;
  memset(&control, 0, sizeof control);
  struct iovec one = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
  struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
  if (pass_fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof pass_fd);
    memcpy(CMSG_DATA(c), &pass_fd, sizeof pass_fd);
  }
  for (;;) {
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) return n;
    if (errno != EINTR) return -errno;
  }
}

int tram_unsent(int fd) {
  int bytes = 0;
  return ioctl(fd, SIOCOUTQ, &bytes) < 0 ? -errno : bytes;
}

int tram_peer_pid(int fd) {
  struct ucred peer;
  socklen_t bytes = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0 ? -errno : peer.pid;
}

int tram_shutdown(int fd, int how) { return shutdown(fd, how) < 0 ? -errno : 0; }
int tram_close(int fd) { return close(fd) < 0 ? -errno : 0; }
int tram_socket_pair(int32_t *fds) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0; }
int tram_pipe(int32_t *fds) { return pipe2(fds, O_CLOEXEC) < 0 ? -errno : 0; }

int tram_fd_type(int fd) {
  struct stat info;
  if (fstat(fd, &info) < 0) return -errno;
  return S_ISSOCK(info.st_mode) ? 1 : S_ISFIFO(info.st_mode) ? 2 : S_ISREG(info.st_mode) ? 3 : 4;
}

int tram_duplicate(int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return copy < 0 ? -errno : copy;
}

int tram_lock_folder(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  while (flock(fd, LOCK_EX) < 0) {
    if (errno == EINTR) continue;
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int tram_link(int fd, const char *path) {
  char name[32];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  return linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int tram_sync(int fd) { return fsync(fd) < 0 ? -errno : 0; }
