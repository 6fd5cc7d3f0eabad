// Packing x for the convolution and its weight gradient: rows of any storage type are read into phases, and these filtered
// into the sub-sequences of a tile.
#include "conv_tile.h"

namespace vgen::VGEN_ISA {
namespace {

// fn(read, each) with read(i) element `first` + i of a line stored as S, and each(begin, end, fn) the loop that suits it.
template <class S, class Acc, class F>
void visit(const Line<Acc>& line, int64_t first, F&& fn) {
  const S *from = reinterpret_cast<const S*>(line.at) + first * line.stride, *sign = reinterpret_cast<const S*>(line.gate);
  const Acc slope = line.gate_slope;
  const int64_t step = line.stride;
  const auto plain = [](int64_t begin, int64_t end, auto&& each) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) each(i);
  };
  const auto gated = [](int64_t begin, int64_t end, auto&& each) { in_vectors<Acc>(begin, end, each); };
  if (sign)
    fn([=, at = sign + first](int64_t i) { return load<Acc>(from[i]) * leaky_derivative(load<Acc>(at[i]), slope, Acc(1)); }, gated);
  else if (step == 1)
    fn([=](int64_t i) { return load<Acc>(from[i]); }, plain);
  else
    fn([=](int64_t i) { return load<Acc>(from[i * step]); }, plain);
}

template <class S, class Acc>
void load_line(const Line<Acc>& line, int64_t first, int64_t count, Acc* __restrict out) {
  const int64_t begin = std::clamp<int64_t>(-first, 0, count), end = std::clamp<int64_t>(line.size - first, begin, count);
  std::fill(out, out + begin, Acc(0));
  visit<S>(line, first, [=](auto read, auto each) { each(begin, end, [=](int64_t i) { out[i] = read(i); }); });
  std::fill(out + end, out + count, Acc(0));
}

template <int step, class S, class Acc>
void load_phases(const Line<Acc>& line, int64_t first, int64_t count, Acc* __restrict out, int64_t pitch) {
  const int64_t begin = std::clamp<int64_t>((-first + step - 1) / step, 0, count);
  const int64_t end = std::clamp<int64_t>((line.size - first) / step, begin, count);
  visit<S>(line, first, [=, size = line.size](auto read, auto each) {
    auto edge = [=](int64_t j) {
      for (int64_t i = 0, at = first + step * j; i < step; ++i, ++at)
        out[i * pitch + j] = at >= 0 && at < size ? read(step * j + i) : Acc(0);
    };
    for (int64_t j = 0; j < begin; ++j) edge(j);
    each(begin, end, [=](int64_t j) {
      for (int i = 0; i < step; ++i) out[i * pitch + j] = read(step * j + i);
    });
    for (int64_t j = end; j < count; ++j) edge(j);
  });
}

template <class S, class Acc>
void load_any_phases(const Line<Acc>& line, int step, int64_t first, int64_t count, Acc* out, int64_t pitch) {
  if (step == 1) return load_line<S>(line, first, count, out);
  if (step == 2) return load_phases<2, S>(line, first, count, out, pitch);
  load_phases<4, S>(line, first, count, out, pitch);
}

template <class S, class Acc>
void transpose_from(const void* from, int64_t from_stride, int64_t rows, int64_t columns, Acc* to, int64_t to_stride) {
  transpose(static_cast<const S*>(from), from_stride, rows, columns, to, to_stride);
}

template <class S, class Acc>
constexpr Storage<Acc> kStorage{sizeof(S), load_line<S, Acc>, load_any_phases<S, Acc>, transpose_from<S, Acc>};

// Lines of the phases of consecutive input rows -> the subs of one grid row, both axes at once.
template <class Filter, class Acc>
void filter_input(const Acc* rows, int64_t row_stride, int64_t pitch, int64_t count, Acc* out, int64_t sub_size) {
  constexpr int window = Filter::window, subs = Filter::subs;
  in_vectors<Acc>(0, count, [=](int64_t j) {
    Acc lines[window][subs];
#pragma GCC unroll 8
    for (int r = 0; r < window; ++r) {
      Acc d[window];
#pragma GCC unroll 8
      for (int i = 0; i < window; ++i) d[i] = rows[r * row_stride + i % Filter::step * pitch + i / Filter::step + j];
      Filter::input(d, lines[r]);
    }
#pragma GCC unroll 8
    for (int s = 0; s < subs; ++s) {
      Acc d[window], value[subs];
#pragma GCC unroll 8
      for (int r = 0; r < window; ++r) d[r] = lines[r][s];
      Filter::input(d, value);
#pragma GCC unroll 8
      for (int r = 0; r < subs; ++r) out[(r * subs + s) * sub_size + j] = value[r];
    }
  });
}

// Packs one channel of one sample's plane; `plane` is its row 0.
template <class Acc>
void pack_channel(const ConvParams& p, const Plan& plan, const Tile& tile, const Line<Acc>& plane, int64_t row_stride,
                  Acc* out, Acc* work) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const int64_t num_rows = h.num_inputs(tile.gh), first_row = h.first_input(tile.h0), first_col = w.first_input(tile.w0);
  const int64_t phase_pitch = tile.cols + 2, line_pitch = w.step() * phase_pitch;
  for (int64_t i = 0; i < num_rows; ++i) {
    const Line<Acc> line = plane.row(first_row + i, p.in_size[1], row_stride);
    if (p.x_stride[4] == 1) line.fetch_ahead(p.x_stride[2], first_col, w.num_inputs(tile.gw));
    if (plan.paired) {
      line.type->phases(line, int(w.step()), first_col, tile.cols + 1, work + i * line_pitch, phase_pitch);
    } else {
      Acc* to = out + (h.subs == 2 ? (i & 1) * w.subs * tile.sub_size + (i >> 1) * tile.cols : i * tile.cols);
      line.type->phases(line, w.subs, first_col, tile.cols, to, tile.sub_size);
    }
  }
  if (plan.paired)
    with_filter(w.mode, [&](auto filter) {
      for (int64_t j = 0; j < tile.gh; ++j)
        filter_input<decltype(filter)>(work + h.step() * j * line_pitch, line_pitch, phase_pitch, tile.cols, out + j * tile.cols,
                                       tile.sub_size);
    });
}

}  // namespace

template <>
const Storage<double>& storage<double>(Dtype) {
  return kStorage<double, double>;
}

template <>
const Storage<float>& storage<float>(Dtype dtype) {
  switch (dtype) {
    case Dtype::bfloat16: return kStorage<BFloat16, float>;
    case Dtype::float16: return kStorage<Half, float>;
    default: return kStorage<float, float>;
  }
}

template <class Acc>
void pack_plane(const ConvParams& p, const Storage<Acc>& type, const Plan& plan, const Tile& tile, int64_t t,
                const void* gated_by, Acc* slot, Acc* work) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const int64_t* stride = p.x_stride;
  const Line<Acc> all{&type, static_cast<const char*>(p.x), static_cast<const char*>(gated_by), stride[4], p.in_size[2],
                      Acc(p.gate_slope)};
  for (int64_t s = 0; s < tile.samples; ++s) {
    const Line<Acc> sample = all.from(p.start(tile.sample + s, stride) + t * stride[2]);
    Acc* out = slot + s * tile.rows * tile.cols;
    if (stride[1] != 1 || stride[4] == 1 || p.in_channels == 1) {
      for (int64_t c = 0; c < p.in_channels; ++c)
        pack_channel(p, plan, tile, sample.from(c * stride[1]), stride[3], out + c * tile.channel_stride, work);
      continue;
    }
    // Channels innermost: bring the part needed into channel planes first.
    const int64_t r0 = std::max<int64_t>(h.first_input(tile.h0), 0), c0 = std::max<int64_t>(w.first_input(tile.w0), 0);
    const int64_t r1 = std::min(h.first_input(tile.h0) + h.num_inputs(tile.gh), p.in_size[1]);
    const int64_t c1 = std::min(w.first_input(tile.w0) + w.num_inputs(tile.gw), p.in_size[2]);
    const int64_t pitch = c1 - c0, plane = std::max<int64_t>((r1 - r0) * pitch, 0) + 16;
    Acc* local = work + h.num_inputs(plan.tile_h) * w.step() * (w.extent(plan.tile_w) + 2);
    for (int64_t r = r0; r < r1; ++r)
      type.transpose(sample.from(r * stride[3] + c0 * stride[4]).at, stride[4], pitch, p.in_channels, local + (r - r0) * pitch,
                     plane);
    const Line<Acc> kept{&kStorage<Acc, Acc>, reinterpret_cast<const char*>(local), nullptr, 1, p.in_size[2], Acc(1)};
    for (int64_t c = 0; c < p.in_channels; ++c)
      pack_channel(p, plan, tile, kept.from(c * plane - r0 * pitch - c0), pitch, out + c * tile.channel_stride, work);
  }
  for (int64_t c = 0; c < p.in_channels; ++c)
    std::fill(slot + c * tile.channel_stride + tile.sub_size * plan.hw_subs, slot + (c + 1) * tile.channel_stride, Acc(0));
}

template void pack_plane(const ConvParams&, const Storage<float>&, const Plan&, const Tile&, int64_t, const void*, float*,
                         float*);
template void pack_plane(const ConvParams&, const Storage<double>&, const Plan&, const Tile&, int64_t, const void*, double*,
                         double*);

}  // namespace vgen::VGEN_ISA
