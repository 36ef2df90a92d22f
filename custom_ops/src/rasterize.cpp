// Triangle rasterisation in homogeneous coordinates (Olano and Greer, "Triangle scan conversion using 2D
// homogeneous coordinates", 1997): edge functions come from (x, y, w) directly, so a triangle that passes
// behind the camera needs no clipping. All arithmetic is double for both scalar types and this file is
// compiled without contraction to FMA: the edge function of a shared edge is then exactly opposite in both
// triangles, and no pixel falls between them.
#include "screen.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace {

constexpr double kSlack =
    0.01; // pixels: boxes come from the projected corners, coverage from the edge functions
constexpr int64_t kNarrow = 4; // columns of a box that are not worth a row's exact interval

// e_i(x, y) = a x + b y + c >= 0 inside; z is NDC depth, affine on the screen; area = |det| of the (x, y, w)
// rows.
struct Triangle {
  double a[3], b[3], c[3];
  double za, zb, zc, area;
};

// The edge functions; false where the triangle shows nothing: zero area, behind the camera, or not finite.
template <typename T> TD_INLINE bool edges(const T* clip, const int32_t* face, Triangle& t) {
  double x[3], y[3], w[3];
  for (int i = 0; i < 3; ++i) {
    const T* v = clip + 4 * int64_t(face[i]);
    x[i] = v[0], y[i] = v[1], w[i] = v[3];
  }
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    t.a[i] = y[j] * w[k] - y[k] * w[j];
    t.b[i] = x[k] * w[j] - x[j] * w[k];
    t.c[i] = x[j] * y[k] - x[k] * y[j];
  }
  const double det = (x[0] * t.a[0] + y[0] * t.b[0]) + w[0] * t.c[0];
  if (!std::isfinite(det) || det == 0 || !(w[0] > 0 || w[1] > 0 || w[2] > 0)) return false;
  if (det < 0)
    for (int i = 0; i < 3; ++i) t.a[i] = -t.a[i], t.b[i] = -t.b[i], t.c[i] = -t.c[i];
  t.area = std::abs(det);
  return true;
}

// The plane of NDC depth; false where it is not finite.
template <typename T> TD_INLINE bool plane(const T* clip, const int32_t* face, Triangle& t) {
  double z[3];
  for (int i = 0; i < 3; ++i) z[i] = clip[4 * int64_t(face[i]) + 2];
  t.za = ((t.a[0] * z[0] + t.a[1] * z[1]) + t.a[2] * z[2]) / t.area;
  t.zb = ((t.b[0] * z[0] + t.b[1] * z[1]) + t.b[2] * z[2]) / t.area;
  t.zc = ((t.c[0] * z[0] + t.c[1] * z[1]) + t.c[2] * z[2]) / t.area;
  return std::isfinite(t.za) && std::isfinite(t.zb) && std::isfinite(t.zc);
}

// Clamped to [low, high] before the conversion, so that no double overflows the integer.
TD_INLINE int64_t pixel(double value, int64_t low, int64_t high) {
  return int64_t(std::min(std::max(value, double(low)), double(high)));
}

// The first whole number from the clamped value on; low must not be negative.
TD_INLINE int64_t pixel_from(double value, int64_t low, int64_t high) {
  const int64_t whole = pixel(value, low, high);
  return whole + (double(whole) < value && whole < high);
}

// One image, rows [top, bottom). The z-buffer keeps the lowest face index among equal depths.
template <typename T>
void band(
    const T* clip, const Point* screen, const int32_t* faces, int64_t triangles, int64_t height,
    int64_t width, int64_t top, int64_t bottom, double* zbuffer, int32_t* triangle, T* barycentric,
    T* depth) {
  std::fill(zbuffer, zbuffer + (bottom - top) * width, std::numeric_limits<double>::infinity());
  std::fill(triangle + top * width, triangle + bottom * width, -1);
  Triangle t{};
  double* columns = zbuffer + (bottom - top) * width; // NDC x of the pixel centres
  for (int64_t x = 0; x < width; ++x) columns[x] = (2 * x + 1) / double(width) - 1;
  for (int64_t f = 0; f < triangles; ++f) {
    const int32_t* face = faces + 3 * f;
    int64_t x0 = 0, x1 = width - 1, y0 = top, y1 = bottom - 1;
    const Point &p = screen[face[0]], &q = screen[face[1]], &r = screen[face[2]];
    if (p.front && q.front && r.front) { // a bounding box; without it the row intervals below do the work
      x0 = pixel_from(std::min(std::min(p.x, q.x), r.x) - kSlack, 0, width);
      x1 = pixel(std::max(std::max(p.x, q.x), r.x) + kSlack, -1, width - 1);
      y0 = pixel_from(std::min(std::min(p.y, q.y), r.y) - kSlack, top, bottom);
      y1 = pixel(std::max(std::max(p.y, q.y), r.y) + kSlack, top - 1, bottom - 1);
      if (x0 > x1 || y0 > y1) continue;
    }
    if (!edges(clip, face, t)) continue;
    bool planed = false; // most small triangles lie between pixel centres and need no depth
    for (int64_t y = y0; y <= y1; ++y) {
      const double py = 1 - (2 * y + 1) / double(height);
      double base[3];
      double from = double(x0), to = double(x1);
      for (int i = 0; i < 3; ++i) {
        base[i] = t.b[i] * py + t.c[i];
        if (x1 - x0 < kNarrow) continue;
        // a px + base >= 0 narrows the row; the interval is widened by a pixel and each pixel tested exactly.
        const double root = (-base[i] / t.a[i] + 1) * 0.5 * width - 0.5;
        if (t.a[i] > 0)
          from = std::max(from, root - 1);
        else if (t.a[i] < 0)
          to = std::min(to, root + 1);
        else if (base[i] < 0)
          to = -1;
      }
      if (!(from <= to)) continue;
      const int64_t first = pixel(from, x0, x1 + 1), last = pixel(to, x0 - 1, x1);
      double* zrow = zbuffer + (y - top) * width;
      int32_t* row = triangle + y * width;
      for (int64_t x = first; x <= last; ++x) {
        const double px = columns[x];
        const double e0 = t.a[0] * px + base[0], e1 = t.a[1] * px + base[1], e2 = t.a[2] * px + base[2];
        // All e_i >= 0 and their sum (area / w) > 0: inside, and in front of the camera.
        if (!(e0 >= 0 && e1 >= 0 && e2 >= 0 && (e0 + e1) + e2 > 0)) continue;
        if (!planed && !(planed = plane(clip, face, t))) t.zc = NAN;
        const double z = t.za * px + (t.zb * py + t.zc);
        if (z >= -1 && z <= 1 && z < zrow[x]) {
          zrow[x] = z;
          row[x] = int32_t(f);
        }
      }
    }
  }
  // Second pass: barycentrics and depth of the winners only, one set-up per run of equal faces.
  int32_t previous = -1;
  for (int64_t y = top; y < bottom; ++y) {
    const double py = 1 - (2 * y + 1) / double(height);
    for (int64_t x = 0; x < width; ++x) {
      const int64_t at = y * width + x;
      const int32_t f = triangle[at];
      T* out = barycentric + 3 * at;
      if (f < 0) {
        out[0] = out[1] = out[2] = depth[at] = 0;
        continue;
      }
      if (f != previous) edges(clip, faces + 3 * int64_t(f), t), previous = f;
      const double px = columns[x];
      double e[3];
      for (int i = 0; i < 3; ++i) e[i] = t.a[i] * px + (t.b[i] * py + t.c[i]);
      const double sum = (e[0] + e[1]) + e[2]; // area / w
      for (int i = 0; i < 3; ++i) out[i] = T(e[i] / sum);
      depth[at] = T(t.area / sum);
    }
  }
}

template <typename T>
int rasterize(
    const T* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles, int64_t height,
    int64_t width, int32_t* triangle, T* barycentric, T* depth) {
  if (images < 0 || vertices < 0 || triangles < 0 || height < 0 || width < 0) return TD_BAD_ARGUMENT;
  if (!within(faces, 3 * triangles, 0, vertices)) return TD_BAD_INDEX;
  const int64_t pixels = height * width;
  if (images == 0 || pixels == 0) return TD_OK;
  // Row bands only where images alone would leave threads idle; pixels never depend on the partition.
  const int64_t threads = td_threads();
  const int64_t bands = images >= threads ? 1 : std::min(height, (2 * threads + images - 1) / images);
  const int64_t rows = (height + bands - 1) / bands;
  int status = TD_OK;
#pragma omp parallel for schedule(dynamic, 1) if (images * bands > 1)
  for (int64_t task = 0; task < images * bands; ++task) {
    const int64_t image = task / bands, top = (task % bands) * rows, bottom = std::min(top + rows, height);
    if (top >= bottom) continue;
    std::unique_ptr<double[]> zbuffer(new (std::nothrow) double[size_t((bottom - top + 1) * width)]);
    std::unique_ptr<Point[]> screen(new (std::nothrow) Point[size_t(vertices)]);
    if (!zbuffer || !screen) {
#pragma omp atomic write
      status = TD_NO_MEMORY;
      continue;
    }
    project(clip + image * vertices * 4, vertices, height, width, screen.get());
    band(
        clip + image * vertices * 4, screen.get(), faces, triangles, height, width, top, bottom,
        zbuffer.get(), triangle + image * pixels, barycentric + image * pixels * 3, depth + image * pixels);
  }
  return status;
}

} // namespace

int td_rasterize_f32(
    const float* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles,
    int64_t height, int64_t width, int32_t* triangle, float* barycentric, float* depth) {
  return rasterize(clip, faces, images, vertices, triangles, height, width, triangle, barycentric, depth);
}

int td_rasterize_f64(
    const double* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles,
    int64_t height, int64_t width, int32_t* triangle, double* barycentric, double* depth) {
  return rasterize(clip, faces, images, vertices, triangles, height, width, triangle, barycentric, depth);
}
