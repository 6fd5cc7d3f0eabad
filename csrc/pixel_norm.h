// Pixel norm with a leaky ReLU before it: a = lrelu(z) * gain, r = 1 / sqrt(mean_c a^2 + eps), y = r a.
#pragma once
#include "modulated_conv3d.h"

namespace vgen {

struct PixelNormParams {
  int64_t batch, channels, positions;
  int64_t channel_stride, position_stride;  // of x, y, g and gx alike; one of the two is 1, samples are dense
  double slope, gain, eps;                  // gain only in the backward
  const void* x;
  const void* g;
  const void* y;
  const void* r;  // [batch, positions] in the compute type; null in the backward: no norm, only lrelu and gain
  void* out;      // y in the forward, gz in the backward
  void* out_r;    // or null
  Dtype dtype;
  int threads;
};

template <class Acc>
VGEN_HD inline Acc leaky(Acc z, Acc slope) {
  return z > 0 ? z : z * slope;
}

// Derivative of leaky(z) * gain, from the sign of y (the sign of z for slope >= 0 and gain > 0).
template <class Acc>
VGEN_HD inline Acc leaky_derivative(Acc y, Acc slope, Acc gain) {
  return y > 0 ? gain : gain * slope;
}

}  // namespace vgen
