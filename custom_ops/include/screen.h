// Where vertices lie on the picture.
#pragma once

#include <cmath>

#include "common.h"

// Pixel coordinates, pixel centres at whole numbers; they mean nothing where the vertex is not in front.
struct Point {
  double x, y;
  bool front;
};

template <typename T>
void project(const T* clip, int64_t vertices, int64_t height, int64_t width, Point* screen) {
  for (int64_t v = 0; v < vertices; ++v) {
    const double x = clip[4 * v], y = clip[4 * v + 1], w = clip[4 * v + 3];
    screen[v] = {(x / w + 1) * (width / 2.0) - 0.5, (1 - y / w) * (height / 2.0) - 0.5, w > 0};
  }
}

// Whether every index lies in [low, high).
inline bool within(const int32_t* indices, int64_t count, int64_t low, int64_t high) {
  bool good = true; // without a way out of the loop it vectorises
  for (int64_t i = 0; i < count; ++i) good &= indices[i] >= low && indices[i] < high;
  return good;
}
