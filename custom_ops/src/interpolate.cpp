// Interpolation of vertex attributes at pixel centres, and its gradients. Weights are found in double from
// the triangle's edge functions, as the rasteriser has them. Backward, every view's vertices have one owner
// and the attributes, common to all views, another one, so there are no atomics and nothing depends on the
// threads.
#include "screen.h"
#include "threedistill_ops.h"

#include <algorithm>

namespace {

struct Vector {
  double x, y, w;
};
TD_INLINE Vector cross(Vector a, Vector b) {
  return {a.y * b.w - a.w * b.y, a.w * b.x - a.x * b.w, a.x * b.y - a.y * b.x};
}

// What a pixel sees: the corners (rows of the attributes, and of the view's vertices), the edge functions of
// its triangle there, and their sum.
template <typename T> struct Seen {
  const int32_t* corner;
  Vector v[3], p;
  double e[3], sum;

  Seen(
      const T* clip, const int32_t* faces, const int32_t* triangle, int64_t pixel, int64_t vertices,
      int64_t height, int64_t width)
      : corner(faces + 3 * int64_t(triangle[pixel])) {
    const int64_t view = pixel / (height * width), at = pixel % (height * width);
    p = {(2 * (at % width) + 1) / double(width) - 1, 1 - (2 * (at / width) + 1) / double(height), 1};
    for (int i = 0; i < 3; ++i) {
      const T* from = clip + 4 * (view * vertices + corner[i]);
      v[i] = {from[0], from[1], from[3]};
    }
    for (int i = 0; i < 3; ++i) {
      const Vector n = cross(v[(i + 1) % 3], v[(i + 2) % 3]);
      e[i] = (n.x * p.x + n.y * p.y) + n.w;
    }
    sum = (e[0] + e[1]) + e[2];
  }
  T weight(int i) const { return T(e[i] / sum); }
};

template <typename T> int check(TD_SEEN(T)) {
  (void)attributes, (void)clip;
  if (count < 0 || channels < 0 || views < 0 || vertices < 0 || triangles < 0 || height < 1 || width < 1)
    return TD_BAD_ARGUMENT;
  if (!within(faces, 3 * triangles, 0, vertices)) return TD_BAD_INDEX;
  for (int64_t i = 0; i < count; ++i) {
    if (pixels[i] < 0 || pixels[i] >= views * height * width || (i && pixels[i] <= pixels[i - 1]))
      return TD_BAD_INDEX;
    if (triangle[pixels[i]] < 0 || triangle[pixels[i]] >= triangles) return TD_BAD_INDEX;
  }
  return TD_OK;
}

#define TD_SEEN_NAMES                                                                                        \
  attributes, clip, faces, triangle, pixels, count, channels, views, vertices, triangles, height, width

template <typename T> int forward(TD_SEEN(T), T* out) {
  if (const int status = check<T>(TD_SEEN_NAMES)) return status;
#pragma omp parallel for schedule(static) if (count > 4096)
  for (int64_t i = 0; i < count; ++i) {
    const Seen<T> seen(clip, faces, triangle, pixels[i], vertices, height, width);
    const T *a = attributes + seen.corner[0] * channels, *b = attributes + seen.corner[1] * channels,
            *c = attributes + seen.corner[2] * channels;
    const T u = seen.weight(0), v = seen.weight(1), w = seen.weight(2);
    for (int64_t k = 0; k < channels; ++k) out[i * channels + k] = a[k] * u + b[k] * v + c[k] * w;
  }
  return TD_OK;
}

// With g_i = dL/db_i: dL/de_i = (g_i - sum_j b_j g_j) / sum(e), and e_i = p . (v_j x v_k).
template <typename T>
void to_clip(const Seen<T>& seen, const T* attributes, int64_t channels, const T* grad, T* out) {
  double g[3] = {}, mean = 0;
  for (int i = 0; i < 3; ++i) {
    for (int64_t k = 0; k < channels; ++k) g[i] += grad[k] * attributes[seen.corner[i] * channels + k];
    mean += g[i] * (seen.e[i] / seen.sum);
  }
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    const double slope = (g[i] - mean) / seen.sum;
    const Vector to_j = cross(seen.v[k], seen.p), to_k = cross(seen.p, seen.v[j]);
    T *at_j = out + 4 * int64_t(seen.corner[j]), *at_k = out + 4 * int64_t(seen.corner[k]);
    at_j[0] += T(slope * to_j.x), at_j[1] += T(slope * to_j.y), at_j[3] += T(slope * to_j.w);
    at_k[0] += T(slope * to_k.x), at_k[1] += T(slope * to_k.y), at_k[3] += T(slope * to_k.w);
  }
}

template <typename T> int backward(TD_SEEN(T), const T* grad, T* grad_attributes, T* grad_clip) {
  if (const int status = check<T>(TD_SEEN_NAMES)) return status;
#pragma omp parallel for schedule(dynamic, 1) if (count > 1024)
  for (int64_t task = 0; task <= views; ++task) {
    const int64_t view = task - 1, size = height * width; // the attributes, the longest task, come first
    const int64_t first = task ? std::lower_bound(pixels, pixels + count, view * size) - pixels : 0;
    const int64_t last = task ? std::lower_bound(pixels, pixels + count, (view + 1) * size) - pixels : count;
    for (int64_t i = first; i < last; ++i) {
      const Seen<T> seen(clip, faces, triangle, pixels[i], vertices, height, width);
      const T* from = grad + i * channels;
      if (task) {
        to_clip(seen, attributes, channels, from, grad_clip + 4 * view * vertices);
        continue;
      }
      for (int j = 0; j < 3; ++j) {
        const T weight = seen.weight(j);
        T* to = grad_attributes + seen.corner[j] * channels;
        for (int64_t k = 0; k < channels; ++k) to[k] += from[k] * weight;
      }
    }
  }
  return TD_OK;
}

} // namespace

int td_interpolate_f32(TD_SEEN(float), float* out) {
  return forward<float>(TD_SEEN_NAMES, out);
}
int td_interpolate_f64(TD_SEEN(double), double* out) {
  return forward<double>(TD_SEEN_NAMES, out);
}
int td_interpolate_backward_f32(TD_SEEN(float), const float* grad, float* grad_attributes, float* grad_clip) {
  return backward<float>(TD_SEEN_NAMES, grad, grad_attributes, grad_clip);
}
int td_interpolate_backward_f64(
    TD_SEEN(double), const double* grad, double* grad_attributes, double* grad_clip) {
  return backward<double>(TD_SEEN_NAMES, grad, grad_attributes, grad_clip);
}
