// The only module definition: addresses and sizes into the parameter structs, then the launcher for the device.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>

#include "launchers.h"

namespace py = pybind11;
using namespace vgen;

namespace {

using Sizes3 = std::array<int64_t, 3>;
using Sizes5 = std::array<int64_t, 5>;

template <class T>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

enum class Isa { none, avx2, avx512 };

Isa best_isa() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return Isa::avx2;
  return Isa::none;
}

Isa isa = best_isa();
const char* isa_names[] = {"none", "avx2", "avx512"};

// Runs name_cpu of the chosen instruction set, or name_cuda on the tensor's device and stream.
#ifdef VGEN_CUDA
#define VGEN_ON_CUDA(name, ...) check(name##_cuda(__VA_ARGS__, where.index, address<void>(where.stream)))
#else
#define VGEN_ON_CUDA(name, ...) throw std::runtime_error(#name ": this build has no CUDA part")
#endif
#define VGEN_NO_CUDA(name, ...) throw std::runtime_error(#name ": runs on CPU only")
#define VGEN_RUN(name, ...) VGEN_RUN_OR(VGEN_ON_CUDA, name, __VA_ARGS__)
#define VGEN_RUN_CPU(name, ...) VGEN_RUN_OR(VGEN_NO_CUDA, name, __VA_ARGS__)
#define VGEN_RUN_OR(on_cuda, name, ...)                               \
  do {                                                                \
    py::gil_scoped_release release;                                   \
    if (where.index >= 0) {                                           \
      on_cuda(name, __VA_ARGS__);                                     \
    } else if (isa == Isa::avx512) {                                  \
      avx512::name##_cpu(__VA_ARGS__);                                \
    } else if (isa == Isa::avx2) {                                    \
      avx2::name##_cpu(__VA_ARGS__);                                  \
    } else {                                                          \
      throw std::runtime_error(#name ": needs a CPU with AVX2");      \
    }                                                                 \
  } while (0)

[[maybe_unused]] void check(const char* error) {
  if (error) throw std::runtime_error(std::string("CUDA: ") + error);
}

// Where a call runs: a CUDA device and stream, or (index -1) this many CPU threads; and the storage type.
struct Where {
  int index;
  uintptr_t stream;
  int threads;
  int dtype;
};

void copy3(int64_t (&to)[3], const Sizes3& from) { std::copy(from.begin(), from.end(), to); }
void copy5(int64_t (&to)[5], const Sizes5& from) { std::copy(from.begin(), from.end(), to); }

ConvParams conv_params(const Where& where, const Sizes3& channels, const Sizes3& in_size, const Sizes3& out_size,
                       const Sizes3& kernel, const Sizes3& padding, const Sizes3& up, const Sizes3& down,
                       const Sizes5& x_stride, const Sizes5& y_stride, bool per_sample) {
  ConvParams p{};
  p.batch = channels[0], p.in_channels = channels[1], p.out_channels = channels[2];
  copy3(p.in_size, in_size), copy3(p.out_size, out_size), copy3(p.kernel, kernel), copy3(p.padding, padding);
  copy3(p.up, up), copy3(p.down, down), copy5(p.x_stride, x_stride), copy5(p.y_stride, y_stride);
  p.per_sample = per_sample;
  p.frames = 1;
  p.slope = p.gain = 1;
  p.dtype = Dtype(where.dtype), p.threads = where.threads;
  return p;
}

void conv_forward(Where where, uintptr_t x, uintptr_t w, uintptr_t bias, uintptr_t noise, uintptr_t y, uintptr_t r,
                  Sizes3 channels, Sizes3 in_size, Sizes3 out_size, Sizes3 kernel, Sizes3 padding, Sizes3 up, Sizes3 down,
                  Sizes5 x_stride, Sizes5 y_stride, Sizes5 noise_stride, bool per_sample, bool pixel_norm, double slope,
                  double gain, double eps) {
  ConvParams p =
      conv_params(where, channels, in_size, out_size, kernel, padding, up, down, x_stride, y_stride, per_sample);
  p.x = address<void>(x), p.w = address<void>(w), p.bias = address<void>(bias), p.noise = address<void>(noise);
  p.y = address<void>(y), p.r = address<void>(r);
  copy5(p.noise_stride, noise_stride);
  p.pixel_norm = pixel_norm, p.slope = slope, p.gain = gain, p.eps = eps;
  VGEN_RUN(modulated_conv3d_forward, p);
}

void conv_weight_gradient(Where where, uintptr_t x, uintptr_t g, uintptr_t gw, uintptr_t gb, Sizes3 channels, Sizes3 in_size,
                          Sizes3 out_size, Sizes3 kernel, Sizes3 padding, Sizes3 up, Sizes3 down, Sizes5 x_stride,
                          Sizes5 g_stride, bool per_sample) {
  ConvParams p =
      conv_params(where, channels, in_size, out_size, kernel, padding, up, down, x_stride, g_stride, per_sample);
  p.x = address<void>(x), p.y = address<void>(g), p.gw = address<void>(gw), p.gb = address<void>(gb);
  VGEN_RUN(modulated_conv3d_weight_gradient, p);
}

// Both gradients of y = lrelu(conv(x, w)) * gain, g gated by y while it is read; gx, or gw and gb, may be null. `mirrored`
// are the weights of the input gradient: [I, O, taps reversed].
void conv_backward(Where where, uintptr_t g, uintptr_t y, uintptr_t x, uintptr_t w, uintptr_t gx, uintptr_t gw,
                   uintptr_t gb, Sizes3 channels, Sizes3 in_size, Sizes3 out_size, Sizes3 kernel, Sizes3 padding, Sizes3 up,
                   Sizes3 down, Sizes5 x_stride, Sizes5 y_stride, Sizes5 gx_stride, bool per_sample, double slope, double gain) {
  auto gated = [&](ConvParams p, double factor) {
    p.gate = address<void>(y), p.gate_slope = slope, p.gain = gain * factor;
    return p;
  };
  if (gx) {
    Sizes3 outer;
    double copies = 1;  // the sum over the copies of an input is their number times the average
    for (int a = 0; a < 3; ++a) outer[a] = kernel[a] - 1 - padding[a], copies *= double(up[a]) / double(down[a]);
    ConvParams p = gated(conv_params(where, {channels[0], channels[2], channels[1]}, out_size, in_size, kernel, outer, down, up,
                                     y_stride, gx_stride, per_sample), copies);
    p.x = address<void>(g), p.w = address<void>(w), p.mirrored = 1, p.y = address<void>(gx);
    VGEN_RUN_CPU(modulated_conv3d_forward, p);
  }
  if (gw) {
    ConvParams p = gated(conv_params(where, channels, in_size, out_size, kernel, padding, up, down, x_stride, y_stride,
                                     per_sample), 1);
    p.x = address<void>(x), p.y = address<void>(g), p.gw = address<void>(gw), p.gb = address<void>(gb);
    VGEN_RUN_CPU(modulated_conv3d_weight_gradient, p);
  }
}

// shape and stride are those of a dense [B, C, T, H, W] tensor, contiguous or channels-last.
PixelNormParams pixel_norm_params(const Where& where, const Sizes5& shape, const Sizes5& stride, double slope) {
  PixelNormParams p{};
  p.batch = shape[0], p.channels = shape[1], p.positions = shape[2] * shape[3] * shape[4];
  const bool last = stride[1] == 1 && p.channels > 1 && p.positions > 1;
  p.channel_stride = last ? 1 : p.positions, p.position_stride = last ? p.channels : 1;
  p.slope = slope, p.dtype = Dtype(where.dtype), p.threads = where.threads;
  return p;
}

void pixel_norm_forward(Where where, uintptr_t x, uintptr_t y, uintptr_t r, Sizes5 shape, Sizes5 stride, double slope,
                        double eps) {
  PixelNormParams p = pixel_norm_params(where, shape, stride, slope);
  p.x = address<void>(x), p.out = address<void>(y), p.out_r = address<void>(r), p.eps = eps;
  VGEN_RUN(pixel_norm_forward, p);
}

void pixel_norm_backward(Where where, uintptr_t g, uintptr_t y, uintptr_t r, uintptr_t gz, Sizes5 shape, Sizes5 stride,
                         double slope, double gain) {
  PixelNormParams p = pixel_norm_params(where, shape, stride, slope);
  p.g = address<void>(g), p.y = address<void>(y), p.r = address<void>(r), p.out = address<void>(gz), p.gain = gain;
  VGEN_RUN(pixel_norm_backward, p);
}

MinibatchStddevParams stddev_params(const Where& where, const Sizes3& sizes, int64_t group, bool channels_last, double eps) {
  MinibatchStddevParams p{};
  p.batch = sizes[0], p.channels = sizes[1], p.positions = sizes[2];
  p.group = group, p.channels_last = channels_last, p.eps = eps;
  p.dtype = Dtype(where.dtype), p.threads = where.threads;
  return p;
}

void stddev_forward(Where where, uintptr_t x, uintptr_t y, Sizes3 sizes, int64_t group, bool channels_last, double eps) {
  MinibatchStddevParams p = stddev_params(where, sizes, group, channels_last, eps);
  p.x = address<void>(x), p.y = address<void>(y);
  VGEN_RUN(minibatch_stddev_forward, p);
}

void stddev_backward(Where where, uintptr_t g, uintptr_t x, uintptr_t gx, Sizes3 sizes, int64_t group, bool channels_last,
                     double eps) {
  MinibatchStddevParams p = stddev_params(where, sizes, group, channels_last, eps);
  p.g = address<void>(g), p.x = address<void>(x), p.gx = address<void>(gx);
  VGEN_RUN(minibatch_stddev_backward, p);
}

void stddev_double_backward(Where where, uintptr_t v, uintptr_t g, uintptr_t x, uintptr_t gg, uintptr_t gx, Sizes3 sizes,
                            int64_t group, bool channels_last, double eps) {
  MinibatchStddevParams p = stddev_params(where, sizes, group, channels_last, eps);
  p.v = address<void>(v), p.g = address<void>(g), p.x = address<void>(x), p.y = address<void>(gg), p.gx = address<void>(gx);
  VGEN_RUN(minibatch_stddev_double_backward, p);
}

// sizes: samples of x, samples of y, directions. Returns the mean over directions of W_p^p.
double sliced_wasserstein(Where where, uintptr_t x, uintptr_t y, uintptr_t theta, uintptr_t gx, uintptr_t gy, int64_t n,
                          int64_t m, int64_t features, int64_t directions, double power) {
  SlicedWassersteinParams p{};
  double value = 0;
  p.n = n, p.m = m, p.features = features, p.directions = directions, p.p = power;
  p.x = address<void>(x), p.y = address<void>(y), p.theta = address<void>(theta), p.gx = address<void>(gx), p.gy = address<void>(gy), p.value = &value;
  p.dtype = Dtype(where.dtype), p.threads = where.threads;
  VGEN_RUN_CPU(sliced_wasserstein, p);
  return value;
}

// x and y projected on L directions, in blocks of SAMPLE_BLOCK samples. Returns the mean over directions of W_1.
double binned_wasserstein(Where where, uintptr_t x, uintptr_t y, int64_t n, int64_t m, int64_t directions) {
  SlicedWassersteinParams p{};
  double value = 0;
  p.n = n, p.m = m, p.directions = directions, p.x = address<void>(x), p.y = address<void>(y), p.value = &value;
  p.dtype = Dtype(where.dtype), p.threads = where.threads;
  VGEN_RUN_CPU(binned_wasserstein, p);
  return value;
}

SlicedHeadParams head_params(const Where& where, uintptr_t q, uintptr_t scale, uintptr_t offset, int64_t batch,
                             int64_t directions, double slope) {
  SlicedHeadParams p{};
  p.batch = batch, p.directions = directions, p.slope = slope;
  p.q = address<void>(q), p.scale = address<void>(scale), p.offset = address<void>(offset);
  p.dtype = Dtype(where.dtype), p.threads = where.threads;
  return p;
}

void sliced_head_forward(Where where, uintptr_t q, uintptr_t scale, uintptr_t offset, uintptr_t out, int64_t batch,
                         int64_t directions, double slope) {
  SlicedHeadParams p = head_params(where, q, scale, offset, batch, directions, slope);
  p.out = address<void>(out);
  VGEN_RUN_CPU(sliced_head_forward, p);
}

void sliced_head_backward(Where where, uintptr_t q, uintptr_t scale, uintptr_t offset, uintptr_t g, uintptr_t gq,
                          uintptr_t gscale, uintptr_t goffset, int64_t batch, int64_t directions, double slope) {
  SlicedHeadParams p = head_params(where, q, scale, offset, batch, directions, slope);
  p.g = address<void>(g), p.gq = address<void>(gq), p.gscale = address<void>(gscale), p.goffset = address<void>(goffset);
  VGEN_RUN_CPU(sliced_head_backward, p);
}

void sliced_head_double_backward(Where where, uintptr_t q, uintptr_t scale, uintptr_t offset, uintptr_t g, uintptr_t v,
                                 uintptr_t vs, uintptr_t vo, uintptr_t gg, uintptr_t gq, uintptr_t gscale, int64_t batch,
                                 int64_t directions, double slope) {
  SlicedHeadParams p = head_params(where, q, scale, offset, batch, directions, slope);
  p.g = address<void>(g), p.v = address<void>(v), p.vs = address<void>(vs), p.vo = address<void>(vo);
  p.out = address<void>(gg), p.gq = address<void>(gq), p.gscale = address<void>(gscale);
  VGEN_RUN_CPU(sliced_head_double_backward, p);
}

void feature_moments_update(Where where, uintptr_t features, uintptr_t shift, uintptr_t extra, uintptr_t out, int64_t rows,
                            int64_t dim) {
  FeatureMomentsParams p{};
  p.rows = rows, p.dim = dim, p.features = address<void>(features), p.shift = address<double>(shift);
  p.extra = address<double>(extra), p.out = address<double>(out);
  p.dtype = Dtype(where.dtype), p.threads = where.threads;
  VGEN_RUN_CPU(feature_moments_update, p);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of vgen_fast: raw addresses in, nothing allocated, no torch. Use vgen_fast.ops.";
#ifdef VGEN_CUDA
  m.attr("cuda_archs") = VGEN_CUDA;
#else
  m.attr("cuda_archs") = "";
#endif
  m.def("isa", [] { return isa_names[int(isa)]; });
  m.def("set_isa", [](const std::string& name) {
    for (int i = 0; i <= int(best_isa()); ++i)
      if (name == isa_names[i]) {
        isa = Isa(i);
        return;
      }
    throw std::invalid_argument("this processor has no " + name);
  });
  py::class_<Where>(m, "Where").def(py::init<int, uintptr_t, int, int>());
  m.def("modulated_conv3d_forward", conv_forward);
  m.def("modulated_conv3d_weight_gradient", conv_weight_gradient);
  m.def("modulated_conv3d_backward", conv_backward);
  m.def("pixel_norm_forward", pixel_norm_forward);
  m.def("pixel_norm_backward", pixel_norm_backward);
  m.def("minibatch_stddev_forward", stddev_forward);
  m.def("minibatch_stddev_backward", stddev_backward);
  m.def("minibatch_stddev_double_backward", stddev_double_backward);
  m.def("sliced_wasserstein", sliced_wasserstein);
  m.def("binned_wasserstein", binned_wasserstein);
  m.attr("SAMPLE_BLOCK") = kSampleBlock;
  m.def("sliced_head_forward", sliced_head_forward);
  m.def("sliced_head_backward", sliced_head_backward);
  m.def("sliced_head_double_backward", sliced_head_double_backward);
  m.def("feature_moments_update", feature_moments_update);
}
