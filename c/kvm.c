/* KVM: ioctls by number, the blocking run, and the kick that ends it. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tram.h"

/* Bun and its engine use none of the upper real-time signals; SIGRTMIN + 5 is unblocked in every Worker. */
#define KICK_SIGNAL (SIGRTMIN + 5)

int tram_ioctl(int fd, uint32_t request, void *argument) {
  int result;
  do result = ioctl(fd, (unsigned long)request, argument);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

int tram_ioctl_value(int fd, uint32_t request, uint64_t value) {
  int result;
  do result = ioctl(fd, (unsigned long)request, (unsigned long)value);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

int64_t tram_map_shared(int fd, uint64_t bytes) {
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return at == MAP_FAILED ? -errno : (int64_t)(uintptr_t)at;
}

int tram_vcpu_run(int fd) { return ioctl(fd, KVM_RUN, 0) < 0 ? -errno : 0; }

int tram_thread_id(void) { return (int)syscall(SYS_gettid); }

static void on_kick(int signal_number) { (void)signal_number; /* its arrival ends the system call; that is all */ }

int tram_kick_install(void) {
  struct sigaction action = {.sa_handler = on_kick}; /* no SA_RESTART: blocked calls must return EINTR */
  sigemptyset(&action.sa_mask);
  return sigaction(KICK_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

int tram_kick_timer(int interval_ms) {
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
  event._sigev_un._tid = tram_thread_id();
  const struct timespec interval = {.tv_sec = interval_ms / 1000, .tv_nsec = interval_ms % 1000 * 1000000L};
  const struct itimerspec when = {.it_value = interval, .it_interval = interval};
  int timer; /* the kernel's own number for it */
  if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) < 0) return -errno;
  if (syscall(SYS_timer_settime, timer, 0, &when, NULL) == 0) return timer;
  int result = -errno;
  tram_kick_timer_end(timer);
  return result;
}

int tram_kick_timer_end(int timer) { return syscall(SYS_timer_delete, timer) < 0 ? -errno : 0; }

int tram_kick(void *kvm_run, int thread) {
  /* First the flag, then the signal: a vCPU that is about to enter sees the one or the other. */
  if (kvm_run) __atomic_store_n(&((struct kvm_run *)kvm_run)->immediate_exit, 1, __ATOMIC_SEQ_CST);
  return syscall(SYS_tgkill, getpid(), thread, KICK_SIGNAL) < 0 ? -errno : 0;
}
