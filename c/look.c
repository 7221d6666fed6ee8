/* What pages look like: how evenly their bytes are spread, and how much of two of them differs. */
#pragma GCC target("avx2") /* Bun itself needs it, so whoever runs this has it */
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"
#include "tram.h"

/* A quarter of a page is counted: 16 bytes of each 64, at another place in each, so that neither a field of a table nor a part
 * of the page is left out. All bytes would cost three times as much as the page's hash, and a quarter costs no more than that;
 * the entropies are 0.05 bits apart on the average. */
enum { LINE_BYTES = 64, SAMPLE_BYTES = 16, LINES = PAGE_BYTES / LINE_BYTES, SAMPLES = LINES * SAMPLE_BYTES };

/* n * log2(n), for each number of times that a byte can be met. */
static float weight[SAMPLES + 1];
static pthread_once_t weighed = PTHREAD_ONCE_INIT;

/* Without libm, which the library would need for this alone: squaring a number doubles its logarithm, a bit at a time. */
static double log2_of(unsigned number) {
  const int whole = 31 - __builtin_clz(number);
  double rest = (double)number / (1u << whole), sum = whole;
  for (double bit = 0.5; bit > 1e-9; bit /= 2) {
    rest *= rest;
    if (rest >= 2) rest /= 2, sum += bit;
  }
  return sum;
}

static void weigh(void) {
  for (unsigned n = 1; n <= SAMPLES; n++) weight[n] = (float)(n * log2_of(n));
}

/* Four tables: a byte that is met again at once would wait for its own count. */
enum { TABLES = 4, VALUES = 256 };

static void count_word(uint16_t met[TABLES][VALUES], const uint8_t *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  for (unsigned i = 0; i < sizeof word; i++) met[i % TABLES][word >> 8 * i & 0xff]++;
}

/* In bits per byte, from 0 to 8. */
static float entropy_of(const uint8_t *page) {
  uint16_t met[TABLES][VALUES];
  memset(met, 0, sizeof met);
  for (unsigned line = 0; line < LINES; line++) {
    const uint8_t *sample = page + line * LINE_BYTES + (line + line / 4) % 4 * SAMPLE_BYTES;
    count_word(met, sample);
    count_word(met, sample + 8);
  }
  float sum = 0;
  unsigned different = 0;
  for (unsigned value = 0; value < VALUES; value++) {
    const unsigned times = met[0][value] + met[1][value] + met[2][value] + met[3][value];
    different += times != 0;
    sum += weight[times];
  }
  /* A sample has less entropy than what it is of, by about this much (Miller and Madow): 0.18 bits for random bytes. */
  const float missed = different ? (float)(different - 1) / (2 * SAMPLES * 0.6931472f) : 0;
  const float bits = 10 - sum / SAMPLES + missed; /* 2^10 samples */
  return bits < 0 ? 0 : bits > 8 ? 8 : bits;
}
_Static_assert(SAMPLES == 1 << 10, "log2 of the samples stands in entropy_of");

int tram_look_pages(const uint8_t *buffer, uint64_t buffer_bytes, const uint32_t *index, const uint32_t *offset,
                    uint32_t count, uint8_t *looks, uint64_t pages) {
  for (uint32_t i = 0; i < count; i++)
    if ((uint64_t)offset[i] + PAGE_BYTES > buffer_bytes || index[i] >= pages) return -ERANGE;
  pthread_once(&weighed, weigh);
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *page = buffer + offset[i];
    looks[index[i]] =
        page_is_zero(page) ? TRAM_LOOK_ZERO : (uint8_t)(TRAM_LOOK_DATA + (int)(entropy_of(page) * TRAM_LOOK_BIT + 0.5f));
  }
  return 0;
}

static unsigned differing_bytes(const uint8_t *a, const uint8_t *b) {
  unsigned same = 0;
  for (unsigned i = 0; i < PAGE_BYTES; i += 32) {
    const __m256i left = _mm256_loadu_si256((const __m256i *)(const void *)(a + i));
    const __m256i right = _mm256_loadu_si256((const __m256i *)(const void *)(b + i));
    same += (unsigned)__builtin_popcount((unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(left, right)));
  }
  return PAGE_BYTES - same;
}

int tram_look_changes(const uint8_t *a, const uint8_t *b, uint32_t count, uint16_t *changes) {
  for (uint32_t i = 0; i < count; i++, a += PAGE_BYTES, b += PAGE_BYTES) {
    const unsigned bytes = differing_bytes(a, b);
    const int zero_before = page_is_zero(a), zero_after = bytes ? page_is_zero(b) : zero_before;
    changes[i] = (uint16_t)(bytes | (zero_before ? TRAM_ZERO_BEFORE : 0) | (zero_after ? TRAM_ZERO_AFTER : 0));
  }
  return 0;
}
