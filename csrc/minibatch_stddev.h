// Minibatch standard deviation: s_m = mean over features f of sigma_f, sigma_f = sqrt(var over the group of x_f + eps).
//
// A feature is one element of a sample, in memory order; group m holds samples m, m + M, m + 2 M ... (M = batch / group).
//   backward         gx_if = g_if + gs_m / (F G) (x_if - mu_f) / sigma_f,  gs_m = sum of the statistic's gradient
//   double backward  of <v, gx> by g: (v, ts_m) with ts_m = 1 / (F G) sum_if v_if (x_if - mu_f) / sigma_f
//                    by x: gs_m / (F G) [ (v_if - mean v_f) / sigma_f - (x_if - mu_f) sum_j v_jf (x_jf - mu_f) / (G sigma_f^3) ]
#pragma once
#include "pixel_norm.h"

namespace vgen {

struct MinibatchStddevParams {
  int64_t batch, channels, positions, group;
  int64_t channels_last;  // of every tensor; all are dense
  double eps;
  const void* x;   // [B, C, ...]
  const void* g;   // [B, C + 1, ...]: gradient of y
  const void* v;   // [B, C, ...]: gradient of gx (double backward)
  void* y;         // [B, C + 1, ...]: y, or the gradient of g (double backward)
  void* gx;        // [B, C, ...]
  Dtype dtype;
  int threads;
};

// Where feature f of a sample lies in a sample of C + 1 channels.
VGEN_HD inline int64_t wide_feature(int64_t f, int64_t channels, int64_t channels_last) {
  return channels_last ? f + f / channels : f;
}
// Where the statistic at position i lies in a sample of C + 1 channels.
VGEN_HD inline int64_t statistic_at(int64_t i, int64_t channels, int64_t positions, int64_t channels_last) {
  return channels_last ? i * (channels + 1) + channels : channels * positions + i;
}

}  // namespace vgen
