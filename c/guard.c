/* Reading memory that may not be there: a guest's RAM can be a mapped file, whose end moves or whose disk fails. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

#include "internal.h"
#include "tram.h"

__thread sigjmp_buf *guard_point __attribute__((tls_model("initial-exec")));

static struct sigaction bus_before, segv_before;

/* A fault outside of GUARDED() is somebody else's. A handler that was there before gets it as if it stood there still, and
 * the guard stays: Bun's engine puts some faults right and goes on. What would end the process ends it. */
static void on_fault(int signal, siginfo_t *info, void *context) {
  const struct sigaction *before = signal == SIGBUS ? &bus_before : &segv_before;
  const int is_sent = info->si_code <= 0; /* by kill */
  if (guard_point && !is_sent) siglongjmp(*guard_point, 1);
  if (before->sa_flags & SA_SIGINFO && !(before->sa_flags & (int)SA_RESETHAND)) {
    sigset_t blocked = before->sa_mask;
    if (!(before->sa_flags & SA_NODEFER)) sigaddset(&blocked, signal);
    sigprocmask(SIG_BLOCK, &blocked, NULL); /* until this handler returns */
    before->sa_sigaction(signal, info, context);
    return;
  }
  sigaction(signal, before, NULL);
  if (is_sent) raise(signal); /* a fault happens again by itself */
}

static int stand_before(int signal, struct sigaction *before) {
  if (sigaction(signal, NULL, before) < 0) return -errno;
  struct sigaction action = {.sa_sigaction = on_fault,
                             .sa_flags = SA_SIGINFO | SA_NODEFER | (before->sa_flags & SA_ONSTACK)};
  return sigaction(signal, &action, NULL) < 0 ? -errno : 0;
}

int tram_guard_install(void) {
  static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
  static int installed; /* whoever stands there now: a second time it would be our own successor that we hand faults to */
  int result = 0;
  pthread_mutex_lock(&one_at_a_time);
  if (!installed) result = stand_before(SIGBUS, &bus_before);
  if (!installed && result == 0) result = stand_before(SIGSEGV, &segv_before);
  installed = installed || result == 0;
  pthread_mutex_unlock(&one_at_a_time);
  return result;
}
