// One vector type per instruction set; each source in this folder is compiled once per set (VGEN_ISA names the set).
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "dtypes.h"

namespace vgen::VGEN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

template <class T, int bytes = kVectorBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
};
template <class T, int bytes = kVectorBytes>
using Vector = typename VectorOf<T, bytes>::type;
template <class T, int bytes = kVectorBytes>
constexpr int kLanes = bytes / sizeof(T);

template <class T, int bytes = kVectorBytes>
inline Vector<T, bytes> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, bytes>*>(p);
}
template <class T, int bytes = kVectorBytes>
inline void store_vector(T* p, Vector<T, bytes> v) {
  *reinterpret_cast<Vector<T, bytes>*>(p) = v;
}

#define VGEN_NOINLINE __attribute__((noinline))  // long code that recursion or unrolling would copy

// Starts reading `count` elements that are wanted soon; an address that is not there does no harm. Inlined by force: GCC
// drops calls of functions that do nothing but prefetch.
#define VGEN_INLINE inline __attribute__((always_inline))
template <class T>
VGEN_INLINE void fetch(const T* at, int64_t count) {
  for (int64_t k = 0; k < count * int64_t(sizeof(T)); k += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(at) + k, 0, 2);
}

// Vectors past the caches, straight to memory; both ends aligned. A thread that wrote so ends with stream_fence().
inline void stream_vectors(void* to, const void* from, int count) {
#if defined(__AVX512F__)
  for (int i = 0; i < count; ++i) _mm512_stream_si512(static_cast<__m512i*>(to) + i, static_cast<const __m512i*>(from)[i]);
#else
  for (int i = 0; i < count; ++i) _mm256_stream_si256(static_cast<__m256i*>(to) + i, static_cast<const __m256i*>(from)[i]);
#endif
}
inline void stream_fence() { _mm_sfence(); }

// Outputs that would push everything else out of the caches, and be gone themselves before anyone reads them, skip
// them: that saves reading each line before it is overwritten.
constexpr int64_t kStreamBytes = 16 << 20;

// out[i] = value(i) for i < count, streamed where asked.
template <class S, class F>
inline void write_line(S* __restrict out, int64_t count, bool stream, F&& value) {
  constexpr int vectors = 4, lanes = kLanes<S>, length = vectors * lanes;
  int64_t i = 0;
  if (stream) {
    const int64_t head = -(reinterpret_cast<uintptr_t>(out) / sizeof(S)) % lanes;
    for (; i < std::min(head, count); ++i) out[i] = value(i);
    for (; i + length <= count; i += length) {
      alignas(kVectorBytes) S block[length];
      for (int j = 0; j < length; ++j) block[j] = value(i + j);
      stream_vectors(out + i, block, vectors);
    }
  }
  for (; i < count; ++i) out[i] = value(i);
}

// Two neighbours, over and over.
inline Vector<float> repeat_pair(const float* at) {
  double pair;
  std::memcpy(&pair, at, sizeof pair);
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_set1_pd(pair);
#else
  return (Vector<float>)_mm256_set1_pd(pair);
#endif
}

// Sum of the lanes by halving, in the same order on every call.
template <class T>
inline T sum_lanes(Vector<T> v) {
  T lane[kLanes<T>];
  store_vector(lane, v);
  for (int width = kLanes<T> / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// Square block of lanes x lanes: log2(lanes) rounds, each interleaving row i with row i + lanes / 2.
template <class T, int bytes>
inline void transpose_block(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  constexpr int lanes = kLanes<T, bytes>;
  using Index = Vector<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>, bytes>;
  Index low, high;
  for (int i = 0; i < lanes; ++i) {
    low[i] = (i & 1) * lanes + i / 2;
    high[i] = low[i] + lanes / 2;
  }
  Vector<T, bytes> row[lanes], next[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) row[i] = load_vector<T, bytes>(from + i * from_stride);
#pragma GCC unroll 4
  for (int width = 1; width < lanes; width *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = __builtin_shuffle(row[i], row[i + lanes / 2], low);
      next[2 * i + 1] = __builtin_shuffle(row[i], row[i + lanes / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) row[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) store_vector<T, bytes>(to + i * to_stride, row[i]);
}

// to[j][i] = from[i][j] for a matrix of rows x columns, converting between the storage and the compute type.
template <class S, class T>
inline void transpose(const S* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  int64_t i = 0;
  if constexpr (std::is_same_v<S, T>) {
    constexpr int bytes = std::min<int>(kVectorBytes, 8 * sizeof(T)), lanes = kLanes<T, bytes>;
    for (; i + lanes <= rows; i += lanes) {
      int64_t j = 0;
      for (; j + lanes <= columns; j += lanes)
        transpose_block<T, bytes>(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
      for (; j < columns; ++j)
        for (int64_t k = i; k < i + lanes; ++k) std::memcpy(to + j * to_stride + k, from + k * from_stride + j, sizeof(T));
    }
  }
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      if constexpr (std::is_same_v<S, T>)
        std::memcpy(to + j * to_stride + i, from + i * from_stride + j, sizeof(T));  // T may stand for two of another type
      else if constexpr (std::is_same_v<S, BFloat16>)
        to[j * to_stride + i] = load<T>(from[i * from_stride + j]);
      else
        to[j * to_stride + i] = store<T>(from[i * from_stride + j]);
    }
}

}  // namespace vgen::VGEN_ISA
