// Work sharing on torch's thread pool (the process has one libgomp); scratch memory.
#pragma once
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace vgen::VGEN_ISA {

// fn(begin, end, thread): contiguous shares, so results depend on the thread count and on nothing else.
template <class F>
inline void parallel_shares(int64_t count, int threads, F&& fn) {
  threads = int(threads < count ? threads : count);
  if (threads <= 1) {
    if (count > 0) fn(int64_t(0), count, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
    fn(count * me / team, count * (me + 1) / team, int(me));
  }
}

// fn(begin, end, thread) for pieces of about 1 / (16 threads) of the work, the next one to whichever thread is free: where
// what a piece writes does not depend on who does it, so that a thread held up (by page faults, say) delays no other.
template <class F>
inline void parallel_pieces(int64_t count, int threads, F&& fn) {
  const int64_t size = std::max<int64_t>(count / (16 * std::max(threads, 1)), 1);
  std::atomic<int64_t> next{0};
  parallel_shares(std::min<int64_t>(threads, count), threads, [&](int64_t, int64_t, int thread) {
    for (int64_t begin; (begin = next.fetch_add(size, std::memory_order_relaxed)) < count;)
      fn(begin, std::min(begin + size, count), thread);
  });
}

// Scratch memory kept by the calling thread between calls, so that small ops do not pay for fresh pages each time.
// Not cleared. Taken before the threads start, because an exception must not leave a parallel region.
class Arena {
 public:
  ~Arena() { std::free(data_); }
  char* take(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + 4095) / 4096 * 4096;
      data_ = static_cast<char*>(std::aligned_alloc(4096, size_));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

inline char* scratch(size_t bytes) {
  static thread_local Arena arena;
  return arena.take(bytes);
}

}  // namespace vgen::VGEN_ISA
