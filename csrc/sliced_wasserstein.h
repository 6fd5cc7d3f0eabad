// Sliced Wasserstein distance between projected samples x [n, L] and y [m, L] (projected here, if nobody needs them: no
// gradient wanted), and the activation of the sliced head.
//
// Per direction W = sum over the pieces of [0, 1] on which both quantile functions are constant of
// length |x_(r) - y_(s)|^p; the distance is (mean over directions of W)^(1/p).
//   unit gradient  d mean W / d x_i = p / L sum over the pieces of i's rank of length |d|^(p-1) sign(d); -that for y
//
// Sliced head of z_bi = scale_i q_bi + offset_i, with m_bi = (z_bi > 0 ? 1 : slope) / K, constant almost everywhere:
//   forward          out_b = sum_i m_bi z_bi
//   backward         gq_bi = g_b m_bi scale_i, gscale_i = sum_b g_b m_bi q_bi, goffset_i = sum_b g_b m_bi
//   double backward  of <v, gq> + <vs, gscale> + <vo, goffset>: by g: sum_i m_bi (v_bi scale_i + vs_i q_bi + vo_i),
//                    by q: g_b m_bi vs_i, by scale: sum_b g_b m_bi v_bi
#pragma once
#include "pixel_norm.h"

namespace vgen {

// W_1 from bins takes projections in blocks of so many samples, [block, L, kSampleBlock], the last one [L, the rest]: a
// product writes them twice as fast as rows of all samples, and a row of a block is read as one.
constexpr int64_t kSampleBlock = 1024;

struct SlicedWassersteinParams {
  int64_t n, m, directions, features;
  double p;
  const void* x;      // [n, L], or [n, D] where theta is given
  const void* y;      // [m, L], or [m, D]
  const void* theta;  // [D, L], or null where x and y are projected already
  void* gx;           // unit gradients [n, L] and [m, L], or both null; never with theta
  void* gy;
  double* value;      // mean over directions of W
  Dtype dtype;        // float32 or float64
  int threads;
};

struct SlicedHeadParams {
  int64_t batch, directions;
  double slope;
  const void* q;       // [B, K]
  const void* g;       // [B]
  const void* scale;   // [K]
  const void* offset;  // [K]
  const void* v;       // [B, K]
  const void* vs;      // [K]
  const void* vo;      // [K]
  void* out;           // [B]: the output, or the gradient of g (double backward)
  void* gq;            // [B, K]
  void* gscale;        // [K]
  void* goffset;       // [K]
  Dtype dtype;
  int threads;
};

}  // namespace vgen
