/* What the walker guest and the host that checks it agree on.
 *
 * The walker owns guest memory below WALKER_RAM_START. Above it, every byte is a function of (seed, page): the host fills
 * it once, and the walker's working set carries one record per page, in the page's first eight bytes:
 *
 *     63                                32 31                                 0
 *    +------------------------------------+------------------------------------+
 *    | mix(page, pass, seed)              | pass                               |
 *    +------------------------------------+------------------------------------+
 *
 * A vCPU walks its slice upwards, checks that each page has the record of the pass before, and writes this pass's with one
 * 8-byte store, so that a record is never torn. A paused slice therefore reads: pages [0, k) of pass p, pages [k, n) of
 * pass p-1. Anything else is a lost or an invented write.
 */
#ifndef WALKER_H
#define WALKER_H

#include <stdint.h>

#define WALKER_PAGE 4096u
#define WALKER_MAGIC 0x4b4c4157u /* "WALK" */

/* Guest physical addresses. */
#define WALKER_PARAMS 0x1000u
#define WALKER_PML4 0x2000u
#define WALKER_PDPT 0x3000u
#define WALKER_CODE 0x8000u
#define WALKER_CODE_BYTES 0x8000u
#define WALKER_RINGS 0x10000u /* a page for each of the balloon's queues */
#define WALKER_LISTS 0x20000u /* what is told through them */
#define WALKER_TAKEN 0x80000u /* a word for each block: how many of its pages are not free */
#define WALKER_TAKEN_MAX 0x20000u
#define WALKER_STACKS 0x40000u
#define WALKER_STACK_BYTES 0x4000u
#define WALKER_PDS 0x100000u /* one page for each GiB mapped */
#define WALKER_PDS_MAX 256u
#define WALKER_RAM_START 0x200000u
#define WALKER_CPUS_MAX 16u

/* Devices. */
#define WALKER_PORT_SERIAL 0x3f8u
#define WALKER_PORT_GRANT 0x510u /* in: how many pages may be written now; waits when the rate says so */
#define WALKER_PORT_PROBE 0x514u /* in: 0, 1, 2 … for each vCPU */
#define WALKER_ATTENTION 0x80000000u /* in a grant: a device has interrupted; the walker takes no interrupts */
#define WALKER_MMIO_PROBE 0xd0000000u /* read of 4 bytes at + 4*cpu: 0, 1, 2 … */
#define WALKER_BALLOON 0xd1000000u /* a virtio balloon's registers */

/* Pages [free_first, free_first + free_pages) are not the walk's: page free_first + i is what word i of a table that begins with
 * page table_first says it is. */
#define WALKER_BLOCK 1024u /* pages whose states a page of the table has */
#define WALKER_FREE 0u                    /* nobody's: what it holds means nothing */
#define WALKER_GENERATION_MAX 0xfffffff0u /* up to here it is used: its first and last words are the record of that pass */
#define WALKER_CACHE 0xfffffffeu          /* holds what the host has filled it with, until it is given up */
#define WALKER_BALLOONED 0xffffffffu      /* the host's */

/* What the first vCPU does when it is asked which of these pages are free. */
enum walker_habit {
  WALKER_KEEP = 0,   /* names them, and leaves them alone */
  WALKER_REUSE = 1,  /* uses an eighth of what it has named as soon as it has the buffer back; uses and frees others all the time */
  WALKER_LATE = 2,   /* as reuse; begins some ticks later, and names one run a tick */
  WALKER_STALE = 3,  /* answers with an older request's number */
  WALKER_SILENT = 4, /* never answers */
  WALKER_REPORT = 5, /* reports them as free when it boots, by itself; the rest as reuse, but for naming */
};

enum walker_fill { WALKER_FILL_ZERO = 0, WALKER_FILL_RANDOM = 1, WALKER_FILL_TEXT = 2, WALKER_FILL_MIXED = 3 };

enum walker_error { WALKER_OK = 0, WALKER_BAD_RECORD = 1, WALKER_BAD_PIO = 2, WALKER_BAD_MMIO = 3 };

/* Written by its vCPU only. */
struct walker_cpu {
  uint32_t pass;     /* the pass being written, 1 … */
  uint32_t position; /* pages of this pass written; the page at `position` may have been written too */
  uint32_t error;    /* enum walker_error; a vCPU that finds one halts */
  uint32_t error_page;
  uint64_t error_found;
  uint64_t error_expected;
  uint32_t probe_pio;
  uint32_t probe_mmio;
  uint64_t steps; /* pages written since boot */
  uint32_t reserved[4];
};

/* Written by the host before the first instruction; constant from then on, but for cpu[]. */
struct walker_params {
  uint32_t magic;
  uint32_t cpus;
  uint32_t ram_pages;
  uint32_t low_pages; /* pages below the hole; page i >= low_pages lies at 4 GiB + (i - low_pages) * 4096 */
  uint32_t first_page;
  uint32_t set_pages;
  uint32_t fill; /* enum walker_fill */
  uint32_t reserved;
  uint64_t seed;
  uint32_t free_first;
  uint32_t free_pages;
  uint32_t table_first;
  uint32_t cache_pages; /* the first of the free pages are cache at first */
  uint32_t habit;       /* enum walker_habit */
  uint32_t reserved2;
  struct walker_cpu cpu[WALKER_CPUS_MAX];
};

_Static_assert(sizeof(struct walker_cpu) == 64, "walker_cpu");
_Static_assert(sizeof(struct walker_params) == 64 + 64 * WALKER_CPUS_MAX, "walker_params");

static inline uint64_t walker_record(uint32_t page, uint32_t pass, uint64_t seed) {
  uint32_t mix = (page * 0x9e3779b1u) ^ (pass * 0x85ebca6bu + (uint32_t)seed);
  return (uint64_t)mix << 32 | pass;
}

/* The slice of vCPU `cpu`: pages [*first, *first + returned). */
static inline uint32_t walker_slice(const struct walker_params *params, uint32_t cpu, uint32_t *first) {
  uint32_t share = params->set_pages / params->cpus, rest = params->set_pages % params->cpus;
  *first = params->first_page + cpu * share + (cpu < rest ? cpu : rest);
  return share + (cpu < rest);
}

#endif
