// Feature moments: lower triangle of out [d, d] += sum over rows of (row - shift)^T (row - shift) + extra^T extra,
// everything but the rows in float64. The upper triangle is left undefined.
#pragma once
#include "dtypes.h"

namespace vgen {

struct FeatureMomentsParams {
  int64_t rows, dim;
  const void* features;  // [rows, dim]
  const double* shift;   // [dim]
  const double* extra;   // [dim], or null
  double* out;           // [dim, dim]
  Dtype dtype;           // of the features
  int threads;
};

}  // namespace vgen
