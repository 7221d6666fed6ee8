/* What the walker has free, and how it tells: see balloon.h and, for the pages' states, walker.h. Where guests are emulated an
 * instruction takes half a microsecond: whole blocks are dealt with without a look at their pages. */
#include "balloon.h"

enum { INFLATE, DEFLATE, STATS, HINT, REPORT, QUEUES };
enum { ENTRIES = 32, LIST_PAGES = 256 };
enum { REUSE_SHARE = 8, CHURN_PAGES = 16, LATE_TICKS = 8 };
enum { CMD_DONE = 1, CMD_FIRST = 2 };
enum { DESC_NEXT = 1, DESC_WRITE = 2 };

/* Registers, and the device's own behind them. */
enum {
  REG_MAGIC = 0x00, REG_DEVICE = 0x08, REG_FEATURES = 0x10, REG_FEATURES_SELECT = 0x14, REG_DRIVER_FEATURES = 0x20,
  REG_DRIVER_FEATURES_SELECT = 0x24, REG_QUEUE = 0x30, REG_QUEUE_SIZE_MAX = 0x34, REG_QUEUE_SIZE = 0x38, REG_QUEUE_READY = 0x44,
  REG_NOTIFY = 0x50, REG_INTERRUPT_STATUS = 0x60, REG_INTERRUPT_ACK = 0x64, REG_STATUS = 0x70, REG_DESCRIPTORS = 0x80,
  REG_AVAILABLE = 0x90, REG_USED = 0xa0,
  CONFIG_WANTED = 0x100, CONFIG_ACTUAL = 0x104, CONFIG_COMMAND = 0x108,
};
enum { STATUS_ACKNOWLEDGE = 1, STATUS_DRIVER = 2, STATUS_DRIVER_OK = 4, STATUS_FEATURES_OK = 8 };
enum { MAGIC = 0x74726976, BALLOON_ID = 5, VERSION_1 = 1 /* of the upper half */ };

struct descriptor {
  uint64_t address;
  uint32_t bytes;
  uint16_t flags, next;
};
struct rings { /* of one queue, in a page of its own */
  struct descriptor descriptors[ENTRIES];
  struct {
    uint16_t flags, index, heads[ENTRIES], event;
  } available;
  uint8_t gap[512 - ENTRIES * 2 - 8];
  struct {
    uint16_t flags, index;
    struct {
      uint32_t head, bytes;
    } entries[ENTRIES];
    uint16_t event;
  } used;
};
_Static_assert(sizeof(struct rings) <= WALKER_PAGE, "rings");

struct __attribute__((packed)) stat {
  uint16_t tag;
  uint64_t value;
};
enum { STAT_FREE = 4, STAT_TOTAL = 5, STAT_AVAILABLE = 6, STAT_CACHES = 7, STATS_TOLD = 4 };

/* All that the driver knows, beside the states of pages. */
static struct {
  uint32_t started, broken;
  uint32_t seen, command; /* what the device said last; the request that is being answered, or below CMD_FIRST: none */
  uint32_t cursor;        /* of the free pages, the next to be told of */
  uint32_t wait_ticks;    /* before it answers */
  uint32_t reported;      /* free pages were told of once */
  uint32_t churn, pass;   /* where it uses pages and gives them up again, and how often it has been around */
  uint32_t actual;        /* pages in the balloon */
  uint32_t taken, cache;  /* pages that are not free, and of these cache */
  uint16_t stats_used;
} driver;

static volatile uint32_t *reg(uint32_t at) { return (volatile uint32_t *)(uintptr_t)(WALKER_BALLOON + at); }
static volatile struct rings *rings(uint32_t queue) {
  return (volatile struct rings *)(uintptr_t)(WALKER_RINGS + queue * WALKER_PAGE);
}
static volatile uint32_t *list(void) { return (volatile uint32_t *)(uintptr_t)WALKER_LISTS; }
static volatile uint32_t *command_buffer(void) { return (volatile uint32_t *)(uintptr_t)(WALKER_LISTS + WALKER_PAGE); }
static volatile struct stat *stats_buffer(void) {
  return (volatile struct stat *)(uintptr_t)(WALKER_LISTS + 2 * WALKER_PAGE);
}

/* The states of a block's pages: a page of the table. */
static volatile uint32_t *states_of(volatile struct walker_params *params, uint32_t block) {
  return (volatile uint32_t *)page_address(params, params->table_first + block);
}
/* How many of a block's pages are not free. */
static volatile uint32_t *taken_of(uint32_t block) { return (volatile uint32_t *)(uintptr_t)WALKER_TAKEN + block; }

static uint32_t block_pages(volatile struct walker_params *params, uint32_t block) {
  uint32_t left = params->free_pages - block * WALKER_BLOCK;
  return left < WALKER_BLOCK ? left : WALKER_BLOCK;
}
static uint32_t blocks_of(volatile struct walker_params *params) {
  return (params->free_pages + WALKER_BLOCK - 1) / WALKER_BLOCK;
}

static uint32_t get_state(volatile struct walker_params *params, uint32_t i) {
  return states_of(params, i / WALKER_BLOCK)[i % WALKER_BLOCK];
}

static void set_state(volatile struct walker_params *params, uint32_t i, uint32_t state) {
  volatile uint32_t *at = &states_of(params, i / WALKER_BLOCK)[i % WALKER_BLOCK];
  uint32_t change = (state != WALKER_FREE) - (*at != WALKER_FREE);
  *taken_of(i / WALKER_BLOCK) += change;
  driver.taken += change;
  driver.cache += (state == WALKER_CACHE) - (*at == WALKER_CACHE);
  *at = state;
}

/* --- the rings */

/* One request of one buffer; it is the device's from the next notify on. */
static void offer(uint32_t queue, uint64_t address, uint32_t bytes, int writable) {
  volatile struct rings *at = rings(queue);
  uint16_t slot = at->available.index % ENTRIES;
  at->descriptors[slot].address = address;
  at->descriptors[slot].bytes = bytes;
  at->descriptors[slot].flags = writable ? DESC_WRITE : 0;
  at->available.heads[slot] = slot;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  at->available.index++;
}

/* Tells the device, and waits until it has given everything back: what it does, it does before or soon after this register is
 * written. */
static void notify_and_wait(uint32_t queue) {
  volatile struct rings *at = rings(queue);
  if (driver.broken || at->used.index == at->available.index) return;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  *reg(REG_NOTIFY) = queue;
  for (uint32_t spins = 0; at->used.index != at->available.index; spins++) {
    if (spins > 100000000) {
      driver.broken = 1;
      return;
    }
    __asm__ volatile("pause");
  }
}

static int start(void) {
  if (*reg(REG_MAGIC) != MAGIC || *reg(REG_DEVICE) != BALLOON_ID) return 0;
  *reg(REG_STATUS) = 0;
  *reg(REG_STATUS) = STATUS_ACKNOWLEDGE;
  *reg(REG_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
  *reg(REG_FEATURES_SELECT) = 0;
  *reg(REG_DRIVER_FEATURES_SELECT) = 0;
  *reg(REG_DRIVER_FEATURES) = *reg(REG_FEATURES) & 0xff; /* all that is the balloon's own */
  *reg(REG_DRIVER_FEATURES_SELECT) = 1;
  *reg(REG_DRIVER_FEATURES) = VERSION_1;
  *reg(REG_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
  if (!(*reg(REG_STATUS) & STATUS_FEATURES_OK)) return 0;
  for (uint32_t queue = 0; queue < QUEUES; queue++) {
    volatile struct rings *at = rings(queue);
    *reg(REG_QUEUE) = queue;
    *reg(REG_QUEUE_SIZE) = *reg(REG_QUEUE_SIZE_MAX) < ENTRIES ? *reg(REG_QUEUE_SIZE_MAX) : ENTRIES;
    *reg(REG_DESCRIPTORS) = (uint32_t)(uintptr_t)&at->descriptors;
    *reg(REG_AVAILABLE) = (uint32_t)(uintptr_t)&at->available;
    *reg(REG_USED) = (uint32_t)(uintptr_t)&at->used;
    *reg(REG_DESCRIPTORS + 4) = *reg(REG_AVAILABLE + 4) = *reg(REG_USED + 4) = 0;
    *reg(REG_QUEUE_READY) = 1;
  }
  *reg(REG_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
  return 1;
}

/* --- what is free */

/* Takes a free page into use: nobody else knows what it holds, so it is written first, and only then said to hold it. */
static void use_page(volatile struct walker_params *params, uint32_t i) {
  uint32_t page = params->free_first + i, generation = ++driver.pass % WALKER_GENERATION_MAX + 1;
  volatile uint64_t *words = page_address(params, page);
  uint64_t record = walker_record(page, generation, params->seed);
  words[0] = record;
  words[WALKER_PAGE / 8 - 1] = record;
  set_state(params, i, generation);
}

static int is_used(uint32_t state) { return state != WALKER_FREE && state <= WALKER_GENERATION_MAX; }

static int is_busy(volatile struct walker_params *params) {
  return params->habit == WALKER_REUSE || params->habit == WALKER_REPORT || params->habit == WALKER_LATE;
}

/* Uses some pages, and gives up those that it finds in use. */
static void churn(volatile struct walker_params *params) {
  for (uint32_t n = 0; n < CHURN_PAGES; n++) {
    uint32_t i = driver.churn++;
    if (driver.churn >= params->free_pages) driver.churn = 0;
    uint32_t state = get_state(params, i);
    if (is_used(state))
      set_state(params, i, WALKER_FREE);
    else if (state == WALKER_FREE)
      use_page(params, i);
  }
}

/* Whether the pages from i on lie in one piece of the address space: a buffer must. */
static int is_one_piece(volatile struct walker_params *params, uint32_t i, uint32_t pages) {
  uint64_t first = guest_address(params, params->free_first + i);
  return guest_address(params, params->free_first + i + pages - 1) == first + (uint64_t)(pages - 1) * WALKER_PAGE;
}

/* The next run of free pages in one block, and where it begins; 0: there is none. */
static uint32_t next_run(volatile struct walker_params *params, uint32_t *first) {
  while (driver.cursor < params->free_pages) {
    uint32_t block = driver.cursor / WALKER_BLOCK, at = driver.cursor % WALKER_BLOCK, size = block_pages(params, block);
    uint32_t taken = *taken_of(block), begin = at;
    volatile uint32_t *states = states_of(params, block);
    if (taken == size) begin = size;
    while (taken && begin < size && states[begin] != WALKER_FREE) begin++;
    uint32_t end = taken ? begin : size;
    while (taken && end < size && states[end] == WALKER_FREE) end++;
    *first = block * WALKER_BLOCK + begin;
    driver.cursor = block * WALKER_BLOCK + end;
    if (begin == end) continue;
    if (is_one_piece(params, *first, end - begin)) return end - begin;
    for (end = begin + 1; is_one_piece(params, *first, end - begin + 1);) end++;
    driver.cursor = block * WALKER_BLOCK + end;
    return end - begin;
  }
  return 0;
}

/* Tells of up to so many runs of free pages; 0: there are no more. */
static uint32_t tell_runs(volatile struct walker_params *params, uint32_t queue, uint32_t most) {
  uint32_t first[ENTRIES], pages[ENTRIES], runs = 0;
  for (; runs < most && runs < ENTRIES; runs++) {
    pages[runs] = next_run(params, &first[runs]);
    if (!pages[runs]) break;
    offer(queue, guest_address(params, params->free_first + first[runs]), pages[runs] * WALKER_PAGE, 1);
  }
  notify_and_wait(queue);
  for (uint32_t run = 0; is_busy(params) && run < runs && !driver.broken; run++) /* they are ours again */
    for (uint32_t i = 0; i < (pages[run] + REUSE_SHARE - 1) / REUSE_SHARE; i++) use_page(params, first[run] + i);
  return runs;
}

static void say_command(uint32_t command) {
  *command_buffer() = command;
  offer(HINT, (uintptr_t)command_buffer(), 4, 0);
  notify_and_wait(HINT);
}

static void begin_answer(volatile struct walker_params *params, uint32_t command) {
  driver.command = CMD_DONE;
  if (command < CMD_FIRST || params->habit == WALKER_SILENT) return;
  driver.command = command;
  driver.cursor = 0;
  driver.wait_ticks = params->habit == WALKER_LATE ? LATE_TICKS : 0;
  say_command(params->habit == WALKER_STALE ? command - 1 : command);
}

static void answer(volatile struct walker_params *params) {
  if (driver.command < CMD_FIRST) return;
  if (driver.wait_ticks) {
    driver.wait_ticks--;
    return;
  }
  if (params->habit == WALKER_LATE) {
    if (tell_runs(params, HINT, 1)) return; /* one a tick */
  } else {
    while (tell_runs(params, HINT, ENTRIES) && !driver.broken) {
    }
  }
  say_command(0);
  driver.command = CMD_DONE;
}

/* --- the balloon */

static void tell_stats(volatile struct walker_params *params) {
  const uint64_t cache = driver.cache, free = params->free_pages - driver.taken;
  const uint64_t total = params->ram_pages - driver.actual;
  const struct stat told[STATS_TOLD] = {{STAT_FREE, free * WALKER_PAGE},
                                        {STAT_TOTAL, total * WALKER_PAGE},
                                        {STAT_AVAILABLE, (free + cache) * WALKER_PAGE},
                                        {STAT_CACHES, cache * WALKER_PAGE}};
  for (uint32_t i = 0; i < STATS_TOLD; i++) {
    stats_buffer()[i].tag = told[i].tag;
    stats_buffer()[i].value = told[i].value;
  }
  volatile struct rings *at = rings(STATS);
  driver.stats_used = at->used.index;
  at->descriptors[0].address = (uintptr_t)stats_buffer();
  at->descriptors[0].bytes = sizeof told;
  at->descriptors[0].flags = 0;
  at->available.heads[0] = 0;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  at->available.index++;
  *reg(REG_NOTIFY) = STATS;
}

/* Gives the pages that are listed to the device, and says how far it is. */
static void flush_list(volatile struct walker_params *params, uint32_t queue, uint32_t *listed) {
  if (!*listed) return;
  offer(queue, (uintptr_t)list(), *listed * 4, 0);
  notify_and_wait(queue);
  *listed = 0;
  *reg(CONFIG_ACTUAL) = driver.actual;
  if (rings(STATS)->used.index != driver.stats_used) tell_stats(params);
}

/* Pages in this state go into the balloon until it has as many as are wanted. */
static void inflate_with(volatile struct walker_params *params, uint32_t state, uint32_t wanted) {
  uint32_t listed = 0;
  for (uint32_t block = blocks_of(params); block-- > 0 && driver.actual < wanted && !driver.broken;) {
    uint32_t size = block_pages(params, block), taken = *taken_of(block);
    if (state == WALKER_FREE ? taken == size : taken == 0) continue;
    volatile uint32_t *states = states_of(params, block);
    for (uint32_t at = size; at-- > 0 && driver.actual < wanted;) {
      if (states[at] != state) continue;
      set_state(params, block * WALKER_BLOCK + at, WALKER_BALLOONED); /* before the device has it */
      list()[listed++] = (uint32_t)(guest_address(params, params->free_first + block * WALKER_BLOCK + at) / WALKER_PAGE);
      driver.actual++;
      if (listed == LIST_PAGES) flush_list(params, INFLATE, &listed);
    }
  }
  flush_list(params, INFLATE, &listed);
}

static void deflate_to(volatile struct walker_params *params, uint32_t wanted) {
  for (uint32_t block = 0; block < blocks_of(params) && driver.actual > wanted && !driver.broken; block++) {
    if (!*taken_of(block)) continue;
    uint32_t size = block_pages(params, block), listed = 0, first = 0;
    volatile uint32_t *states = states_of(params, block);
    for (uint32_t at = 0; at < size && driver.actual > wanted; at++) {
      if (states[at] == WALKER_BALLOONED) {
        list()[listed++] = (uint32_t)(guest_address(params, params->free_first + block * WALKER_BLOCK + at) / WALKER_PAGE);
        driver.actual--;
      }
      if (listed < LIST_PAGES && driver.actual > wanted && at + 1 < size) continue;
      flush_list(params, DEFLATE, &listed);
      for (; first <= at; first++) /* only now */
        if (states[first] == WALKER_BALLOONED) set_state(params, block * WALKER_BLOCK + first, WALKER_FREE);
    }
  }
}

static void resize(volatile struct walker_params *params) {
  uint32_t wanted = *reg(CONFIG_WANTED);
  if (wanted > driver.actual) {
    inflate_with(params, WALKER_FREE, wanted);
    inflate_with(params, WALKER_CACHE, wanted); /* it gives that up before it does without */
  } else if (wanted < driver.actual) {
    deflate_to(params, wanted);
  }
}

void balloon_tick(volatile struct walker_params *params, int attention) {
  if (!driver.started) {
    driver.started = 1;
    driver.broken = !start();
    driver.taken = driver.cache = params->cache_pages;
    if (!driver.broken) tell_stats(params);
    attention = !driver.broken; /* what was wanted before it came */
  }
  if (driver.broken) return;
  if (params->habit == WALKER_REPORT && !driver.reported) {
    driver.cursor = 0;
    while (tell_runs(params, REPORT, ENTRIES) && !driver.broken) {
    }
    driver.reported = 1;
  }
  if (attention) {
    *reg(REG_INTERRUPT_ACK) = *reg(REG_INTERRUPT_STATUS);
    resize(params);
    uint32_t command = *reg(CONFIG_COMMAND);
    if (command != driver.seen) begin_answer(params, command);
    driver.seen = command;
    if (rings(STATS)->used.index != driver.stats_used) tell_stats(params);
  }
  answer(params);
  if (is_busy(params)) churn(params);
}
