/* KVM's dirty rings: one for each vCPU, in which the kernel writes down each page that the vCPU has written to. What is taken
 * out is given back at once, so that a later write to the page counts again.
 *
 *       reset_index                        dirty_index          of the kernel; both only grow, and are taken modulo `entries`
 *            v                                  v
 *   ... free |D D D D D D D D D D D D D D D D D | free ...      D: flags DIRTY; taken out: RESET; given back: 0
 *            ^ taken
 *
 * Source: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING. A vCPU leaves the guest before its ring is full. If it does
 * not, the kernel writes over what nobody has read: pages are lost, and the kernel's count has left ours behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "internal.h"
#include "tram.h"

#define RING_AT_PAGE 64 /* KVM_DIRTY_LOG_PAGE_OFFSET on x86 */
enum { CPUS_MAX = 64, SLOTS_MAX = 8, TRIES = 16 };

struct slot {
  uint32_t first, pages;
};

struct tram_rings {
  pthread_mutex_t lock; /* of all below; any thread may take pages out */
  int vm;
  uint32_t lost, full_exits, entries, cpus, slots, pages;
  struct slot slot[SLOTS_MAX];
  struct kvm_dirty_gfn *ring[CPUS_MAX];
  uint32_t taken[CPUS_MAX]; /* all before it was given back */
  uint32_t taken_when_full[CPUS_MAX], full_since_lost[CPUS_MAX];
  uint32_t words[];         /* the set of pages that were taken out, until somebody wants them */
};

int64_t tram_rings_create(int vm, uint32_t entries, uint32_t pages) {
  if (entries == 0 || (entries & (entries - 1)) || pages == 0) return -EINVAL;
  struct tram_rings *rings = calloc(1, sizeof *rings + (pages / 64 + 1) * 8);
  if (!rings) return -ENOMEM;
  pthread_mutex_init(&rings->lock, NULL);
  rings->vm = vm;
  rings->entries = entries;
  rings->pages = pages;
  return (int64_t)(uintptr_t)rings;
}

int tram_rings_add_slot(struct tram_rings *rings, uint32_t slot, uint32_t first_page, uint32_t pages) {
  if (slot != rings->slots || slot == SLOTS_MAX) return -EINVAL;
  if (pages > rings->pages || first_page > rings->pages - pages) return -ERANGE;
  rings->slot[rings->slots++] = (struct slot){first_page, pages};
  return 0;
}

int tram_rings_add_cpu(struct tram_rings *rings, int vcpu) {
  if (rings->cpus == CPUS_MAX) return -E2BIG;
  size_t bytes = (size_t)rings->entries * sizeof(struct kvm_dirty_gfn);
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, RING_AT_PAGE * (off_t)PAGE_BYTES);
  if (at == MAP_FAILED) return -errno;
  rings->taken_when_full[rings->cpus] = UINT32_MAX; /* never */
  rings->ring[rings->cpus++] = at;
  return 0;
}

static struct kvm_dirty_gfn *entry_at(const struct tram_rings *rings, uint32_t cpu, uint32_t index) {
  return &rings->ring[cpu][index & (rings->entries - 1)];
}

static uint32_t flags_of(const struct kvm_dirty_gfn *entry) { return __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE); }

static void set_flags(struct kvm_dirty_gfn *entry, uint32_t flags) {
  __atomic_store_n(&entry->flags, flags, __ATOMIC_RELEASE);
}

/* A signal that is pending ends the reset early, and pages that are counted already would not be protected again (Linux 6.16). A
 * kick is not lost: it comes when this is over. */
static void lock(struct tram_rings *rings, sigset_t *before) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, before);
  pthread_mutex_lock(&rings->lock);
}

static void unlock(struct tram_rings *rings, const sigset_t *before) {
  pthread_mutex_unlock(&rings->lock);
  pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* How many entries the kernel has taken back. */
static uint32_t give_back(const struct tram_rings *rings, uint32_t wanted) {
  uint32_t given = 0;
  for (int tries = 0; given < wanted && tries < TRIES;) {
    int result = ioctl(rings->vm, KVM_RESET_DIRTY_RINGS, 0);
    if (result > 0) given += (uint32_t)result;
    else tries++;
  }
  return given;
}

/* All entries of one ring, into the set; how many. */
static uint32_t take_out(struct tram_rings *rings, uint32_t cpu) {
  uint32_t count = 0;
  for (; count < rings->entries; count++) {
    struct kvm_dirty_gfn *entry = entry_at(rings, cpu, rings->taken[cpu] + count);
    if (!(flags_of(entry) & KVM_DIRTY_GFN_F_DIRTY)) break;
    uint64_t page = entry->offset;
    if (entry->slot >= rings->slots || page >= rings->slot[entry->slot].pages) {
      rings->lost = 1; /* no entry that the kernel makes says that */
    } else {
      page += rings->slot[entry->slot].first;
      rings->words[page / WORD_BITS] |= bit_of(page);
    }
    set_flags(entry, KVM_DIRTY_GFN_F_RESET);
  }
  rings->taken[cpu] += count;
  return count;
}

static void drain(struct tram_rings *rings) {
  uint32_t total = 0;
  for (uint32_t cpu = 0; cpu < rings->cpus; cpu++) {
    uint32_t count = take_out(rings, cpu);
    /* The vCPU was to leave the guest while there was room: with none left the next entry goes over one that nobody has read. */
    if (count == rings->entries) rings->lost = 1;
    total += count;
  }
  if (give_back(rings, total) != total) rings->lost = 1;
}

/* A ring whose counts disagree stays full for the kernel, whose vCPU it never lets run again. So entries are given back that
 * nobody has taken out: a quarter of the ring is less than it has, or the vCPU would run. Its own thread does that. */
static void make_room(struct tram_rings *rings, uint32_t cpu) {
  const uint32_t room = rings->entries / 4;
  for (uint32_t i = 0; i < rings->entries; i++) set_flags(entry_at(rings, cpu, i), 0);
  for (uint32_t skip = 0; skip < rings->entries; skip++) { /* the kernel's reset_index is not far from where ours is */
    struct kvm_dirty_gfn *entry = entry_at(rings, cpu, rings->taken[cpu] + skip);
    set_flags(entry, KVM_DIRTY_GFN_F_RESET);
    if (ioctl(rings->vm, KVM_RESET_DIRTY_RINGS, 0) > 0) {
      rings->taken[cpu] += skip + 1;
      break;
    }
    set_flags(entry, 0);
  }
  for (uint32_t i = 0; i + 1 < room; i++) set_flags(entry_at(rings, cpu, rings->taken[cpu] + i), KVM_DIRTY_GFN_F_RESET);
  rings->taken[cpu] += give_back(rings, room - 1);
}

int tram_rings_full(struct tram_rings *rings, uint32_t cpu) {
  if (cpu >= rings->cpus) return -ERANGE;
  sigset_t before;
  lock(rings, &before);
  rings->full_exits++;
  if (!rings->lost) {
    drain(rings);
    /* Full once more, and nobody has found an entry in it since. */
    if (rings->taken[cpu] == rings->taken_when_full[cpu]) rings->lost = 1;
    rings->taken_when_full[cpu] = rings->taken[cpu];
  } else if (rings->full_since_lost[cpu]) {
    make_room(rings, cpu);
  } else { /* it may have been emptied in between: only if it is still full for the kernel it comes again */
    rings->full_since_lost[cpu] = 1;
  }
  unlock(rings, &before);
  return 0;
}

int tram_rings_take(struct tram_rings *rings, uint32_t *words, uint32_t pages) {
  if (pages != rings->pages) return -ERANGE;
  sigset_t before;
  lock(rings, &before);
  if (!rings->lost) drain(rings);
  int result = rings->lost ? -EOVERFLOW : 0;
  uint32_t count = (pages + WORD_BITS - 1) / WORD_BITS;
  for (uint32_t i = 0; i < count; i++) words[i] |= rings->words[i];
  memset(rings->words, 0, count * sizeof *words);
  unlock(rings, &before);
  return result;
}

int tram_rings_state(const struct tram_rings *rings, uint32_t *out) {
  out[0] = __atomic_load_n(&rings->lost, __ATOMIC_RELAXED);
  out[1] = __atomic_load_n(&rings->full_exits, __ATOMIC_RELAXED);
  return 0;
}
