// Element types of the tensors, and the type each one is computed in.
#pragma once
#include <cstdint>
#include <cstring>

namespace vgen {

// The order is the one of DTYPES in vgen_fast/ops/native.py.
enum class Dtype : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

struct BFloat16 {
  uint16_t bits;
};

#ifndef __CUDACC__
using Half = _Float16;

inline float to_float(BFloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// Round to nearest even; a NaN stays a (quiet) NaN.
inline BFloat16 to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {uint16_t(value == value ? rounded : 0x7fc0)};
}

template <class Acc, class S>
inline Acc load(S value) {
  return Acc(value);
}
template <>
inline float load<float, BFloat16>(BFloat16 value) {
  return to_float(value);
}

template <class S, class Acc>
inline S store(Acc value) {
  return S(value);
}
template <>
inline BFloat16 store<BFloat16, float>(float value) {
  return to_bfloat16(value);
}

// Calls fn(S{}, Acc{}) with the storage type and the type it is computed in.
template <class F>
inline void dispatch(Dtype dtype, F&& fn) {
  switch (dtype) {
    case Dtype::float32: return fn(float{}, float{});
    case Dtype::float64: return fn(double{}, double{});
    case Dtype::bfloat16: return fn(BFloat16{}, float{});
    case Dtype::float16: return fn(Half{}, float{});
  }
}
#endif

}  // namespace vgen
