// Pixel norm on CPU: chunks of positions, small enough that the second pass over the channels reads from cache.
#include "pixel_norm.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace vgen::VGEN_ISA {
namespace {

constexpr int64_t kChunk = 256;

// fn(first element of the chunk, index into r, number of positions) for every chunk of every sample.
template <class F>
void for_chunks(const PixelNormParams& p, F&& fn) {
  const int64_t chunks = (p.positions + kChunk - 1) / kChunk;
  const int threads = p.batch * p.channels * p.positions < 32768 ? 1 : p.threads;
  parallel_pieces(p.batch * chunks, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kChunk;
      fn(b * p.channels * p.positions + first * p.position_stride, b * p.positions + first,
         std::min(kChunk, p.positions - first));
    }
    stream_fence();
  });
}

template <class S>
bool streams(const PixelNormParams& p) {
  return p.batch * p.channels * p.positions * int64_t(sizeof(S)) > kStreamBytes;
}

template <class S, class Acc>
void forward(const PixelNormParams& p) {
  const bool stream = streams<S>(p);
  const Acc slope = Acc(p.slope), eps = Acc(p.eps), scale = Acc(1) / Acc(p.channels);
  const int64_t num_c = p.channels, cs = p.channel_stride;
  for_chunks(p, [&](int64_t at, int64_t at_r, int64_t count) {
    Acc r[kChunk] = {};
    const S* __restrict x = static_cast<const S*>(p.x) + at;
    S* __restrict y = static_cast<S*>(p.out) + at;
    if (p.position_stride == 1) {
      for (int64_t c = 0; c < num_c; ++c)
        for (int64_t i = 0; i < count; ++i) {
          const Acc a = leaky(load<Acc>(x[c * cs + i]), slope);
          r[i] += a * a;
        }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        Acc sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < num_c; ++c) {
          const Acc a = leaky(load<Acc>(x[i * num_c + c]), slope);
          sum += a * a;
        }
        r[i] = sum;
      }
    }
    for (int64_t i = 0; i < count; ++i) r[i] = Acc(1) / std::sqrt(r[i] * scale + eps);
    if (p.position_stride == 1) {
      for (int64_t c = 0; c < num_c; ++c) {
        fetch(x + c * cs + count, count);  // the same run of the next chunk
        write_line(y + c * cs, count, stream, [&](int64_t i) { return store<S>(leaky(load<Acc>(x[c * cs + i]), slope) * r[i]); });
      }
    } else {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < num_c; ++c)
          y[i * num_c + c] = store<S>(leaky(load<Acc>(x[i * num_c + c]), slope) * r[i]);
    }
    if (p.out_r) std::copy_n(r, count, static_cast<Acc*>(p.out_r) + at_r);
  });
}

// gz = lrelu'(z) gain r (g - y mean_c(g y)); without r only lrelu'(z) gain g.
template <class S, class Acc>
void backward(const PixelNormParams& p) {
  const bool stream = streams<S>(p);
  const Acc slope = Acc(p.slope), gain = Acc(p.gain), scale = Acc(1) / Acc(p.channels);
  const int64_t num_c = p.channels, cs = p.channel_stride;
  for_chunks(p, [&](int64_t at, int64_t at_r, int64_t count) {
    const S* __restrict g = static_cast<const S*>(p.g) + at;
    const S* __restrict y = static_cast<const S*>(p.y) + at;
    S* __restrict out = static_cast<S*>(p.out) + at;
    if (!p.r) {
      const int64_t runs = p.position_stride == 1 ? num_c : 1, length = p.position_stride == 1 ? count : count * num_c;
      for (int64_t c = 0; c < runs; ++c)
        write_line(out + c * cs, length, stream, [&](int64_t i) {
          return store<S>(load<Acc>(g[c * cs + i]) * leaky_derivative(load<Acc>(y[c * cs + i]), slope, gain));
        });
      return;
    }
    const Acc* __restrict r = static_cast<const Acc*>(p.r) + at_r;
    Acc dot[kChunk] = {};
    if (p.position_stride == 1) {
      for (int64_t c = 0; c < num_c; ++c)
        for (int64_t i = 0; i < count; ++i) dot[i] += load<Acc>(g[c * cs + i]) * load<Acc>(y[c * cs + i]);
      for (int64_t i = 0; i < count; ++i) dot[i] *= scale;
      for (int64_t c = 0; c < num_c; ++c) {
        fetch(g + c * cs + count, count), fetch(y + c * cs + count, count);
        write_line(out + c * cs, count, stream, [&](int64_t i) {
          const Acc value = load<Acc>(y[c * cs + i]);
          return store<S>(leaky_derivative(value, slope, gain) * r[i] * (load<Acc>(g[c * cs + i]) - value * dot[i]));
        });
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        Acc sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < num_c; ++c) sum += load<Acc>(g[i * num_c + c]) * load<Acc>(y[i * num_c + c]);
        sum *= scale;
        for (int64_t c = 0; c < num_c; ++c) {
          const Acc value = load<Acc>(y[i * num_c + c]);
          out[i * num_c + c] =
              store<S>(leaky_derivative(value, slope, gain) * r[i] * (load<Acc>(g[i * num_c + c]) - value * sum));
        }
      }
    }
  });
}

}  // namespace

void pixel_norm_forward_cpu(const PixelNormParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { forward<decltype(storage), decltype(acc)>(p); });
}

void pixel_norm_backward_cpu(const PixelNormParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { backward<decltype(storage), decltype(acc)>(p); });
}

}  // namespace vgen::VGEN_ISA
