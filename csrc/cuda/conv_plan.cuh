// How a convolution of csrc/modulated_conv3d.h is cut into tiles on CUDA, as host and device functions.
//
// Per axis a unit (a parity of the output for `up`, else the only one) is a correlation on a grid: grid position j of
// unit u writes y[parities j + u] and its tap m reads x[step j + first[u] + m]. See the table in modulated_conv3d.h.
#pragma once
#include "modulated_conv3d.h"

namespace vgen {
namespace device {

constexpr int kGranule = 8;  // channels of one voxel moved together: 16 bytes of a 16-bit type

struct GridAxis {
  int grid, units, taps, step, first[2];
  int kernel, padding;
  float factor;  // of every tap that is summed: 1/2 for `down`

  VGEN_HD int shift(int unit, int tap) const { return first[unit] + tap; }
  // Grid positions of this unit: the odd outputs of an odd size are one fewer.
  VGEN_HD int64_t output(int64_t j, int unit) const { return units * j + unit; }
  // Input elements from the first a tile of `count` grid positions reads, over all units, to the last.
  VGEN_HD int extent(int count) const { return step * (count - 1) + shift(units - 1, taps - 1) - first[0] + 1; }
};

// Taps [begin, end) of the kernel whose sum, times the factor, is tap m of unit u: the support of AxisPlan::spread.
struct TapRange {
  int begin, end;
};
VGEN_HD inline TapRange tap_range(const GridAxis& a, int u, int m) {
  TapRange range{m, m + 1};
  if (a.units == 2)
    range.begin = 2 * (m + a.first[u]) + a.padding - u, range.end = range.begin + 2;
  else if (a.step == 2)
    range.begin = m - 1;
  if (range.begin < 0) range.begin = 0;
  if (range.end > a.kernel) range.end = a.kernel;
  return range;
}

struct UnitTap {
  int t, h, w;
};

struct ConvGrid {
  GridAxis axis[3];

  VGEN_HD int units() const { return axis[0].units * axis[1].units * axis[2].units; }
  VGEN_HD int taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
  VGEN_HD int64_t positions() const { return int64_t(axis[0].grid) * axis[1].grid * axis[2].grid; }
  VGEN_HD UnitTap unit(int u) const {
    return {u / (axis[1].units * axis[2].units), u / axis[2].units % axis[1].units, u % axis[2].units};
  }
  VGEN_HD UnitTap tap(int m) const {
    return {m / (axis[1].taps * axis[2].taps), m / axis[2].taps % axis[1].taps, m % axis[2].taps};
  }
};

inline AxisPlan axis_plan(const ConvParams& p, int a) {
  const AxisMode mode = p.up[a] == 2 ? AxisMode::up : p.down[a] == 2 ? AxisMode::down : AxisMode::direct;
  return AxisPlan::make(mode, p.kernel[a], p.padding[a], p.out_size[a]);
}

inline ConvGrid make_grid(const ConvParams& p) {
  ConvGrid grid;
  for (int a = 0; a < 3; ++a) {
    const AxisPlan plan = axis_plan(p, a);
    grid.axis[a] = {int(plan.grid), plan.units, plan.taps, int(plan.step()),
                    {int(plan.shift(0, 0)), int(plan.shift(plan.units - 1, 0))},
                    int(p.kernel[a]), int(p.padding[a]), plan.step() == 2 ? 0.5f : 1.0f};
  }
  return grid;
}

// ------------------------------------------------------------------------------------------------ tensor-core tiles
//
// A tile is a box of grid positions of one sample; the input box it reads is kept in shared memory as planes of
// granules, [granule][voxel][8 channels], so that every (tap, granule) is a constant byte offset from a position's voxel.
// K runs over chunks of channels, then over taps, then over the granules of the chunk; two granules are one step of 16.

struct TensorPlan {
  ConvGrid grid;
  int box[3], extent[3], tiles[3];   // grid positions per tile, input voxels per tile, tiles per axis
  int granules, chunk, chunks;       // of 8 input channels: all, per chunk; number of chunks
  int steps;                         // of 16 per chunk
  int width, blocks;                 // 8-wide columns per block of outputs, blocks
  int warps, rows;                   // m16 rows per warp
  int stages;
  int table;                         // entries of the offset table
  int plane;                         // voxels of one granule plane in shared memory

  VGEN_HD int voxels() const { return extent[0] * extent[1] * extent[2]; }
  VGEN_HD int positions() const { return box[0] * box[1] * box[2]; }
  VGEN_HD int64_t num_tiles() const { return int64_t(tiles[0]) * tiles[1] * tiles[2]; }
  VGEN_HD int stage_bytes() const { return plane * chunk * 16; }

  // Shared memory: stages, one granule of zeros, where the tile's input begins, rows of results, where each row goes, voxel offsets, tap offsets.
  VGEN_HD int zero_at() const { return stages * stage_bytes(); }
  VGEN_HD int pitch() const { return width * 8 + 8; }
  VGEN_HD int base_at() const { return zero_at() + 16; }
  VGEN_HD int result_at() const { return base_at() + 16; }
  VGEN_HD int target_at() const { return result_at() + warps * 16 * pitch() * 2; }
  VGEN_HD int voxel_at() const { return target_at() + warps * 16 * 8; }
  VGEN_HD int table_at() const { return voxel_at() + (voxels() + 3) / 4 * 16; }
  VGEN_HD int shared_bytes() const { return table_at() + table * 4; }
  // Words of packed weights per (sample, unit, block), in the order the lanes load them: [chunk][step][column pair][lane]
  // [4], or [chunk][step][lane][2] for a single column.
  VGEN_HD int64_t block_words() const { return int64_t(chunks) * steps * 32 * width * 2; }

  // Input channel granule and tap that half `half` of step `s` multiplies; tap -1: nothing, the sum is padded.
  VGEN_HD void half_step(int s, int half, int* tap, int* granule) const {
    const int n = 2 * s + half;
    *tap = n < grid.taps() * chunk ? n / chunk : -1;
    *granule = n % chunk;
  }
  // Byte offset in a stage of a granule of the voxel a tap reads, from the voxel of the tile's position 0.
  VGEN_HD int tap_offset(int unit, int tap, int granule) const {
    const UnitTap u = grid.unit(unit), m = grid.tap(tap);
    const int t = grid.axis[0].shift(u.t, m.t) - grid.axis[0].first[0];
    const int h = grid.axis[1].shift(u.h, m.h) - grid.axis[1].first[0];
    const int w = grid.axis[2].shift(u.w, m.w) - grid.axis[2].first[0];
    return (granule * plane + (t * extent[1] + h) * extent[2] + w) * 16;
  }
  // Byte offset in a stage of the voxel of position `i` of the tile.
  VGEN_HD int position_offset(int i) const {
    const int w = i % box[2], h = i / box[2] % box[1], t = i / box[2] / box[1];
    return ((t * grid.axis[0].step * extent[1] + h * grid.axis[1].step) * extent[2] + w * grid.axis[2].step) * 16;
  }
};

// The k index inside a step of 16 of element e of word `reg` of lane's B fragment of mma.m16n8k16, and its column.
VGEN_HD inline int fragment_k(int lane, int reg, int e) { return reg * 8 + lane % 4 * 2 + e; }
VGEN_HD inline int fragment_n(int lane) { return lane / 4; }

// Rows of m16 per warp for a width: what 255 registers hold.
VGEN_HD inline int rows_for(int width) { return width <= 4 ? 4 : 2; }

// The cheapest box of `positions` (a power of two): fewest tiles first, then least input.
inline void choose_box(const ConvGrid& grid, int positions, int (&box)[3]) {
  double best = -1;
  for (int t = 1; t <= positions; t *= 2)
    for (int h = 1; t * h <= positions; h *= 2) {
      const int size[3] = {t, h, positions / t / h};
      double tiles = 1, input = 1;
      for (int a = 0; a < 3; ++a) {
        tiles *= (grid.axis[a].grid + size[a] - 1) / size[a];
        input *= grid.axis[a].extent(size[a]);
      }
      // Eight positions in a row along w read shared memory without bank conflicts.
      const double cost = tiles * (positions * (size[2] < 8 ? 1.15 : 1.0) + 0.25 * input);
      if (best < 0 || cost < best) best = cost, box[0] = size[0], box[1] = size[1], box[2] = size[2];
    }
}

// False when the tile cannot be held: too many taps for shared memory, or strides too long for 32-bit offsets in a tile.
inline bool plan_tensor(const ConvParams& p, int multiprocessors, int64_t max_shared, TensorPlan* plan) {
  plan->grid = make_grid(p);
  const int columns = int((p.out_channels + 7) / 8);
  plan->granules = int((p.in_channels + kGranule - 1) / kGranule);
  plan->width = 1;
  while (plan->width < columns && plan->width < 16) plan->width *= 2;
  plan->warps = 8;
  const int64_t positions = plan->grid.positions(), work = positions * p.batch;
  const auto blocks_of = [&] {
    plan->rows = rows_for(plan->width), plan->blocks = (columns + plan->width - 1) / plan->width;
    const int64_t tile = int64_t(plan->warps) * plan->rows * 16;
    return (positions + tile - 1) / tile * p.batch * plan->blocks;
  };
  // Small problems: smaller tiles until every multiprocessor has one, narrower blocks when the norm allows it.
  while (blocks_of() < multiprocessors && work > 0) {
    if (plan->warps > 2 && plan->warps * plan->rows * 16 > 64)
      plan->warps /= 2;
    else if (plan->width > 4 && !p.pixel_norm)
      plan->width /= 2;
    else
      break;
  }
  for (;; plan->warps /= 2) {
    if (plan->warps == 0) return false;
    blocks_of();
    choose_box(plan->grid, plan->warps * plan->rows * 16, plan->box);
    for (int a = 0; a < 3; ++a) {
      plan->extent[a] = plan->grid.axis[a].extent(plan->box[a]);
      plan->tiles[a] = (plan->grid.axis[a].grid + plan->box[a] - 1) / plan->box[a];
    }
    // One voxel more than a multiple of eight: the planes of one voxel then lie in different banks.
    plan->plane = (plan->voxels() + 7) / 8 * 8 + 1;
    const int64_t fixed = int64_t(plan->warps) * 16 * ((plan->width * 8 + 8) * 2 + 8) + (plan->voxels() + 4) * 4 + 32;
    for (plan->chunk = plan->granules < 4 ? plan->granules : 4; plan->chunk > 0; --plan->chunk) {
      plan->chunks = (plan->granules + plan->chunk - 1) / plan->chunk;
      plan->steps = (plan->grid.taps() * plan->chunk + 1) / 2;
      plan->table = plan->steps * 2;
      plan->stages = plan->chunks > 1 ? 2 : 1;
      const int64_t table = (plan->table + 4) * 4;
      if (fixed + table + int64_t(plan->stages) * plan->stage_bytes() > max_shared) continue;
      if (plan->chunk * plan->chunks > plan->granules && plan->chunk > 1 && plan->granules % plan->chunk) {
        // Do not multiply a mostly empty last chunk when a smaller one divides evenly.
        if (plan->granules % (plan->chunk - 1) == 0 && plan->chunk - 1 > 1) continue;
      }
      int64_t span = 0;
      for (int a = 0; a < 3; ++a) span += plan->extent[a] * (p.x_stride[2 + a] < 0 ? -p.x_stride[2 + a] : p.x_stride[2 + a]);
      return span < 0x7fffffff;
    }
  }
}

// --------------------------------------------------------------------------------- tensor-core tiles, weight gradient
//
// Rows are (tap, input channel), columns output channels, K the positions of a tile. Two (tap, granule) halves are a
// pair of 16 rows; a warp owns `rows` pairs. A block marches over a run of tiles with the accumulators in registers.

struct GradientPlan {
  ConvGrid grid;
  int box[3], extent[3], tiles[3];
  int granules, chunk, chunks;
  int pairs, groups;   // pairs per chunk, groups of kWarps * rows pairs
  int width, blocks;   // 8-wide columns per block, blocks
  int rows;
  int stages;
  int plane, g_plane;  // voxels and positions of one granule plane in shared memory
  int64_t run;         // tiles per split
  int splits;

  VGEN_HD int voxels() const { return extent[0] * extent[1] * extent[2]; }
  VGEN_HD int positions() const { return box[0] * box[1] * box[2]; }
  VGEN_HD int64_t num_tiles() const { return int64_t(tiles[0]) * tiles[1] * tiles[2]; }
  VGEN_HD int x_bytes() const { return plane * chunk * 16; }
  VGEN_HD int stage_bytes() const { return x_bytes() + g_plane * width * 16; }
  // Shared memory: stages, local coordinates of each voxel, offset of each position's voxel.
  VGEN_HD int voxel_at() const { return stages * stage_bytes(); }
  VGEN_HD int position_at() const { return voxel_at() + (voxels() + 3) / 4 * 16; }
  VGEN_HD int shared_bytes() const { return position_at() + positions() * 4; }
};

constexpr int kGradientWarps = 8;

inline bool plan_gradient(const ConvParams& p, int multiprocessors, int64_t max_shared, GradientPlan* plan) {
  plan->grid = make_grid(p);
  const int taps = plan->grid.taps(), columns = int((p.out_channels + 7) / 8);
  const int64_t samples = p.per_sample ? p.batch : 1;
  plan->granules = int((p.in_channels + kGranule - 1) / kGranule);
  plan->width = columns < 2 ? 1 : columns < 3 ? 2 : 4;
  plan->blocks = (columns + plan->width - 1) / plan->width;
  plan->rows = plan->width == 4 ? 4 : 2;
  const int wanted = kGradientWarps * plan->rows;
  for (int positions = 256; positions >= 32; positions /= 2) {
    choose_box(plan->grid, positions, plan->box);
    for (int a = 0; a < 3; ++a) {
      plan->extent[a] = plan->grid.axis[a].extent(plan->box[a]);
      plan->tiles[a] = (plan->grid.axis[a].grid + plan->box[a] - 1) / plan->box[a];
      if (plan->extent[a] > 1023) return false;
    }
    plan->plane = (plan->voxels() + 7) / 8 * 8 + 1, plan->g_plane = positions + 1;
    plan->stages = 2;
    plan->chunk = 1;
    while (plan->chunk < plan->granules && plan->chunk < 8 && (taps * plan->chunk + 1) / 2 < wanted) ++plan->chunk;
    for (; plan->chunk > 0; --plan->chunk)
      if (plan->shared_bytes() <= max_shared) break;
    if (plan->chunk > 0) break;
  }
  if (plan->chunk == 0) return false;
  plan->chunks = (plan->granules + plan->chunk - 1) / plan->chunk;
  plan->pairs = (taps * plan->chunk + 1) / 2;
  plan->groups = (plan->pairs + wanted - 1) / wanted;
  const int64_t units = plan->grid.units(), count = plan->num_tiles() * (p.batch / samples);
  const int64_t others = samples * units * plan->blocks * plan->chunks * plan->groups;
  const int64_t slice = samples * units * (taps * p.in_channels + 1) * p.out_channels * 4;
  int64_t splits = (int64_t(multiprocessors) * 2 + others - 1) / others;
  if (splits > count) splits = count;
  const int64_t most = (int64_t(64) << 20) / slice;
  if (splits > most) splits = most > 1 ? most : 1;
  plan->run = (count + splits - 1) / splits;
  plan->splits = int((count + plan->run - 1) / plan->run);
  return true;
}

}  // namespace device
}  // namespace vgen
