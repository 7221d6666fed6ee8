/* What multifd channels compress: one stream for the whole channel, of which each packet is a flushed piece. */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "tram.h"

struct tram_inflate {
  z_stream zlib;
  ZSTD_DStream *zstd; /* NULL: zlib */
};

int64_t tram_inflate_open(int zstd) {
  struct tram_inflate *one = calloc(1, sizeof *one);
  if (!one) return -ENOMEM;
  int made = zstd ? (one->zstd = ZSTD_createDStream()) != NULL : inflateInit(&one->zlib) == Z_OK;
  if (made) return (int64_t)(uintptr_t)one;
  free(one);
  return -ENOMEM;
}

static int inflate_zstd(struct tram_inflate *one, const void *in, uint32_t in_bytes, void *out, uint32_t out_bytes) {
  ZSTD_inBuffer from = {.src = in, .size = in_bytes};
  ZSTD_outBuffer to = {.dst = out, .size = out_bytes};
  while (to.pos < to.size || from.pos < from.size) {
    size_t in_before = from.pos, out_before = to.pos;
    if (ZSTD_isError(ZSTD_decompressStream(one->zstd, &to, &from))) return -EBADMSG;
    if (from.pos == in_before && to.pos == out_before) return -EBADMSG; /* too little, or more than was asked for */
  }
  /* More than was asked for may wait inside: it would come out with the next packet. */
  uint8_t more;
  ZSTD_outBuffer rest = {.dst = &more, .size = 1};
  if (ZSTD_isError(ZSTD_decompressStream(one->zstd, &rest, &from)) || rest.pos) return -EBADMSG;
  return 0;
}

static int inflate_zlib(struct tram_inflate *one, const void *in, uint32_t in_bytes, void *out, uint32_t out_bytes) {
  z_stream *z = &one->zlib;
  z->next_in = (Bytef *)(uintptr_t)in;
  z->avail_in = in_bytes;
  z->next_out = out;
  z->avail_out = out_bytes;
  while (z->avail_out || z->avail_in) {
    int result = inflate(z, Z_SYNC_FLUSH);
    if (result != Z_OK) return -EBADMSG; /* the stream's end, too: it goes on in the next packet */
  }
  return 0;
}

int tram_inflate(struct tram_inflate *one, const void *in, uint32_t in_bytes, void *out, uint32_t out_bytes) {
  return one->zstd ? inflate_zstd(one, in, in_bytes, out, out_bytes) : inflate_zlib(one, in, in_bytes, out, out_bytes);
}

int tram_inflate_close(struct tram_inflate *one) {
  if (one->zstd)
    ZSTD_freeDStream(one->zstd);
  else
    inflateEnd(&one->zlib);
  free(one);
  return 0;
}
