/* Shared by the C files only. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u

struct tram_ram {
  uint8_t *base;
  uint64_t bytes;
};

/* The checked door: NULL unless [offset, offset + bytes) lies in the guest's memory. */
static inline uint8_t *checked(const struct tram_ram *ram, uint64_t offset, uint64_t bytes) {
  if (!ram || bytes > ram->bytes || offset > ram->bytes - bytes) return NULL;
  return ram->base + offset;
}

static inline uint8_t *checked_page(const struct tram_ram *ram, uint32_t index) {
  return checked(ram, (uint64_t)index * PAGE_BYTES, PAGE_BYTES);
}

int page_is_zero(const uint8_t *page);

#endif
