/* The host's half of the walker: fill its memory before the first instruction, and check every byte of it when paused. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <time.h>

#include "guest/walker.h"
#include "internal.h"
#include "tram.h"

/* result[]: what tram_walker_check found. */
enum {
  RESULT_PAGES,     /* pages checked */
  RESULT_BAD,       /* pages that are wrong */
  RESULT_BAD_PAGE,  /* the first of them */
  RESULT_BAD_AT,    /* its first wrong byte */
  RESULT_CPUS,
  RESULT_BAD_CPU,   /* vCPUs whose slice has another boundary than they say, or who found an error themselves */
  RESULT_NONZERO,   /* pages that are not zero */
  RESULT_REUSED,    /* pages of the free ones that are in use */
  RESULT_CPU,       /* from here, for each vCPU: pass, position, boundary found, its own error */
};

static uint64_t mix64(uint64_t x) { /* splitmix64's finaliser: public domain, by Sebastiano Vigna */
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

/* The page's content by (fill, seed, page), before any record is written. */
static void make_page(uint64_t *word, uint32_t fill, uint64_t seed, uint32_t page) {
  if (fill == WALKER_FILL_MIXED) { /* half random, a quarter text, a quarter zero */
    static const uint8_t kinds[4] = {WALKER_FILL_RANDOM, WALKER_FILL_TEXT, WALKER_FILL_RANDOM, WALKER_FILL_ZERO};
    fill = kinds[page % 4];
  }
  uint64_t state = mix64(seed + (uint64_t)page * 0x9e3779b97f4a7c15ull);
  if (fill == WALKER_FILL_RANDOM) {
    for (unsigned i = 0; i < PAGE_BYTES / 8; i++) word[i] = mix64(state + (uint64_t)i * 0x9e3779b97f4a7c15ull) | 1;
  } else if (fill == WALKER_FILL_TEXT) {
    static const char words[16][9] = {"the tram", " carries", " a guest", " and its", " memory,", " page by", " page to",
                                      " another", " machine", " without", " waking ", "passengr", ". Doors ", "close at", " half pa", "st six. "};
    for (unsigned i = 0; i < PAGE_BYTES / 8; i++) memcpy(&word[i], words[mix64(state + i / 4) >> (4 * (i % 4)) & 15], 8);
  } else {
    memset(word, 0, PAGE_BYTES);
  }
}

/* Pages of the table of the free ones' states. */
static uint32_t table_pages(const struct walker_params *params) {
  return (uint32_t)(((uint64_t)params->free_pages * 4 + PAGE_BYTES - 1) / PAGE_BYTES);
}

/* Behind the working set, at the end of memory: the table, then what it is of. */
static int free_is_sane(const struct walker_params *params) {
  if (!params->free_pages) return params->cache_pages == 0;
  return params->free_pages <= WALKER_TAKEN_MAX * WALKER_BLOCK && params->free_pages < params->ram_pages &&
         params->free_first == params->ram_pages - params->free_pages &&
         params->table_first + (uint64_t)table_pages(params) == params->free_first &&
         params->table_first >= (uint64_t)params->first_page + params->set_pages && params->cache_pages <= params->free_pages &&
         params->habit <= WALKER_REPORT;
}

static uint32_t *state_of(const struct tram_ram *ram, const struct walker_params *params, uint32_t i) {
  return (uint32_t *)(void *)checked_page(ram, params->table_first + i / WALKER_BLOCK) + i % WALKER_BLOCK;
}

static int params_are_sane(const struct walker_params *params, const struct tram_ram *ram) {
  return free_is_sane(params) && params->magic == WALKER_MAGIC && params->cpus >= 1 && params->cpus <= WALKER_CPUS_MAX &&
         params->ram_pages == ram->bytes / PAGE_BYTES && params->first_page >= WALKER_RAM_START / PAGE_BYTES &&
         params->first_page <= params->ram_pages && params->set_pages <= params->ram_pages - params->first_page &&
         params->set_pages >= params->cpus && params->fill <= WALKER_FILL_MIXED;
}

static int fill(struct tram_ram *ram, const struct walker_params *params) {
  for (uint32_t page = WALKER_RAM_START / PAGE_BYTES; page < params->ram_pages; page++) {
    int in_set = page - params->first_page < params->set_pages;
    if (params->free_pages && page >= params->table_first && page < params->free_first) continue;
    if (!in_set && (params->fill == WALKER_FILL_ZERO || (params->fill == WALKER_FILL_MIXED && page % 4 == 3)))
      continue; /* stays untouched */
    uint64_t *word = (uint64_t *)(void *)checked_page(ram, page);
    make_page(word, params->fill, params->seed, page);
    if (in_set) word[0] = walker_record(page, 0, params->seed);
  }
  uint32_t *taken = (void *)checked(ram, WALKER_TAKEN, WALKER_TAKEN_MAX * sizeof *taken);
  for (uint32_t i = 0; i < params->cache_pages; i++) {
    *state_of(ram, params, i) = WALKER_CACHE;
    taken[i / WALKER_BLOCK]++;
  }
  return 0;
}

int tram_walker_fill(struct tram_ram *ram, const void *params_bytes) {
  struct walker_params params;
  memcpy(&params, params_bytes, sizeof params);
  return params_are_sane(&params, ram) ? (int)GUARDED(fill(ram, &params)) : -EINVAL;
}

/* The boundary of a slice: how many of its pages carry the vCPU's current pass, all before the rest, which carry the pass
 * before. Pages with any other record are counted bad. */
static uint32_t find_boundary(const struct tram_ram *ram, const struct walker_params *params, uint32_t cpu,
                              uint32_t *result) {
  uint32_t first, count = walker_slice(params, cpu, &first), pass = params->cpu[cpu].pass, boundary = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t found = *(const uint64_t *)(const void *)checked_page(ram, first + i);
    if (found == walker_record(first + i, pass, params->seed) && boundary == i) {
      boundary = i + 1;
    } else if (pass == 0 || found != walker_record(first + i, pass - 1, params->seed)) {
      if (result[RESULT_BAD]++ == 0) {
        result[RESULT_BAD_PAGE] = first + i;
        result[RESULT_BAD_AT] = 0;
      }
    }
  }
  return boundary;
}

static void check_page(const struct tram_ram *ram, const struct walker_params *params, uint32_t page, uint32_t *result) {
  const uint8_t *found = checked_page(ram, page);
  int in_set = page - params->first_page < params->set_pages, differs;
  if (!page_is_zero(found)) result[RESULT_NONZERO]++;
  uint64_t expected[PAGE_BYTES / 8];
  unsigned skip = in_set ? 8 : 0; /* the record is find_boundary's */
  make_page(expected, params->fill, params->seed, page);
  differs = memcmp(found + skip, (uint8_t *)expected + skip, PAGE_BYTES - skip);
  if (differs && result[RESULT_BAD]++ == 0) {
    unsigned at = skip;
    while (found[at] == ((uint8_t *)expected)[at]) at++;
    result[RESULT_BAD_PAGE] = page;
    result[RESULT_BAD_AT] = at;
  }
  result[RESULT_PAGES]++;
}

/* A page that may be free: what it holds matters if it is in use, or cache. */
static void check_free(const struct tram_ram *ram, const struct walker_params *params, uint32_t i, uint32_t *result) {
  uint32_t page = params->free_first + i, state = *state_of(ram, params, i);
  const uint64_t *words = (const void *)checked_page(ram, page);
  if (state == WALKER_CACHE) {
    check_page(ram, params, page, result);
    return;
  }
  if (!page_is_zero(checked_page(ram, page))) result[RESULT_NONZERO]++;
  result[RESULT_PAGES]++;
  if (state == WALKER_FREE || state == WALKER_BALLOONED) return;
  result[RESULT_REUSED]++;
  uint64_t expected = walker_record(page, state, params->seed);
  unsigned last = PAGE_BYTES / 8 - 1;
  int is_good = state <= WALKER_GENERATION_MAX && words[0] == expected && words[last] == expected;
  if (is_good || result[RESULT_BAD]++ != 0) return;
  result[RESULT_BAD_PAGE] = page;
  result[RESULT_BAD_AT] = words[0] == expected ? last * 8 : 0;
}

static int check(const struct tram_ram *ram, uint32_t *result) {
  struct walker_params params;
  if (!checked(ram, WALKER_PARAMS, sizeof params)) return -ERANGE;
  memcpy(&params, checked(ram, WALKER_PARAMS, sizeof params), sizeof params);
  memset(result, 0, (RESULT_CPU + 4 * WALKER_CPUS_MAX) * sizeof *result);
  if (!params_are_sane(&params, ram)) return -EBADMSG;
  result[RESULT_CPUS] = params.cpus;
  for (uint32_t cpu = 0; cpu < params.cpus; cpu++) {
    const struct walker_cpu *self = &params.cpu[cpu];
    uint32_t boundary = find_boundary(ram, &params, cpu, result), first, count = walker_slice(&params, cpu, &first);
    uint32_t *out = result + RESULT_CPU + 4 * cpu;
    out[0] = self->pass;
    out[1] = self->position;
    out[2] = boundary;
    out[3] = self->error;
    /* Between two passes the position is already 0 while the pass is still the last one's. */
    int agrees = boundary == self->position || boundary == self->position + 1 || (self->position == 0 && boundary == count);
    if (!agrees || self->error) result[RESULT_BAD_CPU]++;
  }
  uint32_t end = params.free_pages ? params.table_first : params.ram_pages;
  for (uint32_t page = WALKER_RAM_START / PAGE_BYTES; page < end; page++) check_page(ram, &params, page, result);
  for (uint32_t i = 0; i < params.free_pages; i++) check_free(ram, &params, i, result);
  return 0;
}

static uint64_t steps_of(const struct tram_ram *ram) {
  const struct walker_params *params = (const void *)checked(ram, WALKER_PARAMS, sizeof *params);
  uint64_t steps = 0;
  for (uint32_t cpu = 0; cpu < WALKER_CPUS_MAX; cpu++) steps += __atomic_load_n(&params->cpu[cpu].steps, __ATOMIC_RELAXED);
  return steps;
}

static int watch(const struct tram_ram *ram, double *samples, uint32_t count, uint32_t interval_us) {
  struct timespec due, at;
  if (!checked(ram, WALKER_PARAMS, sizeof(struct walker_params))) return -ERANGE;
  clock_gettime(CLOCK_MONOTONIC, &due);
  for (uint32_t i = 0; i < count; i++) {
    uint64_t steps = steps_of(ram);
    clock_gettime(CLOCK_MONOTONIC, &at);
    samples[2 * i] = (double)at.tv_sec * 1e3 + (double)at.tv_nsec / 1e6;
    samples[2 * i + 1] = (double)steps;
    if (due.tv_sec < at.tv_sec || (due.tv_sec == at.tv_sec && due.tv_nsec < at.tv_nsec)) due = at; /* late: none is made up for */
    due.tv_nsec += interval_us * 1000L;
    due.tv_sec += due.tv_nsec / 1000000000L;
    due.tv_nsec %= 1000000000L;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
  }
  return 0;
}

int tram_walker_watch(const struct tram_ram *ram, double *samples, uint32_t count, uint32_t interval_us) {
  return (int)GUARDED(watch(ram, samples, count, interval_us));
}

int tram_walker_check(const struct tram_ram *ram, uint32_t *result) { return (int)GUARDED(check(ram, result)); }
