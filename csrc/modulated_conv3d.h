// The convolution family: parameters, and how one axis of it is split into units.
//
// A convolution with nearest upsampling before it, or average pooling after it, is computed per axis as a sum over
// `units`, each a short correlation on a low-resolution grid:
//
//   y[first_output() + parities * j + p] = sum_u combine(p, u) * sum_m w_u[m] * (element read by (u, m) at grid position j)
//   w_u[m]              = sum_k spread(u, m, k) * w[k]
//
//   mode       units  taps         unit u, tap m at grid position j reads
//   direct     1      k            x[j + m - pad]
//   up         2      (k + 1) / 2  x[j + floor((u - pad) / 2) + m]: all taps that fall on one input are summed first
//   down       1      k + 1        x[2 j + m - pad], with w_u the box-averaged kernel
//   winograd   4      1            F(2, 3): four combinations of 4 inputs, for 2 outputs (3 taps)
//   up_pair    3      1            the first, or the difference, of 2 inputs, for the 2 outputs that read both (3 taps)
//   down_pair  3      2            F(2, 2) on the even and on the odd inputs of 6, for 2 outputs (3 taps)
//
// The last three need fewer products (4, 3 and 6 for 2 outputs instead of 6, 4 and 8), and come on h and w together.
// The kernel and weight-gradient transforms are transposes of each other, so both read the same two functions.
// docs/ops.md derives the table. All of it is host and device code; tests/ops/test_axis_plan.py calls it.
#pragma once
#include <cstdint>

#include "dtypes.h"

#ifdef __CUDACC__
#define VGEN_HD __host__ __device__
#else
#define VGEN_HD
#endif

namespace vgen {

struct ConvParams {
  int64_t batch, in_channels, out_channels;
  int64_t in_size[3], out_size[3];      // (t, h, w) of x and of y
  int64_t kernel[3], padding[3];
  int64_t up[3], down[3];
  int64_t x_stride[5], y_stride[5];     // elements; y is g in the weight gradient
  int64_t noise_stride[5];              // zeros where noise is broadcast
  int64_t frames;                       // to each sample, counted as samples themselves: 1, but see conv_tile.h
  int64_t per_sample;                   // weights (or their gradient) are [B, O, I, k] instead of [O, I, k]
  int64_t mirrored;                     // w is that of the convolution whose input gradient this is: [I, O, k], taps reversed
  int64_t pixel_norm;
  double slope, gain, eps;              // slope 1 is no activation; on CPU gain scales the weight gradient too
  const void* x;
  const void* w;                        // contiguous, in the compute type; mirrored on CPU only
  const void* bias;                     // [O] in the compute type, or null
  const void* noise;                    // in x's type, or null
  void* y;
  void* r;                              // [B, T, H, W] in the compute type, the factor of pixel norm if wanted, or null
  void* gw;                             // weight gradient, contiguous, in the compute type
  void* gb;                             // sum of g over everything but channels ([O], or [B, O] per sample)
  // Or null: a gradient (x of a forward call, y of a weight gradient) passes an activation while it is read, element i as
  // g[i] * (gate[i] > 0 ? 1 : gate_slope). `gate` is that activation's output, with g's strides, 1 along w. CPU only.
  const void* gate;
  double gate_slope;
  Dtype dtype;
  int threads;

  // Elements before a sample of a tensor of these strides, and samples that share their weights.
  VGEN_HD int64_t start(int64_t sample, const int64_t* stride) const {
    return sample / frames * stride[0] + sample % frames * stride[2];
  }
  VGEN_HD int64_t alike() const { return per_sample ? frames : batch; }
};

enum class AxisMode : int { direct, up, down, winograd, up_pair, down_pair };

VGEN_HD inline int64_t floor_div2(int64_t n) { return (n - (n & 1)) / 2; }

struct AxisPlan {
  AxisMode mode;
  int64_t kernel, padding;
  int64_t grid;  // positions per unit
  int units, taps, parities, subs;

  VGEN_HD static AxisPlan make(AxisMode mode, int64_t kernel, int64_t padding, int64_t out) {
    switch (mode) {
      case AxisMode::direct: break;
      case AxisMode::up: return {mode, kernel, padding, (out + 1) / 2, 2, int((kernel + 1) / 2), 2, 1};
      case AxisMode::down: return {mode, kernel, padding, out, 1, int(kernel + 1), 1, 2};
      case AxisMode::winograd: return {mode, kernel, padding, (out + 1) / 2, 4, 1, 2, 4};
      case AxisMode::up_pair: return {mode, kernel, padding, (out + 1 + (padding & 1)) / 2, 3, 1, 2, 2};
      case AxisMode::down_pair: return {mode, kernel, padding, (out + 1) / 2, 3, 2, 2, 6};
    }
    return {AxisMode::direct, kernel, padding, out, 1, int(kernel), 1, 1};
  }

  VGEN_HD bool paired() const { return int(mode) >= int(AxisMode::winograd); }

  // Output index of grid position 0, parity 0: -1 where the first pair straddles the border.
  VGEN_HD int64_t first_output() const { return mode == AxisMode::up_pair ? -(padding & 1) : 0; }

  // Input elements between neighbouring grid positions.
  VGEN_HD int64_t step() const {
    return mode == AxisMode::down || mode == AxisMode::winograd ? 2 : mode == AxisMode::down_pair ? 4 : 1;
  }

  // Unit u, tap m at grid position j reads x[step() * j + shift(u, m)]; a paired mode, a window that starts there.
  VGEN_HD int64_t shift(int u, int m) const {
    if (mode == AxisMode::up_pair) return floor_div2(-padding);
    if (paired()) return -padding;
    return mode == AxisMode::up ? floor_div2(u - padding) + m : m - padding;
  }

  // The part of x a tile needs is kept as `subs` sequences: the elements themselves, their even and odd halves (down),
  // or the combinations a paired mode reads. Element 0 of a tile at grid position j is (made from) x[first_input(j)] on.
  VGEN_HD int64_t first_input(int64_t j) const {
    return mode == AxisMode::down ? 2 * (j + floor_div2(shift(0, 0))) : step() * j + shift(0, 0);
  }
  VGEN_HD int sub(int u, int m) const {
    switch (mode) {
      case AxisMode::down: return int(shift(u, m) & 1);
      case AxisMode::winograd: return u;
      case AxisMode::up_pair: return u > 0;
      case AxisMode::down_pair: return 3 * m + u;
      default: return 0;
    }
  }
  VGEN_HD int64_t offset(int u, int m) const {
    if (paired()) return 0;
    if (mode == AxisMode::down) return floor_div2(shift(u, m)) - floor_div2(shift(0, 0));
    return shift(u, m) - shift(0, 0);
  }
  // Length of each sub-sequence, and number of input elements read, for a tile of `count` grid positions.
  VGEN_HD int64_t extent(int64_t count) const { return count + offset(units - 1, taps - 1); }
  VGEN_HD int64_t num_inputs(int64_t count) const {
    if (paired()) return step() * count + (mode == AxisMode::up_pair ? 1 : 2);
    return subs * extent(count);
  }

  VGEN_HD double spread(int u, int m, int64_t k) const {
    switch (mode) {
      case AxisMode::direct: return m == k;
      case AxisMode::up: return floor_div2(u + k - padding) - floor_div2(u - padding) == m;
      case AxisMode::down: return (m == k || m == k + 1) ? 0.5 : 0.0;
      case AxisMode::winograd:
        if (u == 0) return k == 0;
        if (u == 3) return k == 2;
        return (u == 2 && k == 1) ? -0.5 : 0.5;
      case AxisMode::up_pair: return u == 0 ? 1 : u == 1 ? k == 2 : k >= 1;
      case AxisMode::down_pair: {
        // Half of (w0, w1 + w2) on the even inputs, of (w0 + w1, w2) on the odd ones.
        const bool first = k <= m, second = k > m;
        return 0.5 * (u == 0 ? first : u == 1 ? 1 : second);
      }
    }
    return 0;
  }

  VGEN_HD double combine(int p, int u) const {
    switch (mode) {
      case AxisMode::up: return p == u;
      case AxisMode::winograd: return p == 0 ? u < 3 : u == 1 ? 1 : u == 0 ? 0 : -1;
      case AxisMode::up_pair: return u == 0 || u == p + 1;
      case AxisMode::down_pair: return u == 1 ? 1 : p == 0 ? u == 0 : -(u == 2);
      default: return 1;
    }
  }
};

}  // namespace vgen
