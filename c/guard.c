/* Reading memory that may not be there: a guest's RAM can be a mapped file, whose end moves or whose disk fails. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>

#include "internal.h"
#include "tram.h"

__thread sigjmp_buf *guard_point;

static struct sigaction bus_before, segv_before;

/* A fault outside of GUARDED() is somebody else's: the instruction runs again under the handler that was there before. */
static void on_fault(int signal, siginfo_t *info, void *context) {
  (void)info, (void)context;
  if (guard_point) siglongjmp(*guard_point, 1);
  sigaction(signal, signal == SIGBUS ? &bus_before : &segv_before, NULL);
}

int tram_guard_install(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  struct sigaction now;
  if (sigaction(SIGBUS, NULL, &now) < 0) return -errno;
  if (now.sa_sigaction == on_fault) return 0;
  if (sigaction(SIGBUS, &action, &bus_before) < 0) return -errno;
  if (sigaction(SIGSEGV, &action, &segv_before) < 0) return -errno;
  return 0;
}
