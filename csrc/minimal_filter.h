// The paired modes of csrc/modulated_conv3d.h as formulas on one axis; two axes apply one after the other.
//
// input: a window of x -> what the units read. output: unit results -> 2 outputs. gradient: the transpose of output.
// The taps' side is AxisPlan::spread; docs/ops.md derives all three.
#pragma once
#include "modulated_conv3d.h"

namespace vgen {

struct Winograd {
  static constexpr int window = 4, step = 2, subs = 4, units = 4;
  template <class V>
  VGEN_HD static void input(const V* d, V* s) {
    s[0] = d[0] - d[2], s[1] = d[1] + d[2], s[2] = d[2] - d[1], s[3] = d[1] - d[3];
  }
  template <class V>
  VGEN_HD static void output(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3];
  }
  template <class V>
  VGEN_HD static void gradient(const V* g, V* m) {
    m[0] = g[0], m[1] = g[0] + g[1], m[2] = g[0] - g[1], m[3] = -g[1];
  }
};

struct UpPair {
  static constexpr int window = 2, step = 1, subs = 2, units = 3;
  template <class V>
  VGEN_HD static void input(const V* d, V* s) {
    s[0] = d[0], s[1] = d[1] - d[0];
  }
  template <class V>
  VGEN_HD static void output(const V* m, V* y) {
    y[0] = m[0] + m[1], y[1] = m[0] + m[2];
  }
  template <class V>
  VGEN_HD static void gradient(const V* g, V* m) {
    m[0] = g[0] + g[1], m[1] = g[0], m[2] = g[1];
  }
};

struct DownPair {
  static constexpr int window = 6, step = 4, subs = 6, units = 3;
  template <class V>
  VGEN_HD static void input(const V* d, V* s) {
    s[0] = d[0] - d[2], s[1] = d[2], s[2] = d[2] - d[4];
    s[3] = d[1] - d[3], s[4] = d[3], s[5] = d[3] - d[5];
  }
  template <class V>
  VGEN_HD static void output(const V* m, V* y) {
    y[0] = m[0] + m[1], y[1] = m[1] - m[2];
  }
  template <class V>
  VGEN_HD static void gradient(const V* g, V* m) {
    m[0] = g[0], m[1] = g[0] + g[1], m[2] = -g[1];
  }
};

}  // namespace vgen
