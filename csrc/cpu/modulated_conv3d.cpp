// The convolution with its epilogue on CPU: packed x times packed weights, unit by unit, then the units combined into
// output rows that pass through noise, bias, activation and norm while they are in the first-level cache.
#include <utility>

#include "conv_tile.h"

namespace vgen::VGEN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisters = 32, kBlock = 8, kMaxVectors = 8;
#else
constexpr int kRegisters = 16, kBlock = 4, kMaxVectors = 4;
#endif
constexpr int kInputs = 8;
// Vectors of positions to a block of outputs, so that sums, positions and one weight have registers: a sum that has none is
// written and read back at each step. Fewer in float64, which checks gradients, to have less to compile.
template <class Acc>
constexpr int most_vectors(int block) {
  return std::min(kMaxVectors, (kRegisters - 1) / (block + 1)) / (std::is_same_v<Acc, double> ? 2 : 1);
}

// ------------------------------------------------------------------------------------------------------- weights

// [sample][unit t][unit hw][block of O][tap t][I][tap hw][O in block], from w [sample, O, I, kt, kh, kw] or its mirror image.
template <class Acc>
void pack_weights(const ConvParams& p, const Plan& plan, int64_t samples, Acc* packed) {
  const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &wa = plan.axis[2];
  const int64_t volume = p.kernel[0] * p.kernel[1] * p.kernel[2], per_unit = p.out_channels * p.in_channels * plan.taps();
  const Blocks blocks(p.out_channels, kBlock);
  std::vector<double> table[3];  // spread as dense [unit, tap][k]
  int64_t wide[3];               // units * taps
  for (int a = 0; a < 3; ++a) {
    const AxisPlan& axis = plan.axis[a];
    wide[a] = axis.units * axis.taps;
    for (int m = 0; m < wide[a]; ++m)
      for (int64_t k = 0; k < axis.kernel; ++k) table[a].push_back(axis.spread(m / axis.taps, m % axis.taps, k));
  }
  // One axis at a time: [outer][kernel][inner] -> [outer][wide][inner]. One that is direct has nothing to spread.
  auto spread = [&](int axis, int64_t outer, int64_t inner, const double*& value, double* to) {
    if (plan.axis[axis].mode == AxisMode::direct) return;
    const double* from = std::exchange(value, to);
    const int64_t kernel = p.kernel[axis];
    for (int64_t a = 0; a < outer; ++a)
      for (int64_t m = 0; m < wide[axis]; ++m, to += inner) {
        std::fill_n(to, inner, 0.0);
        for (int64_t k = 0; k < kernel; ++k) {
          const double scale = table[axis][m * kernel + k];
          const double* __restrict row = from + (a * kernel + k) * inner;
          if (scale != 0)
            for (int64_t c = 0; c < inner; ++c) to[c] += scale * row[c];
        }
      }
  };
  const int64_t sizes[4] = {volume, p.kernel[0] * p.kernel[1] * wide[2], p.kernel[0] * wide[1] * wide[2],
                            wide[0] * wide[1] * wide[2]};
  const Blocks inputs(p.in_channels, kInputs);  // spread together
  const int64_t per_sample = plan.units() * per_unit, items = blocks.count * inputs.count;
  parallel_shares(samples * items, samples * per_sample > 65536 ? p.threads : 1, [&](int64_t begin, int64_t end, int) {
    std::vector<double> stage[4];
    for (int a = 0; a < 4; ++a) stage[a].resize(size_t(sizes[a] * kBlock * kInputs));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sample = item / items, block = item % items / inputs.count, group = item % inputs.count;
      const int64_t o = blocks.begin(block), size = blocks.size(block), i = inputs.begin(group), count = inputs.size(group);
      const Acc* w = static_cast<const Acc*>(p.w) + sample * p.out_channels * p.in_channels * volume;
      const auto gather = [&](int64_t out_stride, int64_t in_stride, int64_t first, int64_t step) {
        for (int64_t n = 0; n < size; ++n)
          for (int64_t c = 0; c < count; ++c) {
            const Acc* from = w + ((o + n) * out_stride + (i + c) * in_stride) * volume + first;
            for (int64_t k = 0; k < volume; ++k) stage[0][(k * count + c) * size + n] = double(from[step * k]);
          }
      };
      if (p.mirrored)
        gather(1, p.out_channels, volume - 1, -1);
      else
        gather(p.in_channels, 1, 0, 1);
      const int64_t inner = count * size;
      const double* value = stage[0].data();
      spread(2, p.kernel[0] * p.kernel[1], inner, value, stage[1].data());
      spread(1, p.kernel[0], wide[2] * inner, value, stage[2].data());
      spread(0, 1, wide[1] * wide[2] * inner, value, stage[3].data());
      Acc* base = packed + sample * per_sample + o * p.in_channels * plan.taps();
      for (int ut = 0; ut < t.units; ++ut)
        for (int mt = 0; mt < t.taps; ++mt)
          for (int uh = 0; uh < h.units; ++uh)
            for (int mh = 0; mh < h.taps; ++mh)
              for (int uw = 0; uw < wa.units; ++uw)
                for (int mw = 0; mw < wa.taps; ++mw) {
                  const int64_t unit = (ut * h.units + uh) * wa.units + uw, tap = mh * wa.taps + mw;
                  Acc* to = base + unit * per_unit + ((mt * p.in_channels + i) * plan.hw_taps + tap) * size;
                  for (int64_t c = 0; c < count; ++c, to += plan.hw_taps * size)
                    for (int64_t n = 0; n < size; ++n) to[n] = Acc(*value++);
                }
    }
  });
}

// --------------------------------------------------------------------------------------------- product over positions

// The input planes that one output plane reads: where each starts, and which tap along t it is.
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
  Vector<Acc> acc[NB][NV];
#pragma GCC unroll 8
  for (int n = 0; n < NB; ++n)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[n][v] = Vector<Acc>{};
  const auto add = [&](const Acc* x, const Acc* w) __attribute__((always_inline)) {
    Vector<Acc> value[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) value[v] = load_vector(x + v * lanes);
#pragma GCC unroll 8
    for (int n = 0; n < NB; ++n)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[n][v] += value[v] * w[n];
  };
  for (int s = 0; s < segments.count; ++s) {
    const Acc* x = segments.x[s] + position;
    const Acc* w = weights + segments.tap[s] * in_channels * taps * NB;
    if (taps == 1) {  // all of the paired modes
      x += offset[0];
      for (int64_t i = 0; i < in_channels; ++i, x += channel_stride, w += NB) add(x, w);
      continue;
    }
    for (int64_t i = 0; i < in_channels; ++i, x += channel_stride)
      for (int m = 0; m < taps; ++m, w += NB) add(x + offset[m], w);
  }
#pragma GCC unroll 8
  for (int n = 0; n < NB; ++n)
#pragma GCC unroll 8
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
  return pick_vectors<Acc, NB, most_vectors<Acc>(NB)>(vectors);
}

// ------------------------------------------------------------------------------------------------------ epilogue

// Both output rows of one grid row, from its unit results.
template <class Filter, class Acc>
void filter_output(const Acc* at, int64_t unit, int64_t count, Acc* __restrict row0, Acc* __restrict row1) {
  constexpr int units = Filter::units;
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    Acc line[2][units], y[2][2];
#pragma GCC unroll 4
    for (int u = 0; u < units; ++u) {
      Acc m[units], pair[2];
#pragma GCC unroll 4
      for (int r = 0; r < units; ++r) m[r] = at[(r * units + u) * unit + j];
      Filter::output(m, pair);
      line[0][u] = pair[0], line[1][u] = pair[1];
    }
    Filter::output(line[0], y[0]);
    Filter::output(line[1], y[1]);
    row0[2 * j] = y[0][0], row0[2 * j + 1] = y[0][1];
    row1[2 * j] = y[1][0], row1[2 * j + 1] = y[1][1];
  }
}

// The output rows (one per parity, `row_stride` apart) of one grid row of one channel.
template <class Acc>
void combine(const Plan& plan, const Acc* at, int64_t unit, int64_t count, Acc* row, int64_t row_stride) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  if (plan.paired)
    return with_filter(w.mode, [&](auto filter) { filter_output<decltype(filter)>(at, unit, count, row, row + row_stride); });
  for (int u = 0; u < h.units; ++u, row += row_stride) {
    const Acc *__restrict even = at + u * w.units * unit, *__restrict odd = even + unit;
    if (w.units == 2)
      for (int64_t j = 0; j < count; ++j) row[2 * j] = even[j], row[2 * j + 1] = odd[j];
    else
      std::copy_n(even, count, row);
  }
}

struct Place {
  int64_t b, t, h, w, count;  // where in y, and how many elements: of a row, or of rows that follow one another
};

constexpr int64_t kFinishElements = 8192;  // of a 48 KiB first-level cache, where several rows are finished together

// noise, bias, leaky ReLU, gain for every channel of a row; then pixel norm over the channels; then y.
template <class S, class Acc>
void finish(const ConvParams& p, const Place& at, bool stream, Acc* rows, int64_t pitch, Acc* square) {
  const Acc slope = Acc(p.slope), gain = Acc(p.gain);
  const Acc* bias = static_cast<const Acc*>(p.bias);
  const int64_t count = at.count, *ys = p.y_stride, *ns = p.noise_stride;
  S* y = static_cast<S*>(p.y) + p.start(at.b, ys) + at.t * ys[2] + at.h * ys[3] + at.w * ys[4];
  if (p.pixel_norm) std::fill_n(square, count, Acc(0));
  for (int64_t c = 0; c < p.out_channels; ++c) {
    Acc* __restrict row = rows + c * pitch;
    if (p.noise) {
      const S* noise = static_cast<const S*>(p.noise) + p.start(at.b, ns) + c * ns[1] + at.t * ns[2] + at.h * ns[3] + at.w * ns[4];
      if (ns[4] == 1)
        for (int64_t i = 0; i < count; ++i) row[i] += load<Acc>(noise[i]);
      else
        for (int64_t i = 0; i < count; ++i) row[i] += load<Acc>(noise[i * ns[4]]);
    }
    const Acc add = bias ? bias[c] : Acc(0);
    if (p.pixel_norm)
      for (int64_t i = 0; i < count; ++i) {
        row[i] = leaky(row[i] + add, slope) * gain;
        square[i] += row[i] * row[i];
      }
    else if (ys[4] != 1)
      for (int64_t i = 0; i < count; ++i) row[i] = leaky(row[i] + add, slope) * gain;
    else {
      write_line(y + c * ys[1], count, stream, [&](int64_t i) { return store<S>(leaky(row[i] + add, slope) * gain); });
    }
  }
  if (p.pixel_norm) {
    const Acc scale = Acc(1) / Acc(p.out_channels), eps = Acc(p.eps);
    for (int64_t i = 0; i < count; ++i) square[i] = Acc(1) / std::sqrt(square[i] * scale + eps);
    if (p.r)
      std::copy_n(square, count,
                  static_cast<Acc*>(p.r) + ((at.b * p.out_size[0] + at.t) * p.out_size[1] + at.h) * p.out_size[2] + at.w);
    for (int64_t c = 0; c < p.out_channels; ++c) {
      Acc* __restrict row = rows + c * pitch;
      if (ys[4] == 1)
        write_line(y + c * ys[1], count, stream, [&](int64_t i) { return store<S>(row[i] * square[i]); });
      else
        for (int64_t i = 0; i < count; ++i) row[i] *= square[i];
    }
  }
  if (ys[4] != 1 && ys[1] == 1) transpose(rows, pitch, p.out_channels, count, y, ys[4]);
  if (ys[4] != 1 && ys[1] != 1)
    for (int64_t c = 0; c < p.out_channels; ++c)
      for (int64_t i = 0; i < count; ++i) y[c * ys[1] + i * ys[4]] = store<S>(rows[c * pitch + i]);
}

// ------------------------------------------------------------------------------------------------------- forward

template <class Acc>
using Finish = void (*)(const ConvParams&, const Place&, bool, Acc*, int64_t, Acc*);

template <class Acc>
void forward(const ConvParams& given, Finish<Acc> finish) {
  const ConvParams p = frames_as_samples<Acc>(given, given.in_channels);
  const Storage<Acc>& type = storage<Acc>(p.dtype);
  const Plan plan(p, sizeof(Acc), p.in_channels);
  const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
  const Blocks blocks(p.out_channels, kBlock);
  const Tile largest(plan, p, 0);
  const int64_t packed_size = plan.units() * plan.taps() * p.out_channels * p.in_channels;
  const int64_t per_unit = p.out_channels * p.in_channels * plan.taps(), samples = p.batch / p.alike();
  const int64_t pitch = round_up(largest.positions, 16) + 16, unit_stride = pitch * p.out_channels;
  // Output rows that follow one another in y and in the noise, where a tile is as wide as the frame, are finished together.
  const int64_t width = w.parities * plan.tile_w;
  const bool joined = width == p.out_size[2] && h.first_output() == 0 && w.first_output() == 0 &&
                      p.y_stride[3] == width * p.y_stride[4] && p.noise_stride[3] == width * p.noise_stride[4];
  const int64_t row_pair = h.parities * width, fitting = kFinishElements / (p.out_channels * row_pair);
  const int64_t together = joined ? std::clamp<int64_t>(fitting, 1, plan.tile_h) : 1;
  const int64_t out_pitch = round_up(joined ? together * row_pair : width, 16) + 16;
  const int64_t row_stride = joined ? width : out_pitch * p.out_channels;  // from one row of a pair to the other
  const int64_t finished = out_pitch * p.out_channels * (joined ? 1 : h.parities);
  // Per thread: packed x, packing work, unit results, output rows, sums of squares.
  const int64_t slots = plan.slots * largest.slot_stride + 64, work = round_up(pack_work(p, plan), 16);
  const int64_t results = plan.hw_units * unit_stride + 16 * kMaxVectors;
  const int64_t per_thread = round_up(slots + work + results + finished + out_pitch, 64);
  Acc* packed = reinterpret_cast<Acc*>(
      scratch(sizeof(Acc) * size_t(round_up(samples * packed_size, 64) + per_thread * std::max(p.threads, 1))));
  pack_weights(p, plan, samples, packed);
  Acc* memory = packed + round_up(samples * packed_size, 64);
  const int64_t voxels = p.batch * p.out_size[0] * p.out_size[1] * p.out_size[2];
  const bool stream = voxels * p.out_channels * type.bytes > kStreamBytes;
  std::vector<int64_t> all_offsets(size_t(plan.hw_units * plan.hw_taps * p.threads));

  parallel_pieces(plan.jobs, p.threads, [&](int64_t begin, int64_t end, int thread) {
    Acc *slot = memory + thread * per_thread, *pack = slot + slots, *result = pack + work, *rows = result + results;
    Acc* square = rows + finished;
    int64_t* offsets = all_offsets.data() + thread * plan.hw_units * plan.hw_taps;
    for (int64_t job = begin; job < end; ++job) {
      const Tile tile(plan, p, job);
      for (int u = 0; u < plan.hw_units; ++u)
        for (int m = 0; m < plan.hw_taps; ++m) offsets[u * plan.hw_taps + m] = tile.offset(plan, u, m);
      const Acc* weights = packed + tile.sample / p.alike() * packed_size;
      const int64_t vectors = divide_up(tile.positions, kLanes<Acc>);
      Ring ring{p, plan};
      for (int64_t j = tile.t0; j < tile.t1; ++j) {
        ring.advance(j, [&](int64_t plane, int at) { pack_plane(p, type, plan, tile, plane, p.gate, slot + at * tile.slot_stride, pack); });
        for (int pt = 0; pt < t.parities && t.parities * j + pt < p.out_size[0]; ++pt) {
          Segments<Acc> segments{0, {}, {}};
          for (int m = 0; m < t.taps; ++m) {
            const int64_t plane = t.step() * j + t.shift(pt, m);
            if (plane < 0 || plane >= p.in_size[0]) continue;
            segments.x[segments.count] = slot + ring.slot(plane) * tile.slot_stride;
            segments.tap[segments.count++] = m;
          }
          for (int u = 0; u < plan.hw_units; ++u)
            for (int64_t block = 0; block < blocks.count; ++block) {
              const int size = int(blocks.size(block));
              const int64_t o = blocks.begin(block);
              const Acc* from = weights + (pt * plan.hw_units + u) * per_unit + o * p.in_channels * plan.taps();
              const Blocks runs(vectors, most_vectors<Acc>(size));
              for (int64_t run = 0; run < runs.count; ++run) {
                const int64_t at = runs.begin(run) * kLanes<Acc>;
                pick_product<Acc>(size, int(runs.size(run)))(segments, at, p.in_channels, tile.channel_stride, plan.hw_taps,
                                                             offsets + u * plan.hw_taps, from,
                                                             result + u * unit_stride + o * pitch + at, pitch);
              }
            }
          for (int64_t s = 0; s < tile.samples; ++s)
            for (int64_t gh = 0; gh < tile.gh; gh += together) {
              const int64_t num_rows = std::min(together, tile.gh - gh);
              for (int64_t c = 0; c < p.out_channels; ++c)
                for (int64_t k = 0; k < num_rows; ++k)
                  combine(plan, result + c * pitch + (s * tile.rows + gh + k) * tile.cols, unit_stride, tile.gw,
                          rows + c * out_pitch + k * row_pair, row_stride);
              const int64_t out_t = t.parities * j + pt, first_h = h.first_output() + h.parities * (tile.h0 + gh);
              if (joined) {
                const int64_t count = std::min(h.parities * num_rows, p.out_size[1] - first_h) * width;
                finish(p, {tile.sample + s, out_t, first_h, 0, count}, stream, rows, out_pitch, square);
                continue;
              }
              const int64_t first_w = w.first_output() + w.parities * tile.w0, skip = first_w < 0 ? -first_w : 0;
              const int64_t end_w = std::min(first_w + w.parities * tile.gw, p.out_size[2]);
              for (int ph = 0; ph < h.parities; ++ph) {
                const Place at{tile.sample + s, out_t, first_h + ph, first_w + skip, end_w - first_w - skip};
                if (at.h >= 0 && at.h < p.out_size[1])
                  finish(p, at, stream, rows + ph * row_stride + skip, out_pitch, square);
              }
            }
        }
      }
    }
    stream_fence();
  });
}

}  // namespace

void modulated_conv3d_forward_cpu(const ConvParams& p) {
  dispatch(p.dtype, [&](auto storage, auto acc) {
    using S = decltype(storage);
    using Acc = decltype(acc);
    forward<Acc>(p, finish<S, Acc>);
  });
}

}  // namespace vgen::VGEN_ISA
