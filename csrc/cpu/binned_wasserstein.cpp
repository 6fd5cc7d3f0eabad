// W_1 between the rows of x and y without sorting most of them. With F and G the shares of x and y below t,
//   W_1 = integral of |F - G| dt,
// and in a bin of t where F - G cannot change its sign, the integral is linear in the samples: their number and their sum
// tell it. With D = F - G at its start, that is so where D is at least the share of y in the bin, or -D that of x. Only
// the samples of other, open bins are sorted, and the distance of a few places is added up as it stands.
//
// With s = the sign of D in a closed bin, 0 in an open one, and the bin's end e, the closed bins have
//   n m W = sum over bins of s (n m D width + (m in_x - n in_y) e) - m sum over x of s x + n sum over y of s y,
// so one pass counts, and one looks every sample's sign up.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "parallel.h"
#include "simd.h"
#include "sliced_wasserstein.h"

namespace vgen::VGEN_ISA {
namespace {

constexpr int64_t kPerBin = 16;  // samples of both sides, if they lay evenly: sorting costs ten times what counting does
constexpr int64_t kMostBins = 1 << 17;

int64_t bins_of(int64_t samples) {
  int64_t bins = 16;
  while (bins < kMostBins && bins * kPerBin < samples) bins *= 2;
  return bins;
}

// The samples of one direction, kSampleBlock of which lie together.
template <class T>
struct Samples {
  const T* all;
  int64_t count, direction, directions;

  T first() const { return all[direction * std::min(kSampleBlock, count)]; }
  template <class F>
  void blocks(F&& each) const {
    for (int64_t from = 0; from < count; from += kSampleBlock) {
      const int64_t some = std::min(kSampleBlock, count - from);
      each(all + from * directions + direction * some, some);
    }
  }
};

template <class T>
struct Scratch {
  int32_t *in_x, *in_y;  // [bins]: how many samples
  int32_t *at_x, *at_y;  // [bins]: where the next sample of an open bin goes
  int8_t* sign;          // [bins]: of F - G, 0 in an open bin
  T *open_x, *open_y;    // [n], [m]: samples of open bins
};

template <class T>
struct Grid {
  T low, scale;
  int64_t bins;

  void locate(const T* x, int64_t count, int32_t* bin) const {
    const int32_t last = int32_t(bins - 1);
    for (int64_t i = 0; i < count; ++i) bin[i] = std::min(int32_t((x[i] - low) * scale), last);
  }
  double width() const { return 1 / double(scale); }
};

// The least and the largest value, or two NaNs if there is a NaN.
template <class T>
void extend(const Samples<T>& samples, T& low, T& high) {
  constexpr int W = kLanes<T>, kApart = 4;  // of each, so that none waits for the one before
  Vector<T> least[kApart], most[kApart];
  std::fill_n(least, kApart, low - Vector<T>{}), std::fill_n(most, kApart, high - Vector<T>{});
  auto bad = least[0] != least[0];
  auto take = [&](Vector<T> v, int k) {
    least[k] = v < least[k] ? v : least[k], most[k] = v > most[k] ? v : most[k];
    bad |= v != v;
  };
  samples.blocks([&](const T* x, int64_t some) {
    int64_t i = 0;
    for (; i + kApart * W <= some; i += kApart * W)
      for (int k = 0; k < kApart; ++k) take(load_vector(x + i + k * W), k);
    for (; i < some; ++i) take(x[i] - Vector<T>{}, 0);
  });
  bool nan = false;
  for (int k = 0; k < kApart; ++k)
    for (int l = 0; l < W; ++l) low = std::min(low, least[k][l]), high = std::max(high, most[k][l]);
  for (int l = 0; l < W; ++l) nan |= bad[l] != 0;
  if (nan) low = high = std::numeric_limits<T>::quiet_NaN();
}

template <class T>
void count(const Grid<T>& grid, const Samples<T>& samples, int32_t* in) {
  int32_t bin[kSampleBlock];
  std::fill_n(in, grid.bins, 0);
  samples.blocks([&](const T* x, int64_t some) {
    grid.locate(x, some, bin);
    for (int64_t i = 0; i < some; ++i) ++in[bin[i]];
  });
}

// The sum of sign (x - low) over the samples of closed bins; those of open ones go where `at` says, which goes on.
template <class T>
double signed_sum(const Grid<T>& grid, const Samples<T>& samples, const int8_t* signs, int32_t* at, T* open) {
  int32_t bin[kSampleBlock], sign[kSampleBlock];
  const double low = double(grid.low);
  using Four = Vector<double, 32>;
  Four sums[2] = {};
  double sum = 0;
  auto keep = [&](const T* x, int64_t i) { open[at[bin[i]]++] = x[i]; };
  samples.blocks([&](const T* x, int64_t some) {
    grid.locate(x, some, bin);
    for (int64_t i = 0; i < some; ++i) sign[i] = signs[bin[i]];
    int64_t i = 0;
    for (; i + 8 <= some; i += 8) {
      for (int h = 0; h < 2; ++h) {
        const Four place = __builtin_convertvector(load_vector<T, 4 * sizeof(T)>(x + i + 4 * h), Four) - low;
        sums[h] += __builtin_convertvector(load_vector<int32_t, 16>(sign + i + 4 * h), Four) * place;
      }
      const Vector<int32_t, 32> none = load_vector<int32_t, 32>(sign + i) == 0;
      int left = _mm256_movemask_ps(reinterpret_cast<__m256>(none));
      for (; left; left &= left - 1) keep(x, i + __builtin_ctz(left));
    }
    for (; i < some; ++i)
      if (sum += sign[i] * (double(x[i]) - low); !sign[i]) keep(x, i);
  });
  for (int l = 0; l < 4; ++l) sum += sums[0][l] + sums[1][l];
  return sum;
}

// An open bin holds few samples as a rule: those are ranked by comparing each with each, without a branch.
constexpr int64_t kRanked = 128;

// The integral from `from` to `to` over an open bin; `over` is n m (F - G) at its start. Sorts x and y where they are many.
template <class T>
double walk(T* x, int64_t in_x, T* y, int64_t in_y, int64_t n, int64_t m, int64_t over, double from, double to) {
  using I = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int W = kLanes<T>;
  const int64_t count = in_x + in_y;
  double sum = 0;
  auto go = [&](double next, int64_t more) {
    sum += double(std::abs(over)) * (next - from);
    from = next, over += more;
  };
  if (count <= kRanked) {
    T sample[kRanked], value[kRanked];
    I rank[kRanked];
    int64_t more[kRanked];
    std::fill_n(std::copy_n(y, in_y, std::copy_n(x, in_x, sample)), (count + W - 1) / W * W - count, T(0));
    for (int64_t i = 0; i < count; i += W) {
      const Vector<T> here = load_vector(sample + i);
      Vector<I> below = {};
      for (int64_t j = 0; j < count; ++j) below -= Vector<I>(sample[j] - Vector<T>{} < here);
      store_vector(rank + i, below);
    }
    std::fill_n(value, count, std::numeric_limits<T>::lowest());  // ranks that equal samples leave free
    std::fill_n(more, count, 0);
    for (int64_t i = 0; i < count; ++i) value[rank[i]] = sample[i], more[rank[i]] += i < in_x ? m : -n;
    for (int64_t i = 0; i < count; ++i) go(std::max(from, double(value[i])), more[i]);
  } else {
    std::sort(x, x + in_x), std::sort(y, y + in_y);
    for (int64_t i = 0, j = 0; i < in_x || j < in_y;) {
      const bool of_x = j == in_y || (i < in_x && x[i] <= y[j]);
      go(of_x ? x[i++] : y[j++], of_x ? m : -n);
    }
  }
  go(to, 0);
  return sum;
}

// Where there is no grid (infinity, or a range too small to be divided): from quantile to quantile.
template <class T>
double sorted(const Samples<T>& x, const Samples<T>& y, const Scratch<T>& s) {
  auto sort = [](const Samples<T>& side, T* to) {
    T* end = to;
    side.blocks([&](const T* from, int64_t some) { end = std::copy_n(from, some, end); });
    std::sort(to, end);
  };
  sort(x, s.open_x), sort(y, s.open_y);
  double sum = 0;
  for (int64_t n = x.count, m = y.count, i = 0, j = 0, edge = 0; i < n;) {  // edges in units of 1 / (n m)
    const int64_t end_x = (i + 1) * m, end_y = (j + 1) * n, end = std::min(end_x, end_y);
    sum += double(end - edge) * std::abs(double(s.open_x[i]) - double(s.open_y[j]));
    edge = end, i += end == end_x, j += end == end_y;
  }
  return sum / double(x.count) / double(y.count);
}

template <class T>
double distance(const Samples<T>& x, const Samples<T>& y, int64_t bins, const Scratch<T>& s) {
  const int64_t n = x.count, m = y.count;
  T low = std::min(x.first(), y.first()), high = low;
  extend(x, low, high);
  if (low == low) extend(y, low, high);
  if (low != low) return std::numeric_limits<double>::quiet_NaN();
  if (low == high) return 0;
  const Grid<T> grid{low, T(bins) / (high - low), bins};
  if (!std::isfinite(grid.scale) || !(grid.scale > 0)) return sorted(x, y, s);
  count(grid, x, s.in_x), count(grid, y, s.in_y);
  const double width = grid.width();
  double sum = 0;
  int64_t over = 0;  // n m D
  int32_t open_x = 0, open_y = 0;
  for (int64_t b = 0; b < bins; ++b) {
    const int64_t in_x = s.in_x[b], in_y = s.in_y[b], more = in_x * m - in_y * n;
    s.sign[b] = over >= in_y * n ? 1 : -over >= in_x * m ? -1 : 0;
    s.at_x[b] = open_x, s.at_y[b] = open_y;
    if (!s.sign[b]) open_x += int32_t(in_x), open_y += int32_t(in_y);
    sum += s.sign[b] * (double(over) + double(more) * double(b + 1)) * width;
    over += more;
  }
  sum -= double(m) * signed_sum(grid, x, s.sign, s.at_x, s.open_x);
  sum += double(n) * signed_sum(grid, y, s.sign, s.at_y, s.open_y);
  T *next_x = s.open_x, *next_y = s.open_y;
  over = 0;
  for (int64_t b = 0; b < bins; ++b) {
    const int64_t in_x = s.in_x[b], in_y = s.in_y[b];
    if (!s.sign[b]) {
      const double from = double(low) + double(b) * width;
      sum += walk(next_x, in_x, next_y, in_y, n, m, over, from, from + width);
      next_x += in_x, next_y += in_y;
    }
    over += in_x * m - in_y * n;
  }
  return sum / double(n) / double(m);
}

template <class T>
void run(const SlicedWassersteinParams& p) {
  const int64_t bins = bins_of(p.n + p.m);
  const int threads = int(std::min<int64_t>((p.n + p.m) * p.directions < 65536 ? 1 : p.threads, p.directions));
  auto line = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t ints = line(sizeof(int32_t) * size_t(bins)), signs = line(size_t(bins));
  const size_t xs = line(sizeof(T) * size_t(p.n)), ys = line(sizeof(T) * size_t(p.m));
  const size_t each = 4 * ints + signs + xs + ys, sums = line(sizeof(double) * size_t(p.directions));
  char* memory = scratch(sums + each * size_t(threads));
  double* found = reinterpret_cast<double*>(memory);
  parallel_pieces(p.directions, threads, [&](int64_t begin, int64_t end, int thread) {
    char* next = memory + sums + each * size_t(thread);
    auto take = [&](size_t bytes) { return std::exchange(next, next + bytes); };
    Scratch<T> s;
    for (int32_t** to : {&s.in_x, &s.in_y, &s.at_x, &s.at_y}) *to = reinterpret_cast<int32_t*>(take(ints));
    s.sign = reinterpret_cast<int8_t*>(take(signs));
    s.open_x = reinterpret_cast<T*>(take(xs)), s.open_y = reinterpret_cast<T*>(take(ys));
    const T *x = static_cast<const T*>(p.x), *y = static_cast<const T*>(p.y);
    for (int64_t i = begin; i < end; ++i)
      found[i] = distance(Samples<T>{x, p.n, i, p.directions}, Samples<T>{y, p.m, i, p.directions}, bins, s);
  });
  double sum = 0;
  for (int64_t i = 0; i < p.directions; ++i) sum += found[i];
  *p.value = sum / double(p.directions);
}

}  // namespace

void binned_wasserstein_cpu(const SlicedWassersteinParams& p) {
  p.dtype == Dtype::float64 ? run<double>(p) : run<float>(p);
}

}  // namespace vgen::VGEN_ISA
