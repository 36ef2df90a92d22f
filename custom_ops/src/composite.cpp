// Emission-absorption compositing along packed rays, forward and backward. One ray has one owner, so nothing
// depends on the number of threads.
#include "exponential.h"
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>

namespace {

constexpr int64_t kRays = 128; // per task

// out_i = alpha_i = 1 - exp(-sigma_i dt_i), exact to the last bits where the step is thin.
template <typename T>
TD_INLINE void alphas(
    const T* TD_RESTRICT density, const T* TD_RESTRICT start, const T* TD_RESTRICT end, int64_t count,
    T* TD_RESTRICT out) {
  for (int64_t i = 0; i < count; ++i) out[i] = -expm1(-density[i] * (end[i] - start[i]));
}
template <typename T>
TD_INLINE void forward_rays(
    const T* density, const T* rgb, const T* start, const T* end, const int64_t* offsets, int64_t first,
    int64_t last, T* color, T* opacity, T* depth, T* weights) {
  const int64_t at = offsets[first];
  alphas(density + at, start + at, end + at, offsets[last] - at, weights + at);
  for (int64_t r = first; r < last; ++r) {
    T through = 1, red = 0, green = 0, blue = 0, sum = 0, far = 0;
    for (int64_t s = offsets[r]; s < offsets[r + 1]; ++s) {
      const T alpha = weights[s], w = through * alpha;
      weights[s] = w;
      red += w * rgb[3 * s], green += w * rgb[3 * s + 1], blue += w * rgb[3 * s + 2];
      sum += w, far += w * (T(0.5) * (start[s] + end[s]));
      through *= 1 - alpha;
    }
    color[3 * r] = red, color[3 * r + 1] = green, color[3 * r + 2] = blue;
    opacity[r] = sum, depth[r] = far;
  }
}

// With g_i = dL/dw_i and T_{i+1} the light left behind sample i:
//   dL/dsigma_i = dt_i (T_{i+1} g_i - sum_{j > i} w_j g_j),   dL/drgb_i = w_i dL/dcolor.
template <typename T>
TD_INLINE void backward_rays(
    const T* density, const T* rgb, const T* start, const T* end, const int64_t* offsets, int64_t first,
    int64_t last, const T* weights, const T* grad_color, const T* grad_opacity, const T* grad_depth,
    const T* grad_weights, T* grad_density, T* grad_rgb) {
  const int64_t at = offsets[first];
  alphas(density + at, start + at, end + at, offsets[last] - at, grad_density + at);
  for (int64_t r = first; r < last; ++r) {
    const T* gc = grad_color + 3 * r;
    T through = 1;
    // grad_density holds alpha_i, then T_{i+1} until the second loop.
    for (int64_t s = offsets[r]; s < offsets[r + 1]; ++s) {
      through *= 1 - grad_density[s];
      grad_density[s] = through;
    }
    const T red = gc[0], green = gc[1], blue = gc[2], solid = grad_opacity[r], far = T(0.5) * grad_depth[r];
    T behind = 0;
    for (int64_t s = offsets[r + 1] - 1; s >= offsets[r]; --s) {
      const T *c = rgb + 3 * s, w = weights[s];
      T g = red * c[0] + green * c[1] + blue * c[2] + (solid + far * (start[s] + end[s]));
      if (grad_weights) g += grad_weights[s];
      grad_density[s] = (end[s] - start[s]) * (grad_density[s] * g - behind);
      behind += w * g;
      grad_rgb[3 * s] = w * red, grad_rgb[3 * s + 1] = w * green, grad_rgb[3 * s + 2] = w * blue;
    }
  }
}

template <typename T>
void run_forward(
    const T* density, const T* rgb, const T* start, const T* end, const int64_t* offsets, int64_t first,
    int64_t last, T* color, T* opacity, T* depth, T* weights) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    forward_rays(density, rgb, start, end, offsets, first, last, color, opacity, depth, weights);
  });
}
template <typename T>
void run_backward(
    const T* density, const T* rgb, const T* start, const T* end, const int64_t* offsets, int64_t first,
    int64_t last, const T* weights, const T* grad_color, const T* grad_opacity, const T* grad_depth,
    const T* grad_weights, T* grad_density, T* grad_rgb) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    backward_rays(
        density, rgb, start, end, offsets, first, last, weights, grad_color, grad_opacity, grad_depth,
        grad_weights, grad_density, grad_rgb);
  });
}

int check(const int64_t* offsets, int64_t rays, int64_t samples) {
  if (rays < 0 || samples < 0 || offsets[0] != 0 || offsets[rays] != samples) return TD_BAD_INDEX;
  for (int64_t r = 0; r < rays; ++r)
    if (offsets[r] > offsets[r + 1]) return TD_BAD_INDEX;
  return TD_OK;
}

template <typename T>
int forward(
    const T* density, const T* rgb, const T* start, const T* end, const int64_t* offsets, int64_t rays,
    int64_t samples, T* color, T* opacity, T* depth, T* weights) {
  if (const int status = check(offsets, rays, samples)) return status;
#pragma omp parallel for schedule(dynamic, 1) if (samples > 4096)
  for (int64_t first = 0; first < rays; first += kRays)
    run_forward(
        density, rgb, start, end, offsets, first, std::min(rays, first + kRays), color, opacity, depth,
        weights);
  return TD_OK;
}

template <typename T>
int backward(
    const T* density, const T* rgb, const T* start, const T* end, const int64_t* offsets, int64_t rays,
    int64_t samples, const T* weights, const T* grad_color, const T* grad_opacity, const T* grad_depth,
    const T* grad_weights, T* grad_density, T* grad_rgb) {
  if (const int status = check(offsets, rays, samples)) return status;
#pragma omp parallel for schedule(dynamic, 1) if (samples > 4096)
  for (int64_t first = 0; first < rays; first += kRays)
    run_backward(
        density, rgb, start, end, offsets, first, std::min(rays, first + kRays), weights, grad_color,
        grad_opacity, grad_depth, grad_weights, grad_density, grad_rgb);
  return TD_OK;
}

} // namespace

int td_composite_f32(
    const float* density, const float* rgb, const float* start, const float* end, const int64_t* offsets,
    int64_t rays, int64_t samples, float* color, float* opacity, float* depth, float* weights) {
  return forward(density, rgb, start, end, offsets, rays, samples, color, opacity, depth, weights);
}
int td_composite_f64(
    const double* density, const double* rgb, const double* start, const double* end, const int64_t* offsets,
    int64_t rays, int64_t samples, double* color, double* opacity, double* depth, double* weights) {
  return forward(density, rgb, start, end, offsets, rays, samples, color, opacity, depth, weights);
}
int td_composite_backward_f32(
    const float* density, const float* rgb, const float* start, const float* end, const int64_t* offsets,
    int64_t rays, int64_t samples, const float* weights, const float* grad_color, const float* grad_opacity,
    const float* grad_depth, const float* grad_weights, float* grad_density, float* grad_rgb) {
  return backward(
      density, rgb, start, end, offsets, rays, samples, weights, grad_color, grad_opacity, grad_depth,
      grad_weights, grad_density, grad_rgb);
}
int td_composite_backward_f64(
    const double* density, const double* rgb, const double* start, const double* end, const int64_t* offsets,
    int64_t rays, int64_t samples, const double* weights, const double* grad_color,
    const double* grad_opacity, const double* grad_depth, const double* grad_weights, double* grad_density,
    double* grad_rgb) {
  return backward(
      density, rgb, start, end, offsets, rays, samples, weights, grad_color, grad_opacity, grad_depth,
      grad_weights, grad_density, grad_rgb);
}
