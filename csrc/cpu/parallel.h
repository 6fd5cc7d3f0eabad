// Static work sharing on torch's thread pool (the process has one libgomp); scratch memory.
#pragma once
#include <omp.h>

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
