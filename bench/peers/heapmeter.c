// Owns: a count of the process heap from outside any framework, preloaded: bytes alive now and at their peak.
// Build: cc -O2 -shared -fPIC heapmeter.c -o heapmeter.so      Use: LD_PRELOAD=./heapmeter.so program
// A program may find heapmeter_live, heapmeter_peak and heapmeter_reset by dlsym. With HEAPMETER=1 in the environment
// a line is printed to stderr at exit. Sizes are what the allocator hands out (malloc_usable_size), so an object costs
// the same whoever frees it. Memory from mmap itself is not seen. For glibc.
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* block, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* block);

static int64_t live_bytes, peak_bytes;

static void change(int64_t delta) {
  const int64_t now = __atomic_add_fetch(&live_bytes, delta, __ATOMIC_RELAXED);
  int64_t peak = __atomic_load_n(&peak_bytes, __ATOMIC_RELAXED);
  while (now > peak &&
         !__atomic_compare_exchange_n(&peak_bytes, &peak, now, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

static int64_t size_of(void* block) { return block ? (int64_t)malloc_usable_size(block) : 0; }

static void* counted(void* block) {
  if (block) change(size_of(block));
  return block;
}

int64_t heapmeter_live(void) { return __atomic_load_n(&live_bytes, __ATOMIC_RELAXED); }
int64_t heapmeter_peak(void) { return __atomic_load_n(&peak_bytes, __ATOMIC_RELAXED); }
void heapmeter_reset(void) { __atomic_store_n(&peak_bytes, heapmeter_live(), __ATOMIC_RELAXED); }

void* malloc(size_t size) { return counted(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void* memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void* valloc(size_t size) { return memalign((size_t)sysconf(_SC_PAGESIZE), size); }

int posix_memalign(void** block, size_t alignment, size_t size) {
  if (alignment % sizeof(void*) || !alignment || (alignment & (alignment - 1))) return EINVAL;
  void* made = memalign(alignment, size);
  if (!made) return ENOMEM;
  *block = made;
  return 0;
}

void* realloc(void* block, size_t size) {
  const int64_t before = size_of(block);
  void* moved = __libc_realloc(block, size);
  const int failed = !moved && size > 0;  // the old block still lives
  if (!failed) change(size_of(moved) - before);
  return moved;
}

void free(void* block) {
  const int64_t size = size_of(block);
  if (size) change(-size);
  __libc_free(block);
}

__attribute__((destructor)) static void report(void) {
  if (getenv("HEAPMETER"))
    fprintf(stderr, "heapmeter: peak %lld bytes, live %lld bytes\n", (long long)heapmeter_peak(),
            (long long)heapmeter_live());
}
