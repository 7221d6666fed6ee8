/* The walker: a guest that dirties memory, checks itself, and can be checked. See walker.h.
 * Freestanding, 64-bit, general registers only. vCPU n enters at start with rdi = n and its own stack; paging is on, and
 * guest physical addresses are mapped to themselves. */
#include "balloon.h"

static volatile struct walker_params *const params = (volatile struct walker_params *)(uintptr_t)WALKER_PARAMS;

static inline void out8(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t in8(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline uint32_t in32(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static void put(char c) {
  while (!(in8(WALKER_PORT_SERIAL + 5) & 0x20)) {
  }
  out8(WALKER_PORT_SERIAL, (uint8_t)c);
}

static inline uint64_t address_of(uint32_t page, uint32_t low_pages) {
  uint64_t gpa = (uint64_t)page * WALKER_PAGE;
  return page < low_pages ? gpa : gpa + 0x100000000ull - (uint64_t)low_pages * WALKER_PAGE;
}

uint64_t guest_address(volatile struct walker_params *of, uint32_t page) { return address_of(page, of->low_pages); }

volatile uint64_t *page_address(volatile struct walker_params *of, uint32_t page) {
  return (volatile uint64_t *)guest_address(of, page);
}

static void fail(volatile struct walker_cpu *cpu, uint32_t error, uint32_t page, uint64_t found, uint64_t expected) {
  cpu->error_page = page;
  cpu->error_found = found;
  cpu->error_expected = expected;
  cpu->error = error;
  put('!');
  for (;;) __asm__ volatile("cli; hlt");
}

static void probe(volatile struct walker_cpu *cpu, uint32_t index) {
  uint32_t pio = in32(WALKER_PORT_PROBE);
  if (pio != cpu->probe_pio) fail(cpu, WALKER_BAD_PIO, 0, pio, cpu->probe_pio);
  cpu->probe_pio = pio + 1;
  uint32_t mmio = *(volatile uint32_t *)(uintptr_t)(WALKER_MMIO_PROBE + 4 * index);
  if (mmio != cpu->probe_mmio) fail(cpu, WALKER_BAD_MMIO, 0, mmio, cpu->probe_mmio);
  cpu->probe_mmio = mmio + 1;
}

__attribute__((section(".text.start"), noreturn)) void start(uint32_t index) {
  volatile struct walker_cpu *cpu = &params->cpu[index];
  struct walker_params fixed = {
      .cpus = params->cpus, .first_page = params->first_page, .set_pages = params->set_pages, .seed = params->seed};
  uint32_t first, count = walker_slice(&fixed, index, &first);
  uint32_t low_pages = params->low_pages, granted = 0;
  for (uint32_t pass = 1;; pass++) {
    cpu->position = 0;
    cpu->pass = pass;
    for (uint32_t i = 0; i < count; i++) {
      while (granted == 0) {
        granted = in32(WALKER_PORT_GRANT);
        int attention = (granted & WALKER_ATTENTION) != 0;
        granted &= ~WALKER_ATTENTION;
        probe(cpu, index);
        if (index == 0 && params->free_pages) balloon_tick(params, attention);
      }
      granted--;
      uint32_t page = first + i;
      volatile uint64_t *record = (volatile uint64_t *)address_of(page, low_pages);
      uint64_t found = *record, expected = walker_record(page, pass - 1, fixed.seed);
      if (found != expected) fail(cpu, WALKER_BAD_RECORD, page, found, expected);
      *record = walker_record(page, pass, fixed.seed);
      cpu->position = i + 1;
      cpu->steps++;
    }
    put(pass % 64 ? '.' : '\n');
  }
}
