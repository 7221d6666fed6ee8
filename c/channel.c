/* One channel of a move: packets of guest pages to a socket, uncopied, and what the kernel says has become of them. Source:
 * the kernel's networking/msg_zerocopy.rst. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/errqueue.h> /* needs struct timespec */

#include "internal.h"
#include "tram.h"

enum {
  RUNS_MAX = 1024,    /* IOV_MAX */
  ENOBUFS_WAIT_MS = 1000 /* others of this user may hold the memory that is lacking */
};

int64_t tram_channel_open(int fd, int is_socket, int zero_copy, int timeout_ms) {
  int on = 1;
  struct timeval slice = {.tv_usec = WAIT_SLICE_MS * 1000};
  if (zero_copy && setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) < 0) return -errno;
  if (zero_copy && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice) < 0) return -errno;
  struct tram_channel *channel = calloc(1, sizeof *channel);
  if (!channel) return -ENOMEM;
  channel->fd = fd;
  channel->is_socket = is_socket;
  channel->waits_inside = zero_copy;
  channel->timeout_ms = is_socket ? timeout_ms : -1; /* pipes and files may take as long as they like */
  return (int64_t)(uintptr_t)channel;
}

int tram_channel_close(struct tram_channel *channel) {
  free(channel);
  return 0;
}

int tram_channel_counts(const struct tram_channel *channel, struct tram_channel_counts *out) {
  *out = channel->counts;
  return 0;
}

void channel_complete(struct tram_channel *channel, uint32_t first, uint32_t last, int copied) {
  uint32_t count = last - first + 1;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t *bytes = &channel->bytes_of[(first + i) % CHANNEL_WINDOW];
    channel->counts.in_flight_bytes -= *bytes;
    if (copied) channel->counts.copied_bytes += *bytes;
    *bytes = 0;
  }
  channel->completed += count;
}

/* Takes what stands in the error queue. The completions that it brought, or -errno of the socket itself. */
static int reap(struct tram_channel *channel) {
  int found = 0;
  for (;;) {
    char control[256];
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
    channel->counts.system_calls++;
    if (recvmsg(channel->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN ? found : -errno;
    }
    if (!(message.msg_flags & MSG_ERRQUEUE)) return found; /* AF_UNIX has no such queue, and reads what has come */
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
      struct sock_extended_err what;
      memcpy(&what, CMSG_DATA(c), sizeof what);
      if (what.ee_origin != SO_EE_ORIGIN_ZEROCOPY) continue;
      channel_complete(channel, what.ee_info, what.ee_data, (what.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0);
      found++;
    }
  }
}

/* Waits until the socket takes bytes (events POLLOUT), or the kernel is done with a send (events 0: poll tells of that in any
 * case). */
static int await(struct tram_channel *channel, short events, int timeout_ms, const int32_t *stop) {
  int64_t end = timeout_ms < 0 ? INT64_MAX : now_ms() + timeout_ms;
  for (;;) {
    if (stopped(stop)) return -ECANCELED;
    struct pollfd one = {.fd = channel->fd, .events = events};
    channel->counts.system_calls++;
    int64_t left = end - now_ms();
    int ready = poll(&one, 1, left < WAIT_SLICE_MS ? (int)(left > 0 ? left : 0) : WAIT_SLICE_MS);
    if (ready < 0 && errno != EINTR) return -errno;
    if (ready > 0) {
      if (one.revents & POLLNVAL) return -EBADF;
      if (one.revents & POLLERR && !channel->is_socket) return -EPIPE;
      int found = one.revents & POLLERR ? reap(channel) : 0;
      if (found < 0) return found;
      if (one.revents & POLLERR && !found) { /* it was not the error queue */
        int error = 0;
        socklen_t bytes = sizeof error;
        if (getsockopt(channel->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0 && error) return -error;
      }
      channel->hung_up |= (one.revents & POLLRDHUP) != 0;
      if (one.revents & events || (found && !events)) return 0;
      if (one.revents & POLLHUP) return -EPIPE;
    }
    if (now_ms() >= end) return -ETIMEDOUT;
  }
}

/* Room for one more send: its number must be free, and the bytes that the kernel holds bounded. */
static int make_room(struct tram_channel *channel, uint64_t bytes, uint64_t in_flight_max, const int32_t *stop) {
  const struct tram_channel_counts *counts = &channel->counts;
  while (channel->sends - channel->completed >= CHANNEL_WINDOW ||
         (counts->in_flight_bytes > 0 && counts->in_flight_bytes + (double)bytes > (double)in_flight_max)) {
    int result = await(channel, 0, channel->timeout_ms, stop);
    if (result < 0) return result;
  }
  return 0;
}

/* The kernel has no memory to hold pages with. 1: try again, or by copy if *flags say so. */
static int lacks_memory(struct tram_channel *channel, int *flags, int never_copy, int64_t *since_ms, const int32_t *stop) {
  int found = reap(channel);
  if (found < 0) return found;
  if (found) return 1;
  if (!never_copy) {
    *flags &= ~MSG_ZEROCOPY;
    channel->counts.fallbacks++;
    return 1;
  }
  if (*since_ms < 0) *since_ms = now_ms();
  if (now_ms() - *since_ms > ENOBUFS_WAIT_MS && channel->completed == channel->sends) return -ENOBUFS;
  int result = await(channel, 0, WAIT_SLICE_MS, stop);
  return result == -ETIMEDOUT ? 1 : result < 0 ? result : 1;
}

/* The socket has taken nothing for a slice. */
static int is_full(const struct tram_channel *channel, int64_t *since_ms) {
  if (*since_ms < 0) *since_ms = now_ms() - WAIT_SLICE_MS;
  return channel->timeout_ms >= 0 && now_ms() - *since_ms >= channel->timeout_ms ? -ETIMEDOUT : 1;
}

/* All of iov[0, count), which is consumed. A socket with completions is waited for inside sendmsg, a slice at a time: poll would come
 * back for each send that the kernel is done with. */
static int64_t send_all(struct tram_channel *channel, struct iovec *iov, unsigned count, int flags, int never_copy,
                        uint64_t in_flight_max, const int32_t *stop) {
  int64_t total = 0, lacking_since_ms = -1, full_since_ms = -1;
  const int always = MSG_NOSIGNAL | (channel->waits_inside ? 0 : MSG_DONTWAIT);
  while (count) {
    if (stopped(stop)) return -ECANCELED;
    uint64_t bytes = 0;
    for (unsigned i = 0; flags & MSG_ZEROCOPY && i < count; i++) bytes += iov[i].iov_len;
    if (flags & MSG_ZEROCOPY) {
      int result = make_room(channel, bytes, in_flight_max, stop);
      if (result < 0) return result;
    }
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    channel->counts.system_calls++;
    ssize_t n = channel->is_socket ? sendmsg(channel->fd, &message, flags | always)
                                   : writev(channel->fd, iov, (int)count);
    if (n < 0) {
      int result = 1;
      if (errno == ENOBUFS && flags & MSG_ZEROCOPY)
        result = lacks_memory(channel, &flags, never_copy, &lacking_since_ms, stop);
      else if (errno == EAGAIN)
        result = channel->waits_inside ? is_full(channel, &full_since_ms) : await(channel, POLLOUT, channel->timeout_ms, stop);
      else if (errno != EINTR)
        return -errno;
      if (result < 0) return result;
      continue;
    }
    if (flags & MSG_ZEROCOPY) {
      channel->bytes_of[channel->sends++ % CHANNEL_WINDOW] = (uint32_t)n;
      channel->counts.zero_copy_bytes += (double)n;
      channel->counts.in_flight_bytes += (double)n;
      lacking_since_ms = -1;
    }
    full_since_ms = -1;
    total += n;
    count = advance(&iov, count, (size_t)n);
  }
  return total;
}

/* Neighbours in guest memory share an iovec. Returns the iovecs, `used` the pages that they hold. */
static unsigned gather_runs(const struct tram_ram *ram, const uint32_t *index, uint32_t count, struct iovec *iov,
                            unsigned iov_max, uint32_t *used) {
  unsigned runs = 0;
  uint32_t i = 0;
  for (; i < count; i++) {
    uint8_t *page = checked_page(ram, index[i]);
    if (runs && (uint8_t *)iov[runs - 1].iov_base + iov[runs - 1].iov_len == page) {
      iov[runs - 1].iov_len += PAGE_BYTES;
      continue;
    }
    if (runs == iov_max) break;
    iov[runs++] = (struct iovec){.iov_base = page, .iov_len = PAGE_BYTES};
  }
  *used = i;
  return runs;
}

int64_t tram_channel_send(struct tram_channel *channel, const void *head, uint32_t head_bytes, const struct tram_ram *ram,
                          const uint32_t *index, uint32_t count, int zero_copy, uint32_t iov_max, uint64_t in_flight_max,
                          const int32_t *stop) {
  struct iovec iov[RUNS_MAX];
  int64_t total = 0;
  if (iov_max < 1 || iov_max > RUNS_MAX) return -EINVAL;
  if (count && !all_are_pages(ram, index, count)) return -ERANGE;
  iov[0] = (struct iovec){.iov_base = (void *)(uintptr_t)head, .iov_len = head_bytes};
  unsigned begin = head_bytes ? 1 : 0;
  /* The head's buffer is used again at once: it never goes without a copy, and waits in the socket for its pages. */
  if (begin && (zero_copy != TRAM_ZERO_COPY_OFF || iov_max == 1)) {
    total = send_all(channel, iov, 1, channel->is_socket && count ? MSG_MORE : 0, 0, 0, stop);
    if (total < 0) return total;
    begin = 0;
  }
  int flags = zero_copy == TRAM_ZERO_COPY_OFF ? 0 : MSG_ZEROCOPY;
  for (uint32_t done = 0; done < count || begin;) {
    uint32_t used = 0;
    unsigned runs = gather_runs(ram, index + done, count - done, iov + begin, iov_max - begin, &used);
    int64_t n = send_all(channel, iov, begin + runs, flags, zero_copy == TRAM_ZERO_COPY_ON, in_flight_max, stop);
    if (n < 0) return n;
    total += n;
    done += used;
    begin = 0;
  }
  return total;
}

int64_t tram_channel_write(struct tram_channel *channel, const void *head, uint32_t head_bytes, const void *data,
                           uint64_t data_bytes, const int32_t *stop) {
  struct iovec iov[2] = {{.iov_base = (void *)(uintptr_t)head, .iov_len = head_bytes},
                         {.iov_base = (void *)(uintptr_t)data, .iov_len = data_bytes}};
  return send_all(channel, iov, data_bytes ? 2 : 1, 0, 0, 0, stop);
}

int tram_channel_flush(struct tram_channel *channel, const int32_t *stop) {
  int64_t began_ms = now_ms();
  int result = 0;
  while (result == 0 && channel->completed < channel->sends) result = await(channel, 0, channel->timeout_ms, stop);
  channel->counts.flush_wait_ms += (double)(now_ms() - began_ms);
  return result;
}

int tram_channel_sleep(struct tram_channel *channel, int ms, const int32_t *stop) {
  for (int64_t end = now_ms() + ms, left = ms; left > 0; left = end - now_ms()) {
    int result = await(channel, POLLRDHUP, (int)left, stop);
    if (result == -ETIMEDOUT) return 0;
    if (result < 0) return result;
    if (channel->hung_up) return -EPIPE;
  }
  return 0;
}

int64_t tram_receive_pages(int fd, struct tram_ram *ram, const uint32_t *index, uint32_t count, int timeout_ms,
                           const int32_t *stop) {
  struct iovec array[RUNS_MAX], *iov = array;
  int64_t total = 0;
  if (!all_are_pages(ram, index, count)) return -ERANGE;
  for (uint32_t done = 0; done < count;) {
    uint32_t used = 0;
    iov = array;
    unsigned runs = gather_runs(ram, index + done, count - done, iov, RUNS_MAX, &used);
    done += used;
    while (runs) {
      int64_t n = receive_some(fd, iov, runs, timeout_ms, stop);
      if (n <= 0) return n < 0 ? n : total;
      total += n;
      runs = advance(&iov, runs, (size_t)n);
    }
  }
  return total;
}
