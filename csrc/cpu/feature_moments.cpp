// Symmetric rank-k update in float64 on CPU. The shifted rows are packed once into panels of kPanel columns; a tile of
// the output is kRows rows (broadcast from one panel) by one panel (vectors), held in registers over all rows.
#include "feature_moments.h"

#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace vgen::VGEN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectors = 3, kRows = 8;
#else
constexpr int kVectors = 3, kRows = 4;
#endif
constexpr int kPanel = kVectors * kLanes<double>;
static_assert(kPanel % kRows == 0, "a tile reads its rows from one panel");
constexpr int64_t kBand = 4;  // panels of rows a job works on, kept in the second-level cache

// out[r][c] += sum_k a[k][r] b[k][c] for r < kRows, c < kPanel; both panels have kPanel columns.
void product(const double* __restrict a, const double* __restrict b, int64_t depth, double* __restrict out, int64_t stride) {
  constexpr int W = kLanes<double>;
  for (int r = 0; r < kRows; ++r)  // the tile comes from memory while the sums are formed
    for (int v = 0; v < kVectors; ++v) __builtin_prefetch(out + r * stride + v * W, 1);
  Vector<double> sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k, a += kPanel, b += kPanel) {
    Vector<double> column[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) column[v] = load_vector(b + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sum[r][v] += a[r] * column[v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      double* to = out + r * stride + v * W;
      store_vector(to, load_vector(to) + sum[r][v]);
    }
}

template <class S, class Acc>
void pack(const FeatureMomentsParams& p, int64_t depth, int64_t panel, double* __restrict to) {
  const int64_t first = panel * kPanel, count = std::min<int64_t>(kPanel, p.dim - first);
  for (int64_t k = 0; k < p.rows; ++k, to += kPanel) {
    const S* __restrict row = static_cast<const S*>(p.features) + k * p.dim + first;
    for (int64_t i = 0; i < count; ++i) to[i] = double(load<Acc>(row[i])) - p.shift[first + i];
    std::fill(to + count, to + kPanel, 0.0);
  }
  if (depth > p.rows) {
    std::copy_n(p.extra + first, count, to);
    std::fill(to + count, to + kPanel, 0.0);
  }
}

template <class S, class Acc>
void update(const FeatureMomentsParams& p) {
  const int64_t depth = p.rows + (p.extra ? 1 : 0), panels = (p.dim + kPanel - 1) / kPanel, size = depth * kPanel;
  const int threads = depth * p.dim * p.dim < 65536 ? 1 : p.threads;
  double* packed = reinterpret_cast<double*>(scratch(sizeof(double) * size_t(panels * size)));
  parallel_shares(panels, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) pack<S, Acc>(p, depth, i, packed + i * size);
  });
  // Band i of kBand panels of rows meets the panels 0 ... its own last one.
  const int64_t bands = (panels + kBand - 1) / kBand;
  auto meets = [&](int64_t band) { return std::min((band + 1) * kBand, panels); };
  int64_t jobs = 0;
  for (int64_t band = 0; band < bands; ++band) jobs += meets(band);
  parallel_pieces(jobs, threads, [&](int64_t begin, int64_t end, int) {
    int64_t band = 0, start = 0;
    while (start + meets(band) <= begin) start += meets(band++);
    for (int64_t job = begin; job < end; ++job) {
      if (job - start == meets(band)) start += meets(band++);
      const int64_t column_panel = job - start, column = column_panel * kPanel;
      const double* b = packed + column_panel * size;
      const int64_t width = std::min<int64_t>(kPanel, p.dim - column);
      const int64_t last = std::min((band + 1) * kBand * kPanel, p.dim);
      for (int64_t row = std::max(band * kBand, column_panel) * kPanel; row < last; row += kRows) {
        const double* a = packed + row / kPanel * size + row % kPanel;
        const int64_t height = std::min<int64_t>(kRows, last - row);
        double* out = p.out + row * p.dim + column;
        if (width == kPanel && height == kRows) {
          product(a, b, depth, out, p.dim);
          continue;
        }
        double edge[kRows * kPanel] = {};
        product(a, b, depth, edge, kPanel);
        for (int64_t r = 0; r < height; ++r)
          for (int64_t c = 0; c < width; ++c) out[r * p.dim + c] += edge[r * kPanel + c];
      }
    }
  });
}

}  // namespace

void feature_moments_update_cpu(const FeatureMomentsParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { update<decltype(storage), decltype(acc)>(p); });
}

}  // namespace vgen::VGEN_ISA
