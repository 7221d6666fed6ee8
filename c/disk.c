/* A guest's disk, and its network: between their files and guest memory, uncopied. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"
#include "tram.h"

enum { SEGMENTS_MAX = 1024 /* IOV_MAX */ };

/* All of them, or -ERANGE. */
static int gather(const struct tram_ram *ram, const double *segments, uint32_t count, struct iovec *iov) {
  if (count > SEGMENTS_MAX) return -ERANGE;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t offset = (uint64_t)segments[2 * i], bytes = (uint64_t)segments[2 * i + 1];
    uint8_t *host = checked(ram, offset, bytes);
    if (!host) return -ERANGE;
    iov[i] = (struct iovec){.iov_base = host, .iov_len = bytes};
  }
  return 0;
}

int tram_disk_move(const struct tram_ram *ram, int fd, int writing, uint64_t at, const double *segments, uint32_t count) {
  struct iovec iov[SEGMENTS_MAX], *left = iov;
  int error = gather(ram, segments, count, iov);
  if (error) return error;
  while (count) {
    ssize_t n = writing ? pwritev(fd, left, (int)count, (off_t)at) : preadv(fd, left, (int)count, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    if (n == 0) return -EIO; /* the file has become shorter */
    at += (uint64_t)n;
    count = advance(&left, count, (size_t)n);
  }
  return 0;
}

int tram_disk_clear(int fd, uint64_t at, uint64_t bytes, int keeps_blocks) {
  int mode = keeps_blocks ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
  while (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) < 0)
    if (errno != EINTR) return -errno;
  return 0;
}

int64_t tram_disk_bytes(int fd) {
  off_t end = lseek(fd, 0, SEEK_END);
  return end < 0 ? -errno : end;
}

int tram_disk_clone(int fd, int from) { return ioctl(fd, FICLONE, from) < 0 ? -errno : 0; }

int tram_disk_forget(int fd) { return -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); }

int tram_tap_open(const char *name, uint32_t header_bytes) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  int size = (int)header_bytes, fd;
  if (strlen(name) >= sizeof request.ifr_name) return -ENAMETOOLONG;
  strcpy(request.ifr_name, name);
  fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  /* Who had it before may have taken segments that a guest without these features has no room for. */
  if (ioctl(fd, TUNSETIFF, &request) == 0 && ioctl(fd, TUNSETVNETHDRSZ, &size) == 0 && ioctl(fd, TUNSETOFFLOAD, 0ul) == 0)
    return fd;
  int error = -errno;
  close(fd);
  return error;
}

int64_t tram_packet_move(const struct tram_ram *ram, int fd, int writing, const double *segments, uint32_t count) {
  struct iovec iov[SEGMENTS_MAX];
  ssize_t n = gather(ram, segments, count, iov);
  if (n) return n;
  do n = writing ? writev(fd, iov, (int)count) : readv(fd, iov, (int)count);
  while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}
