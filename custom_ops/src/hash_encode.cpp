// Multiresolution hash encoding: forward, gradient to the table, gradient to the points.
//
// Each level is worked through in tiles of points: the first loops of a tile find cells, corner entries and
// weights and vectorise; the second gather or scatter. Forward and grad_x are parallel over blocks of points
// with the level loop inside, grad_table over groups of levels: every output element has one owner, so there
// are no atomics and the result does not depend on the number of threads.
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kBlock = 2048; // points per task: their features stay in L2 while the levels pass
constexpr int kTile = 64;        // points per tile: corners and weights stay in L1
constexpr uint32_t kPrimeY = 2654435761u, kPrimeZ = 805459861u;

template <typename T> struct Level {
  T scale;
  uint32_t resolution, size; // entries; a power of two where hashed
  bool hashed;
};

template <typename T> struct Tile {
  uint32_t entry[8][kTile];
  T weight[8][kTile];
  T fraction[3][kTile];
};

// Cells and corners of up to kTile points. Corner bit d is the offset along axis d.
template <typename T, bool hashed>
TD_INLINE void locate(const T* TD_RESTRICT x, int count, const Level<T>& level, Tile<T>& TD_RESTRICT tile) {
  uint32_t cell[3][kTile];
  for (int d = 0; d < 3; ++d)
    for (int i = 0; i < count; ++i) {
      T at = x[3 * i + d];
      at = at < 0 ? T(0) : at; // written so that NaN stays NaN
      at = at > 1 ? T(1) : at;
      at = at * level.scale + T(0.5);
      const int32_t whole = int32_t(at); // at >= 0.5, so truncation is floor
      cell[d][i] = uint32_t(whole);
      tile.fraction[d][i] = at - T(whole);
    }
  const uint32_t r = level.resolution, size = level.size, mask = size - 1;
  const uint32_t stride_y = hashed ? kPrimeY : r, stride_z = hashed ? kPrimeZ : r * r;
  for (int i = 0; i < count; ++i) {
    const uint32_t x0 = cell[0][i], y0 = cell[1][i] * stride_y, z0 = cell[2][i] * stride_z;
    const uint32_t x1 = x0 + 1, y1 = y0 + stride_y, z1 = z0 + stride_z;
    for (int c = 0; c < 8; ++c) {
      const uint32_t ex = c & 1 ? x1 : x0, ey = c & 2 ? y1 : y0, ez = c & 4 ? z1 : z0;
      if (hashed) {
        tile.entry[c][i] = (ex ^ ey ^ ez) & mask;
      } else {
        const uint32_t e = ex + ey + ez;
        const uint32_t wrapped = e >= size ? e - size : e; // at x = 1 the far corner lies one past the level
        tile.entry[c][i] = wrapped < size ? wrapped : 0;   // only reached by points that are not finite
      }
    }
  }
  for (int i = 0; i < count; ++i) {
    const T fx = tile.fraction[0][i], fy = tile.fraction[1][i], fz = tile.fraction[2][i];
    const T gx = 1 - fx, gy = 1 - fy, gz = 1 - fz;
    const T xy[4] = {gx * gy, fx * gy, gx * fy, fx * fy};
    for (int c = 0; c < 8; ++c) tile.weight[c][i] = xy[c & 3] * (c & 4 ? fz : gz);
  }
}

template <typename T> TD_INLINE void locate(const T* x, int count, const Level<T>& level, Tile<T>& tile) {
  if (level.hashed)
    locate<T, true>(x, count, level, tile);
  else
    locate<T, false>(x, count, level, tile);
}

// out[i * stride + f] = sum_c weight_c table[entry_c][f]
template <typename T, int F>
TD_INLINE void forward_level(
    const T* x, int64_t count, const Level<T>& level, const T* TD_RESTRICT table, T* TD_RESTRICT out,
    int64_t stride) {
  Tile<T> tile;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int n = int(std::min<int64_t>(kTile, count - begin));
    locate(x + 3 * begin, n, level, tile);
    for (int i = 0; i < n; ++i) {
      pack<T, F> sum{};
      for (int c = 0; c < 8; ++c) sum += load<T, F>(table + size_t(tile.entry[c][i]) * F) * tile.weight[c][i];
      store<T, F>(out + (begin + i) * stride, sum);
    }
  }
}

template <typename T, int F>
TD_INLINE void table_level(
    const T* x, int64_t count, const Level<T>& level, const T* TD_RESTRICT grad, int64_t stride,
    T* TD_RESTRICT grad_table) {
  Tile<T> tile;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int n = int(std::min<int64_t>(kTile, count - begin));
    locate(x + 3 * begin, n, level, tile);
    for (int i = 0; i < n; ++i) {
      const pack<T, F> from = load<T, F>(grad + (begin + i) * stride);
      for (int c = 0; c < 8; ++c) {
        T* row = grad_table + size_t(tile.entry[c][i]) * F;
        pack<T, F> sum = load<T, F>(row);
        sum += from * tile.weight[c][i];
        store<T, F>(row, sum);
      }
    }
  }
}

// grad_x[i][d] += scale sum over the four edges along d of (upper - lower) times the other two weights.
template <typename T, int F>
TD_INLINE void points_level(
    const T* x, int64_t count, const Level<T>& level, const T* TD_RESTRICT table, const T* TD_RESTRICT grad,
    int64_t stride, T* TD_RESTRICT grad_x) {
  Tile<T> tile;
  T value[8][kTile]; // grad . table at each corner
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int n = int(std::min<int64_t>(kTile, count - begin));
    locate(x + 3 * begin, n, level, tile);
    for (int i = 0; i < n; ++i) {
      const pack<T, F> from = load<T, F>(grad + (begin + i) * stride);
      for (int c = 0; c < 8; ++c) {
        pack<T, F> product = load<T, F>(table + size_t(tile.entry[c][i]) * F) * from;
        T dot = product[0];
        for (int f = 1; f < F; ++f) dot += product[f];
        value[c][i] = dot;
      }
    }
    for (int i = 0; i < n; ++i) {
      const T a = tile.fraction[0][i], b = tile.fraction[1][i], c = tile.fraction[2][i];
      const T a0 = 1 - a, b0 = 1 - b, c0 = 1 - c;
      T g[3];
      g[0] = b0 * c0 * (value[1][i] - value[0][i]) + b * c0 * (value[3][i] - value[2][i]) +
             b0 * c * (value[5][i] - value[4][i]) + b * c * (value[7][i] - value[6][i]);
      g[1] = a0 * c0 * (value[2][i] - value[0][i]) + a * c0 * (value[3][i] - value[1][i]) +
             a0 * c * (value[6][i] - value[4][i]) + a * c * (value[7][i] - value[5][i]);
      g[2] = a0 * b0 * (value[4][i] - value[0][i]) + a * b0 * (value[5][i] - value[1][i]) +
             a0 * b * (value[6][i] - value[2][i]) + a * b * (value[7][i] - value[3][i]);
      for (int d = 0; d < 3; ++d) {
        const T at = x[3 * (begin + i) + d];
        // Outside [0, 1] the point is clamped: nothing moves there.
        if (!(at < 0) && !(at > 1)) grad_x[3 * (begin + i) + d] += level.scale * g[d];
      }
    }
  }
}

template <typename T>
void run_forward(
    int features, const T* x, int64_t count, const Level<T>& level, const T* table, T* out, int64_t stride) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    switch (features) {
    case 1:
      return forward_level<T, 1>(x, count, level, table, out, stride);
    case 2:
      return forward_level<T, 2>(x, count, level, table, out, stride);
    case 4:
      return forward_level<T, 4>(x, count, level, table, out, stride);
    default:
      return forward_level<T, 8>(x, count, level, table, out, stride);
    }
  });
}
template <typename T>
void run_table(
    int features, const T* x, int64_t count, const Level<T>& level, const T* grad, int64_t stride, T* out) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    switch (features) {
    case 1:
      return table_level<T, 1>(x, count, level, grad, stride, out);
    case 2:
      return table_level<T, 2>(x, count, level, grad, stride, out);
    case 4:
      return table_level<T, 4>(x, count, level, grad, stride, out);
    default:
      return table_level<T, 8>(x, count, level, grad, stride, out);
    }
  });
}
template <typename T>
void run_points(
    int features, const T* x, int64_t count, const Level<T>& level, const T* table, const T* grad,
    int64_t stride, T* out) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    switch (features) {
    case 1:
      return points_level<T, 1>(x, count, level, table, grad, stride, out);
    case 2:
      return points_level<T, 2>(x, count, level, table, grad, stride, out);
    case 4:
      return points_level<T, 4>(x, count, level, table, grad, stride, out);
    default:
      return points_level<T, 8>(x, count, level, table, grad, stride, out);
    }
  });
}

template <typename T>
Level<T> level_at(int64_t l, const int64_t* offsets, const int64_t* resolutions, const double* scales) {
  const int64_t r = resolutions[l], size = offsets[l + 1] - offsets[l];
  return Level<T>{T(scales[l]), uint32_t(r), uint32_t(size), r * r * r > size};
}

int check(TD_HASH_LEVELS) {
  (void)scales;
  if (points < 0 || levels < 1 || active < 0 || active > levels) return TD_BAD_ARGUMENT;
  if (features != 1 && features != 2 && features != 4 && features != 8) return TD_BAD_ARGUMENT;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t r = resolutions[l], size = offsets[l + 1] - offsets[l];
    if (r < 2 || r > (1 << 20) || size < 1 || size > (int64_t(1) << 31)) return TD_BAD_ARGUMENT;
    if (r * r * r > size && (size & (size - 1))) return TD_BAD_ARGUMENT;
  }
  return TD_OK;
}

template <typename T> int forward(const T* x, const T* table, TD_HASH_LEVELS, T* out) {
  const int status = check(points, levels, features, active, offsets, resolutions, scales);
  if (status) return status;
  const int64_t stride = levels * features, blocks = (points + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(dynamic, 1) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * kBlock, count = std::min(kBlock, points - begin);
    T* to = out + begin * stride;
    for (int64_t l = 0; l < active; ++l)
      run_forward(
          int(features), x + 3 * begin, count, level_at<T>(l, offsets, resolutions, scales),
          table + offsets[l] * features, to + l * features, stride);
    if (active < levels)
      for (int64_t i = 0; i < count; ++i)
        std::fill(to + i * stride + active * features, to + (i + 1) * stride, T(0));
  }
  return TD_OK;
}

template <typename T>
int backward(const T* grad, const T* x, const T* table, TD_HASH_LEVELS, T* grad_x, T* grad_table) {
  const int status = check(points, levels, features, active, offsets, resolutions, scales);
  if (status) return status;
  const int64_t stride = levels * features, blocks = (points + kBlock - 1) / kBlock;
  if (grad_x) {
#pragma omp parallel for schedule(dynamic, 1) if (blocks > 1)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * kBlock, count = std::min(kBlock, points - begin);
      std::fill(grad_x + 3 * begin, grad_x + 3 * (begin + count), T(0));
      for (int64_t l = 0; l < active; ++l)
        run_points(
            int(features), x + 3 * begin, count, level_at<T>(l, offsets, resolutions, scales),
            table + offsets[l] * features, grad + begin * stride + l * features, stride, grad_x + 3 * begin);
    }
  }
  if (grad_table) {
    // Two levels per task: the strided gradient is read half as often, and two tables still fit in L2.
    const int64_t groups = (active + 1) / 2;
#pragma omp parallel for schedule(dynamic, 1) if (groups > 1 && blocks > 1)
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = block * kBlock, count = std::min(kBlock, points - begin);
        for (int64_t l = 2 * group; l < std::min(2 * group + 2, active); ++l)
          run_table(
              int(features), x + 3 * begin, count, level_at<T>(l, offsets, resolutions, scales),
              grad + begin * stride + l * features, stride, grad_table + offsets[l] * features);
      }
  }
  return TD_OK;
}

} // namespace

int td_hash_encode_f32(const float* x, const float* table, TD_HASH_LEVELS, float* out) {
  return forward(x, table, points, levels, features, active, offsets, resolutions, scales, out);
}
int td_hash_encode_f64(const double* x, const double* table, TD_HASH_LEVELS, double* out) {
  return forward(x, table, points, levels, features, active, offsets, resolutions, scales, out);
}
int td_hash_encode_backward_f32(
    const float* grad, const float* x, const float* table, TD_HASH_LEVELS, float* grad_x, float* grad_table) {
  return backward(
      grad, x, table, points, levels, features, active, offsets, resolutions, scales, grad_x, grad_table);
}
int td_hash_encode_backward_f64(
    const double* grad, const double* x, const double* table, TD_HASH_LEVELS, double* grad_x,
    double* grad_table) {
  return backward(
      grad, x, table, points, levels, features, active, offsets, resolutions, scales, grad_x, grad_table);
}
