"""csrc/modulated_conv3d.h (AxisPlan) and csrc/minimal_filter.h on one axis, called from a small C++ library.

The plan's sums are written out here, over every mode, kernel, padding and size, and compared with numpy.
"""

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

DIRECT, UP, DOWN, WINOGRAD, UP_PAIR, DOWN_PAIR = range(6)
MODES = {"direct": DIRECT, "up": UP, "down": DOWN, "winograd": WINOGRAD, "up_pair": UP_PAIR, "down_pair": DOWN_PAIR}

SOURCE = r"""
#include <vector>

#include "minimal_filter.h"
using namespace vgen;

// The elements of x that a tile of the whole grid reads, as the sub-sequences of the plan.
static std::vector<std::vector<double>> sequences(const AxisPlan& plan, const double* x, int64_t n) {
  auto at = [&](int64_t i) { return i >= 0 && i < n ? x[i] : 0.0; };
  std::vector<std::vector<double>> found(plan.subs);
  const int64_t extent = plan.extent(plan.grid), first = plan.first_input(0);
  for (int64_t e = 0; e < extent; ++e) {
    if (plan.paired()) {
      double window[6], made[6];
      const int64_t start = first + plan.step() * e;
      for (int i = 0; i < 6; ++i) window[i] = at(start + i);
      if (plan.mode == AxisMode::winograd) Winograd::input(window, made);
      if (plan.mode == AxisMode::up_pair) UpPair::input(window, made);
      if (plan.mode == AxisMode::down_pair) DownPair::input(window, made);
      for (int s = 0; s < plan.subs; ++s) found[s].push_back(made[s]);
    } else {
      for (int s = 0; s < plan.subs; ++s) found[s].push_back(at(first + plan.subs * e + s));
    }
  }
  return found;
}

static void spread_taps(const AxisPlan& plan, const double* w, std::vector<double>& taps) {
  taps.assign(plan.units * plan.taps, 0);
  for (int u = 0; u < plan.units; ++u)
    for (int m = 0; m < plan.taps; ++m)
      for (int64_t k = 0; k < plan.kernel; ++k) taps[u * plan.taps + m] += plan.spread(u, m, k) * w[k];
}

extern "C" int forward(int mode, int64_t kernel, int64_t padding, int64_t n, int64_t out, const double* x,
                       const double* w, double* y) {
  const AxisPlan plan = AxisPlan::make(AxisMode(mode), kernel, padding, out);
  const auto read = sequences(plan, x, n);
  const int window[] = {0, 0, 0, Winograd::window, UpPair::window, DownPair::window};
  const int64_t needed =
      plan.paired() ? plan.step() * (plan.grid - 1) + window[mode] : plan.subs * plan.extent(plan.grid);
  if (plan.num_inputs(plan.grid) != needed) return 2;
  std::vector<double> taps;
  spread_taps(plan, w, taps);
  for (int64_t j = 0; j < plan.grid; ++j) {
    double unit[8] = {}, pair[2] = {};
    for (int u = 0; u < plan.units; ++u)
      for (int m = 0; m < plan.taps; ++m)
        unit[u] += taps[u * plan.taps + m] * read[plan.sub(u, m)].at(j + plan.offset(u, m));
    for (int p = 0; p < plan.parities; ++p)
      for (int u = 0; u < plan.units; ++u) pair[p] += plan.combine(p, u) * unit[u];
    if (plan.paired()) {  // minimal_filter.h must say the same
      double formula[2];
      if (plan.mode == AxisMode::winograd) Winograd::output(unit, formula);
      if (plan.mode == AxisMode::up_pair) UpPair::output(unit, formula);
      if (plan.mode == AxisMode::down_pair) DownPair::output(unit, formula);
      for (int p = 0; p < 2; ++p)
        if (formula[p] - pair[p] > 1e-9 || pair[p] - formula[p] > 1e-9) return 1;
    }
    for (int p = 0; p < plan.parities; ++p) {
      const int64_t i = plan.first_output() + plan.parities * j + p;
      if (i >= 0 && i < out) y[i] += pair[p];  // += so that an output written twice shows
    }
  }
  return 0;
}

extern "C" int weight_gradient(int mode, int64_t kernel, int64_t padding, int64_t n, int64_t out, const double* x,
                               const double* g, double* gw) {
  const AxisPlan plan = AxisPlan::make(AxisMode(mode), kernel, padding, out);
  const auto read = sequences(plan, x, n);
  for (int64_t j = 0; j < plan.grid; ++j) {
    double pair[2] = {}, unit[8] = {}, formula[8];
    for (int p = 0; p < plan.parities; ++p) {
      const int64_t i = plan.first_output() + plan.parities * j + p;
      pair[p] = i >= 0 && i < out ? g[i] : 0;
      for (int u = 0; u < plan.units; ++u) unit[u] += plan.combine(p, u) * pair[p];
    }
    if (plan.mode == AxisMode::winograd) Winograd::gradient(pair, formula);
    if (plan.mode == AxisMode::up_pair) UpPair::gradient(pair, formula);
    if (plan.mode == AxisMode::down_pair) DownPair::gradient(pair, formula);
    for (int u = 0; u < plan.units; ++u) {
      if (plan.paired() && (formula[u] - unit[u] > 1e-9 || unit[u] - formula[u] > 1e-9)) return 1;
      for (int m = 0; m < plan.taps; ++m)
        for (int64_t k = 0; k < kernel; ++k)
          gw[k] += plan.spread(u, m, k) * unit[u] * read[plan.sub(u, m)].at(j + plan.offset(u, m));
    }
  }
  return 0;
}

// Every element that unit u, tap m reads at j, named by shift() and by (first_input, sub, offset), is the same one.
extern "C" int64_t disagreements(int mode, int64_t kernel, int64_t padding, int64_t out) {
  const AxisPlan plan = AxisPlan::make(AxisMode(mode), kernel, padding, out);
  int64_t count = 0;
  for (int64_t j = 0; j < plan.grid; ++j)
    for (int u = 0; u < plan.units; ++u)
      for (int m = 0; m < plan.taps; ++m) {
        if (plan.sub(u, m) < 0 || plan.sub(u, m) >= plan.subs) ++count;
        if (plan.offset(u, m) < 0 || j + plan.offset(u, m) >= plan.extent(plan.grid)) ++count;
        if (plan.paired()) continue;
        const int64_t element = plan.first_input(0) + plan.subs * (j + plan.offset(u, m)) + plan.sub(u, m);
        count += element != plan.step() * j + plan.shift(u, m);
        count += plan.first_input(j) != plan.first_input(0) + plan.step() * j;
      }
  return count;
}
extern "C" int64_t half(int64_t n) { return floor_div2(n); }
extern "C" double products(int mode) {
  const AxisPlan plan = AxisPlan::make(AxisMode(mode), 3, 1, 2);
  return plan.units * plan.taps / double(plan.parities);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("axis_plan")
    (folder / "plan.cpp").write_text(SOURCE)
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(folder / "plan.cpp"), "-o", str(folder / "plan.so")], check=True)
    found = ctypes.CDLL(str(folder / "plan.so"))
    found.half.restype = found.disagreements.restype = ctypes.c_int64
    found.products.restype = ctypes.c_double
    return found


def plain(mode: int, x: np.ndarray, w: np.ndarray, padding: int) -> np.ndarray:
    """Nearest up, correlation, average pool, as the words say."""
    x = np.repeat(x, 2) if mode in (UP, UP_PAIR) else x
    y = np.correlate(np.pad(x, padding), w, "valid")
    return y[: len(y) // 2 * 2].reshape(-1, 2).mean(1) if mode in (DOWN, DOWN_PAIR) else y


def lines(mode: int):
    """Every kernel, padding and size with at least one output."""
    for kernel, padding, n in itertools.product(
        (3,) if mode >= WINOGRAD else (1, 3, 5, 7), range(4), (1, 2, 3, 4, 5, 8, 13)
    ):
        full = n * (2 if mode in (UP, UP_PAIR) else 1) + 2 * padding - kernel + 1
        if full >= (2 if mode in (DOWN, DOWN_PAIR) else 1):
            draw = np.random.default_rng(kernel * 100 + padding * 10 + n)
            yield kernel, padding, draw.standard_normal(n), draw.standard_normal(kernel), draw


def pointer(array: np.ndarray):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))


def integers(*values: int):
    return [ctypes.c_int64(value) for value in values]


@pytest.mark.parametrize("mode", MODES)
def test_the_plan_is_the_convolution_and_its_transpose_the_weight_gradient(library, mode: str):
    number, seen = MODES[mode], 0
    for kernel, padding, x, w, draw in lines(number):
        where = f"{mode}, kernel {kernel}, padding {padding}, {len(x)} elements"
        expected = plain(number, x, w, padding)
        y = np.zeros_like(expected)
        sizes = integers(kernel, padding, len(x), len(expected))
        assert library.forward(number, *sizes, pointer(x), pointer(w), pointer(y)) == 0, where
        np.testing.assert_allclose(y, expected, atol=1e-12, err_msg=where)
        g, gw = draw.standard_normal(len(y)), np.zeros(kernel)
        assert library.weight_gradient(number, *sizes, pointer(x), pointer(g), pointer(gw)) == 0, where
        np.testing.assert_allclose(y @ g, w @ gw, atol=1e-11, err_msg=f"{where}: <conv(x, w), g> = <w, gradient>")
        for k in range(kernel):  # each component, not only their sum
            unit = plain(number, x, np.eye(kernel)[k], padding)
            np.testing.assert_allclose(gw[k], unit @ g, atol=1e-11, err_msg=f"{where}, tap {k}")
        assert library.disagreements(number, *integers(kernel, padding, len(expected))) == 0, where
        seen += 1
    assert seen >= 20


def test_half_rounds_down(library):
    assert [library.half(ctypes.c_int64(n)) for n in range(-5, 6)] == [n // 2 for n in range(-5, 6)]


def test_products_per_output_are_those_of_the_table(library):
    assert [library.products(mode) for mode in range(6)] == [3, 2, 4, 2, 1.5, 3]
