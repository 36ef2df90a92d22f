// Where silhouettes pass between neighbouring pixel centres, and which triangles share an edge. All
// arithmetic is double for both scalar types, in the order of the torch twin; every image is independent of
// every other.
#include "screen.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace {

// As in threedistill/ops/antialias.py.
constexpr int kMostSteps = 64;
constexpr double kEnd = 1 + 1e-6;

// Coordinates along and across the line between two pixel centres.
struct Along {
  double u, v;
};

TD_INLINE double side(Along a, Along b, Along p) {
  return (b.u - a.u) * (p.v - a.v) - (b.v - a.v) * (p.u - a.u);
}

struct Image {
  const Point* screen;
  const int32_t *faces, *neighbours;
};

// Walks from `face` along a row (or, if vertical, a column) across shared edges; true, with the ends of the
// edge, where a silhouette comes before the next pixel centre and is steep enough to count in this direction.
bool walk(
    const Image& image, int32_t face, bool vertical, double origin, double line, double sign, int32_t& start,
    int32_t& end) {
  auto place = [&](int32_t vertex) {
    const Point& p = image.screen[vertex];
    return vertical ? Along{p.y, p.x} : Along{p.x, p.y};
  };
  int entered = -1;
  for (int step = 0; step < kMostSteps; ++step) {
    const int32_t* corner = image.faces + 3 * int64_t(face);
    Along at[3];
    bool above[3], front = true;
    for (int k = 0; k < 3; ++k) {
      at[k] = place(corner[k]);
      above[k] = at[k].v > line;
      front = front && image.screen[corner[k]].front;
    }
    if (!front) return false;
    int leave = -1;
    double most = -std::numeric_limits<double>::infinity();
    for (int k = 0; k < 3; ++k) {
      const int a = (k + 1) % 3, b = (k + 2) % 3;
      if (k == entered || above[a] == above[b]) continue;
      const double ratio = (line - at[a].v) / (at[b].v - at[a].v);
      const double reached = (at[a].u + (at[b].u - at[a].u) * ratio - origin) * sign;
      if (reached > most) most = reached, leave = k;
    }
    if (leave < 0 || !(most < kEnd)) return false;
    const int a = (leave + 1) % 3, b = (leave + 2) % 3;
    const int32_t beyond = image.neighbours[3 * int64_t(face) + leave];
    bool stop = beyond < 0;
    if (!stop) {
      const int32_t opposite = image.faces[beyond];
      stop = image.screen[opposite].front &&
             side(at[a], at[b], at[leave]) * side(at[a], at[b], place(opposite)) > 0;
    }
    if (stop) {
      const double across = std::abs(at[b].v - at[a].v), along = std::abs(at[b].u - at[a].u);
      start = corner[a], end = corner[b];
      return vertical ? across > along : across >= along;
    }
    face = beyond / 3, entered = beyond % 3;
  }
  return false;
}

template <typename T>
void crossings(
    const T* clip, const int32_t* faces, const int32_t* neighbours, const int32_t* triangle, const T* depth,
    int64_t view, int64_t vertices, int64_t height, int64_t width, Point* screen, int64_t* found) {
  project(clip, vertices, height, width, screen);
  const Image image{screen, faces, neighbours};
  const int64_t base = view * height * width;
  for (int64_t p = 0; p < height * width; ++p)
    for (int vertical = 0; vertical < 2; ++vertical) {
      int64_t* out = found + 4 * (2 * p + vertical);
      out[0] = -1;
      const int64_t row = p / width, column = p % width;
      if (vertical ? row + 1 == height : column + 1 == width) continue;
      const int64_t q = p + (vertical ? width : 1);
      if (triangle[p] == triangle[q]) continue;
      const bool swap = triangle[p] < 0 || (triangle[q] >= 0 && depth[q] < depth[p]);
      const int64_t near = swap ? q : p, far = swap ? p : q;
      const double y = double(near / width), x = double(near % width);
      int32_t start, end;
      if (!walk(
              image, triangle[near], vertical, vertical ? y : x, vertical ? x : y, swap ? -1 : 1, start, end))
        continue;
      out[0] = base + near, out[1] = base + far;
      out[2] = view * vertices + start, out[3] = view * vertices + end;
    }
}

template <typename T>
int silhouette_crossings(
    const T* clip, const int32_t* faces, const int32_t* neighbours, const int32_t* triangle, const T* depth,
    int64_t views, int64_t vertices, int64_t triangles, int64_t height, int64_t width, int64_t* found) {
  if (views < 0 || vertices < 0 || triangles < 0 || height < 0 || width < 0) return TD_BAD_ARGUMENT;
  const int64_t pixels = height * width;
  if (!within(faces, 3 * triangles, 0, vertices) || !within(neighbours, 3 * triangles, -1, 3 * triangles) ||
      !within(triangle, views * pixels, -1, triangles))
    return TD_BAD_INDEX;
  int status = TD_OK;
#pragma omp parallel for schedule(dynamic, 1) if (views > 1)
  for (int64_t view = 0; view < views; ++view) {
    std::unique_ptr<Point[]> screen(new (std::nothrow) Point[size_t(vertices + 1)]);
    if (!screen) {
#pragma omp atomic write
      status = TD_NO_MEMORY;
      continue;
    }
    crossings(
        clip + 4 * view * vertices, faces, neighbours, triangle + view * pixels, depth + view * pixels, view,
        vertices, height, width, screen.get(), found + 8 * view * pixels);
  }
  return status;
}

// Half-edges bucketed by the lower of their two vertices.
int face_neighbours(const int32_t* faces, int64_t triangles, int64_t vertices, int32_t* neighbours) {
  if (triangles < 0 || vertices < 0) return TD_BAD_ARGUMENT;
  if (!within(faces, 3 * triangles, 0, vertices)) return TD_BAD_INDEX;
  struct Half {
    int32_t number, high; // of the edge's vertices
  };
  std::unique_ptr<int32_t[]> start(new (std::nothrow) int32_t[size_t(vertices + 2)]());
  std::unique_ptr<Half[]> halves(new (std::nothrow) Half[size_t(3 * triangles)]);
  if (!start || !halves) return TD_NO_MEMORY;
  auto each_half = [&](auto visit) {
    for (int32_t h = 0; h < 3 * triangles; h += 3)
      for (int k = 0; k < 3; ++k) {
        const int32_t a = faces[h + (k + 1) % 3], b = faces[h + (k + 2) % 3];
        visit(h + k, std::min(a, b), std::max(a, b));
      }
  };
  each_half([&](int32_t, int32_t low, int32_t) { ++start[low + 2]; });
  for (int64_t v = 0; v < vertices; ++v) start[v + 2] += start[v + 1];
  each_half([&](int32_t half, int32_t low, int32_t high) { halves[start[low + 1]++] = {half, high}; });
  for (int64_t v = 0; v < vertices; ++v)
    for (int32_t i = start[v]; i < start[v + 1]; ++i) {
      int uses = 0;
      int32_t other = -1;
      for (int32_t j = start[v]; j < start[v + 1]; ++j) {
        const bool same = halves[j].high == halves[i].high;
        uses += same;
        other = same && j != i ? halves[j].number : other;
      }
      neighbours[halves[i].number] = uses == 2 ? other : -1;
    }
  return TD_OK;
}

} // namespace

int td_silhouette_crossings_f32(
    const float* clip, const int32_t* faces, const int32_t* neighbours, const int32_t* triangle,
    const float* depth, int64_t views, int64_t vertices, int64_t triangles, int64_t height, int64_t width,
    int64_t* found) {
  return silhouette_crossings(
      clip, faces, neighbours, triangle, depth, views, vertices, triangles, height, width, found);
}
int td_silhouette_crossings_f64(
    const double* clip, const int32_t* faces, const int32_t* neighbours, const int32_t* triangle,
    const double* depth, int64_t views, int64_t vertices, int64_t triangles, int64_t height, int64_t width,
    int64_t* found) {
  return silhouette_crossings(
      clip, faces, neighbours, triangle, depth, views, vertices, triangles, height, width, found);
}
int td_face_neighbours_f32(const int32_t* faces, int64_t triangles, int64_t vertices, int32_t* neighbours) {
  return face_neighbours(faces, triangles, vertices, neighbours);
}
