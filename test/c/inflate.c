/* inflate.c: one compressed stream, a flushed piece at a time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "test.h"
#include "tram.h"

enum { PIECE = 4 * 4096, PIECES = 6, PACKED_MAX = 2 * PIECE };
enum method { ZLIB, ZSTD };
static const enum method methods[] = {ZLIB, ZSTD};

struct piece {
  uint8_t plain[PIECE], packed[PACKED_MAX];
  uint32_t packed_bytes;
};

/* What a source does: one stream, flushed behind each piece, never finished. Later pieces refer to earlier ones. */
static struct piece *packed_pieces(enum method method) {
  struct piece *pieces = calloc(PIECES, sizeof *pieces);
  z_stream z = {0};
  ZSTD_CCtx *zstd = ZSTD_createCCtx();
  if (deflateInit(&z, 1) != Z_OK || !zstd) abort();
  uint32_t state = 77;
  for (unsigned i = 0; i < PIECES; i++) {
    struct piece *one = &pieces[i];
    for (unsigned at = 0; at < PIECE; at++) /* some of it random, some repeated, some of the piece before */
      one->plain[at] = at % 4096 < 1024 ? (uint8_t)next_random(&state) : at % 4096 < 2048 ? (uint8_t)i : i ? pieces[0].plain[at] : 0;
    if (method == ZSTD) {
      ZSTD_inBuffer in = {one->plain, PIECE, 0};
      ZSTD_outBuffer out = {one->packed, PACKED_MAX, 0};
      if (ZSTD_compressStream2(zstd, &out, &in, ZSTD_e_flush) != 0 || in.pos != PIECE) abort();
      one->packed_bytes = (uint32_t)out.pos;
    } else {
      z.next_in = one->plain;
      z.avail_in = PIECE;
      z.next_out = one->packed;
      z.avail_out = PACKED_MAX;
      if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in) abort();
      one->packed_bytes = PACKED_MAX - z.avail_out;
    }
  }
  deflateEnd(&z);
  ZSTD_freeCCtx(zstd);
  return pieces;
}

static struct tram_inflate *opened(enum method method) {
  return (struct tram_inflate *)(uintptr_t)tram_inflate_open(method == ZSTD);
}

static void a_stream_goes_on_from_piece_to_piece(void) {
  for (unsigned m = 0; m < 2; m++) {
    struct piece *pieces = packed_pieces(methods[m]);
    struct tram_inflate *one = opened(methods[m]);
    uint8_t out[PIECE];
    for (unsigned i = 0; i < PIECES; i++) {
      test_where = m * 100 + i;
      memset(out, 0xaa, sizeof out);
      CHECK_EQ(tram_inflate(one, pieces[i].packed, pieces[i].packed_bytes, out, PIECE), 0);
      CHECK(memcmp(out, pieces[i].plain, PIECE) == 0);
    }
    CHECK_EQ(tram_inflate(one, NULL, 0, out, 0), 0); /* nothing of nothing */
    CHECK_EQ(tram_inflate_close(one), 0);
    free(pieces);
  }
}

/* The premise of one stream a channel: its second piece means nothing without the first. */
static void a_piece_alone_is_broken(void) {
  for (unsigned m = 0; m < 2; m++) {
    test_where = m;
    struct piece *pieces = packed_pieces(methods[m]);
    struct tram_inflate *one = opened(methods[m]);
    uint8_t out[PIECE];
    CHECK_EQ(tram_inflate(one, pieces[1].packed, pieces[1].packed_bytes, out, PIECE), -EBADMSG);
    tram_inflate_close(one);
    free(pieces);
  }
}

/* Two channels of a move at once: neither knows of the other. */
static void handles_are_apart(void) {
  struct piece *zlib = packed_pieces(ZLIB), *zstd = packed_pieces(ZSTD);
  struct tram_inflate *handles[4] = {opened(ZLIB), opened(ZSTD), opened(ZLIB), opened(ZSTD)};
  uint8_t out[PIECE];
  for (unsigned i = 0; i < PIECES; i++)
    for (unsigned h = 0; h < 4; h++) {
      test_where = i * 10 + h;
      struct piece *from = h % 2 ? zstd : zlib;
      CHECK_EQ(tram_inflate(handles[h], from[i].packed, from[i].packed_bytes, out, PIECE), 0);
      CHECK(memcmp(out, from[i].plain, PIECE) == 0);
      if (i == 2 && h < 2) { /* two end early; the others go on */
        tram_inflate_close(handles[h]);
        handles[h] = opened(h ? ZSTD : ZLIB);
        CHECK_EQ(tram_inflate(handles[h], from[0].packed, from[0].packed_bytes, out, PIECE), 0);
        CHECK_EQ(tram_inflate(handles[h], from[1].packed, from[1].packed_bytes, out, PIECE), 0);
        CHECK_EQ(tram_inflate(handles[h], from[2].packed, from[2].packed_bytes, out, PIECE), 0);
      }
    }
  for (unsigned h = 0; h < 4; h++) tram_inflate_close(handles[h]);
  free(zlib);
  free(zstd);
}

/* A handle may be closed unused, after a success and after a failure: the sanitizer sees what is left. */
static void handles_leave_nothing(void) {
  for (unsigned m = 0; m < 2; m++) {
    struct piece *pieces = packed_pieces(methods[m]);
    uint8_t out[PIECE];
    for (unsigned used = 0; used < 3; used++) {
      test_where = m * 10 + used;
      int64_t handle = tram_inflate_open(methods[m] == ZSTD);
      CHECK(handle > 0);
      struct tram_inflate *one = (struct tram_inflate *)(uintptr_t)handle;
      if (used == 1) CHECK_EQ(tram_inflate(one, pieces[0].packed, pieces[0].packed_bytes, out, PIECE), 0);
      if (used == 2) CHECK_EQ(tram_inflate(one, "no stream", 9, out, PIECE), -EBADMSG);
      CHECK_EQ(tram_inflate_close(one), 0);
    }
    free(pieces);
  }
}

/* `out_bytes` other than the piece has. Never a byte behind them. */
static void a_piece_must_have_its_size(void) {
  static const uint32_t wanted[] = {0, 1, 4096, PIECE - 4096, PIECE - 1, PIECE + 1, PIECE + 4096};
  for (unsigned m = 0; m < 2; m++) {
    struct piece *pieces = packed_pieces(methods[m]);
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
      test_where = m * 100000 + wanted[i];
      struct tram_inflate *one = opened(methods[m]);
      uint8_t *out = malloc(wanted[i] ? wanted[i] : 1); /* of exactly that size: the sanitizer sees one byte more */
      CHECK_EQ(tram_inflate(one, pieces[0].packed, pieces[0].packed_bytes, out, wanted[i]), -EBADMSG);
      free(out);
      tram_inflate_close(one);
    }
    free(pieces);
  }
}

static void a_piece_that_is_cut_is_broken(void) {
  for (unsigned m = 0; m < 2; m++) {
    struct piece *pieces = packed_pieces(methods[m]);
    uint32_t bytes = pieces[0].packed_bytes;
    const uint32_t cuts[] = {0, 1, 2, 3, 9, bytes / 2, bytes - 16};
    for (unsigned i = 0; i < sizeof cuts / sizeof *cuts; i++) {
      test_where = m * 100000 + cuts[i];
      struct tram_inflate *one = opened(methods[m]);
      uint8_t out[PIECE], *in = malloc(cuts[i] ? cuts[i] : 1);
      memcpy(in, pieces[0].packed, cuts[i]);
      CHECK_EQ(tram_inflate(one, in, cuts[i], out, PIECE), -EBADMSG);
      free(in);
      tram_inflate_close(one);
    }
    free(pieces);
  }
}

/* Every byte flipped, one at a time: a result, and no access that the sanitizer objects to. */
static void flipped_bytes_do_no_harm(void) {
  for (unsigned m = 0; m < 2; m++) {
    struct piece *pieces = packed_pieces(methods[m]);
    unsigned refused = 0;
    uint32_t bytes = pieces[0].packed_bytes;
    for (uint32_t at = 0; at < bytes; at += at < 300 ? 1 : 37) {
      test_where = m * 1000000 + at;
      struct tram_inflate *one = opened(methods[m]);
      uint8_t out[PIECE], *in = malloc(bytes);
      memcpy(in, pieces[0].packed, bytes);
      in[at] ^= 0xff;
      int result = tram_inflate(one, in, bytes, out, PIECE);
      CHECK(result == 0 || result == -EBADMSG);
      refused += result != 0;
      result = tram_inflate(one, pieces[1].packed, pieces[1].packed_bytes, out, PIECE); /* nor does going on */
      CHECK(result == 0 || result == -EBADMSG);
      free(in);
      tram_inflate_close(one);
    }
    CHECK(refused >= 2);
    free(pieces);
  }
}

/* A stream that ends goes on in no packet. */
static void a_finished_stream_is_over(void) {
  uint8_t plain[4096] = {1, 2, 3}, packed[8192], out[4096];
  uLongf bytes = sizeof packed;
  CHECK_EQ(compress(packed, &bytes, plain, sizeof plain), Z_OK);
  struct tram_inflate *one = opened(ZLIB);
  CHECK_EQ(tram_inflate(one, packed, (uint32_t)bytes, out, sizeof out), -EBADMSG);
  CHECK_EQ(tram_inflate(one, packed, (uint32_t)bytes, out, sizeof out), -EBADMSG);
  tram_inflate_close(one);
}

const struct test inflate_tests[] = {
    {"inflate: a stream goes on from piece to piece", a_stream_goes_on_from_piece_to_piece},
    {"inflate: a piece without those before it is broken", a_piece_alone_is_broken},
    {"inflate: handles do not know of each other", handles_are_apart},
    {"inflate: a handle leaves nothing behind, however it was used", handles_leave_nothing},
    {"inflate: a piece that holds more or less than was asked for is broken", a_piece_must_have_its_size},
    {"inflate: a piece that is cut short is broken", a_piece_that_is_cut_is_broken},
    {"inflate: a flipped byte does no harm", flipped_bytes_do_no_harm},
    {"inflate: zlib's end of the stream is broken, it goes on in the next packet", a_finished_stream_is_over},
    {0},
};
