// The memory of CPU tensors.
//
// libtorch's own CPU allocator takes each result from malloc and gives it back at once. For a large tensor that is a mapping,
// a page fault for every 4 KiB and an unmapping each time: a seventh of the time of a sampling step. For a small one
// posix_memalign is a good part of what the operator costs. Here freed blocks are kept and used again, as libtorch itself
// does on GPUs.
//
// Small blocks are kept by the thread that frees them. Large ones come from one heap, in which freed neighbours join: it
// grows to about the most that tensors ever held at once, stays there, and gives its free pages back when asked to
// (ct_cpu_empty_cache).
#include "guard.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>

namespace ct {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeep = false;  // a kept block would hide that it is used after it was freed
#else
constexpr bool kKeep = true;
#endif

constexpr size_t kSmall = 32 << 10;              // small: up to here
constexpr size_t kSmallKept = 4 << 20;           // what one thread keeps of them
constexpr size_t kSmallKeptOfClass = 256 << 10;  // and of one size

// What stands before a tensor's bytes, and keeps them aligned to 64.
struct alignas(64) Block {
  size_t size;  // with this header, as the heap or the class has it
  Block *next;  // among kept small ones
  void *data() { return this + 1; }
  static Block *of(void *data) { return static_cast<Block *>(data) - 1; }
};
static_assert(sizeof(Block) == 64);

// ---- large blocks ----

// A heap in one range of addresses, reserved at once and made usable as it grows. Takes the smallest free extent that fits,
// the lowest of equal ones.
class Heap {
 public:
  Block *take(size_t size) {
    size = (size + kPage - 1) & ~(kPage - 1);
    std::lock_guard<std::mutex> lock(mu_);
    size_t at;
    if (auto fit = by_size_.lower_bound({size, 0}); fit != by_size_.end()) {
      const auto [length, start] = *fit;
      at = start;
      by_size_.erase(fit);
      free_.erase(start);
      if (length > size) insert(start + size, length - size);
    } else {
      at = end_;
      if (!grow(at + size)) return nullptr;
      end_ = at + size;
    }
    in_use_ += size;
    most_in_use_ = std::max(most_in_use_, in_use_);
    touched_ = std::max(touched_, end_);
    most_touched_ = std::max(most_touched_, touched_);
    auto *b = reinterpret_cast<Block *>(base_ + at);
    b->size = size;
    return b;
  }

  void give(Block *b) {
    std::lock_guard<std::mutex> lock(mu_);
    size_t at = static_cast<size_t>(reinterpret_cast<char *>(b) - base_), size = b->size;
    in_use_ -= size;
    auto after = free_.lower_bound(at);
    if (after != free_.end() && after->first == at + size) {
      size += after->second;
      after = erase(after);
    }
    if (after != free_.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == at) {
        at = before->first;
        size += before->second;
        erase(before);
      }
    }
    if (at + size == end_)
      end_ = at;
    else
      insert(at, size);
  }

  // Gives the pages of free extents back to the system; the addresses stay.
  void purge() {
    std::lock_guard<std::mutex> lock(mu_);
    for (const auto &[at, size] : free_) madvise(base_ + at, size, MADV_DONTNEED);
    if (touched_ > end_) madvise(base_ + end_, touched_ - end_, MADV_DONTNEED);
    touched_ = end_;
  }

  void figures(int64_t *stats) {
    std::lock_guard<std::mutex> lock(mu_);
    stats[0] = static_cast<int64_t>(in_use_);
    stats[1] = static_cast<int64_t>(most_in_use_);
    stats[2] = static_cast<int64_t>(touched_);
    stats[3] = static_cast<int64_t>(most_touched_);
  }

 private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kReserve = size_t{1} << 42, kLeast = size_t{1} << 30;  // of addresses: they cost nothing
  static constexpr size_t kStep = size_t{64} << 20;

  // Makes [0, want) usable.
  bool grow(size_t want) {
    // Where a process may not have so many addresses (ulimit -v), as many as it gets.
    for (size_t n = kReserve; !base_; n /= 2) {
      if (n < kLeast) return false;
      void *p = mmap(nullptr, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) continue;
      base_ = static_cast<char *>(p);
      reserved_ = n;
    }
    if (want <= usable_) return true;
    if (want > reserved_) return false;
    for (const size_t to : {std::min((want + kStep - 1) / kStep * kStep, reserved_), want}) {
      if (mprotect(base_ + usable_, to - usable_, PROT_READ | PROT_WRITE) != 0) continue;
      usable_ = to;
      return true;
    }
    return false;
  }

  using Extents = std::map<size_t, size_t>;
  void insert(size_t at, size_t size) {
    free_.emplace(at, size);
    by_size_.emplace(size, at);
  }
  Extents::iterator erase(Extents::iterator e) {
    by_size_.erase({e->second, e->first});
    return free_.erase(e);
  }

  std::mutex mu_;
  char *base_ = nullptr;
  size_t reserved_ = 0, usable_ = 0;
  size_t end_ = 0;      // nothing is in use from here on
  size_t touched_ = 0;  // the system has given no page from here on
  size_t in_use_ = 0, most_in_use_ = 0, most_touched_ = 0;
  Extents free_;                                // by address
  std::set<std::pair<size_t, size_t>> by_size_;  // the same
};

// Never destroyed: tensors are freed until the very end of the process.
Heap &heap() {
  static auto *h = new Heap;
  return *h;
}

// ---- small blocks ----

// Sizes are rounded up to eight steps an octave, and to 64.
constexpr uint32_t kSteps = 8;
constexpr size_t rounded(size_t n) { return n <= 64 ? 64 : (n + 63) & ~size_t{63}; }
constexpr uint32_t class_of(size_t rounded) {
  const auto shift = static_cast<uint32_t>(std::bit_width(rounded - 1)) - 4;
  return shift * kSteps + static_cast<uint32_t>((rounded - 1) >> shift) - kSteps;
}
constexpr size_t size_of(uint32_t c) { return (static_cast<size_t>(c % kSteps) + kSteps + 1) << (c / kSteps); }
constexpr uint32_t kClasses = class_of(kSmall) + 1;

// What one thread keeps.
struct Small {
  Block *bins[kClasses] = {};
  uint32_t count[kClasses] = {};
  size_t kept = 0;

  void flush() {
    for (uint32_t c = 0; c < kClasses; c++) {
      while (Block *b = bins[c]) {
        bins[c] = b->next;
        std::free(b);
      }
      count[c] = 0;
    }
    kept = 0;
  }
};

CT_THREAD_LOCAL Small *small = nullptr;
CT_THREAD_LOCAL bool ended = false;  // other thread-local objects may free tensors after Small is gone

// The calling thread's; null at its end.
Small *of_thread() {
  if (small || ended) return small;
  struct Owner {
    ~Owner() {
      small->flush();
      delete small;
      small = nullptr;
      ended = true;
    }
  };
  small = new Small;
  thread_local Owner owner;
  return small;
}

Block *take_small(size_t n) {
  const uint32_t cls = class_of(rounded(n));
  if (Small *s = of_thread()) {
    if (Block *b = s->bins[cls]) {
      s->bins[cls] = b->next;
      s->count[cls]--;
      s->kept -= b->size;
      return b;
    }
  }
  void *p = nullptr;
  const size_t size = size_of(cls);
  if (posix_memalign(&p, alignof(Block), sizeof(Block) + size) != 0) return nullptr;
  auto *b = static_cast<Block *>(p);
  b->size = size;
  return b;
}

void give_small(Block *b) {
  if (Small *s = kKeep ? of_thread() : nullptr) {
    const uint32_t cls = class_of(b->size);
    if (s->kept + b->size <= kSmallKept && (s->count[cls] + 1) * b->size <= kSmallKeptOfClass) {
      b->next = s->bins[cls];
      s->bins[cls] = b;
      s->count[cls]++;
      s->kept += b->size;
      return;
    }
  }
  std::free(b);
}

// ---- libtorch's side ----

void release(void *data) {
  if (!data) return;
  Block *b = Block::of(data);
  if (b->size <= kSmall)
    give_small(b);
  else
    heap().give(b);
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    constexpr size_t most = size_t{1} << 46;  // beyond any memory: keeps the sums below from overflowing
    Block *b = n <= kSmall ? take_small(n) : n <= most ? heap().take(n + sizeof(Block)) : nullptr;
    TORCH_CHECK_WITH(OutOfMemoryError, b, "cannot allocate ", n, " bytes of memory");
    return {b->data(), b->data(), &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void *to, const void *from, size_t n) const override { default_copy_data(to, from, n); }
};

// When the layer is opened, before any tensor that this process makes: libtorch reads the allocator without a lock.
[[maybe_unused]] const bool installed = [] {
  static auto *a = new Allocator;
  c10::SetCPUAllocator(a, 1);
  return true;
}();

}  // namespace

}  // namespace ct

using namespace ct;

extern "C" {

void ct_cpu_empty_cache(void) {
  if (Small *s = of_thread()) s->flush();
  heap().purge();
}

void ct_cpu_memory(int64_t *stats) {
  heap().figures(stats);
  const int64_t page = sysconf(_SC_PAGESIZE);
  stats[4] = sysconf(_SC_AVPHYS_PAGES) * page;
  stats[5] = sysconf(_SC_PHYS_PAGES) * page;
}

}  // extern "C"
