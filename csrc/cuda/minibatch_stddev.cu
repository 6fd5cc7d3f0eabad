// Minibatch standard deviation on CUDA: blocks over (group, features) leave one partial sum each; the kernel after it
// adds the partial sums of its group in a fixed order. No atomics, so the same input gives the same bits.
#include "minibatch_stddev.h"

#include "reduce.cuh"

namespace vgen {
namespace {

using namespace device;

constexpr int kThreads = 256;
constexpr int kHeld = 8;            // group members kept in registers
constexpr int64_t kMaxPartials = 256;  // per group

template <class S, class Acc>
struct Group {
  int64_t features, wide, groups, positions, channels;
  int group, blocks;  // blocks per group
  bool channels_last;
  Acc eps, inverse;
  double per_feature;  // 1 / (F G)
  Divider by_channels, by_positions, by_blocks;

  __device__ int64_t sample(int64_t m, int k) const { return m + k * groups; }
  __device__ int64_t feature_at(int64_t f) const { return channels_last ? f + by_channels.quotient(f) : f; }
  __device__ int64_t stat_at(int64_t i) const { return statistic_at(i, channels, positions, channels_last); }

  // Members of one feature, read once when they fit in registers.
  template <bool kHold>
  struct Values {
    Acc kept[kHold ? kHeld : 1];
    const S* base;
    int64_t stride;

    __device__ Values(const Group& g, const S* x, int64_t m, int64_t f)
        : base(x + m * g.features + f), stride(g.groups * g.features) {
      if (kHold)
#pragma unroll
        for (int k = 0; k < kHeld; ++k)
          if (k < g.group) kept[kHold ? k : 0] = widen<Acc>(base[k * stride]);
    }
    // fn(k, value) for every member.
    template <class F>
    __device__ void each(const Group& g, F&& fn) const {
      if (kHold) {
#pragma unroll
        for (int k = 0; k < kHeld; ++k)
          if (k < g.group) fn(k, kept[kHold ? k : 0]);
      } else {
        for (int k = 0; k < g.group; ++k) fn(k, widen<Acc>(base[k * stride]));
      }
    }
    __device__ Acc mean(const Group& g) const {
      Acc sum = 0;
      each(g, [&](int, Acc value) { sum += value; });
      return sum * g.inverse;
    }
    __device__ Acc sigma(const Group& g, Acc mu) const {
      Acc sum = 0;
      each(g, [&](int, Acc value) { sum += (value - mu) * (value - mu); });
      return square_root(sum * g.inverse + g.eps);
    }
  };

  // Sum of the partial sums of group m, given to every thread.
  __device__ double total(const double* partial, int64_t m) const {
    double sum = 0;
    for (int i = int(threadIdx.x); i < blocks; i += kThreads) sum += partial[m * blocks + i];
    return sum_block<kThreads>(sum);
  }
};

// fn(m, i) for i = first, first + step ... below count, where the blocks of group m share the range.
template <class F>
__device__ inline void for_share(int block, int blocks, int64_t count, F&& fn) {
  for (int64_t i = int64_t(block) * kThreads + threadIdx.x; i < count; i += int64_t(blocks) * kThreads) fn(i);
}

// partial[m, block] = its share of sum sigma_f; copies x.
template <class S, class Acc, bool kHold>
__global__ void __launch_bounds__(kThreads) deviation_kernel(Group<S, Acc> g, const S* x, S* y, double* partial) {
  for (int64_t item = blockIdx.x; item < g.groups * g.blocks; item += gridDim.x) {
    const int64_t m = g.by_blocks.quotient(item);
    double sum = 0;
    for_share(int(item - m * g.blocks), g.blocks, g.features, [&](int64_t f) {
      const typename Group<S, Acc>::template Values<kHold> values(g, x, m, f);
      sum += double(values.sigma(g, values.mean(g)));
      const int64_t at = g.feature_at(f);
      for (int k = 0; k < g.group; ++k) y[g.sample(m, k) * g.wide + at] = x[g.sample(m, k) * g.features + f];
    });
    sum = sum_block<kThreads>(sum);
    if (threadIdx.x == 0) partial[item] = sum;
  }
}

// Writes scale * (sum of the group's partial sums) into the extra channel of every sample.
template <class S, class Acc>
__global__ void __launch_bounds__(kThreads) fill_kernel(Group<S, Acc> g, double scale, const double* partial, S* y) {
  for (int64_t m = blockIdx.x; m < g.groups; m += gridDim.x) {
    const S value = narrow<S>(Acc(g.total(partial, m) * scale));
    for_share(0, 1, g.group * g.positions, [&](int64_t i) {
      const int64_t k = g.by_positions.quotient(i);
      y[g.sample(m, int(k)) * g.wide + g.stat_at(i - k * g.positions)] = value;
    });
  }
}

// partial[m, block] = its share of the statistic's gradient.
template <class S, class Acc>
__global__ void __launch_bounds__(kThreads) statistic_gradient_kernel(Group<S, Acc> g, const S* grad, double* partial) {
  for (int64_t item = blockIdx.x; item < g.groups * g.blocks; item += gridDim.x) {
    const int64_t m = g.by_blocks.quotient(item);
    double sum = 0;
    for_share(int(item - m * g.blocks), g.blocks, g.group * g.positions, [&](int64_t i) {
      const int64_t k = g.by_positions.quotient(i);
      sum += double(widen<Acc>(grad[g.sample(m, int(k)) * g.wide + g.stat_at(i - k * g.positions)]));
    });
    sum = sum_block<kThreads>(sum);
    if (threadIdx.x == 0) partial[item] = sum;
  }
}

template <class S, class Acc, bool kHold>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Group<S, Acc> g, const S* grad, const S* x, const double* partial, S* gx) {
  for (int64_t item = blockIdx.x; item < g.groups * g.blocks; item += gridDim.x) {
    const int64_t m = g.by_blocks.quotient(item);
    const Acc scale = Acc(g.total(partial, m) * g.per_feature);
    for_share(int(item - m * g.blocks), g.blocks, g.features, [&](int64_t f) {
      const typename Group<S, Acc>::template Values<kHold> values(g, x, m, f);
      const Acc mu = values.mean(g), factor = scale / values.sigma(g, mu);
      const int64_t at = g.feature_at(f);
      values.each(g, [&](int k, Acc value) {
        const int64_t b = g.sample(m, k);
        gx[b * g.features + f] = narrow<S>(widen<Acc>(grad[b * g.wide + at]) + (value - mu) * factor);
      });
    });
  }
}

template <class S, class Acc, bool kHold>
__global__ void __launch_bounds__(kThreads)
    double_backward_kernel(Group<S, Acc> g, const S* v, const S* x, const double* partial, S* gg, S* gx, double* tangent) {
  for (int64_t item = blockIdx.x; item < g.groups * g.blocks; item += gridDim.x) {
    const int64_t m = g.by_blocks.quotient(item);
    const Acc scale = Acc(g.total(partial, m) * g.per_feature);
    double sum = 0;
    for_share(int(item - m * g.blocks), g.blocks, g.features, [&](int64_t f) {
      using Values = typename Group<S, Acc>::template Values<kHold>;
      const Values xs(g, x, m, f), vs(g, v, m, f);
      const Acc mu = xs.mean(g), sigma = xs.sigma(g, mu), mean_v = vs.mean(g);
      Acc dot = 0;
      const int64_t at = g.feature_at(f), row = g.groups * g.features;
      const S *x0 = x + m * g.features + f, *v0 = v + m * g.features + f;
      xs.each(g, [&](int k, Acc value) { dot += widen<Acc>(v0[k * row]) * (value - mu); });
      sum += double(dot / sigma);
      dot *= g.inverse / (sigma * sigma);
      const Acc factor = scale / sigma;
      vs.each(g, [&](int k, Acc value) {
        const int64_t b = g.sample(m, k);
        gx[b * g.features + f] = narrow<S>(factor * (value - mean_v - (widen<Acc>(x0[k * row]) - mu) * dot));
        gg[b * g.wide + at] = v0[k * row];
      });
    });
    sum = sum_block<kThreads>(sum);
    if (threadIdx.x == 0) tangent[item] = sum;
  }
}

template <class S, class Acc>
struct Runner {
  const MinibatchStddevParams& p;
  cudaStream_t stream;
  Group<S, Acc> g;
  int64_t items;
  unsigned grid;
  bool hold;

  Runner(const MinibatchStddevParams& params, cudaStream_t s) : p(params), stream(s) {
    g.features = p.channels * p.positions, g.wide = g.features + p.positions, g.groups = p.batch / p.group;
    g.positions = p.positions, g.channels = p.channels, g.group = int(p.group), g.channels_last = p.channels_last != 0;
    g.eps = Acc(p.eps), g.inverse = Acc(1) / Acc(p.group);
    g.per_feature = 1.0 / (double(g.features) * double(p.group));
    const int64_t blocks = divide_up(g.features, kThreads);
    g.blocks = int(blocks < kMaxPartials ? blocks : kMaxPartials);
    g.by_channels = Divider(p.channels), g.by_positions = Divider(p.positions), g.by_blocks = Divider(g.blocks);
    items = g.groups * g.blocks;
    grid = unsigned(items < kMaxGrid ? items : kMaxGrid);
    hold = p.group <= kHeld;
  }
  unsigned fill_grid() const { return unsigned(g.groups < kMaxGrid ? g.groups : kMaxGrid); }
  static const S* in(const void* address) { return static_cast<const S*>(address); }
  static S* out(void* address) { return static_cast<S*>(address); }

  cudaError_t forward() const {
    const Workspace partial(size_t(items) * sizeof(double), stream);
    if (partial.error() != cudaSuccess) return partial.error();
    double* sums = partial.as<double>();
    if (hold)
      VGEN_LAUNCH((deviation_kernel<S, Acc, true>), grid, kThreads, 0, stream, g, in(p.x), out(p.y), sums);
    else
      VGEN_LAUNCH((deviation_kernel<S, Acc, false>), grid, kThreads, 0, stream, g, in(p.x), out(p.y), sums);
    VGEN_LAUNCH((fill_kernel<S, Acc>), fill_grid(), kThreads, 0, stream, g, 1.0 / double(g.features), sums, out(p.y));
    return cudaSuccess;
  }
  cudaError_t backward() const {
    const Workspace partial(size_t(items) * sizeof(double), stream);
    if (partial.error() != cudaSuccess) return partial.error();
    double* sums = partial.as<double>();
    VGEN_LAUNCH((statistic_gradient_kernel<S, Acc>), grid, kThreads, 0, stream, g, in(p.g), sums);
    if (hold)
      VGEN_LAUNCH((backward_kernel<S, Acc, true>), grid, kThreads, 0, stream, g, in(p.g), in(p.x), sums, out(p.gx));
    else
      VGEN_LAUNCH((backward_kernel<S, Acc, false>), grid, kThreads, 0, stream, g, in(p.g), in(p.x), sums, out(p.gx));
    return cudaSuccess;
  }
  cudaError_t double_backward() const {
    const Workspace partial(size_t(items) * 2 * sizeof(double), stream);
    if (partial.error() != cudaSuccess) return partial.error();
    double *sums = partial.as<double>(), *tangent = sums + items;
    VGEN_LAUNCH((statistic_gradient_kernel<S, Acc>), grid, kThreads, 0, stream, g, in(p.g), sums);
    if (hold)
      VGEN_LAUNCH((double_backward_kernel<S, Acc, true>), grid, kThreads, 0, stream, g, in(p.v), in(p.x), sums, out(p.y),
                  out(p.gx), tangent);
    else
      VGEN_LAUNCH((double_backward_kernel<S, Acc, false>), grid, kThreads, 0, stream, g, in(p.v), in(p.x), sums, out(p.y),
                  out(p.gx), tangent);
    VGEN_LAUNCH((fill_kernel<S, Acc>), fill_grid(), kThreads, 0, stream, g, g.per_feature, tangent, out(p.y));
    return cudaSuccess;
  }
};

template <class F>
const char* launch(const MinibatchStddevParams& p, int device, void* stream, F&& call) {
  return on_device(device, stream, [&](cudaStream_t s) {
    return dispatch_types(p.dtype, [&](auto storage, auto acc) {
      if (p.batch * p.channels * p.positions == 0) return cudaSuccess;
      return call(Runner<decltype(storage), decltype(acc)>(p, s));
    });
  });
}

}  // namespace

const char* minibatch_stddev_forward_cuda(const MinibatchStddevParams& p, int device, void* stream) {
  return launch(p, device, stream, [](const auto& runner) { return runner.forward(); });
}
const char* minibatch_stddev_backward_cuda(const MinibatchStddevParams& p, int device, void* stream) {
  return launch(p, device, stream, [](const auto& runner) { return runner.backward(); });
}
const char* minibatch_stddev_double_backward_cuda(const MinibatchStddevParams& p, int device, void* stream) {
  return launch(p, device, stream, [](const auto& runner) { return runner.double_backward(); });
}

}  // namespace vgen
