// Sliced Wasserstein on CPU: a vector register holds one sample of kLanes directions, so a compare-exchange of two
// registers is one step of kLanes sorts. A block of directions is sorted in scratch by a bitonic network whose
// comparators all put the smaller value at the lower place: rows past the end, +inf, then never move, so blocks that
// hold nothing else are skipped. Several levels of the network run in registers between a load and a store, and the
// recursion is depth first, so every level below the size of a cache stays in it.
// (Over 400 lines: the projection, the network and the distance work on one block of directions, in one layout.)
#include "sliced_wasserstein.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "parallel.h"
#include "simd.h"

namespace vgen::VGEN_ISA {
namespace {

// Levels of the network in registers, less one for rows with an index: as there are registers for, and fewer in float64 to
// have less to compile.
template <class T>
constexpr int kKeyLevels = kVectorBytes == 64 && sizeof(T) == 4 ? 4 : 3;
constexpr int64_t kChunk = 64;  // terms added in the storage type before the sum goes on in float64

template <class T>
using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// One row more after every 64, so that rows a power of two apart do not meet in one cache set.
// Additive over numbers without common bits, which is how the network addresses rows.
inline int64_t place(int64_t row) { return row + (row >> 6); }

template <class T, bool kRanked>
struct Item {
  Vector<T> key;
};
template <class T>
struct Item<T, true> {
  Vector<T> key;
  Vector<Index<T>> index;
};

template <class T, bool kRanked>
inline void compare_exchange(Item<T, kRanked>& a, Item<T, kRanked>& b) {
  const Vector<T> ka = a.key, kb = b.key;
  if constexpr (kRanked) {
    const auto swap = kb < ka;
    const Vector<Index<T>> ia = a.index, ib = b.index;
    a.key = swap ? kb : ka, b.key = swap ? ka : kb;
    a.index = swap ? ib : ia, b.index = swap ? ia : ib;
  } else {
    a.key = ka < kb ? ka : kb;
    b.key = ka > kb ? ka : kb;
  }
}

template <class T, bool kRanked>
struct Columns {
  static constexpr int kLevels = kKeyLevels<T> - kRanked;
  static constexpr int kBase = 1 << kLevels;
  static constexpr int kWidth = kLanes<T>;
  using I = Item<T, kRanked>;

  T* key;
  Index<T>* index;  // null unless kRanked
  int64_t rows, capacity;
  const T* source;  // first element of the block of columns
  int64_t stride;
  int lanes;  // columns in the block
  Vector<Index<T>> nan = {};

  static int64_t room(int64_t rows) {
    int64_t capacity = kBase;
    while (capacity < rows) capacity *= 2;
    return capacity;
  }
  I get(int64_t at) const {
    I item;
    item.key = load_vector(key + at * kWidth);
    if constexpr (kRanked) item.index = load_vector(index + at * kWidth);
    return item;
  }
  void set(int64_t at, const I& item) const {
    store_vector(key + at * kWidth, item.key);
    if constexpr (kRanked) store_vector(index + at * kWidth, item.index);
  }
  VGEN_NOINLINE Vector<T> fetch_part(int64_t row) const {
    T value[kWidth] = {};
    std::copy_n(source + row * stride, lanes, value);
    return load_vector(value);
  }
  I fetch(int64_t row) {
    I item;
    if (row < rows) {
      item.key = lanes == kWidth ? load_vector(source + row * stride) : fetch_part(row);
      nan |= item.key != item.key;
    } else {
      item.key = std::numeric_limits<T>::infinity() - Vector<T>{};
    }
    if constexpr (kRanked) item.index = Index<T>(row) - Vector<Index<T>>{};
    return item;
  }

  // Batcher's odd-even merge sort of kBase rows, in registers, on the way from the source.
  VGEN_NOINLINE void sort_base(int64_t first) {
    I a[kBase];
#pragma GCC unroll 16
    for (int i = 0; i < kBase; ++i) a[i] = fetch(first + i);
#pragma GCC unroll 4
    for (int p = 1; p < kBase; p *= 2)
#pragma GCC unroll 4
      for (int k = p; k >= 1; k /= 2)
#pragma GCC unroll 16
        for (int j = k % p; j + k < kBase; j += 2 * k)
#pragma GCC unroll 16
          for (int i = 0; i < k; ++i)
            if (i + j + k < kBase && (i + j) / (2 * p) == (i + j + k) / (2 * p)) compare_exchange(a[i + j], a[i + j + k]);
#pragma GCC unroll 16
    for (int i = 0; i < kBase; ++i) set(place(first) + i, a[i]);
  }

  // Levels of half cleaners inside one run of R rows held in registers.
  template <int R>
  static void clean_registers(I* a, int half) {
#pragma GCC unroll 4
    for (int h = half; h >= 1; h /= 2)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
        if (!(r & h)) compare_exchange(a[r], a[r + h]);
  }

  // kFlip: the first of kSteps levels compares row i with row size - 1 - i (two ascending halves are being merged).
  template <int kSteps, bool kFlip>
  void step(int64_t first, int64_t size) const {
    constexpr int R = 1 << kSteps;
    const int64_t apart = size >> kSteps, base = place(first);
    int64_t offset[R];
    for (int r = 0; r < R; ++r) offset[r] = base + place(r * apart);
    for (int64_t i = 0; i < apart; ++i) {
      const int64_t up = place(i), down = kFlip ? place(apart - 1 - i) : up;
      I a[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) a[r] = get(offset[r] + (r < R / 2 ? up : down));
      if constexpr (kFlip) {
#pragma GCC unroll 8
        for (int r = 0; r < R / 2; ++r) compare_exchange(a[r], a[R - 1 - r]);
        clean_registers<R>(a, R / 4);
      } else {
        clean_registers<R>(a, R / 2);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) set(offset[r] + (r < R / 2 ? up : down), a[r]);
    }
  }

  // The `levels` levels of a merge of 2^levels rows, as even groups of at most kLevels.
  template <bool kFlip>
  void levels(int64_t first, int levels_left) const {
    const int64_t size = int64_t(1) << levels_left, half = size / 2;
    if (first >= rows || levels_left == 0) return;
    if (first + half >= rows) {  // the upper half holds nothing
      if (!kFlip) levels<false>(first, levels_left - 1);
      return;
    }
    const int groups = (levels_left + kLevels - 1) / kLevels, now = (levels_left + groups - 1) / groups;
    switch (now) {
      case 1: step<1, kFlip>(first, size); break;
      case 2: step<2, kFlip>(first, size); break;
      case 3:
        if constexpr (kLevels >= 3) step<3, kFlip>(first, size);
        break;
      default:
        if constexpr (kLevels >= 4) step<4, kFlip>(first, size);
    }
    if (levels_left == now) return;
    for (int64_t i = 0; i < size; i += size >> now) levels<false>(first + i, levels_left - now);
  }

  void sort_range(int64_t first, int levels_left) {
    if (levels_left <= kLevels) return sort_base(first);
    const int64_t half = int64_t(1) << (levels_left - 1);
    sort_range(first, levels_left - 1);
    if (first + half >= rows) return;
    sort_range(first + half, levels_left - 1);
    levels<true>(first, levels_left);
  }

  void sort() {
    int all = kLevels;
    while ((int64_t(1) << all) < rows) ++all;
    const Vector<T> inf = std::numeric_limits<T>::infinity() - Vector<T>{};
    for (int64_t i = rows / kBase * kBase; i < capacity; ++i) store_vector(key + place(i) * kWidth, inf);
    sort_range(0, all);
  }

  T* at(int64_t rank) const { return key + place(rank) * kWidth; }

  // Rows of `key`, by rank, to the rows they came from.
  void scatter(T* __restrict rowwise, T* __restrict to) const {
    for (int64_t r = 0; r < rows; ++r) {
      const T* value = at(r);
      const Index<T>* row = index + place(r) * kWidth;
      for (int i = 0; i < kWidth; ++i) rowwise[int64_t(row[i]) * kWidth + i] = value[i];
    }
    for (int64_t r = 0; r < rows; ++r)
      if (lanes == kWidth)
        store_vector(to + r * stride, load_vector(rowwise + r * kWidth));
      else
        std::copy_n(rowwise + r * kWidth, lanes, to + r * stride);
  }
};

template <class T>
inline Vector<T> absolute(Vector<T> d) {
  return d < 0 ? -d : d;
}

enum class Power { one, two, any };

// |d|^p, and p |d|^(p-1) sign(d) in `slope`.
template <class T, Power kPower>
inline Vector<T> powered(Vector<T> d, T p, Vector<T>& slope) {
  if constexpr (kPower == Power::two) {
    slope = d + d;
    return d * d;
  } else if constexpr (kPower == Power::one) {
    const Vector<T> zero = {}, one = T(1) - zero;
    slope = d > 0 ? one : d < 0 ? -one : zero;
    return absolute<T>(d);
  } else {
    const Vector<T> size = absolute<T>(d);
    T lane[kLanes<T>];
    store_vector(lane, size);
#pragma GCC unroll 1
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = std::pow(lane[i], p - 1);
    const Vector<T> low = load_vector(lane);
    slope = d < 0 ? -p * low : p * low;
    return size * low;
  }
}

// sum of length |d|^p over the pieces, per lane; with kRanked the sorted values turn into their gradients.
template <class T, Power kPower, bool kRanked>
void distance(Columns<T, kRanked>& x, Columns<T, kRanked>& y, const SlicedWassersteinParams& p, double* sums) {
  constexpr int W = kLanes<T>;
  const int64_t n = x.rows, m = y.rows;
  std::fill_n(sums, W, 0.0);
  Vector<T> part = {}, slope = {};
  auto flush = [&] {
    T lane[W];
    store_vector(lane, part);
    for (int i = 0; i < W; ++i) sums[i] += double(lane[i]);
    part = Vector<T>{};
  };
  const double per_direction = 1.0 / double(p.directions);
  if (n == m) {
    const T unit = T(per_direction / double(n));
    for (int64_t r0 = 0; r0 < n; r0 += kChunk) {
      for (int64_t r = r0; r < std::min(n, r0 + kChunk); ++r) {
        T *xr = x.at(r), *yr = y.at(r);
        part += powered<T, kPower>(load_vector(xr) - load_vector(yr), T(p.p), slope);
        if constexpr (kRanked) store_vector(xr, slope * unit), store_vector(yr, slope * -unit);
      }
      flush();
    }
    for (int i = 0; i < W; ++i) sums[i] /= double(n);
    return;
  }
  Vector<T> gx = {}, gy = {};
  int64_t i = 0, j = 0, edge = 0;  // edges in units of 1 / (n m)
  const double unit = 1.0 / (double(n) * double(m));
  for (int64_t piece = 1; i < n; ++piece) {
    const int64_t end_x = (i + 1) * m, end_y = (j + 1) * n, end = std::min(end_x, end_y);
    const T length = T(double(end - edge) * unit);
    edge = end;
    T *xr = x.at(i), *yr = y.at(j);
    part += length * powered<T, kPower>(load_vector(xr) - load_vector(yr), T(p.p), slope);
    if constexpr (kRanked) gx += slope * T(length * per_direction), gy -= slope * T(length * per_direction);
    if (end == end_x) {
      if constexpr (kRanked) store_vector(xr, gx), gx = Vector<T>{};
      ++i;
    }
    if (end == end_y) {
      if constexpr (kRanked) store_vector(yr, gy), gy = Vector<T>{};
      ++j;
    }
    if (piece % kChunk == 0) flush();
  }
  flush();
}

// out[row] += samples[row] x theta for `count` features and a vector of directions; theta as packed, [feature][lane].
template <class T, int kRows = 8>
void project_rows(const T* samples, int64_t stride, int64_t rows, const T* theta, int64_t count, T* out) {
  constexpr int W = kLanes<T>;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    const T* from = samples + row * stride;
    Vector<T> sum[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r] = load_vector(out + (row + r) * W);
    for (int64_t d = 0; d < count; ++d) {
      const Vector<T> direction = load_vector(theta + d * W);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r] += from[r * stride + d] * direction;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) store_vector(out + (row + r) * W, sum[r]);
  }
  if constexpr (kRows > 1) {
    if (row < rows) project_rows<T, kRows / 2>(samples + row * stride, stride, rows - row, theta, count, out + row * W);
  }
}

constexpr int64_t kFeatures = 2048;  // of theta's columns in the cache at once

// The projections of x and y on a block of directions, x's rows before y's, in `out`; `packed` holds kFeatures vectors.
template <class T>
void project(const SlicedWassersteinParams& p, int64_t column, int lanes, T* packed, T* out) {
  constexpr int W = kLanes<T>;
  const T *x = static_cast<const T*>(p.x), *y = static_cast<const T*>(p.y), *theta = static_cast<const T*>(p.theta) + column;
  std::fill_n(out, (p.n + p.m) * W, T(0));
  std::fill_n(packed, std::min(kFeatures, p.features) * W, T(0));
  for (int64_t d = 0; d < p.features; d += kFeatures) {
    const int64_t count = std::min(kFeatures, p.features - d);
    for (int64_t i = 0; i < count; ++i) std::copy_n(theta + (d + i) * p.directions, lanes, packed + i * W);
    project_rows(x + d, p.features, p.n, packed, count, out);
    project_rows(y + d, p.features, p.m, packed, count, out + p.n * W);
  }
}

template <class T, bool kRanked>
void run(const SlicedWassersteinParams& p) {
  using C = Columns<T, kRanked>;
  constexpr int W = kLanes<T>;
  const int64_t blocks = (p.directions + W - 1) / W;
  const bool projecting = !kRanked && p.theta;
  // Below that, waking a second thread takes as long as its half of the work.
  const int threads = int(std::min<int64_t>((p.n + p.m) * p.directions < 8192 ? 1 : p.threads, blocks));
  // Per thread: keys (and indices) of both sides, and rows to scatter into; or the projections and their directions.
  const int64_t rows_x = place(C::room(p.n)) + 1, rows_y = place(C::room(p.m)) + 1;
  const int64_t arrays = (kRanked ? 2 : 1) * (rows_x + rows_y) + (kRanked ? std::max(p.n, p.m) : 0) +
                         (projecting ? p.n + p.m + std::min(kFeatures, p.features) : 0);
  const size_t row_bytes = sizeof(T) * W, thread_bytes = (arrays * row_bytes + 127) / 64 * 64;
  const size_t partial_bytes = (size_t(blocks) * sizeof(double) + 63) / 64 * 64;
  char* memory = scratch(partial_bytes + thread_bytes * size_t(threads));
  double* partial = reinterpret_cast<double*>(memory);
  parallel_shares(blocks, threads, [&](int64_t begin, int64_t end, int thread) {
    char* next = memory + partial_bytes + thread_bytes * size_t(thread);
    auto take = [&](int64_t rows) {
      char* here = next;
      next += size_t(rows) * row_bytes;
      return here;
    };
    C x{}, y{};
    x.key = reinterpret_cast<T*>(take(rows_x)), y.key = reinterpret_cast<T*>(take(rows_y));
    T *rowwise = nullptr, *projected = nullptr, *packed = nullptr;
    if (projecting) {
      projected = reinterpret_cast<T*>(take(p.n + p.m));
      packed = reinterpret_cast<T*>(take(std::min(kFeatures, p.features)));
    }
    if constexpr (kRanked) {
      x.index = reinterpret_cast<Index<T>*>(take(rows_x)), y.index = reinterpret_cast<Index<T>*>(take(rows_y));
      rowwise = reinterpret_cast<T*>(take(std::max(p.n, p.m)));
    }
    x.rows = p.n, y.rows = p.m, x.capacity = C::room(p.n), y.capacity = C::room(p.m);
    x.stride = y.stride = projecting ? W : p.directions;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t column = block * W;
      const int lanes = int(std::min<int64_t>(W, p.directions - column));
      if (projecting) {
        project(p, column, lanes, packed, projected);
        x.source = projected, y.source = projected + p.n * W;
      } else {
        x.source = static_cast<const T*>(p.x) + column, y.source = static_cast<const T*>(p.y) + column;
      }
      x.lanes = y.lanes = projecting ? W : lanes;
      x.nan = y.nan = Vector<Index<T>>{};
      x.sort(), y.sort();
      double sums[W];
      if (p.p == 1)
        distance<T, Power::one, kRanked>(x, y, p, sums);
      else if (p.p == 2)
        distance<T, Power::two, kRanked>(x, y, p, sums);
      else
        distance<T, Power::any, kRanked>(x, y, p, sums);
      Index<T> nan[W];
      store_vector(nan, x.nan | y.nan);
      double sum = 0;
      for (int i = 0; i < lanes; ++i) sum += nan[i] ? std::numeric_limits<double>::quiet_NaN() : sums[i];
      partial[block] = sum;
      if constexpr (kRanked) {
        x.scatter(rowwise, static_cast<T*>(p.gx) + column);
        y.scatter(rowwise, static_cast<T*>(p.gy) + column);
      }
    }
  });
  double sum = 0;
  for (int64_t block = 0; block < blocks; ++block) sum += partial[block];
  *p.value = sum / double(p.directions);
}

}  // namespace

void sliced_wasserstein_cpu(const SlicedWassersteinParams& p) {
  const bool ranked = p.gx;
  if (p.dtype == Dtype::float64)
    ranked ? run<double, true>(p) : run<double, false>(p);
  else
    ranked ? run<float, true>(p) : run<float, false>(p);
}

}  // namespace vgen::VGEN_ISA
