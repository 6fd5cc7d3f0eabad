// The convolution family on CUDA. Weights are first summed over taps and laid out by a small kernel (conv_plan.cuh has
// the units). Then either a tensor-core implicit GEMM (16-bit types) that keeps the input box of a tile in shared memory
// and lets ldmatrix address the taps in it, or a general kernel of fused multiply-adds for any type. (Long because both
// share the index code and the epilogue.)
#include "modulated_conv3d.h"

#include <type_traits>

#include "conv_plan.cuh"
#include "pixel_norm.h"
#include "reduce.cuh"
#include "tensor.cuh"

namespace vgen {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int kDepth = 16;         // of K per round of the general kernels
constexpr int kNever = -(1 << 29);  // a coordinate no shift brings inside
constexpr int64_t kMaxPartialBytes = 64 << 20;

template <class T>
__host__ __device__ T least(T a, T b) {
  return a < b ? a : b;
}

// --------------------------------------------------------------------------------------------------------- weights

// Tap m of unit u of the weights of (o, i): the sum of the taps that fall together.
template <class Acc>
__device__ Acc summed_tap(const ConvGrid& g, const Acc* w, int u, int m) {
  const UnitTap unit = g.unit(u), tap = g.tap(m);
  const TapRange t = tap_range(g.axis[0], unit.t, tap.t), h = tap_range(g.axis[1], unit.h, tap.h),
                 v = tap_range(g.axis[2], unit.w, tap.w);
  Acc sum = 0;
  for (int a = t.begin; a < t.end; ++a)
    for (int b = h.begin; b < h.end; ++b)
      for (int c = v.begin; c < v.end; ++c) sum += w[(a * g.axis[1].kernel + b) * g.axis[2].kernel + c];
  return sum * Acc(g.axis[0].factor * g.axis[1].factor * g.axis[2].factor);
}

// [sample][unit][tap][I][O] for the general kernel; one block per (sample, unit, tap, i).
template <class Acc>
__global__ void __launch_bounds__(kThreads) plain_weights_kernel(const __grid_constant__ ConvGrid g, int in_channels, int out_channels, int items,
                                                                 const Acc* w, Acc* out) {
  const int volume = g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel;
  for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {
    const int i = item % in_channels, m = item / in_channels % g.taps(), rest = item / in_channels / g.taps();
    const int u = rest % g.units(), sample = rest / g.units();
    for (int o = int(threadIdx.x); o < out_channels; o += kThreads)
      out[int64_t(item) * out_channels + o] =
          summed_tap(g, w + ((int64_t(sample) * out_channels + o) * in_channels + i) * volume, u, m);
  }
}

// The words of TensorPlan::block_words; one block per (sample, unit, block of columns, chunk, step).
template <class S>
__global__ void __launch_bounds__(kThreads) fragment_weights_kernel(const __grid_constant__ TensorPlan plan, int in_channels, int out_channels,
                                                                    int items, const float* w, S* out) {
  const ConvGrid& g = plan.grid;
  const int volume = g.axis[0].kernel * g.axis[1].kernel * g.axis[2].kernel, halves = 32 * plan.width * 4;
  for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {
    int rest = item;
    const int step = rest % plan.steps;
    rest /= plan.steps;
    const int chunk = rest % plan.chunks;
    rest /= plan.chunks;
    const int block = rest % plan.blocks;
    rest /= plan.blocks;
    const int u = rest % g.units(), sample = rest / g.units();
    for (int at = int(threadIdx.x); at < halves; at += kThreads) {
      const int words = plan.width == 1 ? 2 : 4, word = at / 2 % words, lane = at / 2 / words % 32;
      const int column = at / 2 / words / 32 * 2 + word / 2, k = fragment_k(lane, word % 2, at % 2);
      int tap, granule;
      plan.half_step(step, k / kGranule, &tap, &granule);
      const int o = (block * plan.width + column) * 8 + fragment_n(lane);
      const int i = (chunk * plan.chunk + granule) * kGranule + k % kGranule;
      float value = 0;
      if (tap >= 0 && o < out_channels && i < in_channels)
        value = summed_tap(g, w + ((int64_t(sample) * out_channels + o) * in_channels + i) * volume, u, tap);
      out[int64_t(item) * halves + at] = narrow<S>(value);
    }
  }
}

// -------------------------------------------------------------------------------------------------------- epilogue

template <class S, class Acc>
struct Epilogue {
  const Acc* bias;
  const S* noise;
  Acc slope, gain;
  int64_t noise_channel;

  __device__ explicit Epilogue(const ConvParams& p)
      : bias(static_cast<const Acc*>(p.bias)), noise(static_cast<const S*>(p.noise)), slope(Acc(p.slope)), gain(Acc(p.gain)),
        noise_channel(p.noise_stride[1]) {}
  __device__ Acc operator()(Acc z, int o, int64_t noise_at) const {
    if (noise) z += widen<Acc>(noise[noise_at + o * noise_channel]);
    if (bias) z += bias[o];
    return leaky(z, slope) * gain;
  }
};

struct Output {
  int64_t t, h, w;
  __device__ bool inside(const ConvParams& p) const { return t < p.out_size[0] && h < p.out_size[1] && w < p.out_size[2]; }
  __device__ int64_t at(const int64_t (&stride)[5], int64_t b) const {
    return b * stride[0] + t * stride[2] + h * stride[3] + w * stride[4];
  }
  __device__ int64_t voxel(const ConvParams& p, int64_t b) const {
    return ((b * p.out_size[0] + t) * p.out_size[1] + h) * p.out_size[2] + w;
  }
};

// threadIdx.x, as a value the compiler cannot compute with ahead of time: what an epilogue derives from it then takes no
// registers while the products are summed.
__device__ inline int fresh_thread() {
#ifdef VGEN_CUDA_EMULATED
  return int(threadIdx.x);
#else
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#endif
}

// Pixel norm of y in place, for more channels than one block holds: a warp per voxel.
template <class S, class Acc>
__global__ void __launch_bounds__(kThreads) normalise_kernel(const __grid_constant__ ConvParams p, int64_t voxels, Divider by_w, Divider by_h, Divider by_t) {
  S* y = static_cast<S*>(p.y);
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / kWarp);
  for (int64_t v = int64_t(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; v < voxels; v += warps) {
    const int64_t row = by_w.quotient(v), plane = by_h.quotient(row), b = by_t.quotient(plane);
    const Output out{plane - b * p.out_size[0], row - plane * p.out_size[1], v - row * p.out_size[2]};
    S* at = y + out.at(p.y_stride, b);
    Acc sum = 0;
    for (int64_t o = lane; o < p.out_channels; o += kWarp) {
      const Acc a = widen<Acc>(at[o * p.y_stride[1]]);
      sum += a * a;
    }
    const Acc r = inverse_sqrt(sum_lanes(sum, kWarp) / Acc(p.out_channels) + Acc(p.eps));
    for (int64_t o = lane; o < p.out_channels; o += kWarp) at[o * p.y_stride[1]] = narrow<S>(widen<Acc>(at[o * p.y_stride[1]]) * r);
    if (p.r && lane == 0) static_cast<Acc*>(p.r)[v] = r;
  }
}

// -------------------------------------------------------------------------------------------------- general kernels

struct Divisors {  // of flat grid positions
  Divider w, hw, thw;
};

// Where a row of the implicit matrix (a tap and an input channel) reads, from a grid position's voxel.
struct Reach {
  int64_t offset;
  int t, h, w;
};

__device__ inline Reach reach_of(const ConvParams& p, const ConvGrid& g, const UnitTap& unit, int k, int rows) {
  if (k >= rows) return {0, kNever, kNever, kNever};
  const int in_channels = int(p.in_channels), i = k % in_channels;
  const UnitTap m = g.tap(k / in_channels);
  const Reach r{0, g.axis[0].shift(unit.t, m.t), g.axis[1].shift(unit.h, m.h), g.axis[2].shift(unit.w, m.w)};
  return {i * p.x_stride[1] + r.t * p.x_stride[2] + r.h * p.x_stride[3] + r.w * p.x_stride[4], r.t, r.h, r.w};
}

__device__ inline bool inside(const ConvParams& p, int t, int h, int w) {
  return unsigned(t) < unsigned(p.in_size[0]) && unsigned(h) < unsigned(p.in_size[1]) && unsigned(w) < unsigned(p.in_size[2]);
}

// A grid position of one unit: where it reads and where it writes.
struct Position {
  int64_t x, y, noise, voxel;  // y < 0: no such output
  int t, h, w;                 // of x before the shift
};

__device__ inline Position position_of(const ConvParams& p, const ConvGrid& g, const Divisors& d, const UnitTap& unit, int64_t b,
                                       int64_t flat, int64_t count) {
  if (flat >= count) return {0, -1, 0, 0, kNever, kNever, kNever};
  const int64_t th = d.w.quotient(flat), jt = d.hw.quotient(flat), jw = flat - th * g.axis[2].grid, jh = th - jt * g.axis[1].grid;
  const int t = int(jt) * g.axis[0].step, h = int(jh) * g.axis[1].step, w = int(jw) * g.axis[2].step;
  const Output out{g.axis[0].output(jt, unit.t), g.axis[1].output(jh, unit.h), g.axis[2].output(jw, unit.w)};
  if (!out.inside(p)) return {0, -1, 0, 0, kNever, kNever, kNever};
  return {b * p.x_stride[0] + t * p.x_stride[2] + h * p.x_stride[3] + w * p.x_stride[4], out.at(p.y_stride, b),
          out.at(p.noise_stride, b), out.voxel(p, b), t, h, w};
}

// [positions of one unit] x [tap, I] times [tap, I] x [O]; 4 x 4 results per thread. `norm`: O fits in kColumns.
template <class S, class Acc, int kColumns>
__global__ void __launch_bounds__(kThreads)
    general_forward_kernel(const __grid_constant__ ConvParams p, const __grid_constant__ ConvGrid g, const __grid_constant__ Divisors d, const Acc* weights, bool norm) {
  constexpr int kAcross = kColumns / 4, kRows = kThreads / kAcross * 4;
  __shared__ __align__(16) Acc xs[kDepth][kRows + 4];
  __shared__ __align__(16) Acc ws[kDepth][kColumns];
  __shared__ Position position[kRows];
  __shared__ Reach reach[2][kDepth];
  const int tid = int(threadIdx.x), across = tid % kAcross, down = tid / kAcross;
  const int units = g.units(), depth = g.taps() * int(p.in_channels), rounds = (depth + kDepth - 1) / kDepth;
  const int64_t count = g.positions(), row_tiles = (count + kRows - 1) / kRows;
  const int column_tiles = (int(p.out_channels) + kColumns - 1) / kColumns;
  const S* x = static_cast<const S*>(p.x);
  const Epilogue<S, Acc> epilogue(p);
  // blockIdx.y walks samples, units and columns; blockIdx.x rows.
  for (int64_t outer = blockIdx.y; outer < p.batch * units * column_tiles; outer += gridDim.y) {
    const int column0 = int(outer % column_tiles) * kColumns, u = int(outer / column_tiles % units);
    const int64_t b = outer / column_tiles / units;
    const UnitTap unit = g.unit(u);
    const Acc* w = weights + ((p.per_sample ? b : 0) * units + u) * depth * p.out_channels;
    for (int64_t tile = blockIdx.x; tile < row_tiles; tile += gridDim.x) {
      __syncthreads();
      for (int row = tid; row < kRows; row += kThreads) position[row] = position_of(p, g, d, unit, b, tile * kRows + row, count);
      if (tid < kDepth) reach[0][tid] = reach_of(p, g, unit, tid, depth);
      Acc acc[4][4] = {};
      for (int round = 0; round < rounds; ++round) {
        __syncthreads();
        for (int n = tid; n < kDepth * kRows; n += kThreads) {
          const bool channels_inner = p.x_stride[1] == 1;
          const int k = channels_inner ? n % kDepth : n / kRows, row = channels_inner ? n / kDepth : n % kRows;
          const Reach& r = reach[round % 2][k];
          const Position& at = position[row];
          xs[k][row] = inside(p, at.t + r.t, at.h + r.h, at.w + r.w) ? widen<Acc>(x[at.x + r.offset]) : Acc(0);
        }
        for (int n = tid; n < kDepth * kColumns; n += kThreads) {
          const int k = round * kDepth + n / kColumns, o = column0 + n % kColumns;
          ws[n / kColumns][n % kColumns] = k < depth && o < p.out_channels ? w[int64_t(k) * p.out_channels + o] : Acc(0);
        }
        if (tid < kDepth) reach[(round + 1) % 2][tid] = reach_of(p, g, unit, (round + 1) * kDepth + tid, depth);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kDepth; ++k) {
          const Vec<Acc, 4> left = load_vec<4>(&xs[k][down * 4]), right = load_vec<4>(&ws[k][across * 4]);
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) acc[i][j] += left.at[i] * right.at[j];
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Position& at = position[down * 4 + i];
        const bool live = at.y >= 0;
        Acc square = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int o = column0 + across * 4 + j;
          if (live && o < p.out_channels) {
            acc[i][j] = epilogue(acc[i][j], o, at.noise);
            square += acc[i][j] * acc[i][j];
          }
        }
        Acc r = 1;
        if (norm) {
          r = inverse_sqrt(sum_lanes(square, kAcross) / Acc(p.out_channels) + Acc(p.eps));
          if (p.r && live && across == 0) static_cast<Acc*>(p.r)[at.voxel] = r;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int o = column0 + across * 4 + j;
          if (live && o < p.out_channels) static_cast<S*>(p.y)[at.y + o * p.y_stride[1]] = narrow<S>(acc[i][j] * r);
        }
      }
    }
  }
}

// Partial sums over a run of positions: [split][sample][unit][tap, I][O] and, from the first row tile, sums of g
// [split][sample][unit][O].
template <class S, class Acc, int kColumns>
__global__ void __launch_bounds__(kThreads)
    general_gradient_kernel(const __grid_constant__ ConvParams p, const __grid_constant__ ConvGrid g, const __grid_constant__ Divisors d, int samples, int64_t run, Acc* partial, Acc* sums) {
  constexpr int kAcross = kColumns / 4, kRows = kThreads / kAcross * 4;
  __shared__ __align__(16) Acc xs[kDepth][kRows + 4];
  __shared__ __align__(16) Acc gs[kDepth][kColumns];
  __shared__ Reach reach[kRows];
  __shared__ Position position[2][kDepth];
  const int tid = int(threadIdx.x), across = tid % kAcross, down = tid / kAcross;
  const int units = g.units(), depth = g.taps() * int(p.in_channels), row_tiles = (depth + kRows - 1) / kRows;
  const int column_tiles = (int(p.out_channels) + kColumns - 1) / kColumns;
  const int64_t per_sample = g.positions(), count = per_sample * (p.batch / samples);
  const S *x = static_cast<const S*>(p.x), *grad = static_cast<const S*>(p.y);
  const int tiles = row_tiles * column_tiles;
  for (int64_t outer = blockIdx.y; outer < int64_t(samples) * units * tiles; outer += gridDim.y) {
    const int tile = int(outer % tiles), u = int(outer / tiles % units);
    const int64_t sample = outer / tiles / units;
    const int row0 = tile / column_tiles * kRows, column0 = tile % column_tiles * kColumns;
    const UnitTap unit = g.unit(u);
    const int64_t begin = int64_t(blockIdx.x) * run, end = least(count, begin + run);
    const auto locate = [&](int64_t flat) {
      const int64_t b = d.thw.quotient(flat);
      return position_of(p, g, d, unit, sample + b, flat < end ? flat - b * per_sample : per_sample, per_sample);
    };
    __syncthreads();
    for (int row = tid; row < kRows; row += kThreads) reach[row] = reach_of(p, g, unit, row0 + row, depth);
    if (tid < kDepth) position[0][tid] = locate(begin + tid);
    Acc acc[4][4] = {}, sum = 0;
    int round = 0;
    for (int64_t first = begin; first < end; first += kDepth, ++round) {
      __syncthreads();
      const Position* here = position[round % 2];
      for (int n = tid; n < kDepth * kRows; n += kThreads) {
        const bool channels_inner = p.x_stride[1] == 1;
        const int k = channels_inner ? n / kRows : n % kDepth, row = channels_inner ? n % kRows : n / kDepth;
        const Reach& r = reach[row];
        const Position& at = here[k];
        xs[k][row] = inside(p, at.t + r.t, at.h + r.h, at.w + r.w) ? widen<Acc>(x[at.x + r.offset]) : Acc(0);
      }
      for (int n = tid; n < kDepth * kColumns; n += kThreads) {
        const bool channels_inner = p.y_stride[1] == 1;
        const int k = channels_inner ? n / kColumns : n % kDepth, column = channels_inner ? n % kColumns : n / kDepth;
        const Position& at = here[k];
        const int o = column0 + column;
        gs[k][column] = at.y >= 0 && o < p.out_channels ? widen<Acc>(grad[at.y + o * p.y_stride[1]]) : Acc(0);
      }
      if (tid < kDepth) position[(round + 1) % 2][tid] = locate(first + kDepth + tid);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        const Vec<Acc, 4> left = load_vec<4>(&xs[k][down * 4]), right = load_vec<4>(&gs[k][across * 4]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) acc[i][j] += left.at[i] * right.at[j];
      }
      if (row0 == 0 && tid < kColumns)
        for (int k = 0; k < kDepth; ++k) sum += gs[k][tid];
    }
    const int64_t slice = (int64_t(blockIdx.x) * samples + sample) * units + u;
    if (row0 == 0 && tid < kColumns && column0 + tid < p.out_channels) sums[slice * p.out_channels + column0 + tid] = sum;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = row0 + down * 4 + i, o = column0 + across * 4 + j;
        if (row < depth && o < p.out_channels) partial[(slice * depth + row) * p.out_channels + o] = acc[i][j];
      }
  }
}

// Second stage: adds the splits in order and folds the summed taps back: the transpose of summed_tap.
template <class Acc>
__global__ void __launch_bounds__(kThreads) fold_gradient_kernel(const __grid_constant__ ConvGrid g, int in_channels, int out_channels, int samples,
                                                                 int splits, int items, const Acc* partial, const Acc* sums,
                                                                 Acc* gw, Acc* gb) {
  const int kh = g.axis[1].kernel, kw = g.axis[2].kernel, volume = g.axis[0].kernel * kh * kw, units = g.units();
  const int depth = g.taps() * in_channels;
  for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {  // (sample, i, k)
    const int k = item % volume, i = item / volume % in_channels, sample = item / volume / in_channels;
    const int at[3] = {k / (kh * kw), k / kw % kh, k % kw};
    for (int o = int(threadIdx.x); o < out_channels; o += kThreads) {
      double value = 0;
      for (int u = 0; u < units; ++u) {
        const UnitTap unit = g.unit(u);
        for (int m = 0; m < g.taps(); ++m) {
          const UnitTap tap = g.tap(m);
          const TapRange t = tap_range(g.axis[0], unit.t, tap.t), h = tap_range(g.axis[1], unit.h, tap.h),
                         w = tap_range(g.axis[2], unit.w, tap.w);
          if (at[0] < t.begin || at[0] >= t.end || at[1] < h.begin || at[1] >= h.end || at[2] < w.begin || at[2] >= w.end) continue;
#pragma unroll 4
          for (int split = 0; split < splits; ++split)
            value += double(partial[(((int64_t(split) * samples + sample) * units + u) * depth + m * in_channels + i) * out_channels + o]);
        }
      }
      value *= double(g.axis[0].factor * g.axis[1].factor * g.axis[2].factor);
      gw[((int64_t(sample) * out_channels + o) * in_channels + i) * volume + k] = Acc(value);
      if (gb && k == 0 && i == 0) {
        double sum = 0;
        for (int split = 0; split < splits; ++split)
          for (int u = 0; u < units; ++u) sum += double(sums[((int64_t(split) * samples + sample) * units + u) * out_channels + o]);
        gb[int64_t(sample) * out_channels + o] = Acc(sum);
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------ tensor-core kernel

template <int kLoads, int kWords>
__device__ inline void load_step(Vec<uint32_t, kWords> (&to)[kLoads], const uint32_t* from) {
#pragma unroll
  for (int j = 0; j < kLoads; ++j) to[j] = load_vec<kWords>(from + j * 32 * kWords);
}

template <class S, int kWidth, int kRows>
__global__ void __launch_bounds__(kThreads)
    tensor_forward_kernel(const __grid_constant__ ConvParams p, const __grid_constant__ TensorPlan plan, const uint32_t* weights, bool vector_x, bool vector_y, bool norm) {
  VGEN_DYNAMIC_SHARED(shared);
  constexpr int kMissing = -0x7fffffff - 1;
  constexpr int kLoads = kWidth == 1 ? 1 : kWidth / 2, kWords = kWidth == 1 ? 2 : 4;
  constexpr bool kAhead = kWidth <= 8;
  const int tid = int(threadIdx.x), threads = int(blockDim.x), lane = tid % kWarp, warp = tid / kWarp;
  const ConvGrid& g = plan.grid;
  int* voxel_offset = reinterpret_cast<int*>(shared + plan.voxel_at());
  int* table = reinterpret_cast<int*>(shared + plan.table_at());
  const unsigned char* zero = shared + plan.zero_at();
  int64_t* base_at = reinterpret_cast<int64_t*>(shared + plan.base_at());
  if (tid < 4) reinterpret_cast<int*>(shared + plan.zero_at())[tid] = 0;
  int row_offset[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) row_offset[r] = plan.position_offset((warp * kRows + r) * 16 + lane % 16);
  const int tiles_hw = plan.tiles[1] * plan.tiles[2], units = g.units(), chunk_shift = plan.chunk >> 1;

  // batch * blocks fits an int, checked in forward_tensor.
  for (int item = int(blockIdx.y); item < int(p.batch) * plan.blocks; item += int(gridDim.y)) {
    const int b = item / plan.blocks, block = item - b * plan.blocks;
    for (int tile = int(blockIdx.x); tile < int(plan.num_tiles()); tile += int(gridDim.x)) {
      const int origin_t = tile / tiles_hw * plan.box[0], origin_h = tile / plan.tiles[2] % plan.tiles[1] * plan.box[1],
                origin_w = tile % plan.tiles[2] * plan.box[2];
      const int first_t = origin_t * g.axis[0].step + g.axis[0].first[0], first_h = origin_h * g.axis[1].step + g.axis[1].first[0],
                first_w = origin_w * g.axis[2].step + g.axis[2].first[0];
      __syncthreads();  // the last tile's shared memory is no longer read
      // Kept in shared memory: it is used once per chunk, and registers are full.
      if (tid == 0) *base_at = b * p.x_stride[0] + first_t * p.x_stride[2] + first_h * p.x_stride[3] + first_w * p.x_stride[4];
      for (int v = tid; v < plan.voxels(); v += threads) {
        const int w = v % plan.extent[2], h = v / plan.extent[2] % plan.extent[1], t = v / plan.extent[2] / plan.extent[1];
        const bool in = unsigned(first_t + t) < unsigned(p.in_size[0]) && unsigned(first_h + h) < unsigned(p.in_size[1]) &&
                        unsigned(first_w + w) < unsigned(p.in_size[2]);
        voxel_offset[v] = in ? int(t * p.x_stride[2] + h * p.x_stride[3] + w * p.x_stride[4]) : kMissing;
      }
      __syncthreads();

      const auto load_chunk = [&](int chunk) {
        unsigned char* stage = shared + chunk % plan.stages * plan.stage_bytes();
        const S* base = static_cast<const S*>(p.x) + *base_at;
        const int count = plan.voxels() * plan.chunk;
        for (int n = tid; n < count; n += threads) {
          int voxel, granule;
          if (vector_x) {  // the granules of a voxel are neighbours in memory
            voxel = plan.chunk == 3 ? n / 3 : n >> chunk_shift;
            granule = n - voxel * plan.chunk;
          } else {
            granule = n / plan.voxels(), voxel = n - granule * plan.voxels();
          }
          const int offset = voxel_offset[voxel], channel = (chunk * plan.chunk + granule) * kGranule;
          unsigned char* to = stage + (granule * plan.plane + voxel) * 16;
          if (vector_x) {
            const bool valid = offset != kMissing && channel < p.in_channels;
            copy_async(to, valid ? base + offset + channel : static_cast<const S*>(p.x), valid);
          } else {
            Vec<S, kGranule> value;
#pragma unroll
            for (int e = 0; e < kGranule; ++e)
              value.at[e] = offset != kMissing && channel + e < p.in_channels ? base[offset + (channel + e) * p.x_stride[1]] : narrow<S>(0.0f);
            store_vec(reinterpret_cast<S*>(to), value);
          }
        }
        commit_copies();
      };

      for (int u = 0; u < units; ++u) {
        float acc[kRows][kWidth][4] = {};
        const uint32_t* fragments =
            weights + ((int64_t(p.per_sample ? b : 0) * units + u) * plan.blocks + block) * plan.block_words() + lane * kWords;
        if (u > 0) __syncthreads();  // the last unit's table and stages are no longer read
        for (int n = tid; n < plan.table; n += threads) {
          int tap, granule;
          plan.half_step(n / 2, n % 2, &tap, &granule);
          table[n] = tap < 0 ? kMissing : plan.tap_offset(u, tap, granule);
        }
        if (plan.chunks > 1 || u == 0) load_chunk(0);
        for (int chunk = 0; chunk < plan.chunks; ++chunk) {
          if (chunk + 1 < plan.chunks) {
            load_chunk(chunk + 1);
            wait_copies<1>();
          } else {
            wait_copies<0>();
          }
          __syncthreads();
          const unsigned char* stage = shared + chunk % plan.stages * plan.stage_bytes();
          // Weights of a step are loaded one step ahead, where registers allow: they come from the first or second
          // level cache.
          Vec<uint32_t, kWords> right[kLoads], next[kAhead ? kLoads : 1];
          if (kAhead) load_step(next, fragments);
          for (int s = 0; s < plan.steps; ++s, fragments += 32 * kWidth * 2) {
            if (kAhead) {
#pragma unroll
              for (int j = 0; j < kLoads; ++j) right[j] = next[kAhead ? j : 0];
              if (s + 1 < plan.steps) load_step(next, fragments + 32 * kWidth * 2);
            } else {
              load_step(right, fragments);
            }
            const int offset = table[2 * s + lane / 16];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              uint32_t left[4];
              load_matrices(left, offset == kMissing ? zero : stage + row_offset[r] + offset);
#pragma unroll
              for (int n = 0; n < kWidth; ++n)
                multiply_add<S>(acc[r][n], left, right[n / 2].at[n % 2 * 2], right[n / 2].at[n % 2 * 2 + 1]);
            }
          }
          if (chunk + 2 < plan.chunks) __syncthreads();  // the stage is filled again in the next round
        }

        const UnitTap unit = g.unit(u);
        const Epilogue<S, float> epilogue(p);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int thread = fresh_thread(), lane = thread % kWarp, warp = thread / kWarp;
          S* result = reinterpret_cast<S*>(shared + plan.result_at()) + warp * 16 * plan.pitch();
          int64_t* target = reinterpret_cast<int64_t*>(shared + plan.target_at()) + warp * 16;
          __syncwarp();
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int row = lane / 4 + 8 * half, i = (warp * kRows + r) * 16 + row;
            const int jt = origin_t + i / plan.box[2] / plan.box[1], jh = origin_h + i / plan.box[2] % plan.box[1],
                      jw = origin_w + i % plan.box[2];
            const Output out{g.axis[0].output(jt, unit.t), g.axis[1].output(jh, unit.h), g.axis[2].output(jw, unit.w)};
            const bool live = out.inside(p);
            const int64_t noise_at = live ? out.at(p.noise_stride, b) : 0;
            float square = 0;
#pragma unroll
            for (int n = 0; n < kWidth; ++n)
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                const int o = (block * kWidth + n) * 8 + lane % 4 * 2 + e;
                float& value = acc[r][n][half * 2 + e];
                if (live && o < p.out_channels) value = epilogue(value, o, noise_at);
                square += o < p.out_channels ? value * value : 0.0f;
              }
            float scale = 1;
            if (norm) {
              scale = inverse_sqrt(sum_lanes(square, 4) / float(p.out_channels) + float(p.eps));
              if (p.r && live && lane % 4 == 0) static_cast<float*>(p.r)[out.voxel(p, b)] = scale;
            }
            if (lane % 4 == 0) target[row] = live ? out.at(p.y_stride, b) : -1;
#pragma unroll
            for (int n = 0; n < kWidth; ++n) {
              const Vec<S, 2> pair{{narrow<S>(acc[r][n][half * 2] * scale), narrow<S>(acc[r][n][half * 2 + 1] * scale)}};
              store_vec(result + row * plan.pitch() + n * 8 + lane % 4 * 2, pair);
            }
          }
          __syncwarp();
          S* y = static_cast<S*>(p.y);
          if (vector_y) {
            for (int n = lane; n < 16 * kWidth; n += kWarp) {
              const int row = n / kWidth, column = n % kWidth * 8, o = block * kWidth * 8 + column;
              if (target[row] >= 0 && o < p.out_channels)
                store_vec(y + target[row] + o, load_vec<8>(result + row * plan.pitch() + column));
            }
          } else {
#pragma unroll 1
            for (int n = lane; n < 16 * 8 * kWidth; n += kWarp) {
              const bool channels_inner = p.y_stride[1] == 1;
              const int row = channels_inner ? n / (8 * kWidth) : n % 16, column = channels_inner ? n % (8 * kWidth) : n / 16;
              const int o = block * kWidth * 8 + column;
              if (target[row] >= 0 && o < p.out_channels) y[target[row] + o * p.y_stride[1]] = result[row * plan.pitch() + column];
            }
          }
        }
      }
    }
  }
}

// The weight gradient with tensor cores: partial sums in the layout of general_gradient_kernel. One block per (split;
// sample, unit, block of columns, chunk of channels, group of pairs).
template <class S, int kWidth, int kRows>
__global__ void __launch_bounds__(kGradientWarps* kWarp)
    tensor_gradient_kernel(const __grid_constant__ ConvParams p, const __grid_constant__ GradientPlan plan, int samples, bool vector_x, bool vector_g, float* partial, float* sums) {
  VGEN_DYNAMIC_SHARED(shared);
  constexpr int kBlock = kGradientWarps * kWarp, kColumns = kWidth * 8, kShares = kBlock / kColumns;
  const int tid = int(threadIdx.x), lane = tid % kWarp, warp = tid / kWarp;
  const ConvGrid& g = plan.grid;
  int* voxel_at = reinterpret_cast<int*>(shared + plan.voxel_at());
  int* position_at = reinterpret_cast<int*>(shared + plan.position_at());
  const int units = g.units(), depth = g.taps() * int(p.in_channels), tiles_hw = plan.tiles[1] * plan.tiles[2];
  const int positions = plan.positions(), voxels = plan.voxels();
  for (int v = tid; v < voxels; v += kBlock) {
    const int w = v % plan.extent[2], h = v / plan.extent[2] % plan.extent[1], t = v / plan.extent[2] / plan.extent[1];
    voxel_at[v] = t << 20 | h << 10 | w;
  }
  for (int i = tid; i < positions; i += kBlock) {
    const int w = i % plan.box[2], h = i / plan.box[2] % plan.box[1], t = i / plan.box[2] / plan.box[1];
    position_at[i] = ((t * g.axis[0].step * plan.extent[1] + h * g.axis[1].step) * plan.extent[2] + w * g.axis[2].step) * 16;
  }
  const int64_t num_tiles = plan.num_tiles(), count = num_tiles * (p.batch / samples);
  const int64_t begin = int64_t(blockIdx.x) * plan.run, end = least(count, begin + plan.run);
  const int per_unit = plan.blocks * plan.chunks * plan.groups;

  for (int64_t outer = blockIdx.y; outer < int64_t(samples) * units * per_unit; outer += gridDim.y) {
    const int64_t slice_at = outer / per_unit, sample = slice_at / units;
    const int u = int(slice_at - sample * units), inner = int(outer - slice_at * per_unit);
    const int group = inner % plan.groups, chunk = inner / plan.groups % plan.chunks, block = inner / plan.groups / plan.chunks;
    const UnitTap unit = g.unit(u);
    const int first_pair = (group * kGradientWarps + warp) * kRows;
    // Offset of the half of each pair this lane addresses: even matrices are the first half, odd ones the second.
    int offset[kRows];
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const int n = least(2 * (first_pair + m) + lane / 8 % 2, g.taps() * plan.chunk - 1), granule = n % plan.chunk;
      const UnitTap tap = g.tap(n / plan.chunk);
      const int t = g.axis[0].shift(unit.t, tap.t) - g.axis[0].first[0], h = g.axis[1].shift(unit.h, tap.h) - g.axis[1].first[0],
                w = g.axis[2].shift(unit.w, tap.w) - g.axis[2].first[0];
      offset[m] = (granule * plan.plane + (t * plan.extent[1] + h) * plan.extent[2] + w) * 16;
    }
    float acc[kRows][kWidth][4] = {}, sum = 0;
    __syncthreads();  // the tables are there, and the stages are free

    const auto load_tile = [&](int64_t index) {
      unsigned char* stage = shared + int((index - begin) % 2) * plan.stage_bytes();
      const int64_t in_sample = index / num_tiles, b = sample + in_sample;
      const int tile = int(index - in_sample * num_tiles);
      const int origin_t = tile / tiles_hw * plan.box[0], origin_h = tile / plan.tiles[2] % plan.tiles[1] * plan.box[1],
                origin_w = tile % plan.tiles[2] * plan.box[2];
      const int first_t = origin_t * g.axis[0].step + g.axis[0].first[0], first_h = origin_h * g.axis[1].step + g.axis[1].first[0],
                first_w = origin_w * g.axis[2].step + g.axis[2].first[0];
      const S *x = static_cast<const S*>(p.x) + b * p.x_stride[0], *grad = static_cast<const S*>(p.y) + b * p.y_stride[0];
      for (int n = tid; n < voxels * plan.chunk; n += kBlock) {
        const int voxel = vector_x ? n / plan.chunk : n % voxels, granule = vector_x ? n - voxel * plan.chunk : n / voxels;
        const int at = voxel_at[voxel], t = first_t + (at >> 20), h = first_h + (at >> 10 & 1023), w = first_w + (at & 1023);
        const int channel = (chunk * plan.chunk + granule) * kGranule;
        const bool in = inside(p, t, h, w);
        const S* from = x + t * p.x_stride[2] + h * p.x_stride[3] + w * p.x_stride[4] + channel * p.x_stride[1];
        unsigned char* to = stage + (granule * plan.plane + voxel) * 16;
        if (vector_x) {
          const bool valid = in && channel < p.in_channels;
          copy_async(to, valid ? from : x, valid);
        } else {
          Vec<S, kGranule> value;
#pragma unroll
          for (int e = 0; e < kGranule; ++e)
            value.at[e] = in && channel + e < p.in_channels ? from[e * p.x_stride[1]] : narrow<S>(0.0f);
          store_vec(reinterpret_cast<S*>(to), value);
        }
      }
      for (int n = tid; n < positions * kWidth; n += kBlock) {
        const int i = vector_g ? n / kWidth : n % positions, column = vector_g ? n % kWidth : n / positions;
        const Output out{g.axis[0].output(origin_t + i / plan.box[2] / plan.box[1], unit.t),
                         g.axis[1].output(origin_h + i / plan.box[2] % plan.box[1], unit.h),
                         g.axis[2].output(origin_w + i % plan.box[2], unit.w)};
        const int o = (block * kWidth + column) * kGranule;
        const bool in = out.inside(p);
        const S* from = grad + out.at(p.y_stride, 0) + o * p.y_stride[1];
        unsigned char* to = stage + plan.x_bytes() + (column * plan.g_plane + i) * 16;
        if (vector_g) {
          const bool valid = in && o < p.out_channels;
          copy_async(to, valid ? from : grad, valid);
        } else {
          Vec<S, kGranule> value;
#pragma unroll
          for (int e = 0; e < kGranule; ++e)
            value.at[e] = in && o + e < p.out_channels ? from[e * p.y_stride[1]] : narrow<S>(0.0f);
          store_vec(reinterpret_cast<S*>(to), value);
        }
      }
      commit_copies();
    };

    if (begin < end) load_tile(begin);
    for (int64_t index = begin; index < end; ++index) {
      if (index + 1 < end) {
        load_tile(index + 1);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      const unsigned char *stage = shared + int((index - begin) % 2) * plan.stage_bytes(), *g_stage = stage + plan.x_bytes();
      if (first_pair < plan.pairs)
        for (int k = 0; k < positions; k += 16) {
          uint32_t right[kWidth][2];
          const int row = k + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
          for (int n = 0; n < kWidth; n += 2) {
            uint32_t four[4];
            load_matrices_transposed(four, g_stage + ((kWidth == 1 ? 0 : n + lane / 16) * plan.g_plane + row) * 16);
            right[n][0] = four[0], right[n][1] = four[1];
            if (kWidth > 1) right[kWidth > 1 ? n + 1 : 0][0] = four[2], right[kWidth > 1 ? n + 1 : 0][1] = four[3];
          }
          const unsigned char* left_row = stage + position_at[k + lane / 16 * 8 + lane % 8];
#pragma unroll
          for (int m = 0; m < kRows; ++m) {
            uint32_t left[4];
            load_matrices_transposed(left, left_row + offset[m]);
#pragma unroll
            for (int n = 0; n < kWidth; ++n) multiply_add<S>(acc[m][n], left, right[n][0], right[n][1]);
          }
        }
      if (inner % (plan.groups * plan.chunks) == 0 && tid < kShares * kColumns) {
        const int column = tid % kColumns;
        const S* values = reinterpret_cast<const S*>(g_stage + column / kGranule * plan.g_plane * 16) + column % kGranule;
        for (int i = tid / kColumns; i < positions; i += kShares) sum += widen<float>(values[i * kGranule]);
      }
      __syncthreads();
    }

    const int64_t slice = (int64_t(blockIdx.x) * samples + sample) * units + u;
    if (inner % (plan.groups * plan.chunks) == 0) {
      float* shares = reinterpret_cast<float*>(shared);
      shares[tid] = sum;
      __syncthreads();
      const int o = block * kColumns + tid;
      if (tid < kColumns && o < p.out_channels) {
        for (int i = 1; i < kShares; ++i) sum += shares[i * kColumns + tid];
        sums[slice * p.out_channels + o] = sum;
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m)
#pragma unroll
      for (int n = 0; n < kWidth; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int half = 2 * (first_pair + m) + e / 2, tap = half / plan.chunk, granule = half % plan.chunk;
          const int i = (chunk * plan.chunk + granule) * kGranule + lane / 4, o = (block * kWidth + n) * 8 + lane % 4 * 2 + e % 2;
          if (tap < g.taps() && i < p.in_channels && o < p.out_channels)
            partial[(slice * depth + tap * int(p.in_channels) + i) * p.out_channels + o] = acc[m][n][e];
        }
  }
}

// -------------------------------------------------------------------------------------------------------- launchers

dim3 two_axes(int64_t x, int64_t y) { return dim3(unsigned(least<int64_t>(x, kMaxGrid)), unsigned(least<int64_t>(y, 65535))); }

template <class S, class Acc>
cudaError_t normalise(const ConvParams& p, cudaStream_t stream) {
  const int64_t voxels = p.batch * p.out_size[0] * p.out_size[1] * p.out_size[2];
  VGEN_LAUNCH((normalise_kernel<S, Acc>), grid_size(divide_up(voxels, kThreads / kWarp), 64), kThreads, 0, stream, p, voxels,
              Divider(p.out_size[2]), Divider(p.out_size[1]), Divider(p.out_size[0]));
  return cudaSuccess;
}

Divisors divisors(const ConvGrid& g) {
  return {Divider(g.axis[2].grid), Divider(int64_t(g.axis[1].grid) * g.axis[2].grid), Divider(g.positions())};
}

// Results per row of a general kernel: few channels deserve a narrow one where it is the only kernel there is, float32.
template <class S, class Launch>
cudaError_t with_columns(int64_t out_channels, Launch&& launch) {
  if constexpr (std::is_same_v<S, float>) {
    if (out_channels <= 16) return launch(std::integral_constant<int, 16>());
  }
  return launch(std::integral_constant<int, 64>());
}

template <class S, class Acc>
cudaError_t forward_general(const ConvParams& p, cudaStream_t stream) {
  const ConvGrid g = make_grid(p);
  const int64_t samples = p.per_sample ? p.batch : 1, items = samples * g.units() * g.taps() * p.in_channels;
  if (items > kMaxGrid) return cudaErrorInvalidValue;
  const Workspace packed(size_t(items * p.out_channels) * sizeof(Acc), stream);
  if (packed.error() != cudaSuccess) return packed.error();
  VGEN_LAUNCH((plain_weights_kernel<Acc>), unsigned(items), kThreads, 0, stream, g, int(p.in_channels), int(p.out_channels),
              int(items), static_cast<const Acc*>(p.w), packed.template as<Acc>());
  return with_columns<S>(p.out_channels, [&](auto width) {
    constexpr int columns = decltype(width)::value, rows = kThreads / (columns / 4) * 4;
    const bool norm = p.pixel_norm && p.out_channels <= columns;
    const dim3 grid = two_axes(divide_up(g.positions(), rows), p.batch * g.units() * divide_up(p.out_channels, columns));
    VGEN_LAUNCH((general_forward_kernel<S, Acc, columns>), grid, kThreads, 0, stream, p, g, divisors(g), packed.template as<Acc>(), norm);
    return p.pixel_norm && !norm ? normalise<S, Acc>(p, stream) : cudaSuccess;
  });
}

bool multiples_of_granule(const int64_t (&stride)[5]) {
  for (int a : {0, 2, 3, 4})
    if (stride[a] % kGranule) return false;
  return true;
}

template <class S, int kWidth, int kRows>
cudaError_t launch_tensor(const ConvParams& p, const TensorPlan& plan, const uint32_t* weights, bool norm, cudaStream_t stream) {
  const bool vector_x = p.x_stride[1] == 1 && p.in_channels % kGranule == 0 && multiples_of_granule(p.x_stride) && aligned16(p.x);
  const bool vector_y = p.y_stride[1] == 1 && p.out_channels % kGranule == 0 && multiples_of_granule(p.y_stride) && aligned16(p.y);
  const auto kernel = tensor_forward_kernel<S, kWidth, kRows>;
  const int bytes = plan.shared_bytes();
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  VGEN_LAUNCH((kernel), two_axes(plan.num_tiles(), p.batch * plan.blocks), plan.warps * kWarp, bytes, stream, p, plan, weights,
              vector_x, vector_y, norm);
  return cudaSuccess;
}

template <class S>
cudaError_t forward_tensor(const ConvParams& p, const TensorPlan& plan, cudaStream_t stream) {
  const int64_t samples = p.per_sample ? p.batch : 1;
  const int64_t items = samples * plan.grid.units() * plan.blocks * plan.chunks * plan.steps;
  if (items > kMaxGrid || plan.num_tiles() > kMaxGrid || p.batch * plan.blocks > kMaxGrid) return cudaErrorInvalidValue;
  const Workspace packed(size_t(items) * 32 * plan.width * 2 * sizeof(uint32_t), stream);
  if (packed.error() != cudaSuccess) return packed.error();
  VGEN_LAUNCH((fragment_weights_kernel<S>), unsigned(items), kThreads, 0, stream, plan, int(p.in_channels), int(p.out_channels),
              int(items), static_cast<const float*>(p.w), packed.template as<S>());
  const bool norm = p.pixel_norm && plan.blocks == 1;
  const uint32_t* words = packed.template as<uint32_t>();
  cudaError_t error = cudaErrorInvalidValue;
  switch (plan.width) {
    case 1: error = launch_tensor<S, 1, 4>(p, plan, words, norm, stream); break;
    case 2: error = launch_tensor<S, 2, 4>(p, plan, words, norm, stream); break;
    case 4: error = launch_tensor<S, 4, 4>(p, plan, words, norm, stream); break;
    case 8: error = launch_tensor<S, 8, 2>(p, plan, words, norm, stream); break;
    case 16: error = launch_tensor<S, 16, 2>(p, plan, words, norm, stream); break;
  }
  if (error != cudaSuccess) return error;
  return p.pixel_norm && !norm ? normalise<S, float>(p, stream) : cudaSuccess;
}

template <class S, class Acc>
cudaError_t forward(const ConvParams& p, cudaStream_t stream) {
  if (p.batch * p.out_channels * p.out_size[0] * p.out_size[1] * p.out_size[2] == 0) return cudaSuccess;
  if constexpr (sizeof(S) == 2) {
    TensorPlan plan;
    const int shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 << 10);
    if (attribute(cudaDevAttrComputeCapabilityMajor, 0) >= 8 && plan_tensor(p, num_multiprocessors(), shared, &plan))
      return forward_tensor<S>(p, plan, stream);
  }
  return forward_general<S, Acc>(p, stream);
}

template <class Acc>
cudaError_t fold_gradient(const ConvParams& p, const ConvGrid& g, int samples, int64_t splits, const Acc* partial, const Acc* sums,
                          cudaStream_t stream) {
  const int64_t items = samples * p.in_channels * p.kernel[0] * p.kernel[1] * p.kernel[2];
  if (items > kMaxGrid) return cudaErrorInvalidValue;
  VGEN_LAUNCH((fold_gradient_kernel<Acc>), unsigned(items), kThreads, 0, stream, g, int(p.in_channels), int(p.out_channels), samples,
              int(splits), int(items), partial, sums, static_cast<Acc*>(p.gw), static_cast<Acc*>(p.gb));
  return cudaSuccess;
}

template <class S, int kWidth, int kRows>
cudaError_t launch_gradient(const ConvParams& p, const GradientPlan& plan, int samples, float* partial, float* sums,
                            cudaStream_t stream) {
  const bool vector_x = p.x_stride[1] == 1 && p.in_channels % kGranule == 0 && multiples_of_granule(p.x_stride) && aligned16(p.x);
  const bool vector_g = p.y_stride[1] == 1 && p.out_channels % kGranule == 0 && multiples_of_granule(p.y_stride) && aligned16(p.y);
  const auto kernel = tensor_gradient_kernel<S, kWidth, kRows>;
  const int bytes = plan.shared_bytes();
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const int64_t others = int64_t(samples) * plan.grid.units() * plan.blocks * plan.chunks * plan.groups;
  VGEN_LAUNCH((kernel), two_axes(plan.splits, others), kGradientWarps * kWarp, bytes, stream, p, plan, samples, vector_x, vector_g,
              partial, sums);
  return cudaSuccess;
}

template <class S>
cudaError_t tensor_gradient(const ConvParams& p, const GradientPlan& plan, cudaStream_t stream) {
  const int samples = int(p.per_sample ? p.batch : 1), units = plan.grid.units();
  const int64_t slices = int64_t(plan.splits) * samples * units, weights = plan.grid.taps() * p.in_channels * p.out_channels;
  const Workspace workspace(size_t(slices * (weights + p.out_channels)) * sizeof(float), stream);
  if (workspace.error() != cudaSuccess) return workspace.error();
  float *partial = workspace.as<float>(), *sums = partial + slices * weights;
  const cudaError_t error = plan.width == 1   ? launch_gradient<S, 1, 2>(p, plan, samples, partial, sums, stream)
                            : plan.width == 2 ? launch_gradient<S, 2, 2>(p, plan, samples, partial, sums, stream)
                                              : launch_gradient<S, 4, 4>(p, plan, samples, partial, sums, stream);
  if (error != cudaSuccess) return error;
  return fold_gradient<float>(p, plan.grid, samples, plan.splits, partial, sums, stream);
}

template <class S, class Acc>
cudaError_t weight_gradient(const ConvParams& p, cudaStream_t stream) {
  if constexpr (sizeof(S) == 2) {
    GradientPlan plan;
    const int shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 << 10);
    if (attribute(cudaDevAttrComputeCapabilityMajor, 0) >= 8 && plan_gradient(p, num_multiprocessors(), shared, &plan))
      return tensor_gradient<S>(p, plan, stream);
  }
  return with_columns<S>(p.out_channels, [&](auto width) {
    constexpr int columns = decltype(width)::value, rows = kThreads / (columns / 4) * 4;
    const ConvGrid g = make_grid(p);
    const int samples = int(p.per_sample ? p.batch : 1);
    const int64_t count = g.positions() * (p.batch / samples), depth = g.taps() * p.in_channels;
    const int64_t tiles = samples * g.units() * divide_up(depth, rows) * divide_up(p.out_channels, columns);
    const int64_t slice = samples * g.units() * (depth + 1) * p.out_channels;
    // Enough runs to fill the device, none so long that fp32 sums lose digits, and partial sums of bounded size.
    int64_t splits = divide_up(int64_t(num_multiprocessors()) * 4, tiles);
    if (splits < divide_up(count, 4096)) splits = divide_up(count, 4096);
    if (splits > divide_up(count, 64)) splits = divide_up(count, 64);
    const int64_t most = kMaxPartialBytes / (slice * int64_t(sizeof(Acc)));
    if (splits > most) splits = most > 1 ? most : 1;
    const int64_t run = divide_up(divide_up(count, splits), kDepth) * kDepth;
    splits = divide_up(count, run);
    const Workspace workspace(size_t(splits * slice) * sizeof(Acc), stream);
    if (workspace.error() != cudaSuccess) return workspace.error();
    Acc *partial = workspace.template as<Acc>(), *sums = partial + splits * samples * g.units() * depth * p.out_channels;
    VGEN_LAUNCH((general_gradient_kernel<S, Acc, columns>), two_axes(splits, tiles), kThreads, 0, stream, p, g, divisors(g), samples,
                run, partial, sums);
    return fold_gradient<Acc>(p, g, samples, splits, partial, sums, stream);
  });
}

}  // namespace

const char* modulated_conv3d_forward_cuda(const ConvParams& p, int device, void* stream) {
  return on_device(device, stream, [&](cudaStream_t s) {
    return dispatch_types(p.dtype, [&](auto storage, auto acc) { return forward<decltype(storage), decltype(acc)>(p, s); });
  });
}

const char* modulated_conv3d_weight_gradient_cuda(const ConvParams& p, int device, void* stream) {
  return on_device(device, stream, [&](cudaStream_t s) {
    return dispatch_types(p.dtype, [&](auto storage, auto acc) { return weight_gradient<decltype(storage), decltype(acc)>(p, s); });
  });
}

}  // namespace vgen
