// One vector type per instruction set; each source in this folder is compiled once per set (VGEN_ISA names the set).
#pragma once
#include <algorithm>
#include <cstdint>

#include "dtypes.h"

namespace vgen::VGEN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
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
        for (int64_t k = i; k < i + lanes; ++k) to[j * to_stride + k] = from[k * from_stride + j];
    }
  }
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      if constexpr (std::is_same_v<S, BFloat16>)
        to[j * to_stride + i] = load<T>(from[i * from_stride + j]);
      else
        to[j * to_stride + i] = store<T>(from[i * from_stride + j]);
    }
}

}  // namespace vgen::VGEN_ISA
