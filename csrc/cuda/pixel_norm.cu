// Pixel norm on CUDA. Channels innermost: a run of lanes holds one pixel, one vector each, and shuffles its sum.
// Positions innermost: a thread holds a vector of positions and walks the channels.
#include "pixel_norm.h"

#include "reduce.cuh"

namespace vgen {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int kPixels = 4;  // pixels (or vectors) in flight per thread
constexpr int kHeld = 8;    // channels kept in registers between the two passes

// Lanes that share one pixel of `vectors` vectors, as a power of two.
VGEN_HD inline int log2_lanes(int64_t vectors) {
  int log2 = 0;
  while ((1 << log2) < vectors && (1 << log2) < kWarp) ++log2;
  return log2;
}

template <bool kBackward, class S, class Acc>
struct Formula {
  Acc slope, gain, eps, scale;

  // What is summed over channels: a^2, or g y.
  __device__ Acc term(S first, S second) const {
    if (kBackward) return widen<Acc>(first) * widen<Acc>(second);
    const Acc a = leaky(widen<Acc>(first), slope);
    return a * a;
  }
  __device__ S result(S first, S second, Acc sum, Acc r) const {
    if (!kBackward) return narrow<S>(leaky(widen<Acc>(first), slope) * r);
    const Acc y = widen<Acc>(second);
    return narrow<S>(leaky_derivative(y, slope, gain) * r * (widen<Acc>(first) - y * (sum * scale)));
  }
};

template <bool kBackward, class S, class Acc>
Formula<kBackward, S, Acc> formula(const PixelNormParams& p) {
  return {Acc(p.slope), Acc(p.gain), Acc(p.eps), Acc(1) / Acc(p.channels)};
}

// Channels innermost. `first` is x or g, `second` is y (backward). kOne: a pixel is at most one vector per lane.
template <bool kBackward, class S, class Acc, int V, bool kOne>
__global__ void __launch_bounds__(kThreads, kOne ? 1 : 4)
    channels_inner_kernel(Formula<kBackward, S, Acc> f, int64_t pixels, int64_t rounds, int channels, int log2_lanes,
                          const S* first, const S* second, const Acc* r_in, S* out, Acc* r_out) {
  const int lanes = 1 << log2_lanes, lane = int(threadIdx.x) & (lanes - 1), vectors = channels / V;
  const int64_t runs = int64_t(gridDim.x) * kThreads >> log2_lanes;
  const int64_t run = (int64_t(blockIdx.x) * kThreads + threadIdx.x) >> log2_lanes;
  // The same number of rounds for every thread: shuffles need whole warps.
  for (int64_t round = 0; round < rounds; ++round) {
    int64_t pixel[kPixels];
    Acc sum[kPixels], r[kPixels];
    if (kOne) {
      Vec<S, V> a[kPixels], b[kPixels];
      bool live[kPixels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        pixel[i] = (round * kPixels + i) * runs + run;
        live[i] = pixel[i] < pixels && lane < vectors;
        sum[i] = 0;
        if (live[i]) {
          const int64_t at = pixel[i] * channels + lane * V;
          a[i] = load_vec<V>(first + at);
          if (kBackward) b[i] = load_vec<V>(second + at);
        }
      }
#pragma unroll
      for (int i = 0; i < kPixels; ++i)
        if (live[i])
#pragma unroll
          for (int k = 0; k < V; ++k) sum[i] += f.term(a[i].at[k], b[i].at[k]);
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        sum[i] = sum_lanes(sum[i], lanes);
        r[i] = kBackward ? Acc(0) : inverse_sqrt(sum[i] * f.scale + f.eps);
        if (!live[i]) continue;
        if (kBackward) r[i] = r_in[pixel[i]];
        Vec<S, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k) result.at[k] = f.result(a[i].at[k], b[i].at[k], sum[i], r[i]);
        store_vec(out + pixel[i] * channels + lane * V, result);
        if (!kBackward && r_out && lane == 0) r_out[pixel[i]] = r[i];
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < kPixels; ++i) {
        const int64_t here = (round * kPixels + i) * runs + run;
        const bool live = here < pixels;
        const S *first_row = first + here * channels, *second_row = second + here * channels;
        Acc total = 0;
#pragma unroll 1
        for (int v = lane; live && v < vectors; v += lanes) {
          const Vec<S, V> a = load_vec<V>(first_row + v * V);
          Vec<S, V> b;
          if (kBackward) b = load_vec<V>(second_row + v * V);
#pragma unroll
          for (int k = 0; k < V; ++k) total += f.term(a.at[k], b.at[k]);
        }
        total = sum_lanes(total, lanes);
        if (!live) continue;
        const Acc factor = kBackward ? r_in[here] : inverse_sqrt(total * f.scale + f.eps);
#pragma unroll 1
        for (int v = lane; v < vectors; v += lanes) {
          const Vec<S, V> a = load_vec<V>(first_row + v * V);
          Vec<S, V> b, result;
          if (kBackward) b = load_vec<V>(second_row + v * V);
#pragma unroll
          for (int k = 0; k < V; ++k) result.at[k] = f.result(a.at[k], b.at[k], total, factor);
          store_vec(out + here * channels + v * V, result);
        }
        if (!kBackward && r_out && lane == 0) r_out[here] = factor;
      }
    }
  }
}

// Positions innermost. kHold: at most kHeld channels, read once.
template <bool kBackward, class S, class Acc, int V, bool kHold>
__global__ void __launch_bounds__(kThreads)
    positions_inner_kernel(Formula<kBackward, S, Acc> f, int64_t batch, int channels, int64_t positions, Divider per_row,
                           const S* first, const S* second, const Acc* r_in, S* out, Acc* r_out) {
  constexpr int kKept = kHold ? kHeld : 1;
  const int64_t vectors = positions / V, total = batch * vectors;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    const int64_t b = per_row.quotient(i), at_r = b * positions + (i - b * vectors) * V;
    const int64_t base = b * channels * positions + (i - b * vectors) * V;
    Vec<S, V> kept[kKept];
    Acc sum[V] = {}, r[V];
    if (kHold) {
#pragma unroll
      for (int c = 0; c < kKept; ++c)
        if (c < channels) kept[c] = load_vec<V>(first + base + c * positions);
#pragma unroll
      for (int c = 0; c < kKept; ++c)
        if (c < channels) {
          Vec<S, V> y = kept[c];
          if (kBackward) y = load_vec<V>(second + base + c * positions);
#pragma unroll
          for (int k = 0; k < V; ++k) sum[k] += f.term(kept[c].at[k], y.at[k]);
        }
    } else {
#pragma unroll 4
      for (int c = 0; c < channels; ++c) {
        const Vec<S, V> a = load_vec<V>(first + base + c * positions);
        Vec<S, V> y = a;
        if (kBackward) y = load_vec<V>(second + base + c * positions);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += f.term(a.at[k], y.at[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      r[k] = kBackward ? r_in[at_r + k] : inverse_sqrt(sum[k] * f.scale + f.eps);
      if (!kBackward && r_out) r_out[at_r + k] = r[k];
    }
    const auto finish = [&](int c, const Vec<S, V>& a) {
      Vec<S, V> y = a, result;
      if (kBackward) y = load_vec<V>(second + base + c * positions);
#pragma unroll
      for (int k = 0; k < V; ++k) result.at[k] = f.result(a.at[k], y.at[k], sum[k], r[k]);
      store_vec(out + base + c * positions, result);
    };
    if (kHold) {
#pragma unroll
      for (int c = 0; c < kKept; ++c)
        if (c < channels) finish(c, kept[c]);
    } else {
#pragma unroll 4
      for (int c = 0; c < channels; ++c) finish(c, load_vec<V>(first + base + c * positions));
    }
  }
}

// gz = lrelu'(z) gain g over `size` elements, whatever their layout.
template <class S, class Acc, int V>
__global__ void __launch_bounds__(kThreads)
    mask_kernel(Acc slope, Acc gain, int64_t size, const S* g, const S* y, S* out) {
  const int64_t stride = int64_t(gridDim.x) * kThreads, vectors = size / V;
  const int64_t me = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = me; i < vectors; i += stride * kPixels) {
    Vec<S, V> a[kPixels], b[kPixels];
#pragma unroll
    for (int n = 0; n < kPixels; ++n)
      if (i + n * stride < vectors) {
        a[n] = load_vec<V>(g + (i + n * stride) * V);
        b[n] = load_vec<V>(y + (i + n * stride) * V);
      }
#pragma unroll
    for (int n = 0; n < kPixels; ++n)
      if (i + n * stride < vectors) {
        Vec<S, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k)
          result.at[k] = narrow<S>(widen<Acc>(a[n].at[k]) * leaky_derivative(widen<Acc>(b[n].at[k]), slope, gain));
        store_vec(out + (i + n * stride) * V, result);
      }
  }
  const int64_t tail = vectors * V + me;
  if (tail < size) out[tail] = narrow<S>(widen<Acc>(g[tail]) * leaky_derivative(widen<Acc>(y[tail]), slope, gain));
}

template <bool kBackward, class S, class Acc>
cudaError_t run(const PixelNormParams& p, cudaStream_t stream) {
  const S *first = static_cast<const S*>(kBackward ? p.g : p.x), *second = static_cast<const S*>(p.y);
  const Acc* r_in = static_cast<const Acc*>(p.r);
  S* out = static_cast<S*>(p.out);
  Acc* r_out = static_cast<Acc*>(p.out_r);
  const int64_t pixels = p.batch * p.positions, size = pixels * p.channels;
  const bool aligned = aligned16(first) && aligned16(out) && (!kBackward || aligned16(second));
  constexpr int V = kVector<S>;
  if (size == 0) return cudaSuccess;
  if (kBackward && !r_in) {
    if (aligned)
      VGEN_LAUNCH((mask_kernel<S, Acc, V>), grid_size(divide_up(divide_up(size, V), kThreads * kPixels), 32), kThreads, 0,
                  stream, Acc(p.slope), Acc(p.gain), size, first, second, out);
    else
      VGEN_LAUNCH((mask_kernel<S, Acc, 1>), grid_size(divide_up(size, kThreads * kPixels), 32), kThreads, 0, stream,
                  Acc(p.slope), Acc(p.gain), size, first, second, out);
    return cudaSuccess;
  }
  const Formula<kBackward, S, Acc> f = formula<kBackward, S, Acc>(p);
  const int channels = int(p.channels);
#define VGEN_CHANNELS_INNER(width, one)                                                                              \
  VGEN_LAUNCH((channels_inner_kernel<kBackward, S, Acc, width, one>), grid, kThreads, 0, stream, f, pixels, rounds, \
              channels, log2, first, second, r_in, out, r_out)
#define VGEN_POSITIONS_INNER(width, hold)                                                                     \
  VGEN_LAUNCH((positions_inner_kernel<kBackward, S, Acc, width, hold>),                                       \
              grid_size(divide_up(p.batch * (p.positions / width), kThreads), 32), kThreads, 0, stream, f, p.batch, \
              channels, p.positions, Divider(p.positions / width), first, second, r_in, out, r_out)
  if (p.channel_stride == 1) {
    const bool wide = aligned && p.channels % V == 0;
    const int64_t vectors = wide ? p.channels / V : p.channels;
    const int log2 = log2_lanes(vectors);
    const unsigned grid = grid_size(divide_up(pixels << log2, kThreads * kPixels), 32);
    const int64_t rounds = divide_up(pixels << log2, int64_t(grid) * kThreads * kPixels);
    if (wide && vectors <= kWarp)
      VGEN_CHANNELS_INNER(V, true);
    else if (wide)
      VGEN_CHANNELS_INNER(V, false);
    else if (vectors <= kWarp)
      VGEN_CHANNELS_INNER(1, true);
    else
      VGEN_CHANNELS_INNER(1, false);
  } else {
    const bool wide = aligned && p.positions % V == 0;
    if (wide && p.channels <= kHeld)
      VGEN_POSITIONS_INNER(V, true);
    else if (wide)
      VGEN_POSITIONS_INNER(V, false);
    else if (p.channels <= kHeld)
      VGEN_POSITIONS_INNER(1, true);
    else
      VGEN_POSITIONS_INNER(1, false);
  }
#undef VGEN_CHANNELS_INNER
#undef VGEN_POSITIONS_INNER
  return cudaSuccess;
}

template <bool kBackward>
const char* launch(const PixelNormParams& p, int device, void* stream) {
  return on_device(device, stream, [&](cudaStream_t s) {
    return dispatch_types(p.dtype, [&](auto storage, auto acc) { return run<kBackward, decltype(storage), decltype(acc)>(p, s); });
  });
}

}  // namespace

const char* pixel_norm_forward_cuda(const PixelNormParams& p, int device, void* stream) {
  return launch<false>(p, device, stream);
}
const char* pixel_norm_backward_cuda(const PixelNormParams& p, int device, void* stream) {
  return launch<true>(p, device, stream);
}

}  // namespace vgen
