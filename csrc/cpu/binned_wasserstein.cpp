// W_1 between the rows of x and y without sorting most of them. With F and G the shares of x and y below t,
//   W_1 = integral of |F - G| dt,
// and in a bin of t where F - G cannot change its sign, the integral is linear in the samples: their number and their sum
// tell it. With D = F - G at its start, that is so where D is at least the share of y in the bin, or -D that of x. Only
// the samples of other bins are sorted, and the distance of a few places is added up as it stands.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "parallel.h"
#include "simd.h"
#include "sliced_wasserstein.h"

namespace vgen::VGEN_ISA {
namespace {

constexpr int64_t kPerBin = 16;  // samples of both sides, if they lay evenly: fewer would not pay for more bins
constexpr int64_t kMostBins = 1 << 15;
constexpr int64_t kBlock = 512;  // samples whose places are found at once

typedef double Pair __attribute__((vector_size(16)));  // of a bin: the sum of the places in it, from 0 to 1; how many

int64_t bins_of(int64_t samples) {
  int64_t bins = 16;
  while (bins < kMostBins && bins * kPerBin < samples) bins *= 2;
  return bins;
}

template <class T>
struct Scratch {
  Pair *x, *y;         // [bins]
  int32_t *at_x, *at_y;  // [bins]: where the samples of an open bin go, else the end
  T *open_x, *open_y;  // [n + 1], [m + 1]: samples of open bins
};

template <class T>
struct Grid {
  T low, scale;
  int64_t bins;

  // The bin of each of `count` samples, and its place in the bin.
  void locate(const T* x, int64_t count, int32_t* bin, double* place) const {
    const int32_t last = int32_t(bins - 1);
    for (int64_t i = 0; i < count; ++i) {
      const T t = (x[i] - low) * scale;
      const int32_t b = std::min(int32_t(t), last);
      bin[i] = b, place[i] = double(t - T(b));
    }
  }
  double edge(int64_t bin) const { return double(low) + double(bin) / double(scale); }
};

// The least and the largest value, or two NaNs if there is a NaN.
template <class T>
void extend(const T* x, int64_t count, T& low, T& high) {
  constexpr int W = kLanes<T>;
  const Vector<T> first = x[0] - Vector<T>{};
  Vector<T> least = first, most = first;
  auto bad = first != first;
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    const Vector<T> v = load_vector(x + i);
    least = v < least ? v : least, most = v > most ? v : most;
    bad |= v != v;
  }
  bool nan = false;
  for (int l = 0; l < W; ++l) low = std::min(low, least[l]), high = std::max(high, most[l]), nan |= bad[l] != 0;
  for (; i < count; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]), nan |= x[i] != x[i];
  if (nan) low = high = std::numeric_limits<T>::quiet_NaN();
}

template <class T>
void count(const Grid<T>& grid, const T* x, int64_t samples, Pair* bins) {
  int32_t bin[kBlock];
  double place[kBlock];
  std::fill_n(bins, grid.bins, Pair{});
  for (int64_t first = 0; first < samples; first += kBlock) {
    const int64_t some = std::min(kBlock, samples - first);
    grid.locate(x + first, some, bin, place);
    for (int64_t i = 0; i < some; ++i) bins[bin[i]] += Pair{place[i], 1.0};
  }
}

// Samples to where `at` says, which goes on; those of closed bins all go to the place past the end.
template <class T>
void gather(const Grid<T>& grid, const T* x, int64_t samples, int32_t* at, int32_t end, T* open) {
  int32_t bin[kBlock];
  double place[kBlock];
  for (int64_t first = 0; first < samples; first += kBlock) {
    const int64_t some = std::min(kBlock, samples - first);
    grid.locate(x + first, some, bin, place);
    for (int64_t i = 0; i < some; ++i) {
      int32_t& to = at[bin[i]];
      open[to] = x[first + i];
      to += to < end;
    }
  }
}

// The integral from `from` to `to` over an open bin, of sorted samples; `over` is n m (F - G) at its start.
template <class T>
double walk(const T* x, int64_t in_x, const T* y, int64_t in_y, int64_t n, int64_t m, int64_t over, double from, double to) {
  double sum = 0;
  int64_t i = 0, j = 0;
  while (i < in_x || j < in_y) {
    const bool of_x = j == in_y || (i < in_x && x[i] <= y[j]);
    const double next = of_x ? x[i++] : y[j++];
    sum += double(std::abs(over)) * (next - from);
    from = next, over += of_x ? m : -n;
  }
  return sum + double(std::abs(over)) * (to - from);
}

// Where there is no grid (infinity, or a range too small to be divided): from quantile to quantile.
template <class T>
double sorted(const T* x, int64_t n, const T* y, int64_t m, const Scratch<T>& s) {
  std::copy_n(x, n, s.open_x), std::copy_n(y, m, s.open_y);
  std::sort(s.open_x, s.open_x + n), std::sort(s.open_y, s.open_y + m);
  double sum = 0;
  for (int64_t i = 0, j = 0, edge = 0; i < n;) {  // edges in units of 1 / (n m)
    const int64_t end_x = (i + 1) * m, end_y = (j + 1) * n, end = std::min(end_x, end_y);
    sum += double(end - edge) * std::abs(double(s.open_x[i]) - double(s.open_y[j]));
    edge = end, i += end == end_x, j += end == end_y;
  }
  return sum / double(n) / double(m);
}

template <class T>
double distance(const T* x, int64_t n, const T* y, int64_t m, int64_t bins, const Scratch<T>& s) {
  T low = std::min(x[0], y[0]), high = low;
  extend(x, n, low, high);
  if (low == low) extend(y, m, low, high);
  if (low != low) return std::numeric_limits<double>::quiet_NaN();
  if (low == high) return 0;
  const Grid<T> grid{low, T(bins) / (high - low), bins};
  if (!std::isfinite(grid.scale) || !(grid.scale > 0)) return sorted(x, n, y, m, s);
  count(grid, x, n, s.x), count(grid, y, m, s.y);
  double closed = 0;  // in units of bins / (n m)
  int64_t over = 0;
  int32_t open_x = 0, open_y = 0;
  for (int64_t b = 0; b < bins; ++b) {
    const int64_t in_x = int64_t(s.x[b][1]), in_y = int64_t(s.y[b][1]);
    const bool open = over < in_y * n && -over < in_x * m;
    s.at_x[b] = open ? open_x : int32_t(n), s.at_y[b] = open ? open_y : int32_t(m);
    if (open)
      open_x += int32_t(in_x), open_y += int32_t(in_y);
    else
      closed += std::abs(double(over) + double(m) * (double(in_x) - s.x[b][0]) - double(n) * (double(in_y) - s.y[b][0]));
    over += in_x * m - in_y * n;
  }
  double sum = closed / double(grid.scale);
  if (open_x + open_y) {
    gather(grid, x, n, s.at_x, int32_t(n), s.open_x), gather(grid, y, m, s.at_y, int32_t(m), s.open_y);
    T *next_x = s.open_x, *next_y = s.open_y;
    over = 0;
    for (int64_t b = 0; b < bins; ++b) {
      const int64_t in_x = int64_t(s.x[b][1]), in_y = int64_t(s.y[b][1]);
      if (over < in_y * n && -over < in_x * m) {
        std::sort(next_x, next_x + in_x), std::sort(next_y, next_y + in_y);
        sum += walk(next_x, in_x, next_y, in_y, n, m, over, grid.edge(b), grid.edge(b + 1));
        next_x += in_x, next_y += in_y;
      }
      over += in_x * m - in_y * n;
    }
  }
  return sum / double(n) / double(m);
}

template <class T>
void run(const SlicedWassersteinParams& p) {
  const int64_t bins = bins_of(p.n + p.m);
  const int threads = int(std::min<int64_t>((p.n + p.m) * p.directions < 65536 ? 1 : p.threads, p.directions));
  auto line = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t pairs = line(sizeof(Pair) * size_t(bins)), places = line(sizeof(int32_t) * size_t(bins));
  const size_t xs = line(sizeof(T) * size_t(p.n + 1)), ys = line(sizeof(T) * size_t(p.m + 1));
  const size_t each = 2 * pairs + 2 * places + xs + ys, sums = line(sizeof(double) * size_t(p.directions));
  char* memory = scratch(sums + each * size_t(threads));
  double* found = reinterpret_cast<double*>(memory);
  parallel_shares(p.directions, threads, [&](int64_t begin, int64_t end, int thread) {
    char* next = memory + sums + each * size_t(thread);
    auto take = [&](size_t bytes) { return std::exchange(next, next + bytes); };
    Scratch<T> s;
    s.x = reinterpret_cast<Pair*>(take(pairs)), s.y = reinterpret_cast<Pair*>(take(pairs));
    s.at_x = reinterpret_cast<int32_t*>(take(places)), s.at_y = reinterpret_cast<int32_t*>(take(places));
    s.open_x = reinterpret_cast<T*>(take(xs)), s.open_y = reinterpret_cast<T*>(take(ys));
    const T *x = static_cast<const T*>(p.x), *y = static_cast<const T*>(p.y);
    for (int64_t i = begin; i < end; ++i) found[i] = distance(x + i * p.n, p.n, y + i * p.m, p.m, bins, s);
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
