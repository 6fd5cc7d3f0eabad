// What every CUDA source needs: device and error handling, launches, workspace, element types, vectors, reductions.
//
// With VGEN_CUDA_EMULATED the same sources compile with a C++ compiler and run on the CPU (tests/cuda/emulator.h).
#pragma once
#include <cstdint>

#ifdef VGEN_CUDA_EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define VGEN_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define VGEN_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#include "modulated_conv3d.h"

namespace vgen {
namespace device {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr int64_t kMaxGrid = 0x7fffffff;

// ------------------------------------------------------------------------------------------------------------ host

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Makes `device` current for the life of the object.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && device != before_) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

// Runs launch(stream) -> cudaError_t on the device; null, or the text of the first error.
template <class F>
const char* on_device(int device, void* stream, F&& launch) {
  const DeviceGuard guard(device);
  cudaError_t error = guard.error();
  if (error == cudaSuccess) error = launch(static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

inline int attribute(cudaDeviceAttr which, int fallback) {
  int device = 0, value = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&value, which, device) == cudaSuccess;
  return known && value > 0 ? value : fallback;
}
inline int num_multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount, 1); }

// Blocks for `work` items, at most a few full waves: kernels walk the rest with a grid-stride loop.
inline unsigned grid_size(int64_t work, int blocks_per_multiprocessor) {
  const int64_t most = int64_t(num_multiprocessors()) * blocks_per_multiprocessor;
  return unsigned(work < most ? (work > 0 ? work : 1) : most);
}

// Stream-ordered memory, freed on the same stream: also works while a graph is captured.
class Workspace {
 public:
  Workspace(size_t bytes, cudaStream_t stream) : stream_(stream) {
    keep_pool();
    error_ = cudaMallocAsync(&data_, bytes > 0 ? bytes : 1, stream);
    if (error_ != cudaSuccess) data_ = nullptr;
  }
  ~Workspace() {
    if (data_) cudaFreeAsync(data_, stream_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  cudaError_t error() const { return error_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  // The default pool gives everything back at every synchronisation, and then each call maps memory anew.
  static void keep_pool() {
    constexpr uint64_t kKeep = 256ull << 20;
    int device = 0;
    cudaMemPool_t pool;
    uint64_t threshold = 0;
    if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetDefaultMemPool(&pool, device) != cudaSuccess) return;
    if (cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold) != cudaSuccess || threshold >= kKeep) return;
    threshold = kKeep;
    cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
  }
  void* data_ = nullptr;
  cudaStream_t stream_;
  cudaError_t error_;
};

// Calls fn(S{}, Acc{}) with the device's storage type and the type it is computed in.
template <class F>
cudaError_t dispatch_types(Dtype dtype, F&& fn) {
  switch (dtype) {
    case Dtype::float32: return fn(float{}, float{});
    case Dtype::float64: return fn(double{}, double{});
    case Dtype::bfloat16: return fn(__nv_bfloat16{}, float{});
    case Dtype::float16: return fn(__half{}, float{});
  }
  return cudaErrorInvalidValue;
}

// Division of 0 <= n < 2^63 by a fixed positive number: a multiplication and a shift. (A 64-bit division on the device
// is a subroutine call, which also spills registers.)
struct Divider {
  using Wide = unsigned __int128;
  uint64_t magic;
  int shift;

  Divider() = default;
  explicit Divider(int64_t divisor) {
    shift = 0;
    while (shift < 63 && (int64_t(1) << shift) < divisor) ++shift;
    const Wide excess = (Wide(1) << shift) - uint64_t(divisor);
    magic = uint64_t((excess << 64) / uint64_t(divisor)) + 1;
  }
  VGEN_HD int64_t quotient(int64_t n) const {
#ifdef __CUDA_ARCH__
    const uint64_t high = __umul64hi(uint64_t(n), magic);
#else
    const uint64_t high = uint64_t(Wide(uint64_t(n)) * magic >> 64);
#endif
    return int64_t((high + uint64_t(n)) >> shift);
  }
};

inline bool aligned16(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

// ---------------------------------------------------------------------------------------------------------- device

template <class Acc>
__device__ inline Acc widen(float value) {
  return Acc(value);
}
template <class Acc>
__device__ inline Acc widen(double value) {
  return Acc(value);
}
template <class Acc>
__device__ inline Acc widen(__half value) {
  return Acc(__half2float(value));
}
template <class Acc>
__device__ inline Acc widen(__nv_bfloat16 value) {
  return Acc(__bfloat162float(value));
}

template <class S>
struct Narrow;
template <>
struct Narrow<float> {
  __device__ static float from(float value) { return value; }
};
template <>
struct Narrow<double> {
  __device__ static double from(double value) { return value; }
};
template <>
struct Narrow<__half> {
  __device__ static __half from(float value) { return __float2half_rn(value); }
};
template <>
struct Narrow<__nv_bfloat16> {
  __device__ static __nv_bfloat16 from(float value) { return __float2bfloat16_rn(value); }
};
template <class S, class Acc>
__device__ inline S narrow(Acc value) {
  return Narrow<S>::from(value);
}

// N elements moved by one access.
template <class S, int N>
struct alignas(sizeof(S) * N) Vec {
  S at[N];
};
template <class S>
constexpr int kVector = int(16 / sizeof(S));

template <int N, class S>
__device__ inline Vec<S, N> load_vec(const S* from) {
  return *reinterpret_cast<const Vec<S, N>*>(from);
}
template <class S, int N>
__device__ inline void store_vec(S* to, const Vec<S, N>& value) {
  *reinterpret_cast<Vec<S, N>*>(to) = value;
}

// Without the subroutine calls of an exactly rounded root or quotient; within two ulps.
__device__ inline float inverse_sqrt(float value) { return rsqrtf(value); }
__device__ inline double inverse_sqrt(double value) { return rsqrt(value); }
template <class Acc>
__device__ inline Acc square_root(Acc value) {
  return value > 0 ? value * inverse_sqrt(value) : value;
}

// Sum over each aligned run of `lanes` (a power of two) lanes; every lane of the warp must take part.
template <class Acc>
__device__ inline Acc sum_lanes(Acc value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullMask, value, step);
  return value;
}

// Sum over the block in a fixed order, given to every thread. kThreads is the block size.
template <int kThreads, class Acc>
__device__ inline Acc sum_block(Acc value) {
  __shared__ Acc warps[kThreads / kWarp];
  value = sum_lanes(value, kWarp);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  Acc sum = 0;
  for (int i = 0; i < kThreads / kWarp; ++i) sum += warps[i];
  return sum;
}

}  // namespace device
}  // namespace vgen
