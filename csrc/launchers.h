// Every launcher the bindings may call, declared once per instruction set and once for CUDA.
#pragma once
#include "feature_moments.h"
#include "minibatch_stddev.h"
#include "modulated_conv3d.h"
#include "pixel_norm.h"
#include "sliced_wasserstein.h"

#define VGEN_LAUNCHERS(ending, ret, ...)                                     \
  ret modulated_conv3d_forward##ending(const ConvParams& __VA_ARGS__);       \
  ret modulated_conv3d_weight_gradient##ending(const ConvParams& __VA_ARGS__); \
  ret pixel_norm_forward##ending(const PixelNormParams& __VA_ARGS__);        \
  ret pixel_norm_backward##ending(const PixelNormParams& __VA_ARGS__);       \
  ret minibatch_stddev_forward##ending(const MinibatchStddevParams& __VA_ARGS__);  \
  ret minibatch_stddev_backward##ending(const MinibatchStddevParams& __VA_ARGS__); \
  ret minibatch_stddev_double_backward##ending(const MinibatchStddevParams& __VA_ARGS__);

// On CPU only; CUDA tensors have Triton, or the reference.
#define VGEN_CPU_LAUNCHERS                                          \
  void sliced_wasserstein_cpu(const SlicedWassersteinParams&);      \
  void binned_wasserstein_cpu(const SlicedWassersteinParams&);      \
  void sliced_head_forward_cpu(const SlicedHeadParams&);            \
  void sliced_head_backward_cpu(const SlicedHeadParams&);           \
  void sliced_head_double_backward_cpu(const SlicedHeadParams&);    \
  void feature_moments_update_cpu(const FeatureMomentsParams&);

namespace vgen {
namespace avx2 { VGEN_LAUNCHERS(_cpu, void) VGEN_CPU_LAUNCHERS }
namespace avx512 { VGEN_LAUNCHERS(_cpu, void) VGEN_CPU_LAUNCHERS }
#ifdef VGEN_CUDA
// Null on success, else the text of the CUDA error.
VGEN_LAUNCHERS(_cuda, const char*, , int device, void* stream)
#endif
}  // namespace vgen
