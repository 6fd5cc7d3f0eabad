// Minibatch standard deviation on CPU: one pass over blocks of features, all samples of a group at once.
#include "minibatch_stddev.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace vgen::VGEN_ISA {
namespace {

constexpr int64_t kBlock = 512;

// Copies `count` features from f on between a sample of C channels and one of C + 1.
template <class S>
void copy_features(const MinibatchStddevParams& p, const S* __restrict from, bool from_wide, S* __restrict to, bool to_wide,
                   int64_t f, int64_t count) {
  if (!p.channels_last || from_wide == to_wide) {
    std::copy_n(from + f, count, to + f);
    return;
  }
  for (int64_t i = f; i < f + count; ++i) {
    const int64_t wide = wide_feature(i, p.channels, 1);
    to[to_wide ? wide : i] = from[from_wide ? wide : i];
  }
}

template <class S, class Acc>
struct Group {
  const MinibatchStddevParams& p;
  int64_t features = p.channels * p.positions, groups = p.batch / p.group;
  int64_t wide = features + p.positions;
  Acc inverse = Acc(1) / Acc(p.group);

  int64_t sample(int64_t m, int64_t k) const { return m + k * groups; }

  // Mean of one tensor of C channels over the group, for `count` features from f on.
  VGEN_NOINLINE void mean(const void* x, int64_t m, int64_t f, int64_t count, Acc* mu) const {
    std::fill_n(mu, count, Acc(0));
    for (int64_t k = 0; k < p.group; ++k) {
      const S* __restrict row = static_cast<const S*>(x) + sample(m, k) * features + f;
      for (int64_t i = 0; i < count; ++i) mu[i] += load<Acc>(row[i]);
    }
    for (int64_t i = 0; i < count; ++i) mu[i] /= Acc(p.group);  // of three equal samples the sample itself
  }
  // Mean and standard deviation of x over the group.
  VGEN_NOINLINE void statistics(int64_t m, int64_t f, int64_t count, Acc* __restrict mu, Acc* __restrict sigma) const {
    const Acc eps = Acc(p.eps);
    if (p.group == 4) {  // the usual size: one pass, the four samples in registers
      const S* x = static_cast<const S*>(p.x) + m * features + f;
      const int64_t next = groups * features;
      const S *__restrict x0 = x, *__restrict x1 = x + next, *__restrict x2 = x1 + next, *__restrict x3 = x2 + next;
      for (int64_t i = 0; i < count; ++i) {
        const Acc a = load<Acc>(x0[i]), b = load<Acc>(x1[i]), c = load<Acc>(x2[i]), d = load<Acc>(x3[i]);
        const Acc mean = (a + b + c + d) * Acc(0.25);
        const Acc da = a - mean, db = b - mean, dc = c - mean, dd = d - mean;
        mu[i] = mean;
        sigma[i] = std::sqrt((da * da + db * db + dc * dc + dd * dd) * Acc(0.25) + eps);
      }
      return;
    }
    mean(p.x, m, f, count, mu);
    std::fill_n(sigma, count, Acc(0));
    for (int64_t k = 0; k < p.group; ++k) {
      const S* __restrict row = static_cast<const S*>(p.x) + sample(m, k) * features + f;
      for (int64_t i = 0; i < count; ++i) {
        const Acc d = load<Acc>(row[i]) - mu[i];
        sigma[i] += d * d;
      }
    }
    for (int64_t i = 0; i < count; ++i) sigma[i] = std::sqrt(sigma[i] * inverse + eps);
  }
  VGEN_NOINLINE double statistic_gradient(int64_t m) const {
    double sum = 0;
    for (int64_t k = 0; k < p.group; ++k) {
      const S* g = static_cast<const S*>(p.g) + sample(m, k) * wide;
      for (int64_t i = 0; i < p.positions; ++i)
        sum += double(load<Acc>(g[statistic_at(i, p.channels, p.positions, p.channels_last)]));
    }
    return sum;
  }
  // Writes value into the extra channel of every sample of the group.
  VGEN_NOINLINE void fill_statistic(int64_t m, double value) const {
    for (int64_t k = 0; k < p.group; ++k) {
      S* y = static_cast<S*>(p.y) + sample(m, k) * wide;
      for (int64_t i = 0; i < p.positions; ++i)
        y[statistic_at(i, p.channels, p.positions, p.channels_last)] = store<S>(Acc(value));
    }
  }
  // fn(group, first feature, count) -> a partial sum; the sums per group, added in a fixed order, go to done(m, sum).
  template <class F, class Done>
  void run(F&& fn, Done&& done) const {
    const int64_t blocks = (features + kBlock - 1) / kBlock;
    double* partial = reinterpret_cast<double*>(scratch(sizeof(double) * size_t(groups * blocks)));
    parallel_shares(groups * blocks, p.batch * features < 16384 ? 1 : p.threads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t f = i % blocks * kBlock;
        partial[i] = fn(i / blocks, f, std::min(kBlock, features - f));
      }
    });
    for (int64_t m = 0; m < groups; ++m) {
      double sum = 0;
      for (int64_t i = 0; i < blocks; ++i) sum += partial[m * blocks + i];
      done(m, sum);
    }
  }
};

template <class S, class Acc>
void forward(const MinibatchStddevParams& p) {
  const Group<S, Acc> group{p};
  group.run(
      [&](int64_t m, int64_t f, int64_t count) {
        Acc mu[kBlock], sigma[kBlock];
        group.statistics(m, f, count, mu, sigma);
        for (int64_t k = 0; k < p.group; ++k) {
          const int64_t b = group.sample(m, k);
          copy_features(p, static_cast<const S*>(p.x) + b * group.features, false, static_cast<S*>(p.y) + b * group.wide, true,
                        f, count);
        }
        Acc sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < count; ++i) sum += sigma[i];
        return double(sum);
      },
      [&](int64_t m, double sum) { group.fill_statistic(m, sum / double(group.features)); });
}

template <class S, class Acc>
void backward(const MinibatchStddevParams& p) {
  const Group<S, Acc> group{p};
  std::vector<Acc> scale(size_t(group.groups));
  for (int64_t m = 0; m < group.groups; ++m)
    scale[m] = Acc(group.statistic_gradient(m) / double(group.features * p.group));
  group.run(
      [&](int64_t m, int64_t f, int64_t count) {
        Acc mu[kBlock], sigma[kBlock];
        group.statistics(m, f, count, mu, sigma);
        for (int64_t i = 0; i < count; ++i) sigma[i] = scale[m] / sigma[i];
        for (int64_t k = 0; k < p.group; ++k) {
          const int64_t b = group.sample(m, k);
          S* __restrict out = static_cast<S*>(p.gx) + b * group.features + f;
          const S* __restrict x = static_cast<const S*>(p.x) + b * group.features + f;
          const S* __restrict g = static_cast<const S*>(p.g) + b * group.wide;
          if (p.channels_last)
            for (int64_t i = 0; i < count; ++i)
              out[i] = store<S>(load<Acc>(g[wide_feature(f + i, p.channels, 1)]) + (load<Acc>(x[i]) - mu[i]) * sigma[i]);
          else
            for (int64_t i = 0; i < count; ++i)
              out[i] = store<S>(load<Acc>(g[f + i]) + (load<Acc>(x[i]) - mu[i]) * sigma[i]);
        }
        return 0.0;
      },
      [](int64_t, double) {});
}

template <class S, class Acc>
void double_backward(const MinibatchStddevParams& p) {
  const Group<S, Acc> group{p};
  const double per_feature = 1.0 / double(group.features * p.group);
  std::vector<Acc> scale(size_t(group.groups));
  for (int64_t m = 0; m < group.groups; ++m) scale[m] = Acc(group.statistic_gradient(m) * per_feature);
  group.run(
      [&](int64_t m, int64_t f, int64_t count) {
        Acc mu[kBlock], sigma[kBlock], mean_v[kBlock], dot[kBlock] = {};
        group.statistics(m, f, count, mu, sigma);
        group.mean(p.v, m, f, count, mean_v);
        for (int64_t k = 0; k < p.group; ++k) {
          const int64_t at = group.sample(m, k) * group.features + f;
          const S *__restrict x = static_cast<const S*>(p.x) + at, *__restrict v = static_cast<const S*>(p.v) + at;
          // Of what is left of v: the differences from a rounded mean do not add up to 0.
          for (int64_t i = 0; i < count; ++i) dot[i] += (load<Acc>(v[i]) - mean_v[i]) * (load<Acc>(x[i]) - mu[i]);
        }
        double tangent = 0;
        for (int64_t i = 0; i < count; ++i) {
          tangent += double(dot[i] / sigma[i]);
          dot[i] *= group.inverse / (sigma[i] * sigma[i]);
          sigma[i] = scale[m] / sigma[i];
        }
        for (int64_t k = 0; k < p.group; ++k) {
          const int64_t b = group.sample(m, k), at = b * group.features + f;
          const S *__restrict x = static_cast<const S*>(p.x) + at, *__restrict v = static_cast<const S*>(p.v) + at;
          S* __restrict out = static_cast<S*>(p.gx) + at;
          for (int64_t i = 0; i < count; ++i)
            out[i] = store<S>(sigma[i] * (load<Acc>(v[i]) - mean_v[i] - (load<Acc>(x[i]) - mu[i]) * dot[i]));
          copy_features(p, static_cast<const S*>(p.v) + b * group.features, false, static_cast<S*>(p.y) + b * group.wide, true,
                        f, count);
        }
        return tangent;
      },
      [&](int64_t m, double sum) { group.fill_statistic(m, sum * per_feature); });
}

}  // namespace

void minibatch_stddev_forward_cpu(const MinibatchStddevParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { forward<decltype(storage), decltype(acc)>(p); });
}
void minibatch_stddev_backward_cpu(const MinibatchStddevParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { backward<decltype(storage), decltype(acc)>(p); });
}
void minibatch_stddev_double_backward_cpu(const MinibatchStddevParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { double_backward<decltype(storage), decltype(acc)>(p); });
}

}  // namespace vgen::VGEN_ISA
