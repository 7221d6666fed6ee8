/* walker.c: what the host fills, and what it finds when a byte of it has changed. */
#include <errno.h>
#include <string.h>

#include "guest/walker.h"
#include "internal.h"
#include "test.h"
#include "tram.h"

enum {
  LOW = WALKER_RAM_START / WALKER_PAGE,
  PAGES = LOW + 64,
  SET_FIRST = LOW + 8,
  SET_PAGES = 37, /* no multiple of 2, 3 or 4: slices differ in length */
};

/* Where tram_walker_check says what: see c/walker.c. */
enum { CHECKED, BAD, BAD_PAGE, BAD_AT, CPUS, BAD_CPU, NONZERO, RESERVED, CPU, RESULT_WORDS = CPU + 4 * WALKER_CPUS_MAX };

static struct walker_params params_for(uint32_t cpus, uint32_t fill) {
  return (struct walker_params){.magic = WALKER_MAGIC,
                                .cpus = cpus,
                                .ram_pages = PAGES,
                                .low_pages = PAGES,
                                .first_page = SET_FIRST,
                                .set_pages = SET_PAGES,
                                .fill = fill,
                                .seed = 0x123456789abcdefull + fill};
}

static void put_params(struct tram_ram *ram, const struct walker_params *params) {
  tram_ram_write(ram, WALKER_PARAMS, params, sizeof *params);
}

static void put_record(struct tram_ram *ram, const struct walker_params *params, uint32_t page, uint32_t pass) {
  const uint64_t record = walker_record(page, pass, params->seed);
  tram_ram_write(ram, (uint64_t)page * PAGE_BYTES, &record, sizeof record);
}

/* A walker paused in the middle: vCPU i is in pass 3 + i with i + 2 pages written, the others of the pass before. */
static struct tram_ram *paused(uint32_t cpus, uint32_t fill, struct walker_params *params) {
  struct tram_ram *ram = as_ram(tram_ram_create((uint64_t)PAGES * PAGE_BYTES));
  *params = params_for(cpus, fill);
  tram_walker_fill(ram, params);
  for (uint32_t cpu = 0; cpu < cpus; cpu++) {
    uint32_t first, count = walker_slice(params, cpu, &first);
    params->cpu[cpu].pass = 3 + cpu;
    params->cpu[cpu].position = cpu + 2;
    for (uint32_t i = 0; i < count; i++) put_record(ram, params, first + i, i < cpu + 2 ? 3 + cpu : 2 + cpu);
  }
  put_params(ram, params);
  return ram;
}

static void flip(struct tram_ram *ram, uint32_t page, uint32_t byte, unsigned bit) {
  uint8_t value;
  const uint64_t at = (uint64_t)page * PAGE_BYTES + byte;
  tram_ram_read(ram, at, &value, 1);
  value ^= (uint8_t)(1 << bit);
  tram_ram_write(ram, at, &value, 1);
}

static void slices_cover_the_set(void) {
  for (uint32_t cpus = 1; cpus <= WALKER_CPUS_MAX; cpus++) {
    test_where = cpus;
    const struct walker_params params = params_for(cpus, 0);
    uint32_t expected = SET_FIRST, first;
    for (uint32_t cpu = 0; cpu < cpus; cpu++) {
      const uint32_t count = walker_slice(&params, cpu, &first);
      CHECK_EQ(first, expected);
      CHECK(count == SET_PAGES / cpus || count == SET_PAGES / cpus + 1);
      expected += count;
    }
    CHECK_EQ(expected, SET_FIRST + SET_PAGES);
  }
}

static void fill_passes_the_check(void) {
  for (uint32_t fill = WALKER_FILL_ZERO; fill <= WALKER_FILL_MIXED; fill++) {
    uint32_t nonzero = SET_PAGES;
    for (uint32_t page = LOW; page < PAGES; page++)
      if (page - SET_FIRST >= SET_PAGES) nonzero += fill != WALKER_FILL_ZERO && !(fill == WALKER_FILL_MIXED && page % 4 == 3);
    for (uint32_t cpus = 1; cpus <= 4; cpus++) {
      test_where = fill * 10 + cpus;
      struct tram_ram *ram = as_ram(tram_ram_create((uint64_t)PAGES * PAGE_BYTES));
      const struct walker_params params = params_for(cpus, fill);
      uint32_t result[RESULT_WORDS];
      CHECK_EQ(tram_walker_fill(ram, &params), 0);
      put_params(ram, &params);
      CHECK_EQ(tram_walker_check(ram, result), 0);
      CHECK_EQ(result[CHECKED], PAGES - LOW);
      CHECK_EQ(result[BAD], 0);
      CHECK_EQ(result[BAD_CPU], 0);
      CHECK_EQ(result[CPUS], cpus);
      CHECK_EQ(result[NONZERO], nonzero);
      tram_ram_destroy(ram);
    }
  }
}

static void fill_leaves_low_memory_alone(void) {
  struct tram_ram *ram = as_ram(tram_ram_create((uint64_t)PAGES * PAGE_BYTES));
  const struct walker_params params = params_for(2, WALKER_FILL_RANDOM);
  CHECK_EQ(tram_walker_fill(ram, &params), 0);
  for (uint32_t page = 0; page < LOW; page++) CHECK(page_is_zero(checked_page(ram, page)));
  tram_ram_destroy(ram);
}

static void a_paused_walker_passes(void) {
  for (uint32_t fill = WALKER_FILL_ZERO; fill <= WALKER_FILL_MIXED; fill++) {
    for (uint32_t cpus = 1; cpus <= 4; cpus++) {
      test_where = fill * 10 + cpus;
      struct walker_params params;
      uint32_t result[RESULT_WORDS];
      struct tram_ram *ram = paused(cpus, fill, &params);
      CHECK_EQ(tram_walker_check(ram, result), 0);
      CHECK_EQ(result[BAD], 0);
      CHECK_EQ(result[BAD_CPU], 0);
      for (uint32_t cpu = 0; cpu < cpus; cpu++) {
        CHECK_EQ(result[CPU + 4 * cpu], 3 + cpu);
        CHECK_EQ(result[CPU + 4 * cpu + 1], cpu + 2);
        CHECK_EQ(result[CPU + 4 * cpu + 2], cpu + 2);
        CHECK_EQ(result[CPU + 4 * cpu + 3], 0);
      }
      tram_ram_destroy(ram);
    }
  }
}

/* The moments at which a vCPU may be stopped: its position may be one behind its boundary, and 0 before the pass is new. */
static void positions_that_agree(void) {
  static const struct {
    uint32_t boundary, position;
    int agrees;
  } rows[] = {{5, 5, 1},         {5, 4, 1},  {5, 6, 0}, {5, 3, 0}, {0, 0, 1}, {1, 0, 1},
              {SET_PAGES, 0, 1}, {36, 0, 0}, {2, 0, 0}, {SET_PAGES, SET_PAGES, 1}};
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    struct walker_params params;
    uint32_t result[RESULT_WORDS];
    struct tram_ram *ram = paused(1, WALKER_FILL_ZERO, &params);
    for (uint32_t at = 0; at < SET_PAGES; at++) put_record(ram, &params, SET_FIRST + at, at < rows[i].boundary ? 3 : 2);
    params.cpu[0].position = rows[i].position;
    put_params(ram, &params);
    CHECK_EQ(tram_walker_check(ram, result), 0);
    CHECK_EQ(result[BAD], 0);
    CHECK_EQ(result[CPU + 2], rows[i].boundary);
    CHECK_EQ(result[BAD_CPU], !rows[i].agrees);
    tram_ram_destroy(ram);
  }
}

static void one_bit_is_found(void) {
  static const struct {
    uint32_t fill, page, byte;
  } rows[] = {
      {WALKER_FILL_RANDOM, SET_FIRST + 20, 3},             /* the pass in a record */
      {WALKER_FILL_RANDOM, SET_FIRST + 1, 7},              /* the mix in the last record of a pass */
      {WALKER_FILL_ZERO, SET_FIRST + SET_PAGES - 1, 0},    /* the last record */
      {WALKER_FILL_RANDOM, SET_FIRST + 20, 8},             /* a fill byte behind a record */
      {WALKER_FILL_TEXT, SET_FIRST + 3, PAGE_BYTES - 1},   /* the last byte of a page in the set */
      {WALKER_FILL_RANDOM, LOW, 0},                        /* the first page of all */
      {WALKER_FILL_TEXT, PAGES - 1, PAGE_BYTES - 1},       /* the last byte of all */
      {WALKER_FILL_MIXED, SET_FIRST + SET_PAGES, 1000},    /* just behind the set */
      {WALKER_FILL_ZERO, LOW + 2, 2048},                   /* a zero page */
      {WALKER_FILL_ZERO, SET_FIRST + 9, 4000},             /* the zeros behind a record */
      {WALKER_FILL_MIXED, (LOW | 3) + 48, 17},             /* a zero page among others */
  };
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    struct walker_params params;
    uint32_t result[RESULT_WORDS];
    struct tram_ram *ram = paused(3, rows[i].fill, &params);
    for (unsigned bit = 0; bit < 8; bit++) {
      flip(ram, rows[i].page, rows[i].byte, bit);
      CHECK_EQ(tram_walker_check(ram, result), 0);
      CHECK_EQ(result[BAD], 1);
      CHECK_EQ(result[BAD_PAGE], rows[i].page);
      const int in_record = rows[i].page - SET_FIRST < SET_PAGES && rows[i].byte < 8;
      CHECK_EQ(result[BAD_AT], in_record ? 0 : rows[i].byte);
      flip(ram, rows[i].page, rows[i].byte, bit);
    }
    CHECK_EQ(tram_walker_check(ram, result), 0);
    CHECK_EQ(result[BAD], 0);
    tram_ram_destroy(ram);
  }
}

static void a_record_of_another_pass_is_found(void) {
  static const struct {
    uint32_t at, pass; /* the walker is in pass 3 with 2 pages written */
  } rows[] = {{0, 1}, {1, 1}, {10, 1}, {36, 0}, {10, 4}, {0, 4}, {10, 3}};
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    test_where = i;
    struct walker_params params;
    uint32_t result[RESULT_WORDS];
    struct tram_ram *ram = paused(1, WALKER_FILL_TEXT, &params);
    put_record(ram, &params, SET_FIRST + rows[i].at, rows[i].pass);
    CHECK_EQ(tram_walker_check(ram, result), 0);
    CHECK(result[BAD] >= 1);
    CHECK_EQ(result[BAD_PAGE], SET_FIRST + rows[i].at);
    tram_ram_destroy(ram);
  }
}

/* A page inside the written part that still has the pass before: its write was lost. */
static void a_lost_write_is_found(void) {
  struct walker_params params;
  uint32_t result[RESULT_WORDS];
  struct tram_ram *ram = paused(1, WALKER_FILL_ZERO, &params);
  for (uint32_t at = 0; at < 20; at++) put_record(ram, &params, SET_FIRST + at, at == 7 ? 2 : 3);
  params.cpu[0].position = 20;
  put_params(ram, &params);
  CHECK_EQ(tram_walker_check(ram, result), 0);
  CHECK(result[BAD] >= 1); /* the pages behind the gap have a pass that comes too early */
  CHECK_EQ(result[BAD_PAGE], SET_FIRST + 8);
  CHECK_EQ(result[CPU + 2], 7);
  CHECK_EQ(result[BAD_CPU], 1);
  tram_ram_destroy(ram);
}

static void a_lost_last_write_is_found(void) {
  struct walker_params params;
  uint32_t result[RESULT_WORDS];
  struct tram_ram *ram = paused(1, WALKER_FILL_ZERO, &params);
  params.cpu[0].position = 3; /* one more than the records show */
  put_params(ram, &params);
  CHECK_EQ(tram_walker_check(ram, result), 0);
  CHECK_EQ(result[BAD_CPU], 1);
  tram_ram_destroy(ram);
}

static void an_error_of_the_guest_is_reported(void) {
  struct walker_params params;
  uint32_t result[RESULT_WORDS];
  struct tram_ram *ram = paused(4, WALKER_FILL_ZERO, &params);
  params.cpu[2].error = WALKER_BAD_PIO;
  put_params(ram, &params);
  CHECK_EQ(tram_walker_check(ram, result), 0);
  CHECK_EQ(result[BAD], 0);
  CHECK_EQ(result[BAD_CPU], 1);
  CHECK_EQ(result[CPU + 4 * 2 + 3], WALKER_BAD_PIO);
  tram_ram_destroy(ram);
}

static void insane_params_are_refused(void) {
  struct tram_ram *ram = as_ram(tram_ram_create((uint64_t)PAGES * PAGE_BYTES));
  uint32_t result[RESULT_WORDS];
  for (unsigned i = 0; i < 11; i++) {
    test_where = i;
    struct walker_params params = params_for(2, WALKER_FILL_TEXT);
    switch (i) {
      case 0: params.magic ^= 1; break;
      case 1: params.cpus = 0; break;
      case 2: params.cpus = WALKER_CPUS_MAX + 1; break;
      case 3: params.ram_pages = PAGES - 1; break;
      case 4: params.ram_pages = PAGES + 1; break;
      case 5: params.first_page = LOW - 1; break;
      case 6: params.first_page = PAGES + 1; break;
      case 7: params.set_pages = PAGES - SET_FIRST + 1; break;
      case 8: params.set_pages = UINT32_MAX; break;
      case 9: params.set_pages = 1; break;
      case 10: params.fill = WALKER_FILL_MIXED + 1; break;
    }
    CHECK_EQ(tram_walker_fill(ram, &params), -EINVAL);
    put_params(ram, &params);
    CHECK_EQ(tram_walker_check(ram, result), -EBADMSG);
  }
  struct tram_ram *tiny = as_ram(tram_ram_create(PAGE_BYTES));
  CHECK_EQ(tram_walker_check(tiny, result), -ERANGE);
  tram_ram_destroy(tiny);
  tram_ram_destroy(ram);
}

const struct test walker_tests[] = {
    {"walker: the slices of all vCPUs are the working set, in order", slices_cover_the_set},
    {"walker: a fresh fill of every kind passes the check, for 1 to 4 vCPUs", fill_passes_the_check},
    {"walker: the fill writes nothing below the walker's own memory", fill_leaves_low_memory_alone},
    {"walker: a walker paused in the middle of its passes passes the check", a_paused_walker_passes},
    {"walker: a vCPU's position agrees with its records, or is reported", positions_that_agree},
    {"walker: one flipped bit is found, wherever it is, and its page and byte are named", one_bit_is_found},
    {"walker: a record of another pass is found", a_record_of_another_pass_is_found},
    {"walker: a lost write, which makes two boundaries, is found", a_lost_write_is_found},
    {"walker: a lost last write is found", a_lost_last_write_is_found},
    {"walker: an error that the guest found itself is reported", an_error_of_the_guest_is_reported},
    {"walker: parameters that make no sense are refused", insane_params_are_refused},
    {0},
};
