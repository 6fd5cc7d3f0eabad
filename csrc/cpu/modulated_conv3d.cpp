// The convolution family on CPU: forward with its epilogue, and the weight gradient. (Long because the two share the
// tile layout and differ only in what they do with it.)
//
// A job is a (sample, h tile, w tile) and marches along t. For each input plane it packs the part it needs once, for all
// channels, into `subs` contiguous sub-sequences per axis (csrc/modulated_conv3d.h), zeros included. A tap is then a
// constant offset, so every unit is a dense product over flat positions (row * cols + col), vectorised along positions
// and blocked over channels in registers; the layout, strides, padding and type of x no longer matter. Columns that
// belong to no output are computed and ignored (forward) or meet a zero (weight gradient).
#include "modulated_conv3d.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace vgen::VGEN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisters = 24, kBlock = 8, kMaxVectors = 8, kGradRows = 4, kGradColumns = 6;
#elif defined(__AVX2__)
constexpr int kRegisters = 12, kBlock = 4, kMaxVectors = 4, kGradRows = 3, kGradColumns = 3;
#else
constexpr int kRegisters = 8, kBlock = 4, kMaxVectors = 4, kGradRows = 2, kGradColumns = 3;
#endif
constexpr int64_t kTileBytes = 448 << 10;  // of a 1 MiB second-level cache

template <int NB>
constexpr int kVectors = std::min(kMaxVectors, kRegisters / NB);

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ------------------------------------------------------------------------------------------------ plan of one call

struct Plan {
  AxisPlan axis[3];
  int64_t tile_h, tile_w;    // grid positions per job
  int64_t tiles_h, tiles_w, chunks_t, jobs;
  int hw_units, hw_taps, hw_subs, slots;
  int64_t units() const { return int64_t(axis[0].units) * hw_units; }
  int64_t taps() const { return int64_t(axis[0].taps) * hw_taps; }
};

AxisPlan plan_axis(const ConvParams& p, int a) {
  AxisMode mode = p.up[a] == 2 ? AxisMode::up : p.down[a] == 2 ? AxisMode::down : AxisMode::direct;
  // F(2, 3) needs enough positions to pay for its transforms; along t the tile is one plane thick.
  const int64_t area = p.out_size[1] * p.out_size[2];
  if (a > 0 && mode == AxisMode::direct && p.kernel[a] == 3 && p.out_size[a] >= 4 && area >= 64 &&
      p.in_channels >= 4 && p.out_channels >= 4)
    mode = AxisMode::winograd;
  return AxisPlan::make(mode, p.kernel[a], p.padding[a], p.out_size[a]);
}

Plan make_plan(const ConvParams& p, size_t acc_bytes) {
  Plan plan;
  for (int a = 0; a < 3; ++a) plan.axis[a] = plan_axis(p, a);
  const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
  plan.hw_units = h.units * w.units;
  plan.hw_taps = h.taps * w.taps;
  plan.hw_subs = h.subs * w.subs;
  plan.slots = int(t.shift(t.units - 1, t.taps - 1) - t.shift(0, 0) + 1);
  const int64_t per_position = int64_t(acc_bytes) * (p.in_channels * plan.slots * plan.hw_subs + p.out_channels * plan.hw_units);
  const int64_t positions = std::max<int64_t>(kTileBytes / per_position, 16);
  plan.tile_w = w.grid <= std::max<int64_t>(positions / 2, 64) ? w.grid : divide_up(w.grid, divide_up(w.grid, 64));
  plan.tile_h = std::clamp<int64_t>(positions / plan.tile_w, 1, h.grid);
  auto count = [&] {
    plan.tiles_h = divide_up(h.grid, plan.tile_h), plan.tiles_w = divide_up(w.grid, plan.tile_w);
    return p.batch * plan.tiles_h * plan.tiles_w;
  };
  const int64_t wanted = p.threads > 1 ? 4 * p.threads : 1;
  plan.chunks_t = std::clamp<int64_t>(divide_up(wanted, count()), 1, std::max<int64_t>(t.grid / 2, 1));
  plan.tile_h = divide_up(h.grid, plan.tiles_h);
  plan.jobs = count() * plan.chunks_t;
  return plan;
}

// One job: a box of grid positions of one sample, and the layout of its packed input.
struct Tile {
  int64_t sample, t0, t1, h0, gh, w0, gw;
  int64_t rows, cols, positions, channel_stride, slot_stride;

  Tile(const Plan& plan, const ConvParams& p, int64_t job) {
    const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
    const int64_t tw = job % plan.tiles_w, th = job / plan.tiles_w % plan.tiles_h;
    const int64_t rest = job / plan.tiles_w / plan.tiles_h, chunk = rest % plan.chunks_t;
    sample = rest / plan.chunks_t;
    t0 = t.grid * chunk / plan.chunks_t, t1 = t.grid * (chunk + 1) / plan.chunks_t;
    h0 = th * plan.tile_h, gh = std::min(plan.tile_h, h.grid - h0);
    w0 = tw * plan.tile_w, gw = std::min(plan.tile_w, w.grid - w0);
    rows = h.extent(gh), cols = w.extent(gw);
    positions = (gh - 1) * cols + gw;
    // One vector of slack for the last load, and no two channels 4 KiB apart.
    channel_stride = (rows * cols * plan.hw_subs + 15) / 16 * 16 + 16;
    if (channel_stride % 1024 == 0) channel_stride += 16;
    slot_stride = channel_stride * p.in_channels;
  }
  // Offset of unit / tap (indices over h and w) inside a channel of a slot.
  int64_t offset(const Plan& plan, int uh, int uw, int mh, int mw) const {
    const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
    const int64_t sub = h.sub(uh, mh) * w.subs + w.sub(uw, mw);
    return sub * rows * cols + h.offset(uh, mh) * cols + w.offset(uw, mw);
  }
};

// --------------------------------------------------------------------------------------------------- packing of x

// count elements of a row from index `first`, zeros outside [0, size).
template <class S, class Acc>
void load_line(const S* row, int64_t stride, int64_t size, int64_t first, int64_t count, Acc* line) {
  const int64_t begin = std::clamp<int64_t>(-first, 0, count), end = std::clamp<int64_t>(size - first, begin, count);
  std::fill(line, line + begin, Acc(0));
  const S* source = row + first * stride;
  if (stride == 1)
    for (int64_t i = begin; i < end; ++i) line[i] = load<Acc>(source[i]);
  else
    for (int64_t i = begin; i < end; ++i) line[i] = load<Acc>(source[i * stride]);
  std::fill(line + end, line + count, Acc(0));
}

// The sub-sequences of one line; sub s goes to out + s * cols.
template <class Acc>
void split_line(const AxisPlan& w, const Acc* __restrict line, int64_t cols, Acc* __restrict out) {
  if (w.mode == AxisMode::winograd) {
    Acc *u0 = out, *u1 = out + cols, *u2 = out + 2 * cols, *u3 = out + 3 * cols;
#pragma GCC ivdep
    for (int64_t j = 0; j < cols; ++j) {
      const Acc a = line[2 * j], b = line[2 * j + 1], c = line[2 * j + 2], d = line[2 * j + 3];
      u0[j] = a - c, u1[j] = b + c, u2[j] = c - b, u3[j] = b - d;
    }
  } else if (w.subs == 2) {
    Acc *even = out, *odd = out + cols;
#pragma GCC ivdep
    for (int64_t j = 0; j < cols; ++j) even[j] = line[2 * j], odd[j] = line[2 * j + 1];
  } else {
    std::copy(line, line + cols, out);
  }
}

template <class S, class Acc>
void pack_plane(const ConvParams& p, const Plan& plan, const Tile& tile, int64_t plane, Acc* slot, Acc* work) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const int64_t raw_rows = h.num_inputs(tile.gh), raw_cols = w.num_inputs(tile.gw);
  const int64_t first_row = h.first_input(tile.h0), first_col = w.first_input(tile.w0);
  const int64_t sub_size = tile.rows * tile.cols, line_size = w.subs * tile.cols;
  Acc *line = work, *split = work + raw_cols + 16;
  const S* base = static_cast<const S*>(p.x) + tile.sample * p.x_stride[0] + plane * p.x_stride[2];
  for (int64_t c = 0; c < p.in_channels; ++c) {
    const S* channel = base + c * p.x_stride[1];
    Acc* out = slot + c * tile.channel_stride;
    for (int64_t i = 0; i < raw_rows; ++i) {
      const int64_t row = first_row + i;
      // Where the split line goes: in place, unless rows are combined too (F(2, 3) along h).
      const bool keep = h.mode == AxisMode::winograd;
      Acc* target = keep ? split + i * line_size : nullptr;
      if (!keep) {
        const int64_t sub = h.subs == 2 ? i & 1 : 0, at = h.subs == 2 ? i >> 1 : i;
        target = out + sub * w.subs * sub_size + at * tile.cols;
      }
      const int64_t pitch = keep ? tile.cols : sub_size;
      if (row < 0 || row >= p.in_size[1]) {
        for (int s = 0; s < w.subs; ++s) std::fill_n(target + s * pitch, tile.cols, Acc(0));
      } else if (w.subs == 1) {
        load_line(channel + row * p.x_stride[3], p.x_stride[4], p.in_size[2], first_col, raw_cols, target);
      } else {
        load_line(channel + row * p.x_stride[3], p.x_stride[4], p.in_size[2], first_col, raw_cols, line);
        if (keep) {
          split_line(w, line, tile.cols, target);
        } else {
          Acc* lines = split;
          split_line(w, line, tile.cols, lines);
          for (int s = 0; s < w.subs; ++s) std::copy_n(lines + s * tile.cols, tile.cols, target + s * pitch);
        }
      }
    }
    if (h.mode == AxisMode::winograd) {
      for (int s = 0; s < w.subs; ++s)
        for (int64_t j = 0; j < tile.gh; ++j) {
          const Acc* __restrict a = split + 2 * j * line_size + s * tile.cols;
          const Acc* __restrict b = a + line_size;
          const Acc* __restrict d2 = b + line_size;
          const Acc* __restrict d3 = d2 + line_size;
          Acc* __restrict u0 = out + s * sub_size + j * tile.cols;
          const int64_t unit = w.subs * sub_size;
#pragma GCC ivdep
          for (int64_t i = 0; i < tile.cols; ++i) {
            u0[i] = a[i] - d2[i];
            u0[i + unit] = b[i] + d2[i];
            u0[i + 2 * unit] = d2[i] - b[i];
            u0[i + 3 * unit] = b[i] - d3[i];
          }
        }
    }
    std::fill(out + sub_size * plan.hw_subs, out + tile.channel_stride, Acc(0));
  }
}

size_t pack_work(const Plan& plan) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  return w.num_inputs(plan.tile_w) + 16 + (h.num_inputs(plan.tile_h) + 1) * w.subs * w.extent(plan.tile_w) + 16;
}

// Keeps the packed planes of a job in a ring of slots as it marches along t.
template <class S, class Acc>
struct Ring {
  const ConvParams& p;
  const Plan& plan;
  const Tile& tile;
  Acc *slots, *work;
  int64_t next = INT64_MIN;

  // The planes needed at grid position j; packs those that are new.
  void advance(int64_t j) {
    const AxisPlan& t = plan.axis[0];
    const int64_t low = t.step() * j + t.shift(0, 0), high = low + plan.slots - 1;
    for (int64_t plane = std::max(next, low); plane <= high; ++plane)
      if (plane >= 0 && plane < p.in_size[0]) pack_plane<S>(p, plan, tile, plane, slot(plane), work);
    next = high + 1;
  }
  Acc* slot(int64_t plane) const { return slots + plane % plan.slots * tile.slot_stride; }
};

// ------------------------------------------------------------------------------------------------------- weights

// Channels are blocked as evenly as possible: 12 is 6 + 6, not 8 + 4.
struct Blocks {
  int64_t count, total;
  Blocks(int64_t total, int64_t most) : count(divide_up(total, most)), total(total) {}
  int64_t begin(int64_t b) const { return total * b / count; }
  int64_t size(int64_t b) const { return begin(b + 1) - begin(b); }
};

// [unit t][unit hw][block of O][tap t][I][tap hw][O in block]
template <class Acc>
void pack_weights(const ConvParams& p, const Plan& plan, const Acc* w, Acc* out) {
  const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &wd = plan.axis[2];
  const Blocks blocks(p.out_channels, kBlock);
  const int64_t kt = p.kernel[0], kh = p.kernel[1], kw = p.kernel[2];
  std::vector<double> table[3];  // spread as dense [unit][tap][k]
  for (int a = 0; a < 3; ++a)
    for (int u = 0; u < plan.axis[a].units; ++u)
      for (int m = 0; m < plan.axis[a].taps; ++m)
        for (int64_t k = 0; k < p.kernel[a]; ++k) table[a].push_back(plan.axis[a].spread(u, m, k));
  const int64_t per_unit = p.out_channels * p.in_channels * plan.taps();
  parallel_shares(p.out_channels * p.in_channels, p.in_channels * p.out_channels * plan.taps() > 4096 ? p.threads : 1,
                  [&](int64_t begin, int64_t end, int) {
    std::vector<double> th(size_t(kt * plan.hw_units * plan.hw_taps)), row(size_t(kt * kh * wd.units * wd.taps));
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t o = pair / p.in_channels, i = pair % p.in_channels;
      int64_t block = o * blocks.count / p.out_channels;
      while (blocks.begin(block) > o) --block;
      while (blocks.begin(block + 1) <= o) ++block;
      const int64_t size = blocks.size(block);
      const Acc* taps = w + pair * kt * kh * kw;
      // One axis at a time: w, then h, then t.
      const int64_t nw = wd.units * wd.taps, nh = h.units * h.taps;
      for (int64_t a = 0; a < kt * kh; ++a)
        for (int64_t m = 0; m < nw; ++m) {
          double sum = 0;
          for (int64_t k = 0; k < kw; ++k) sum += table[2][m * kw + k] * double(taps[a * kw + k]);
          row[a * nw + m] = sum;
        }
      for (int64_t a = 0; a < kt; ++a)
        for (int64_t m = 0; m < nh; ++m)
          for (int64_t n = 0; n < nw; ++n) {
            double sum = 0;
            for (int64_t k = 0; k < kh; ++k) sum += table[1][m * kh + k] * row[(a * kh + k) * nw + n];
            th[(a * nh + m) * nw + n] = sum;
          }
      for (int ut = 0; ut < t.units; ++ut)
        for (int mt = 0; mt < t.taps; ++mt)
          for (int64_t m = 0; m < nh; ++m)
            for (int64_t n = 0; n < nw; ++n) {
              double sum = 0;
              for (int64_t k = 0; k < kt; ++k) sum += table[0][(ut * t.taps + mt) * kt + k] * th[(k * nh + m) * nw + n];
              const int64_t unit = (ut * h.units + m / h.taps) * wd.units + n / wd.taps;
              const int64_t tap = m % h.taps * wd.taps + n % wd.taps;
              out[unit * per_unit + blocks.begin(block) * p.in_channels * plan.taps() +
                  ((mt * p.in_channels + i) * plan.hw_taps + tap) * size + o - blocks.begin(block)] = Acc(sum);
            }
    }
  });
}

// --------------------------------------------------------------------------------------------- product over positions

// The input planes one output plane reads: where each starts, and its weights.
template <class Acc>
struct Segments {
  int count;
  const Acc* x[16];
  int tap[16];
};

// NB outputs x NV vectors of positions held in registers; one pass over planes, input channels and taps.
template <class Acc, int NB, int NV>
void product(const Segments<Acc>& segments, int64_t position, int64_t in_channels, int64_t channel_stride, int taps,
             const int64_t* offset, const Acc* weights, Acc* out, int64_t out_stride) {
  constexpr int lanes = kLanes<Acc>;
  Vector<Acc> acc[NB][NV] = {};
  for (int s = 0; s < segments.count; ++s) {
    const Acc* x = segments.x[s] + position;
    const Acc* w = weights + segments.tap[s] * in_channels * taps * NB;
    for (int64_t i = 0; i < in_channels; ++i, x += channel_stride)
      for (int m = 0; m < taps; ++m, w += NB) {
        Vector<Acc> value[NV];
        for (int v = 0; v < NV; ++v) value[v] = load_vector(x + offset[m] + v * lanes);
        for (int n = 0; n < NB; ++n) {
          const Acc weight = w[n];
          for (int v = 0; v < NV; ++v) acc[n][v] += value[v] * weight;
        }
      }
  }
  for (int n = 0; n < NB; ++n)
    for (int v = 0; v < NV; ++v) store_vector(out + n * out_stride + v * lanes, acc[n][v]);
}

template <class Acc>
using Product = void (*)(const Segments<Acc>&, int64_t, int64_t, int64_t, int, const int64_t*, const Acc*, Acc*, int64_t);

template <class Acc, int NB, int NV>
Product<Acc> pick_vectors(int vectors) {
  if constexpr (NV > 1) {
    if (vectors < NV) return pick_vectors<Acc, NB, NV - 1>(vectors);
  }
  return product<Acc, NB, NV>;
}

template <class Acc, int NB = kBlock>
Product<Acc> pick_product(int block, int vectors) {
  if constexpr (NB > 1) {
    if (block < NB) return pick_product<Acc, NB - 1>(block, vectors);
  }
  return pick_vectors<Acc, NB, kVectors<NB>>(vectors);
}

// ------------------------------------------------------------------------------------------------------ epilogue

// Output row (parity ph) of one channel from the unit results of one grid row; stride between units is `unit`.
template <class Acc>
void combine_row(const Plan& plan, int ph, const Acc* __restrict at, int64_t unit, int64_t gw, Acc* __restrict work,
                 Acc* __restrict row) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const Acc* column[4];
  for (int u = 0; u < w.units; ++u) {
    if (h.mode != AxisMode::winograd) {
      column[u] = at + ((h.mode == AxisMode::up ? ph : 0) * w.units + u) * unit;
      continue;
    }
    const Acc* __restrict m0 = at + ((ph ? 1 : 0) * w.units + u) * unit;
    const Acc* __restrict m1 = m0 + w.units * unit;
    const Acc* __restrict m2 = m1 + w.units * unit;
    Acc* __restrict sum = work + u * gw;
    if (ph == 0)
      for (int64_t j = 0; j < gw; ++j) sum[j] = m0[j] + m1[j] + m2[j];
    else
      for (int64_t j = 0; j < gw; ++j) sum[j] = m0[j] - m1[j] - m2[j];
    column[u] = sum;
  }
  const Acc *__restrict c0 = column[0], *__restrict c1 = column[1], *__restrict c2 = column[2], *__restrict c3 = column[3];
  if (w.mode == AxisMode::winograd)
#pragma GCC ivdep
    for (int64_t j = 0; j < gw; ++j) row[2 * j] = c0[j] + c1[j] + c2[j], row[2 * j + 1] = c1[j] - c2[j] - c3[j];
  else if (w.mode == AxisMode::up)
#pragma GCC ivdep
    for (int64_t j = 0; j < gw; ++j) row[2 * j] = c0[j], row[2 * j + 1] = c1[j];
  else
    std::copy(c0, c0 + gw, row);
}

// noise, bias, leaky ReLU, gain on `count` values of one channel; then pixel norm over the channels; then y.
template <class S, class Acc>
void finish_rows(const ConvParams& p, Acc* rows, int64_t pitch, int64_t count, int64_t b, int64_t t, int64_t h, int64_t w0,
                 Acc* square) {
  const Acc slope = Acc(p.slope), gain = Acc(p.gain);
  const Acc* bias = static_cast<const Acc*>(p.bias);
  if (p.pixel_norm) std::fill_n(square, count, Acc(0));
  for (int64_t c = 0; c < p.out_channels; ++c) {
    Acc* __restrict row = rows + c * pitch;
    if (p.noise) {
      const int64_t* s = p.noise_stride;
      const S* noise = static_cast<const S*>(p.noise) + b * s[0] + c * s[1] + t * s[2] + h * s[3] + w0 * s[4];
      for (int64_t i = 0; i < count; ++i) row[i] += load<Acc>(noise[i * s[4]]);
    }
    const Acc add = bias ? bias[c] : Acc(0);
    if (p.slope != 1)
      for (int64_t i = 0; i < count; ++i) {
        const Acc z = row[i] + add;
        row[i] = (z > 0 ? z : z * slope) * gain;
      }
    else
      for (int64_t i = 0; i < count; ++i) row[i] = (row[i] + add) * gain;
    if (p.pixel_norm)
      for (int64_t i = 0; i < count; ++i) square[i] += row[i] * row[i];
  }
  if (p.pixel_norm) {
    const Acc scale = Acc(1) / Acc(p.out_channels), eps = Acc(p.eps);
    for (int64_t i = 0; i < count; ++i) square[i] = Acc(1) / std::sqrt(square[i] * scale + eps);
    Acc* r = static_cast<Acc*>(p.r) + ((b * p.out_size[0] + t) * p.out_size[1] + h) * p.out_size[2] + w0;
    std::copy_n(square, count, r);
  }
  S* y = static_cast<S*>(p.y) + b * p.y_stride[0] + t * p.y_stride[2] + h * p.y_stride[3] + w0 * p.y_stride[4];
  for (int64_t c = 0; c < p.out_channels; ++c) {
    const Acc* __restrict row = rows + c * pitch;
    S* __restrict out = y + c * p.y_stride[1];
    const int64_t stride = p.y_stride[4];
    if (p.pixel_norm && stride == 1)
      for (int64_t i = 0; i < count; ++i) out[i] = store<S>(row[i] * square[i]);
    else if (stride == 1)
      for (int64_t i = 0; i < count; ++i) out[i] = store<S>(row[i]);
    else if (p.pixel_norm)
      for (int64_t i = 0; i < count; ++i) out[i * stride] = store<S>(row[i] * square[i]);
    else
      for (int64_t i = 0; i < count; ++i) out[i * stride] = store<S>(row[i]);
  }
}

// ------------------------------------------------------------------------------------------------------- forward

template <class S, class Acc>
void forward(const ConvParams& p) {
  const Plan plan = make_plan(p, sizeof(Acc));
  const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
  const Blocks blocks(p.out_channels, kBlock);
  const Tile largest(plan, p, 0);
  const int64_t weight_size = p.out_channels * p.in_channels * p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int64_t packed_size = plan.units() * plan.taps() * p.out_channels * p.in_channels;
  const int64_t samples = p.per_sample ? p.batch : 1;
  const int64_t pitch = (largest.positions + 15) / 16 * 16 + 16 * kMaxVectors, out_cols = w.parities * plan.tile_w;
  const int64_t unit_stride = pitch * p.out_channels;
  // Per thread: slots, packing work, unit results, output rows, combine work, squares.
  const int64_t slots = plan.slots * largest.slot_stride + 64, work = pack_work(plan), results = plan.hw_units * unit_stride;
  const int64_t rows = p.out_channels * out_cols + 4 * plan.tile_w + out_cols;
  const int64_t per_thread = (slots + work + results + rows + 63) / 64 * 64;
  Acc* packed = reinterpret_cast<Acc*>(
      scratch(sizeof(Acc) * size_t(samples * packed_size + 64 + per_thread * std::max(p.threads, 1))));
  for (int64_t b = 0; b < samples; ++b)
    pack_weights(p, plan, static_cast<const Acc*>(p.w) + b * weight_size, packed + b * packed_size);
  Acc* memory = packed + (samples * packed_size + 63) / 64 * 64;

  parallel_shares(plan.jobs, p.threads, [&](int64_t begin, int64_t end, int thread) {
    Acc* mine = memory + thread * per_thread;
    Acc *unit_results = mine + slots + work, *out_rows = unit_results + results;
    Acc *combine = out_rows + p.out_channels * out_cols, *square = combine + 4 * plan.tile_w;
    std::vector<int64_t> offset(size_t(plan.hw_taps));
    for (int64_t job = begin; job < end; ++job) {
      const Tile tile(plan, p, job);
      Ring<S, Acc> ring{p, plan, tile, mine, mine + slots};
      const Acc* weights = packed + (p.per_sample ? tile.sample : 0) * packed_size;
      const int64_t vectors = divide_up(tile.positions, kLanes<Acc>);
      for (int64_t j = tile.t0; j < tile.t1; ++j) {
        ring.advance(j);
        for (int pt = 0; pt < t.parities; ++pt) {
          const int64_t out_t = t.parities * j + pt;
          if (out_t >= p.out_size[0]) break;
          Segments<Acc> segments{0, {}, {}};
          for (int m = 0; m < t.taps; ++m) {
            const int64_t plane = t.step() * j + t.shift(pt, m);
            if (plane < 0 || plane >= p.in_size[0]) continue;
            segments.x[segments.count] = ring.slot(plane);
            segments.tap[segments.count++] = m;
          }
          for (int u = 0; u < plan.hw_units; ++u) {
            const int uh = u / w.units, uw = u % w.units;
            for (int m = 0; m < plan.hw_taps; ++m) offset[m] = tile.offset(plan, uh, uw, m / w.taps, m % w.taps);
            const Acc* unit_weights = weights + (pt * plan.hw_units + u) * p.out_channels * p.in_channels * plan.taps();
            for (int64_t block = 0; block < blocks.count; ++block) {
              const int size = int(blocks.size(block));
              const int64_t o = blocks.begin(block), most = std::min<int64_t>(kMaxVectors, kRegisters / size);
              const Blocks runs(vectors, most);
              for (int64_t run = 0; run < runs.count; ++run) {
                const int64_t at = runs.begin(run) * kLanes<Acc>;
                pick_product<Acc>(size, int(runs.size(run)))(
                    segments, at, p.in_channels, tile.channel_stride, plan.hw_taps, offset.data(),
                    unit_weights + o * p.in_channels * plan.taps(), unit_results + u * unit_stride + o * pitch + at, pitch);
              }
            }
          }
          for (int64_t gh = 0; gh < tile.gh; ++gh)
            for (int ph = 0; ph < h.parities; ++ph) {
              const int64_t out_h = h.parities * (tile.h0 + gh) + ph, out_w = w.parities * tile.w0;
              if (out_h >= p.out_size[1]) break;
              const int64_t count = std::min(w.parities * tile.gw, p.out_size[2] - out_w);
              for (int64_t c = 0; c < p.out_channels; ++c)
                combine_row(plan, ph, unit_results + c * pitch + gh * tile.cols, unit_stride, tile.gw, combine,
                            out_rows + c * out_cols);
              finish_rows<S>(p, out_rows, out_cols, count, tile.sample, out_t, out_h, out_w, square);
            }
        }
      }
    }
  });
}

// ------------------------------------------------------------------------------------------------ weight gradient

// acc[NO][NX] += sum over positions of g[o][pos] * x[n][pos], added to sums[o * sum_stride + n].
template <class Acc, int NO, int NX>
void correlate(const Acc* g, int64_t g_stride, const Acc* const* x, int64_t vectors, double* sums, int64_t sum_stride) {
  constexpr int lanes = kLanes<Acc>;
  Vector<Acc> acc[NO][NX] = {};
  const Acc* source[NX];
  for (int n = 0; n < NX; ++n) source[n] = x[n];
  for (int64_t v = 0; v < vectors; ++v) {
    Vector<Acc> value[NO];
    for (int o = 0; o < NO; ++o) value[o] = load_vector(g + o * g_stride + v * lanes);
    for (int n = 0; n < NX; ++n) {
      const Vector<Acc> other = load_vector(source[n] + v * lanes);
      for (int o = 0; o < NO; ++o) acc[o][n] += value[o] * other;
    }
  }
  for (int o = 0; o < NO; ++o)
    for (int n = 0; n < NX; ++n) sums[o * sum_stride + n] += double(sum_lanes<Acc>(acc[o][n]));
}

template <class Acc>
using Correlate = void (*)(const Acc*, int64_t, const Acc* const*, int64_t, double*, int64_t);

template <class Acc, int NO, int NX = kGradColumns>
Correlate<Acc> pick_columns(int columns) {
  if constexpr (NX > 1) {
    if (columns < NX) return pick_columns<Acc, NO, NX - 1>(columns);
  }
  return correlate<Acc, NO, NX>;
}

template <class Acc, int NO = kGradRows>
Correlate<Acc> pick_correlate(int rows, int columns) {
  if constexpr (NO > 1) {
    if (rows < NO) return pick_correlate<Acc, NO - 1>(rows, columns);
  }
  return pick_columns<Acc, NO>(columns);
}

// The tile of g at output plane out_t, for each unit: the transpose of combine_row. Zero in columns without output.
template <class S, class Acc>
void pack_gradient(const ConvParams& p, const Plan& plan, const Tile& tile, int64_t out_t, int64_t pitch, Acc* out, Acc* work,
                   double* sum) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const int64_t unit = pitch * p.out_channels, gw = tile.gw;
  const S* base = static_cast<const S*>(p.y) + tile.sample * p.y_stride[0] + out_t * p.y_stride[2];
  const int64_t out_w = w.parities * tile.w0, cols = w.parities * gw;
  for (int64_t c = 0; c < p.out_channels; ++c) {
    Acc* channel = out + c * pitch;
    for (int u = 0; u < plan.hw_units; ++u) std::fill_n(channel + u * unit, pitch, Acc(0));
    double total = 0;
    for (int64_t j = 0; j < tile.gh; ++j) {
      Acc* lines = work + cols + 16;
      for (int ph = 0; ph < h.parities; ++ph) {
        const int64_t out_h = h.parities * (tile.h0 + j) + ph;
        Acc* line = work;
        if (out_h < p.out_size[1])
          load_line(base + c * p.y_stride[1] + out_h * p.y_stride[3], p.y_stride[4], p.out_size[2], out_w, cols, line);
        else
          std::fill_n(line, cols, Acc(0));
        Acc row_total = 0;
        for (int64_t i = 0; i < cols; ++i) row_total += line[i];
        total += double(row_total);
        Acc* __restrict to = lines + ph * w.units * gw;
        if (w.mode == AxisMode::winograd)
#pragma GCC ivdep
          for (int64_t i = 0; i < gw; ++i) {
            const Acc even = line[2 * i], odd = line[2 * i + 1];
            to[i] = even, to[gw + i] = even + odd, to[2 * gw + i] = even - odd, to[3 * gw + i] = -odd;
          }
        else if (w.mode == AxisMode::up)
#pragma GCC ivdep
          for (int64_t i = 0; i < gw; ++i) to[i] = line[2 * i], to[gw + i] = line[2 * i + 1];
        else
          std::copy_n(line, gw, to);
      }
      for (int u = 0; u < w.units; ++u) {
        const Acc* __restrict even = lines + u * gw;
        const Acc* __restrict odd = lines + (w.units + u) * gw;
        Acc* __restrict to = channel + u * unit + j * tile.cols;
        const int64_t next = w.units * unit;
        if (h.mode == AxisMode::winograd)
#pragma GCC ivdep
          for (int64_t i = 0; i < gw; ++i) {
            to[i] = even[i], to[next + i] = even[i] + odd[i], to[2 * next + i] = even[i] - odd[i], to[3 * next + i] = -odd[i];
          }
        else if (h.mode == AxisMode::up)
          std::copy_n(even, gw, to), std::copy_n(odd, gw, to + next);
        else
          std::copy_n(even, gw, to);
      }
    }
    sum[c] += total;
  }
}

template <class S, class Acc>
void weight_gradient(const ConvParams& p) {
  const Plan plan = make_plan(p, sizeof(Acc));
  const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
  const Tile largest(plan, p, 0);
  const int64_t num_out = p.out_channels, columns = p.in_channels * plan.hw_taps;
  const int64_t pitch = (largest.positions + 15) / 16 * 16;
  const int64_t per_unit = t.taps * num_out * columns, sums = plan.units() * per_unit + num_out;
  const int64_t slots = plan.slots * largest.slot_stride + 64, work = pack_work(plan) + 16 + 10 * w.parities * plan.tile_w;
  const int64_t gradients = plan.hw_units * pitch * num_out;
  const int64_t floats = (slots + work + gradients + 63) / 64 * 64;
  const size_t per_thread = size_t(floats) * sizeof(Acc) + size_t(sums + 7) / 8 * 8 * sizeof(double);
  const int64_t samples = p.per_sample ? p.batch : 1, jobs = plan.jobs / samples;
  const int threads = int(std::min<int64_t>(p.threads, std::max<int64_t>(jobs, 1)));
  char* memory = scratch(per_thread * size_t(threads));
  auto sums_of = [&](int thread) { return reinterpret_cast<double*>(memory + size_t(thread) * per_thread + size_t(floats) * sizeof(Acc)); };

  for (int64_t sample = 0; sample < samples; ++sample) {
    for (int thread = 0; thread < threads; ++thread) std::fill_n(sums_of(thread), sums, 0.0);
    parallel_shares(jobs, threads, [&](int64_t begin, int64_t end, int thread) {
      Acc* mine = reinterpret_cast<Acc*>(memory + size_t(thread) * per_thread);
      double* sum = sums_of(thread);
      Acc* ghat = mine + slots + work;
      const Blocks out_blocks(num_out, kGradRows), in_blocks(columns, kGradColumns);
      std::vector<const Acc*> x(static_cast<size_t>(columns));
      for (int64_t job = begin; job < end; ++job) {
        const Tile tile(plan, p, job + sample * jobs);
        Ring<S, Acc> ring{p, plan, tile, mine, mine + slots};
        const int64_t vectors = divide_up(tile.positions, kLanes<Acc>);
        for (int64_t j = tile.t0; j < tile.t1; ++j) {
          ring.advance(j);
          for (int pt = 0; pt < t.parities; ++pt) {
            const int64_t out_t = t.parities * j + pt;
            if (out_t >= p.out_size[0]) break;
            pack_gradient<S>(p, plan, tile, out_t, pitch, ghat, mine + slots, sum + plan.units() * per_unit);
            for (int mt = 0; mt < t.taps; ++mt) {
              const int64_t plane = t.step() * j + t.shift(pt, mt);
              if (plane < 0 || plane >= p.in_size[0]) continue;
              const Acc* slot = ring.slot(plane);
              for (int u = 0; u < plan.hw_units; ++u) {
                for (int64_t n = 0; n < columns; ++n) {
                  const int tap = int(n % plan.hw_taps);
                  x[n] = slot + n / plan.hw_taps * tile.channel_stride +
                         tile.offset(plan, u / w.units, u % w.units, tap / w.taps, tap % w.taps);
                }
                double* to = sum + (pt * plan.hw_units + u) * per_unit + mt * num_out * columns;
                for (int64_t a = 0; a < out_blocks.count; ++a)
                  for (int64_t b = 0; b < in_blocks.count; ++b)
                    pick_correlate<Acc>(int(out_blocks.size(a)), int(in_blocks.size(b)))(
                        ghat + (u * num_out + out_blocks.begin(a)) * pitch, pitch, x.data() + in_blocks.begin(b), vectors,
                        to + out_blocks.begin(a) * columns + in_blocks.begin(b), columns);
              }
            }
          }
        }
      }
    });
    for (int thread = 1; thread < threads; ++thread)
      for (int64_t n = 0; n < sums; ++n) sums_of(0)[n] += sums_of(thread)[n];
    const double* total = sums_of(0);
    const int64_t volume = p.kernel[0] * p.kernel[1] * p.kernel[2];
    Acc* gw = static_cast<Acc*>(p.gw) + sample * num_out * p.in_channels * volume;
    for (int64_t o = 0; o < num_out; ++o)
      for (int64_t i = 0; i < p.in_channels; ++i)
        for (int64_t k = 0; k < volume; ++k) {
          const int64_t kt = k / (p.kernel[1] * p.kernel[2]), kh = k / p.kernel[2] % p.kernel[1], kw = k % p.kernel[2];
          double value = 0;
          for (int ut = 0; ut < t.units; ++ut)
            for (int mt = 0; mt < t.taps; ++mt) {
              const double st = t.spread(ut, mt, kt);
              if (st == 0) continue;
              for (int uh = 0; uh < h.units; ++uh)
                for (int mh = 0; mh < h.taps; ++mh) {
                  const double sh = h.spread(uh, mh, kh);
                  if (sh == 0) continue;
                  for (int uw = 0; uw < w.units; ++uw)
                    for (int mw = 0; mw < w.taps; ++mw) {
                      const double sw = w.spread(uw, mw, kw);
                      if (sw == 0) continue;
                      const int64_t unit = (ut * h.units + uh) * w.units + uw;
                      value += st * sh * sw *
                               total[unit * per_unit + (mt * num_out + o) * columns + i * plan.hw_taps + mh * w.taps + mw];
                    }
                }
            }
          gw[(o * p.in_channels + i) * volume + k] = Acc(value);
        }
    if (p.gb)
      for (int64_t o = 0; o < num_out; ++o)
        static_cast<Acc*>(p.gb)[sample * num_out + o] = Acc(total[plan.units() * per_unit + o]);
  }
}

}  // namespace

void modulated_conv3d_forward_cpu(const ConvParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { forward<decltype(storage), decltype(acc)>(p); });
}

void modulated_conv3d_weight_gradient_cpu(const ConvParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) { weight_gradient<decltype(storage), decltype(acc)>(p); });
}

}  // namespace vgen::VGEN_ISA
