// Runs CUDA sources on the CPU, one block at a time, one fiber per CUDA thread. (One header over 400 lines: it stands in
// for one.)
//
// A fiber runs until it meets a barrier, a warp collective or its end. Whoever arrives last at a collective computes it
// for all lanes. Stricter than a GPU: lanes of a warp do not run in step between collectives, threads may be run in
// reverse order (emulator::reverse), a collective some threads never reach is an error, cp.async delivers its data only at
// the wait, dynamic shared memory and workspace start as NaNs, and workspace is checked for writes outside it.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct __half {
  _Float16 value;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __half2float(__half v) { return float(v.value); }
inline __half __float2half_rn(float v) { return {_Float16(v)}; }
inline float __bfloat162float(__nv_bfloat16 v) {
  const uint32_t bits = uint32_t(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return {v == v ? uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : uint16_t(0x7fc0)};
}

namespace emulator {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s\n", what);
  std::fflush(stderr);
  std::abort();
}

constexpr size_t kStack = 256 << 10;
constexpr unsigned kMaxShared = 227 << 10;

struct Copy {
  void* to;
  const void* from;
  size_t bytes, from_bytes;
};

struct Fiber {
  ucontext_t context;
  jmp_buf jump;
  bool started, done;
  uint64_t waits_for;      // collective number it waits for, 0 when running
  bool waits_block;
  std::vector<std::vector<Copy>> copies;  // committed groups, the last one open
  std::vector<char> stack = std::vector<char>(kStack);
};

// A meeting of `count` threads: deposits of the current round, results of the last one.
struct Meeting {
  unsigned count = 0, arrived = 0;
  uint64_t round = 0;
  const char* site = nullptr;
};

struct State {
  dim3 block_dim, grid_dim, block_idx;
  unsigned thread = 0, threads = 0;
  bool reverse = false;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Meeting> warps;
  Meeting block;
  std::vector<std::vector<unsigned char>> deposits;  // per thread
  std::vector<unsigned char> shared;
  std::function<void()> body;
  jmp_buf scheduler;
  uint64_t mma = 0, ldmatrix = 0, cp_async = 0, launches = 0;
  int multiprocessors = 4;
  size_t max_shared = kMaxShared;
};

inline State& state() {
  static State s;
  return s;
}

inline void yield() {
  State& s = state();
  if (_setjmp(s.fibers[s.thread]->jump) == 0) _longjmp(s.scheduler, 1);
}

// Waits until all threads of the meeting are here; the last to arrive runs `work`.
template <class F>
void meet(Meeting& meeting, bool whole_block, const char* site, F&& work) {
  State& s = state();
  if (meeting.arrived == 0) meeting.site = site;
  if (std::strcmp(meeting.site, site) != 0) fail("threads of one warp or block meet in different collectives");
  const uint64_t round = meeting.round + 1;
  if (++meeting.arrived == meeting.count) {
    work();
    meeting.arrived = 0, meeting.round = round;
    return;
  }
  Fiber& me = *s.fibers[s.thread];
  me.waits_for = round, me.waits_block = whole_block;
  yield();
  me.waits_for = 0;
}

inline Meeting& my_warp() { return state().warps[state().thread / 32]; }

// Every lane leaves `value` and then reads what it wants from all 32 (absent lanes are an error).
template <class T>
const T* exchange(const T& value, const char* site) {
  State& s = state();
  static_assert(sizeof(T) <= 512);
  std::memcpy(s.deposits[s.thread].data(), &value, sizeof(T));
  static unsigned char table[64][512 * 32];  // per warp
  const unsigned warp = s.thread / 32;
  meet(my_warp(), false, site, [&] {
    for (unsigned lane = 0; lane < 32; ++lane)
      std::memcpy(table[warp] + lane * sizeof(T), s.deposits[warp * 32 + lane].data(), sizeof(T));
  });
  return reinterpret_cast<const T*>(table[warp]);
}

inline void enter() {
  State& s = state();
  s.body();
  s.fibers[s.thread]->done = true;
  _longjmp(s.scheduler, 1);
}

inline bool can_run(const State& s, const Fiber& f, unsigned thread) {
  if (f.done) return false;
  if (f.waits_for == 0) return true;
  return (f.waits_block ? s.block.round : s.warps[thread / 32].round) >= f.waits_for;
}

inline void run_block() {
  State& s = state();
  s.block = Meeting{s.threads, 0, 0, nullptr};
  s.warps.assign((s.threads + 31) / 32, Meeting{32, 0, 0, nullptr});
  if (s.threads % 32) s.warps.back().count = s.threads % 32;
  while (s.fibers.size() < s.threads) s.fibers.push_back(std::make_unique<Fiber>());
  s.deposits.assign(s.threads, std::vector<unsigned char>(512));
  std::memset(s.shared.data(), 0xff, s.shared.size());
  for (unsigned i = 0; i < s.threads; ++i) {
    Fiber& f = *s.fibers[i];
    f.started = f.done = false, f.waits_for = 0;
    f.copies.assign(1, {});
  }
  for (volatile bool left = true; left;) {
    left = false;
    volatile bool moved = false;
    for (volatile unsigned n = 0; n < s.threads; n = n + 1) {
      const unsigned i = s.reverse ? s.threads - 1 - n : n;
      Fiber& f = *s.fibers[i];
      if (f.done) continue;
      left = true;
      if (!can_run(s, f, i)) continue;
      moved = true;
      s.thread = i;
      if (_setjmp(s.scheduler) == 0) {
        if (f.started) _longjmp(f.jump, 1);
        f.started = true;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
        setcontext(&f.context);
      }
    }
    if (left && !moved) fail("deadlock: some threads wait at a barrier or collective that others never reach");
  }
  if (s.block.arrived) fail("threads left a barrier unfinished");
}

template <class F>
void launch(dim3 grid, dim3 block, size_t shared, F&& body) {
  State& s = state();
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("empty grid");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) fail("grid too large");
  if (block.y != 1 || block.z != 1 || block.x == 0 || block.x > 1024) fail("block size");
  if (shared > s.max_shared) fail("too much dynamic shared memory");
  s.grid_dim = grid, s.block_dim = block, s.threads = block.x;
  s.shared.assign(shared + 16, 0xff);
  s.body = body;
  ++s.launches;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        s.block_idx = dim3(x, y, z);
        run_block();
      }
}

struct ThreadIndex {
  struct X {
    operator unsigned() const { return state().thread; }
  } x;
};
}  // namespace emulator

#define threadIdx (::emulator::ThreadIndex{})
#define blockIdx (::emulator::state().block_idx)
#define blockDim (::emulator::state().block_dim)
#define gridDim (::emulator::state().grid_dim)

#define VGEN_STRIP(...) __VA_ARGS__
#define VGEN_LAUNCH(kernel, grid, block, shared, stream, ...)           \
  do {                                                                  \
    (void)(stream);                                                     \
    auto vgen_kernel = VGEN_STRIP kernel;                               \
    auto vgen_call = [&] { ::emulator::start(vgen_kernel, __VA_ARGS__); }; \
    ::emulator::launch(grid, block, shared, vgen_call);                 \
  } while (0)
#define VGEN_DYNAMIC_SHARED(name) \
  unsigned char* name = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(::emulator::state().shared.data()) + 15) & ~uintptr_t(15))

namespace emulator {
// Arguments are converted once, as a launch does.
template <class... P, class... A>
void start(void (*kernel)(P...), A&&... args) {
  kernel(P(args)...);
}
}  // namespace emulator

inline void __syncthreads() {
  emulator::meet(emulator::state().block, true, "__syncthreads", [] {});
}
inline void __syncwarp() {
  emulator::meet(emulator::my_warp(), false, "__syncwarp", [] {});
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const unsigned lane = emulator::state().thread % 32;
  return emulator::exchange(value, "__shfl_xor_sync")[lane ^ unsigned(mask)];
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = emulator::state().thread % 32;
  return emulator::exchange(value, "__shfl_down_sync")[lane + delta < 32 ? lane + delta : lane];
}
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
template <class T>
T __ldg(const T* from) {
  return *from;
}

// ----------------------------------------------------------------------------------------------------- the runtime

using cudaStream_t = void*;
using cudaMemPool_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrComputeCapabilityMajor };
enum { cudaMemPoolAttrReleaseThreshold };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t e) { return e == cudaErrorInvalidValue ? "invalid argument" : "error"; }
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
inline cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, int, void*) { return cudaSuccess; }
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, int, void*) { return cudaSuccess; }
template <class K>
cudaError_t cudaFuncSetAttribute(K, int, int bytes) {
  return size_t(bytes) <= emulator::state().max_shared ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount     ? emulator::state().multiprocessors
           : which == cudaDevAttrComputeCapabilityMajor ? 9
                                                        : int(emulator::state().max_shared);
  return cudaSuccess;
}

namespace emulator {
constexpr size_t kMargin = 256;
}
// Workspace: the size in front, margins on both sides, NaNs inside.
inline cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  using emulator::kMargin;
  auto* block = static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + 2 * kMargin + 255) / 256 * 256));
  if (!block) return cudaErrorMemoryAllocation;
  std::memset(block, 0xa5, kMargin);
  std::memcpy(block, &bytes, sizeof(bytes));
  std::memset(block + kMargin, 0xff, bytes);
  std::memset(block + kMargin + bytes, 0xa5, kMargin);
  *data = block + kMargin;
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  using emulator::kMargin;
  auto* block = static_cast<unsigned char*>(data) - kMargin;
  size_t bytes;
  std::memcpy(&bytes, block, sizeof(bytes));
  for (size_t i = sizeof(bytes); i < kMargin; ++i)
    if (block[i] != 0xa5) emulator::fail("write in front of the workspace");
  for (size_t i = 0; i < kMargin; ++i)
    if (block[kMargin + bytes + i] != 0xa5) emulator::fail("write behind the workspace");
  std::free(block);
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------------ tensor-core instructions

namespace emulator {

// ldmatrix .x4: matrix i has its row r at the address lane 8 i + r gives; register i of lane L holds elements
// (L / 4, 2 (L % 4)) and the next one; with .trans of the transposed matrix.
inline void ldmatrix_x4(uint32_t (&out)[4], const void* address, bool trans) {
  if (reinterpret_cast<uintptr_t>(address) % 16) fail("ldmatrix: a row address is not a multiple of 16 bytes");
  const void* const* rows = exchange(address, trans ? "ldmatrix.trans" : "ldmatrix");
  const unsigned lane = state().thread % 32;
  if (lane == 0) ++state().ldmatrix;
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (unsigned e = 0; e < 2; ++e) {
      const unsigned row = trans ? 2 * (lane % 4) + e : lane / 4, col = trans ? lane / 4 : 2 * (lane % 4) + e;
      pair[e] = static_cast<const uint16_t*>(rows[8 * i + row])[col];
    }
    out[i] = uint32_t(pair[0]) | uint32_t(pair[1]) << 16;
  }
}

template <class S>
float half_of(uint32_t reg, int which) {
  const uint16_t bits = uint16_t(reg >> (16 * which));
  S value;
  std::memcpy(&value, &bits, 2);
  if constexpr (sizeof(S) != 2) return 0;
  else if constexpr (std::is_same<S, __half>::value) return __half2float(value);
  else return __bfloat162float(value);
}

// mma.m16n8k16, row.col, fp32 accumulation, by the fragment tables of the PTX manual (g = lane / 4, t = lane % 4):
//   a0: (g, 2t + e)  a1: (g + 8, 2t + e)  a2: (g, 2t + 8 + e)  a3: (g + 8, 2t + 8 + e)
//   b0: (2t + e, g)  b1: (2t + 8 + e, g)    c0, c1: (g, 2t + e)  c2, c3: (g + 8, 2t + e)
template <class S>
void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const Operands* all = exchange(mine, "mma");
  const unsigned lane = state().thread % 32, g = lane / 4, t = lane % 4;
  if (lane == 0) ++state().mma;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + 8 * (i / 2), col = 2 * t + i % 2;
    double sum = c[i];
    for (unsigned k = 0; k < 16; ++k) {
      const Operands& left = all[row % 8 * 4 + k % 8 / 2];
      const Operands& right = all[col * 4 + k % 8 / 2];
      sum += double(half_of<S>(left.a[row / 8 + 2 * (k / 8)], k % 2)) * double(half_of<S>(right.b[k / 8], k % 2));
    }
    c[i] = float(sum);
  }
}

// 16 bytes, of which the first `bytes` come from memory and the rest are zero.
inline void cp_async16(void* to, const void* from, unsigned bytes) {
  if (reinterpret_cast<uintptr_t>(to) % 16) fail("cp.async: the shared address is not a multiple of 16 bytes");
  if (bytes && reinterpret_cast<uintptr_t>(from) % 16) fail("cp.async: the global address is not a multiple of 16 bytes");
  ++state().cp_async;
  state().fibers[state().thread]->copies.back().push_back({to, from, 16, bytes});
}
inline void cp_async_commit() { state().fibers[state().thread]->copies.push_back({}); }
inline void cp_async_wait(int pending) {
  auto& groups = state().fibers[state().thread]->copies;
  while (int(groups.size()) - 1 > pending) {
    for (const Copy& copy : groups.front()) {
      std::memset(copy.to, 0, copy.bytes);
      if (copy.from_bytes) std::memcpy(copy.to, copy.from, copy.from_bytes);
    }
    groups.erase(groups.begin());
  }
}

}  // namespace emulator
