/* What multifd channels compress, the mirror of inflate.c: one zstd stream for the whole channel, flushed behind each packet. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "internal.h"
#include "tram.h"

struct tram_deflate {
  ZSTD_CStream *zstd;
};

int64_t tram_deflate_open(int level) {
  struct tram_deflate *one = calloc(1, sizeof *one);
  if (!one) return -ENOMEM;
  one->zstd = ZSTD_createCStream();
  if (one->zstd && !ZSTD_isError(ZSTD_initCStream(one->zstd, level))) return (int64_t)(uintptr_t)one;
  ZSTD_freeCStream(one->zstd);
  free(one);
  return -ENOMEM;
}

/* A page that changes while it is read must not change between two looks at it: the compressor is given a copy. */
static int64_t deflate_ram(struct tram_deflate *one, const struct tram_ram *ram, const uint32_t *index, uint32_t count,
                           void *out, uint64_t out_bytes) {
  ZSTD_outBuffer to = {.dst = out, .size = out_bytes};
  uint8_t copy[PAGE_BYTES];
  for (uint32_t i = 0; i < count; i++) {
    memcpy(copy, checked_page(ram, index[i]), sizeof copy);
    ZSTD_inBuffer from = {.src = copy, .size = sizeof copy};
    ZSTD_EndDirective then = i + 1 == count ? ZSTD_e_flush : ZSTD_e_continue;
    for (size_t left = 1; left || from.pos < from.size;) {
      left = ZSTD_compressStream2(one->zstd, &to, &from, then);
      if (ZSTD_isError(left) || (left && to.pos == to.size)) return -ENOSPC;
      if (then == ZSTD_e_continue && from.pos == from.size) break;
    }
  }
  return (int64_t)to.pos;
}

int64_t tram_deflate_ram(struct tram_deflate *one, const struct tram_ram *ram, const uint32_t *index, uint32_t count, void *out,
                         uint64_t out_bytes) {
  return all_are_pages(ram, index, count) ? GUARDED(deflate_ram(one, ram, index, count, out, out_bytes)) : -ERANGE;
}

int tram_deflate_close(struct tram_deflate *one) {
  ZSTD_freeCStream(one->zstd);
  free(one);
  return 0;
}
