// Fixed-step ray marching through an occupancy grid. Called twice: to count the samples of each ray, and to
// write them once the caller has summed the counts. Both passes take the same decisions: this file is
// compiled without contraction to FMA, and the positions come from the sample's index, not from a running
// sum.
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

constexpr int64_t kRays = 256; // per task

template <typename T> struct Grid {
  const uint8_t* occupied;
  int32_t resolution;
  T bound, step, nearest, scale;
  int64_t max_samples;
};

// Calls emit(t) for the start of every step whose middle lies in an occupied cell; returns how many there
// were.
template <typename T, typename Emit>
TD_INLINE int64_t march_ray(const Grid<T>& grid, const T* origin, const T* direction, T jitter, Emit emit) {
  T enter = grid.nearest, leave = std::numeric_limits<T>::infinity();
  for (int d = 0; d < 3; ++d) {
    if (direction[d] == 0) {
      if (!(std::abs(origin[d]) <= grid.bound)) return 0;
      continue;
    }
    const T a = (-grid.bound - origin[d]) / direction[d], b = (grid.bound - origin[d]) / direction[d];
    enter = std::max(enter, std::min(a, b)), leave = std::min(leave, std::max(a, b));
  }
  if (!(enter < leave) || !std::isfinite(leave) || !std::isfinite(enter)) return 0;
  const int32_t last = grid.resolution - 1;
  int64_t found = 0;
  for (int64_t i = 0; found < grid.max_samples; ++i) {
    const T middle = enter + ((T(i) + T(0.5)) + jitter) * grid.step;
    if (!(middle < leave)) break;
    int64_t cell = 0;
    for (int d = 0; d < 3; ++d) {
      const T at = ((origin[d] + middle * direction[d]) + grid.bound) * grid.scale;
      cell = cell * grid.resolution +
             std::min(std::max(int32_t(at), 0), last); // truncation is floor once clamped
    }
    if (!grid.occupied[cell]) continue;
    emit(found++, enter + (T(i) + jitter) * grid.step, enter + ((T(i) + T(1)) + jitter) * grid.step);
  }
  return found;
}

template <typename T>
void run_count(
    const Grid<T>& grid, const T* origins, const T* directions, const T* jitter, int64_t begin, int64_t end,
    int64_t* counts) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    for (int64_t r = begin; r < end; ++r)
      counts[r] = march_ray(
          grid, origins + 3 * r, directions + 3 * r, jitter ? jitter[r] : T(0), [](int64_t, T, T) {});
  });
}
template <typename T>
void run_write(
    const Grid<T>& grid, const T* origins, const T* directions, const T* jitter, int64_t begin, int64_t end,
    const int64_t* offsets, int64_t* ray, T* start, T* stop) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = offsets[r];
      Grid<T> mine = grid;
      mine.max_samples = offsets[r + 1] - at; /* never past the ray's own rows */
      march_ray(
          mine, origins + 3 * r, directions + 3 * r, jitter ? jitter[r] : T(0),
          [&](int64_t s, T from, T to) { ray[at + s] = r, start[at + s] = from, stop[at + s] = to; });
    }
  });
}

template <typename T>
int march(TD_MARCH_GRID(T), int64_t* counts, const int64_t* offsets, int64_t* ray, T* start, T* end) {
  if (rays < 0 || resolution < 1 || resolution > 1024 || max_samples < 0) return TD_BAD_ARGUMENT;
  if (!(bound > 0) || !(step > 0) || !(nearest >= 0)) return TD_BAD_ARGUMENT;
  const Grid<T> grid{occupied,   int32_t(resolution),         T(bound),   T(step),
                     T(nearest), T(resolution / (2 * bound)), max_samples};
  const int64_t tasks = (rays + kRays - 1) / kRays;
#pragma omp parallel for schedule(dynamic, 1) if (tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t first = task * kRays, last = std::min(rays, first + kRays);
    if (offsets)
      run_write(grid, origins, directions, jitter, first, last, offsets, ray, start, end);
    else
      run_count(grid, origins, directions, jitter, first, last, counts);
  }
  return TD_OK;
}

} // namespace

int td_march_f32(
    TD_MARCH_GRID(float), int64_t* counts, const int64_t* offsets, int64_t* ray, float* start, float* end) {
  return march(
      origins, directions, jitter, occupied, rays, resolution, bound, step, nearest, max_samples, counts,
      offsets, ray, start, end);
}
int td_march_f64(
    TD_MARCH_GRID(double), int64_t* counts, const int64_t* offsets, int64_t* ray, double* start,
    double* end) {
  return march(
      origins, directions, jitter, occupied, rays, resolution, bound, step, nearest, max_samples, counts,
      offsets, ray, start, end);
}
