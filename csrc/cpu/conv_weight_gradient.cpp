// The weight gradient of the convolution on CPU: per unit and tap, (packed g) x (packed x) summed over positions.
//
// x is packed as in the forward and then turned so that channels are innermost. A block of outputs x vectors of input
// channels stays in registers over all positions of the tile: no sum across lanes, one memory update per tile and plane.
// Where the channels would fill only half of the last vector, each lane pair holds two positions of one channel.
// Taps along t that fall outside x are left out; positions without output meet a zero in g.
#include "conv_tile.h"

namespace vgen::VGEN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxRows = 8, kMaxColumns = 3;
#else
constexpr int kMaxRows = 4, kMaxColumns = 3;
#endif
// Fewer in float64, which checks gradients, to have less to compile.
template <class Acc>
constexpr int kRows = std::is_same_v<Acc, double> ? 4 : kMaxRows;
template <class Acc>
constexpr int kColumns = std::is_same_v<Acc, double> ? 1 : kMaxColumns;
constexpr int kFlush = 256;  // planes summed in the compute type before they are added to the total in double

// Halves of both rows of g -> all units of one grid row: the transpose of filter_output.
template <class Filter, class Acc>
void filter_gradient(const Acc* __restrict rows, int64_t half, int64_t count, Acc* out, int64_t unit) {
  constexpr int units = Filter::units;
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    Acc line[2][units];
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      const Acc pair[2] = {rows[2 * r * half + j], rows[(2 * r + 1) * half + j]};
      Filter::gradient(pair, line[r]);
    }
#pragma GCC unroll 4
    for (int u = 0; u < units; ++u) {
      const Acc pair[2] = {line[0][u], line[1][u]};
      Acc m[units];
      Filter::gradient(pair, m);
#pragma GCC unroll 4
      for (int r = 0; r < units; ++r) out[(r * units + u) * unit + j] = m[r];
    }
  }
}

// A plane of g of one channel (`plane` is its row 0) for each unit: the transpose of combining. Returns its sum.
template <class Acc>
double pack_gradient_channel(const ConvParams& p, const Plan& plan, const Tile& tile, const Line<Acc>& plane, Acc* out,
                             int64_t unit, Acc* work) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const int64_t half = plan.half_row(), first = w.first_output() + w.parities * tile.w0;
  double total = 0;
  for (int64_t j = 0; j < tile.gh; ++j) {
    Acc* to = out + j * tile.cols;
    for (int ph = 0; ph < h.parities; ++ph) {
      const Line<Acc> line = plane.row(h.first_output() + h.parities * (tile.h0 + j) + ph, p.out_size[1], p.y_stride[3]);
      line.fetch_ahead(p.y_stride[2], first, w.parities * tile.gw);
      Acc* lines = plan.paired ? work + 2 * ph * half : to + (h.units == 2 ? ph * w.units * unit : 0);
      const int64_t pitch = plan.paired ? half : unit;
      line.type->phases(line, w.parities, first, tile.gw, lines, pitch);
      for (int i = 0; i < w.parities; ++i) {
        Acc sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < tile.gw; ++k) sum += lines[i * pitch + k];
        total += double(sum);
      }
    }
    if (plan.paired)
      with_filter(w.mode, [&](auto filter) { filter_gradient<decltype(filter)>(work, half, tile.gw, to, unit); });
  }
  return total;
}

// Plane t of g of every channel and sample of the tile, `pitch` between channels; adds the sum of each channel to `sums`.
template <class Acc>
void pack_gradient(const ConvParams& p, const Storage<Acc>& type, const Plan& plan, const Tile& tile, int64_t t, Acc* out,
                   int64_t pitch, int64_t unit, Acc* work, double* sums) {
  const int64_t* stride = p.y_stride;
  const Line<Acc> all{&type, static_cast<const char*>(p.y), static_cast<const char*>(p.gate), stride[4], p.out_size[2],
                      Acc(p.gate_slope)};
  for (int64_t s = 0; s < tile.samples; ++s)
    for (int64_t c = 0; c < p.out_channels; ++c)
      sums[c] += pack_gradient_channel(p, plan, tile, all.from(p.start(tile.sample + s, stride) + c * stride[1] + t * stride[2]),
                                       out + c * pitch + s * tile.rows * tile.cols, unit, work);
}

// sums[n][r] (a vector each) += sum over positions of g[r][pos] * x[n][pos], NR outputs by NC vectors of channels, `group`
// positions to a vector. The sum over positions starts at zero, so that no chain of additions is longer than a tile.
template <class Acc, int group, int NR, int NC>
void outer(const Acc* g, int64_t g_stride, const Acc* const* x, int64_t x_stride, int64_t positions, Acc* const* sums) {
  constexpr int lanes = kLanes<Acc>;
  using V = Vector<Acc>;
  V acc[NR][NC];
  const Acc* source[NC];
#pragma GCC unroll 8
  for (int n = 0; n < NC; ++n) {
    source[n] = x[n];
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r) acc[r][n] = V{};
  }
  for (int64_t pos = 0; pos < positions; pos += group) {
    V value[NC];
#pragma GCC unroll 8
    for (int n = 0; n < NC; ++n) value[n] = load_vector(source[n] + pos * x_stride);
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r) {
      const auto factor = [&] {
        if constexpr (group == 2)
          return repeat_pair(g + r * g_stride + pos);
        else
          return g[r * g_stride + pos];
      }();
#pragma GCC unroll 8
      for (int n = 0; n < NC; ++n) acc[r][n] += value[n] * factor;
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < NC; ++n)
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r)
      store_vector(sums[n] + r * lanes, load_vector(sums[n] + r * lanes) + acc[r][n]);
}

template <class Acc>
using Outer = void (*)(const Acc*, int64_t, const Acc* const*, int64_t, int64_t, Acc* const*);

template <class Acc, int group, int NR, int NC = kColumns<Acc>>
Outer<Acc> pick_columns(int columns) {
  if constexpr (NC > 1) {
    if (columns < NC) return pick_columns<Acc, group, NR, NC - 1>(columns);
  }
  return outer<Acc, group, NR, NC>;
}

template <class Acc, int group, int NR = kRows<Acc>>
Outer<Acc> pick_outer(int rows, int columns) {
  if constexpr (NR > 1) {
    if (rows < NR) return pick_outer<Acc, group, NR - 1>(rows, columns);
  }
  return pick_columns<Acc, group, NR>(columns);
}

// A vector holds `group` positions of lanes / group channels: [channel][position]. Two positions need sub-sequences of
// even length, read from their start on: the paired modes.
template <class Acc, int group>
class WeightGradient {
 public:
  WeightGradient(const ConvParams& p, const Plan& plan) : p(p), plan(plan) {
    jobs = plan.jobs / samples;
    apart = samples > 1 && samples % p.threads == 0;
    threads = apart ? p.threads : int(std::clamp<int64_t>(p.threads, 1, std::max<int64_t>(jobs, 1)));
    const int64_t turned = plan.slots * slot_size, packed = largest.slot_stride + 16;
    const int64_t work = round_up(std::max(pack_work(p, plan), 4 * plan.half_row()), 16);
    const int64_t gradients = plan.hw_units * unit_stride + 16;
    const int64_t elements = round_up(turned + packed + work + gradients + num_sums, 16);
    const size_t bytes = size_t(elements) * sizeof(Acc) + size_t(num_sums + num_out) * sizeof(double) + 64;
    const size_t per_thread = (bytes + 63) / 64 * 64;
    char* memory = scratch(per_thread * size_t(threads));
    for (int i = 0; i < threads; ++i, memory += per_thread) {
      Acc* at = reinterpret_cast<Acc*>(memory);
      double* total = reinterpret_cast<double*>(at + elements);
      Share share{at, at + turned, at + turned + packed, at + turned + packed + work, nullptr, total, total + num_sums, {}, {}};
      share.sums = share.g + gradients;
      share.columns.resize(size_t(columns));
      shares.push_back(std::move(share));
    }
    list_entries();
  }

  void run() {
    if (apart)
      return parallel_pieces(samples, threads, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t sample = begin; sample < end; ++sample) {
          accumulate(sample, 0, jobs, shares[thread]);
          fold(sample, thread, 1);
        }
      });
    for (int64_t sample = 0; sample < samples; ++sample) {
      for (Share& share : shares) share.held = nowhere;
      parallel_shares(jobs, threads, [&](int64_t begin, int64_t end, int i) { accumulate(sample, begin, end, shares[i]); });
      fold(sample, 0, threads);
    }
  }

 private:
  static constexpr int lanes = kLanes<Acc>, channels = lanes / group;
  enum Held : char { nowhere, in_sums, in_total };  // where a thread keeps what it has added up
  struct Column {
    const Acc* x;
    int64_t at;
  };
  // What a thread works in: x with channels innermost, one plane of it as packed, room for packing, g of every unit; and
  // what it has added up, [unit][tap t][tap hw][block of channels][output][lane], in Acc and in double.
  struct Share {
    Acc *x, *flat, *pack, *g, *sums;
    double *total, *bias;
    Held held;
    std::vector<Column> columns;
  };
  struct Entry {  // weight of the sums `at` in tap k of the kernel
    int64_t k, at;
    double weight;
  };

  // Units and taps back into the kernel: the transpose of spreading.
  void list_entries() {
    const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
    for (int64_t k = 0; k < volume; ++k)
      for (int64_t u = 0; u < plan.units(); ++u)
        for (int64_t m = 0; m < plan.taps(); ++m) {
          const int64_t kt = k / (p.kernel[1] * p.kernel[2]), kh = k / p.kernel[2] % p.kernel[1], kw = k % p.kernel[2];
          const int uw = int(u % w.units), uh = int(u / w.units % h.units), ut = int(u / plan.hw_units);
          const int mw = int(m % w.taps), mh = int(m / w.taps % h.taps), mt = int(m / plan.hw_taps);
          const double weight = t.spread(ut, mt, kt) * h.spread(uh, mh, kh) * w.spread(uw, mw, kw);
          if (weight != 0) entries.push_back({k, u * per_unit + m * in_blocks * num_out * lanes, weight});
        }
  }

  void flush(Share& share) const {
    double* __restrict total = share.total;
    if (share.held == in_sums) std::fill_n(total, num_sums, 0.0);
    share.held = in_total;
    for (int64_t i = 0; i < num_sums; ++i) total[i] += double(share.sums[i]), share.sums[i] = 0;
  }

  // Adds up jobs begin ... end - 1 of a sample (of all samples together, where the weights are shared).
  void accumulate(int64_t sample, int64_t begin, int64_t end, Share& share) const {
    share.held = in_sums;
    std::fill_n(share.sums, num_sums, Acc(0));
    std::fill_n(share.bias, num_out, 0.0);
    const AxisPlan& t = plan.axis[0];
    int64_t planes = 0;
    for (int64_t job = begin; job < end; ++job) {
      const Tile tile(plan, p, job + sample * jobs);
      clear_padding(tile, share);
      Ring ring{p, plan};
      for (int64_t j = tile.t0; j < tile.t1; ++j) {
        ring.advance(j, [&](int64_t plane, int at) {
          pack_plane(p, type, plan, tile, plane, nullptr, share.flat, share.pack);
          using Element = std::conditional_t<group == 2, double, Acc>;  // all positions of a lane group
          transpose(reinterpret_cast<const Element*>(share.flat), tile.channel_stride / group, num_in,
                    tile.sub_size * plan.hw_subs / group, reinterpret_cast<Element*>(share.x + at * slot_size), padded);
        });
        for (int pt = 0; pt < t.parities && t.parities * j + pt < p.out_size[0]; ++pt) {
          pack_gradient(p, type, plan, tile, t.parities * j + pt, share.g, pitch, unit_stride, share.pack, share.bias);
          for (int u = 0; u < plan.hw_units; ++u) multiply(tile, ring, j, pt, u, share);
        }
      }
      planes += (tile.t1 - tile.t0) * t.parities;
      if (planes >= kFlush) flush(share), planes = 0;
    }
    if (share.held == in_total) flush(share);
  }

  // Zeros where nothing is written: channels that fill a vector, and positions between rows and samples.
  void clear_padding(const Tile& tile, Share& share) const {
    if (padded > num_in) std::fill(share.x, share.flat, Acc(0));
    if (!plan.paired) std::fill_n(share.g, plan.hw_units * unit_stride + 16, Acc(0));
    if (group == 1 || tile.positions % 2 == 0) return;
    for (int64_t c = 0; c < num_in; ++c)
      for (int s = 0; s < plan.hw_subs; ++s) share.flat[c * tile.channel_stride + (s + 1) * tile.sub_size - 1] = 0;
    for (int64_t c = 0; c < num_out; ++c)
      for (int u = 0; u < plan.hw_units; ++u) share.g[u * unit_stride + c * pitch + tile.positions] = 0;
  }

  // Output plane `pt` of grid plane j, unit u over h and w: every tap and channel of x against every channel of g.
  void multiply(const Tile& tile, const Ring& ring, int64_t j, int pt, int u, Share& share) const {
    const AxisPlan& t = plan.axis[0];
    int64_t count = 0;
    for (int mt = 0; mt < t.taps; ++mt) {
      const int64_t plane = t.step() * j + t.shift(pt, mt);
      if (plane < 0 || plane >= p.in_size[0]) continue;
      for (int m = 0; m < plan.hw_taps; ++m)
        for (int64_t b = 0; b < in_blocks; ++b)
          share.columns[count++] = {share.x + ring.slot(plane) * slot_size + tile.offset(plan, u, m) * padded + b * lanes,
                                    ((mt * plan.hw_taps + m) * in_blocks + b) * num_out * lanes};
    }
    Acc* unit_sums = share.sums + (pt * plan.hw_units + u) * per_unit;
    const Acc* g = share.g + u * unit_stride;
    const Blocks out_blocks(num_out, kRows<Acc>), column_blocks(count, kColumns<Acc>);
    for (int64_t a = 0; a < column_blocks.count; ++a)
      for (int64_t b = 0; b < out_blocks.count; ++b) {
        const Acc* from[kColumns<Acc>];
        Acc* to[kColumns<Acc>];
        const int64_t first = column_blocks.begin(a), size = column_blocks.size(a), o = out_blocks.begin(b);
        for (int64_t n = 0; n < size; ++n)
          from[n] = share.columns[first + n].x, to[n] = unit_sums + share.columns[first + n].at + o * lanes;
        pick_outer<Acc, group>(int(out_blocks.size(b)), int(size))(g + o * pitch, pitch, from, padded, tile.positions, to);
      }
  }

  // The sums of threads first ... first + team - 1 are those of a sample.
  void fold(int64_t sample, int first, int team) const {
    Acc* gw = static_cast<Acc*>(p.gw) + sample * num_out * num_in * volume;
    parallel_shares(num_out, num_sums * team > 65536 ? team : 1, [&](int64_t begin, int64_t end, int) {
      std::vector<double> value(size_t(volume * lanes));
      auto add = [&](const auto* from) {
        for (const Entry& entry : entries) {
          double* __restrict to = value.data() + entry.k * lanes;
          for (int i = 0; i < lanes; ++i) to[i] += entry.weight * double(from[entry.at + i]);
        }
      };
      for (int64_t o = begin; o < end; ++o)
        for (int64_t b = 0; b < in_blocks; ++b) {
          std::fill(value.begin(), value.end(), 0.0);
          for (int i = first; i < first + team; ++i) {
            if (shares[i].held == in_sums) add(shares[i].sums + (b * num_out + o) * lanes);
            if (shares[i].held == in_total) add(shares[i].total + (b * num_out + o) * lanes);
          }
          const int64_t first_in = b * channels, count = std::min<int64_t>(channels, num_in - first_in);
          for (int64_t i = 0; i < count; ++i)
            for (int64_t k = 0; k < volume; ++k) {
              double sum = 0;
              for (int e = 0; e < group; ++e) sum += value[k * lanes + i * group + e];
              gw[(o * num_in + first_in + i) * volume + k] = Acc(p.gain * sum);
            }
        }
    });
    for (int64_t o = 0; o < num_out; ++o) {
      double sum = 0;
      for (int i = first; i < first + team; ++i)
        if (shares[i].held != nowhere) sum += shares[i].bias[o];
      static_cast<Acc*>(p.gb)[sample * num_out + o] = Acc(p.gain * sum);
    }
  }

  const ConvParams& p;
  const Plan& plan;
  const Storage<Acc>& type = storage<Acc>(p.dtype);
  const Tile largest{plan, p, 0};
  const int64_t num_in = p.in_channels, num_out = p.out_channels, padded = round_up(num_in, channels);
  const int64_t volume = p.kernel[0] * p.kernel[1] * p.kernel[2], samples = p.batch / p.alike();
  const int64_t pitch = round_up(largest.positions, 16) + 16, unit_stride = pitch * num_out;
  const int64_t slot_size = round_up(largest.sub_size * plan.hw_subs * padded, 16) + 16;
  const int64_t in_blocks = padded / channels, columns = plan.taps() * in_blocks, per_unit = columns * num_out * lanes;
  const int64_t num_sums = plan.units() * per_unit;
  int64_t jobs;
  bool apart;  // a thread takes whole samples, with nothing to join
  int threads;
  std::vector<Share> shares;
  std::vector<Entry> entries;
};

}  // namespace

void modulated_conv3d_weight_gradient_cpu(const ConvParams& given) {
  const auto run = [&](auto acc, auto group, int64_t padded) {
    using Acc = decltype(acc);
    const ConvParams p = frames_as_samples<Acc>(given, padded);
    WeightGradient<Acc, group>(p, Plan(p, sizeof(Acc), padded)).run();
  };
  const std::integral_constant<int, 1> one;
  if (given.dtype == Dtype::float64) return run(double(), one, round_up(given.in_channels, kLanes<double>));
  constexpr int64_t lanes = kLanes<float>;
  const int64_t half = round_up(given.in_channels, lanes / 2), whole = round_up(given.in_channels, lanes);
  if (half < whole && Plan(given, sizeof(float), half).paired) return run(float(), std::integral_constant<int, 2>(), half);
  run(float(), one, whole);
}

}  // namespace vgen::VGEN_ISA
