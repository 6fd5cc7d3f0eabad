// What the convolution and its weight gradient share on CPU: how a call is cut into jobs, and how x is packed.
//
// A job is a (group of samples, h tile, w tile) and marches along t. Each input plane it needs is packed once, for all
// channels, into `subs` contiguous sub-sequences per axis (csrc/modulated_conv3d.h), zeros included. A tap is then a
// constant offset, and every unit a dense product over flat positions ((sample * rows + row) * cols + col): the layout,
// strides, padding and type of x no longer matter. Positions that belong to no output are computed and ignored.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "minimal_filter.h"
#include "modulated_conv3d.h"
#include "parallel.h"
#include "pixel_norm.h"
#include "simd.h"

namespace vgen::VGEN_ISA {

// Of the second-level cache: 1 MiB and more where there is AVX-512, 512 KiB in most others.
#if defined(__AVX512F__)
constexpr int64_t kTileBytes = 640 << 10;
#else
constexpr int64_t kTileBytes = 384 << 10;
#endif

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// A count cut as evenly as possible into blocks of at most `most`: 12 by 8 is 6 + 6, not 8 + 4.
struct Blocks {
  int64_t count, total;
  Blocks(int64_t total, int64_t most) : count(divide_up(total, most)), total(total) {}
  int64_t begin(int64_t b) const { return total * b / count; }
  int64_t size(int64_t b) const { return begin(b + 1) - begin(b); }
};

struct Plan {
  AxisPlan axis[3];
  bool paired;                     // h and w in the same one of the modes with fewer products
  int64_t tile_h, tile_w, group;   // grid positions and samples per job
  int64_t tiles_h, tiles_w, cuts, groups, chunks_t, jobs;  // cuts: groups of samples that share their weights
  int hw_units, hw_taps, hw_subs, slots;
  int64_t units() const { return int64_t(axis[0].units) * hw_units; }
  int64_t taps() const { return int64_t(axis[0].taps) * hw_taps; }
  bool whole() const { return tiles_h == 1 && tiles_w == 1; }  // a job has whole planes
  int64_t half_row() const { return tile_w + 16; }  // room for one phase of a row of the tile

  // A tile is as large as the cache allows for what a job keeps: x packed in `slots` planes, and every unit of the output.
  Plan(const ConvParams& p, size_t acc_bytes, int64_t padded_channels) {
    paired = p.in_channels >= 4 && p.out_channels >= 4 && p.up[1] == p.up[2] && p.down[1] == p.down[2] && pays(p, acc_bytes);
    for (int a = 1; a < 3; ++a) paired &= p.kernel[a] == 3 && p.out_size[a] >= 2;
    for (int a = 0; a < 3; ++a) {
      AxisMode mode = p.up[a] == 2 ? AxisMode::up : p.down[a] == 2 ? AxisMode::down : AxisMode::direct;
      if (a > 0 && paired)
        mode = p.up[a] == 2 ? AxisMode::up_pair : p.down[a] == 2 ? AxisMode::down_pair : AxisMode::winograd;
      axis[a] = AxisPlan::make(mode, p.kernel[a], p.padding[a], p.out_size[a]);
    }
    const AxisPlan &t = axis[0], &h = axis[1], &w = axis[2];
    hw_units = h.units * w.units, hw_taps = h.taps * w.taps, hw_subs = h.subs * w.subs;
    slots = int(t.shift(t.units - 1, t.taps - 1) - t.shift(0, 0) + 1);
    const int64_t per_position = int64_t(acc_bytes) * (padded_channels * slots * hw_subs + p.out_channels * hw_units);
    const int64_t positions = std::max<int64_t>(kTileBytes / per_position, 32);
    tile_w = w.grid <= std::max<int64_t>(positions, 64) ? w.grid : divide_up(w.grid, divide_up(w.grid, 64));
    tile_h = std::clamp<int64_t>(positions / tile_w, 1, h.grid);
    tiles_h = divide_up(h.grid, tile_h), tiles_w = divide_up(w.grid, tile_w);
    tile_h = divide_up(h.grid, tiles_h);
    const int64_t alike = p.alike(), share = divide_up(alike, divide_up(p.threads * alike, p.batch));
    group = whole() ? std::clamp<int64_t>(positions / (h.extent(tile_h) * w.extent(tile_w)), 1, share) : 1;
    cuts = divide_up(alike, group), groups = p.batch / alike * cuts;
    group = divide_up(alike, cuts);
    // A cut along t packs planes on both of its sides: only as many as it takes to give all threads about the same.
    const int64_t tiles = tiles_h * tiles_w, count = p.per_sample && p.batch % p.threads ? tiles : groups * tiles;
    const int64_t most = std::min(t.grid, std::max<int64_t>(t.grid / 4, count < p.threads ? 2 : 1));
    for (chunks_t = 1; chunks_t < most && count * chunks_t % p.threads && count * chunks_t < 4 * p.threads;) ++chunks_t;
    jobs = groups * tiles * chunks_t;
  }

 private:
  // Whether fewer products are worth what they take: a product for each pair of channels and tap along t is saved, and
  // each channel filtered; a row too short to fill a vector is filtered one element at a time. The constants are measured.
  static bool pays(const ConvParams& p, size_t acc_bytes) {
    const int64_t least = (p.out_size[2] + 1) / 2 < int64_t(kVectorBytes / acc_bytes) ? 40 : 20;
    return 2 * p.in_channels * p.out_channels * p.kernel[0] >= least * (p.in_channels + p.out_channels);
  }
};

// Frames that no tap joins are as good as samples where a job has whole planes: more of them in one job are longer products.
template <class Acc>
ConvParams frames_as_samples(ConvParams p, int64_t padded_channels) {
  if (p.kernel[0] > 1 || p.padding[0] != 0 || p.up[0] > 1 || p.down[0] > 1) return p;
  if (!Plan(p, sizeof(Acc), padded_channels).whole()) return p;
  p.frames = p.in_size[0], p.batch *= p.frames;
  p.in_size[0] = p.out_size[0] = 1;
  return p;
}

// One job: a box of grid positions of some samples, and the layout of its packed input.
struct Tile {
  int64_t sample, samples, t0, t1, h0, gh, w0, gw;
  int64_t rows, cols, positions, sub_size, channel_stride, slot_stride;

  Tile(const Plan& plan, const ConvParams& p, int64_t job) {
    const AxisPlan &t = plan.axis[0], &h = plan.axis[1], &w = plan.axis[2];
    const int64_t tw = job % plan.tiles_w, th = job / plan.tiles_w % plan.tiles_h;
    const int64_t rest = job / plan.tiles_w / plan.tiles_h, chunk = rest % plan.chunks_t;
    const int64_t group = rest / plan.chunks_t, alike = p.alike(), first = group % plan.cuts * plan.group;
    sample = group / plan.cuts * alike + first, samples = std::min(plan.group, alike - first);
    t0 = t.grid * chunk / plan.chunks_t, t1 = t.grid * (chunk + 1) / plan.chunks_t;
    h0 = th * plan.tile_h, gh = std::min(plan.tile_h, h.grid - h0);
    w0 = tw * plan.tile_w, gw = std::min(plan.tile_w, w.grid - w0);
    rows = h.extent(gh), cols = w.extent(gw);
    positions = ((samples - 1) * rows + gh - 1) * cols + gw;
    sub_size = round_up(samples * rows * cols, 2);
    // Slack for the last vector, and no two channels a multiple of 4 KiB apart.
    channel_stride = round_up(sub_size * plan.hw_subs, 16) + 16;
    if (channel_stride % 1024 == 0) channel_stride += 16;
    slot_stride = channel_stride * p.in_channels;
  }
  // Offset of a unit's tap (indices over h and w) in positions, from the start of sub-sequence 0.
  int64_t offset(const Plan& plan, int u, int m) const {
    const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
    const int uh = u / w.units, uw = u % w.units, mh = m / w.taps, mw = m % w.taps;
    return (h.sub(uh, mh) * w.subs + w.sub(uw, mw)) * sub_size + h.offset(uh, mh) * cols + w.offset(uw, mw);
  }
};

template <class Acc>
struct Line;

// Reading one storage type into the compute type; only these few loops are compiled for each.
template <class Acc>
struct Storage {
  int64_t bytes;
  void (*line)(const Line<Acc>&, int64_t first, int64_t count, Acc* out);
  // Every step-th element; phase i of the step goes to out + i * pitch.
  void (*phases)(const Line<Acc>&, int step, int64_t first, int64_t count, Acc* out, int64_t pitch);
  void (*transpose)(const void* from, int64_t from_stride, int64_t rows, int64_t columns, Acc* to, int64_t to_stride);
};

// `size` elements along w, zeros outside, gated where there is a gate.
template <class Acc>
struct Line {
  const Storage<Acc>* type;
  const char* at;
  const char* gate;
  int64_t stride, size;
  Acc gate_slope;

  Line from(int64_t element) const {
    return {type, at + element * type->bytes, gate ? gate + element * type->bytes : nullptr, stride, size, gate_slope};
  }
  // Row `index` of a plane whose row 0 this is: a line of no elements, all zeros, outside its `count` rows.
  Line row(int64_t index, int64_t count, int64_t row_stride) const {
    if (index < 0 || index >= count) return {type, at, gate, stride, 0, gate_slope};
    return from(index * row_stride);
  }
  // The same row of the next plane, `ahead` elements on, wanted one step later.
  VGEN_INLINE void fetch_ahead(int64_t ahead, int64_t first, int64_t count) const {
    if (stride != 1) return;
    first = std::max<int64_t>(first, 0);
    count = std::min(first + count, size) - first;
    fetch(at + (ahead + first) * type->bytes, count * type->bytes);
    if (gate) fetch(gate + (ahead + first) * type->bytes, count * type->bytes);
  }
};

template <class Acc>
const Storage<Acc>& storage(Dtype dtype);

// fn(j) for begin <= j < end, a vector of them at a time. The last vector begins early where they do not fill it, so that
// some j come twice and none alone: fn must not read what it writes. The inner loop becomes one vector; unrolled first,
// as GCC does to eight turns and fewer, it would stay scalar.
template <class Acc, class F>
VGEN_INLINE void in_vectors(int64_t begin, int64_t end, F&& fn) {
  constexpr int64_t lanes = kLanes<Acc>;
  if (end - begin < lanes) {
    for (int64_t j = begin; j < end; ++j) fn(j);
    return;
  }
  for (int64_t j = begin;; j = std::min(j + lanes, end - lanes)) {
#pragma GCC ivdep
#pragma GCC unroll 1
    for (int64_t k = j; k < j + lanes; ++k) fn(k);
    if (j == end - lanes) return;
  }
}

// Calls fn with the filter of a paired mode.
template <class F>
void with_filter(AxisMode mode, F&& fn) {
  if (mode == AxisMode::winograd) return fn(Winograd{});
  if (mode == AxisMode::up_pair) return fn(UpPair{});
  fn(DownPair{});
}

// Packs plane t of every channel and sample of the tile into a slot, gated if `gated_by` is given.
template <class Acc>
void pack_plane(const ConvParams& p, const Storage<Acc>& type, const Plan& plan, const Tile& tile, int64_t t,
                const void* gated_by, Acc* slot, Acc* work);

// Elements of `work` for pack_plane.
inline int64_t pack_work(const ConvParams& p, const Plan& plan) {
  const AxisPlan &h = plan.axis[1], &w = plan.axis[2];
  const int64_t rows = h.num_inputs(plan.tile_h);
  return rows * w.step() * (w.extent(plan.tile_w) + 2) + p.in_channels * (rows * w.num_inputs(plan.tile_w) + 16);
}

// Keeps the packed planes of a job in a ring of slots as it marches along t; pack(plane, slot) fills one.
struct Ring {
  const ConvParams& p;
  const Plan& plan;
  int64_t next = INT64_MIN;

  int slot(int64_t plane) const { return int(plane % plan.slots); }
  template <class F>
  void advance(int64_t j, F&& pack) {
    const AxisPlan& t = plan.axis[0];
    const int64_t low = t.step() * j + t.shift(0, 0), high = low + plan.slots - 1;
    for (int64_t plane = std::max(next, low); plane <= high; ++plane)
      if (plane >= 0 && plane < p.in_size[0]) pack(plane, slot(plane));
    next = high + 1;
  }
};

}  // namespace vgen::VGEN_ISA
