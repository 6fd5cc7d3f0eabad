// The sliced head and its derivatives on CPU: rows of q, and scale and offset kept per share of the directions.
#include <algorithm>

#include "parallel.h"
#include "pixel_norm.h"
#include "simd.h"
#include "sliced_wasserstein.h"

namespace vgen::VGEN_ISA {
namespace {

constexpr int64_t kColumns = 512;  // columns per share, so that sums do not depend on the number of threads

int head_threads(const SlicedHeadParams& p) { return p.batch * p.directions < 65536 ? 1 : p.threads; }

template <class S, class Acc>
void head_forward(const SlicedHeadParams& p) {
  const S *q = static_cast<const S*>(p.q), *scale = static_cast<const S*>(p.scale), *offset = static_cast<const S*>(p.offset);
  const Acc slope = Acc(p.slope);
  constexpr int W = kLanes<Acc>;
  parallel_shares(p.batch, head_threads(p), [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const S* __restrict row = q + b * p.directions;
      Acc lane[W] = {};
      int64_t i = 0;
      for (; i + W <= p.directions; i += W)
        for (int k = 0; k < W; ++k)
          lane[k] += leaky(load<Acc>(scale[i + k]) * load<Acc>(row[i + k]) + load<Acc>(offset[i + k]), slope);
      for (int k = 0; i < p.directions; ++i, ++k)
        lane[k] += leaky(load<Acc>(scale[i]) * load<Acc>(row[i]) + load<Acc>(offset[i]), slope);
      static_cast<S*>(p.out)[b] = store<S>(sum_lanes<Acc>(load_vector(lane)) / Acc(p.directions));
    }
  });
}

template <class S, class Acc>
void head_backward(const SlicedHeadParams& p) {
  const S *g = static_cast<const S*>(p.g), *q = static_cast<const S*>(p.q);
  const Acc inverse = Acc(1) / Acc(p.directions), slope = Acc(p.slope);
  const int64_t shares = (p.directions + kColumns - 1) / kColumns;
  parallel_shares(shares, head_threads(p), [&](int64_t begin, int64_t end, int) {
    for (int64_t share = begin; share < end; ++share) {
      const int64_t first = share * kColumns, count = std::min(kColumns, p.directions - first);
      Acc scale[kColumns], offset[kColumns], gs[kColumns] = {}, go[kColumns] = {};
      for (int64_t i = 0; i < count; ++i) {
        scale[i] = load<Acc>(static_cast<const S*>(p.scale)[first + i]);
        offset[i] = load<Acc>(static_cast<const S*>(p.offset)[first + i]);
      }
      for (int64_t b = 0; b < p.batch; ++b) {
        const S* __restrict row = q + b * p.directions + first;
        S* __restrict out = static_cast<S*>(p.gq) + b * p.directions + first;
        const Acc full = load<Acc>(g[b]) * inverse, leak = full * slope;
        for (int64_t i = 0; i < count; ++i) {
          const Acc value = load<Acc>(row[i]);
          const Acc gm = scale[i] * value + offset[i] > 0 ? full : leak;
          out[i] = store<S>(gm * scale[i]);
          gs[i] += gm * value;
          go[i] += gm;
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        static_cast<S*>(p.gscale)[first + i] = store<S>(gs[i]);
        static_cast<S*>(p.goffset)[first + i] = store<S>(go[i]);
      }
    }
  });
}

template <class S, class Acc>
void head_double_backward(const SlicedHeadParams& p) {
  const S *g = static_cast<const S*>(p.g), *q = static_cast<const S*>(p.q), *v = static_cast<const S*>(p.v);
  const Acc inverse = Acc(1) / Acc(p.directions), slope = Acc(p.slope), leak = inverse * slope;
  const int64_t shares = (p.directions + kColumns - 1) / kColumns;
  constexpr int W = kLanes<Acc>;
  Acc* rows = reinterpret_cast<Acc*>(scratch(sizeof(Acc) * size_t(shares * p.batch)));
  parallel_shares(shares, head_threads(p), [&](int64_t begin, int64_t end, int) {
    for (int64_t share = begin; share < end; ++share) {
      const int64_t first = share * kColumns, count = std::min(kColumns, p.directions - first);
      const int64_t whole = count / W * W;
      Acc scale[kColumns], offset[kColumns], vs[kColumns], vo[kColumns], gs[kColumns] = {}, terms[kColumns];
      for (int64_t i = 0; i < count; ++i) {
        scale[i] = load<Acc>(static_cast<const S*>(p.scale)[first + i]);
        offset[i] = load<Acc>(static_cast<const S*>(p.offset)[first + i]);
        vs[i] = load<Acc>(static_cast<const S*>(p.vs)[first + i]);
        vo[i] = load<Acc>(static_cast<const S*>(p.vo)[first + i]);
      }
      for (int64_t b = 0; b < p.batch; ++b) {
        const S *__restrict row = q + b * p.directions + first, *__restrict tangent = v + b * p.directions + first;
        S* __restrict out = static_cast<S*>(p.gq) + b * p.directions + first;
        const Acc weight = load<Acc>(g[b]);
        Acc lane[W] = {};
        for (int64_t i = 0; i < count; ++i) {
          const Acc value = load<Acc>(row[i]), t = load<Acc>(tangent[i]);
          const Acc mask = scale[i] * value + offset[i] > 0 ? inverse : leak;
          terms[i] = mask * (t * scale[i] + vs[i] * value + vo[i]);
          gs[i] += weight * mask * t;
          out[i] = store<S>(weight * mask * vs[i]);
        }
        for (int64_t i = 0; i < whole; i += W)
          for (int k = 0; k < W; ++k) lane[k] += terms[i + k];
        for (int64_t i = whole; i < count; ++i) lane[i - whole] += terms[i];
        rows[share * p.batch + b] = sum_lanes<Acc>(load_vector(lane));
      }
      for (int64_t i = 0; i < count; ++i) static_cast<S*>(p.gscale)[first + i] = store<S>(gs[i]);
    }
  });
  for (int64_t b = 0; b < p.batch; ++b) {
    Acc sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += rows[share * p.batch + b];
    static_cast<S*>(p.out)[b] = store<S>(sum);
  }
}

}  // namespace

void sliced_head_forward_cpu(const SlicedHeadParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { head_forward<decltype(storage), decltype(acc)>(p); });
}
void sliced_head_backward_cpu(const SlicedHeadParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { head_backward<decltype(storage), decltype(acc)>(p); });
}
void sliced_head_double_backward_cpu(const SlicedHeadParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { head_double_backward<decltype(storage), decltype(acc)>(p); });
}

}  // namespace vgen::VGEN_ISA
