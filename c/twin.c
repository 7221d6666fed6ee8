/* The walker's native twin: what the guest of guest/walker.c does to its memory, done by this process, where there is no KVM. All
 * that it knows stands in that memory, so that it can be stopped between any two pages, moved, and checked like the guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "guest/walker.h"
#include "internal.h"
#include "tram.h"

enum { IMMEDIATE_EXIT = 1 /* the byte of a kvm_run that a kick sets */, RUN_BYTES = 4096 };

int64_t tram_twin_create(void) {
  void *run = calloc(1, RUN_BYTES);
  return run ? (int64_t)(uintptr_t)run : -ENOMEM;
}

__attribute__((noinline)) static int walk(struct tram_ram *ram, const volatile uint8_t *run, uint32_t index, uint32_t granted,
                                          struct tram_marks *marks) {
  struct walker_params *params = (void *)checked(ram, WALKER_PARAMS, sizeof *params);
  if (!params || params->magic != WALKER_MAGIC || params->cpus > WALKER_CPUS_MAX || index >= params->cpus) return -EBADMSG;
  struct walker_cpu *cpu = &params->cpu[index];
  uint32_t first, count = walker_slice(params, index, &first), done = 0;
  if (cpu->error || cpu->position > count) return -EBADMSG;
  for (; done < granted && !run[IMMEDIATE_EXIT]; done++) {
    if (cpu->pass == 0 || cpu->position == count) {
      cpu->position = 0;
      cpu->pass++;
    }
    uint32_t page = first + cpu->position;
    uint64_t *record = (void *)checked_page(ram, page);
    if (!record) return -EBADMSG;
    uint64_t found = *record, expected = walker_record(page, cpu->pass - 1, params->seed);
    if (found != expected) {
      cpu->error_page = page;
      cpu->error_found = found;
      cpu->error_expected = expected;
      cpu->error = WALKER_BAD_RECORD;
      return -EBADMSG;
    }
    __atomic_store_n(record, walker_record(page, cpu->pass, params->seed), __ATOMIC_RELEASE);
    if (marks) mark(marks, page);
    cpu->position++;
    __atomic_store_n(&cpu->steps, cpu->steps + 1, __ATOMIC_RELEASE);
    if (marks) mark(marks, WALKER_PARAMS / PAGE_BYTES);
  }
  return (int)done;
}

int tram_twin_run(struct tram_ram *ram, const void *run, uint32_t cpu, uint32_t granted, struct tram_marks *marks) {
  return (int)GUARDED(walk(ram, run, cpu, granted, marks));
}
