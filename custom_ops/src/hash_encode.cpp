// Multiresolution hash encoding: forward, gradient to the table, gradient to the points.
//
// A task takes its points in chunks, whose features or gradients it holds level by level: turned from or to
// rows for a chunk as a whole. A level is worked through in tiles of points: the first loops of a tile find
// cells, corner entries and weights and vectorise; the second gather or scatter. Forward and grad_x are
// parallel over points, grad_table over groups of levels: every output element has one owner that adds in the
// order of the points, so there are no atomics and the result does not depend on the number of threads.
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>

namespace {

constexpr int64_t kChunk = 131072; // points held at a time: each chunk reads every table into the cache once
constexpr int64_t kFew = 2048; // points of a chunk of grad_x, whose sums stay in L2 while the levels pass; so
                               // few are not worth a second thread
constexpr int kTile = 64;      // points per tile: corners and weights stay in L1
constexpr uint32_t kPrimeY = 2654435761u, kPrimeZ = 805459861u;

template <typename T> struct Level {
  T scale;
  uint32_t resolution, size; // entries; a power of two where hashed
  bool hashed;
};

template <typename T> struct Tile {
  uint32_t entry[8][kTile];
  T fraction[3][kTile];
  T weight[4][kTile]; // of the corners' places along y and z
};

// The coordinates of a chunk, and its features or their gradients, each level's in one piece: whatever passes
// over the points level by level then reads and writes whole cache lines, and the level's table stays in L2.
template <typename T, int F> struct Columns {
  int64_t pitch; // points, and a cache line or more: a power of two would put all columns into the same sets
  std::unique_ptr<T[]> storage;

  Columns(int64_t points, int64_t levels)
      : pitch(std::min(points, kChunk) / 16 * 16 + 32),
        storage(new (std::nothrow) T[size_t((3 + levels * F) * pitch)]) {}
  // [3][pitch]
  T* place() { return storage.get(); }
  // [points][F]
  T* level(int64_t l) { return storage.get() + (3 + l * F) * pitch; }

  // The coordinates, clamped to [0, 1].
  void take_points(const T* TD_RESTRICT x, int64_t count) {
    T* TD_RESTRICT to = place();
    const int64_t step = pitch;
    dispatch([=](auto) TD_INLINE_LAMBDA {
      for (int64_t i = 0; i < count; ++i)
        for (int d = 0; d < 3; ++d) {
          T at = x[3 * i + d];
          at = at < 0 ? T(0) : at; // written so that NaN stays NaN
          to[d * step + i] = at > 1 ? T(1) : at;
        }
    });
  }
  void take_rows(const T* TD_RESTRICT rows, int64_t stride, int64_t count, int64_t levels) {
    for (int64_t begin = 0; begin < count; begin += kTile)
      for (int64_t l = 0; l < levels; ++l) {
        T* TD_RESTRICT to = level(l);
        for (int64_t i = begin; i < std::min(begin + kTile, count); ++i)
          store<T, F>(to + i * F, load<T, F>(rows + i * stride + l * F));
      }
  }
  // Levels that are not active are filled with zeros.
  void give_rows(T* TD_RESTRICT rows, int64_t stride, int64_t count, int64_t active) {
    for (int64_t i = 0; i < count; ++i) {
      T* to = rows + i * stride;
      for (int64_t l = 0; l < active; ++l) store<T, F>(to + l * F, load<T, F>(level(l) + i * F));
      std::fill(to + active * F, to + stride, T(0));
    }
  }
};

// Cells and corners of up to kTile points, x[d * pitch + i]. Corner bit d is the offset along axis d.
template <typename T, bool hashed>
TD_INLINE void
locate(const T* TD_RESTRICT x, int64_t pitch, int count, const Level<T>& level, Tile<T>& TD_RESTRICT tile) {
  uint32_t cell[3][kTile];
  for (int d = 0; d < 3; ++d)
    for (int i = 0; i < count; ++i) {
      const T at = x[d * pitch + i] * level.scale + T(0.5);
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
    const T fy = tile.fraction[1][i], fz = tile.fraction[2][i], gy = 1 - fy, gz = 1 - fz;
    tile.weight[0][i] = gy * gz;
    tile.weight[1][i] = fy * gz;
    tile.weight[2][i] = gy * fz;
    tile.weight[3][i] = fy * fz;
  }
}

template <typename T>
TD_INLINE void locate(const T* x, int64_t pitch, int count, const Level<T>& level, Tile<T>& tile) {
  if (level.hashed)
    locate<T, true>(x, pitch, count, level, tile);
  else
    locate<T, false>(x, pitch, count, level, tile);
}

// out[i][f] = sum_c weight_c table[entry_c][f], along y and z first: both ends of an edge share these
// weights.
template <typename T, int F>
TD_INLINE void forward_level(
    const T* x, int64_t pitch, int64_t count, const Level<T>& level, const T* TD_RESTRICT table,
    T* TD_RESTRICT out) {
  Tile<T> tile;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int n = int(std::min<int64_t>(kTile, count - begin));
    locate(x + begin, pitch, n, level, tile);
    for (int i = 0; i < n; ++i) {
      pack<T, F> lower{}, upper{}; // along x
      for (int c = 0; c < 4; ++c) {
        lower += load<T, F>(table + size_t(tile.entry[2 * c][i]) * F) * tile.weight[c][i];
        upper += load<T, F>(table + size_t(tile.entry[2 * c + 1][i]) * F) * tile.weight[c][i];
      }
      const T fx = tile.fraction[0][i];
      store<T, F>(out + (begin + i) * F, lower * (1 - fx) + upper * fx);
    }
  }
}

template <typename T, int F>
TD_INLINE void table_level(
    const T* x, int64_t pitch, int64_t count, const Level<T>& level, const T* TD_RESTRICT grad,
    T* TD_RESTRICT grad_table) {
  Tile<T> tile;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int n = int(std::min<int64_t>(kTile, count - begin));
    locate(x + begin, pitch, n, level, tile);
    for (int i = 0; i < n; ++i) {
      const pack<T, F> from = load<T, F>(grad + (begin + i) * F);
      const T fx = tile.fraction[0][i];
      const pack<T, F> along[2] = {from * (1 - fx), from * fx};
      for (int c = 0; c < 8; ++c) {
        T* row = grad_table + size_t(tile.entry[c][i]) * F;
        pack<T, F> sum = load<T, F>(row);
        sum += pack<T, F>(along[c & 1]) * tile.weight[c / 2][i];
        store<T, F>(row, sum);
      }
    }
  }
}

// grad_x[i][d] += scale sum over the four edges along d of (upper - lower) times the other two weights.
template <typename T, int F>
TD_INLINE void points_level(
    const T* x, const T* place, int64_t pitch, int64_t count, const Level<T>& level,
    const T* TD_RESTRICT table, const T* TD_RESTRICT grad, T* TD_RESTRICT grad_x) {
  Tile<T> tile;
  T value[8][kTile]; // grad . table at each corner
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int n = int(std::min<int64_t>(kTile, count - begin));
    locate(place + begin, pitch, n, level, tile);
    for (int i = 0; i < n; ++i) {
      const pack<T, F> from = load<T, F>(grad + (begin + i) * F);
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

// Calls work with the number of features as a constant.
template <typename Work> int with_features(int64_t features, const Work& work) {
  switch (features) {
  case 1:
    return work(std::integral_constant<int, 1>());
  case 2:
    return work(std::integral_constant<int, 2>());
  case 4:
    return work(std::integral_constant<int, 4>());
  default:
    return work(std::integral_constant<int, 8>());
  }
}

// How many tasks to cut work into: two per thread, so that one that started late does not hold up all.
int64_t pieces() {
  return td_threads() > 1 ? 2 * td_threads() : 1;
}

// Calls work(columns, first, count) for every chunk of the points, on as many threads as there are.
template <typename T, int F, typename Work>
int over_points(int64_t points, int64_t chunk, int64_t levels, const Work& work) {
  int status = TD_OK;
#pragma omp parallel for schedule(dynamic, 1) if (points > chunk)
  for (int64_t first = 0; first < points; first += chunk) {
    const int64_t count = std::min(chunk, points - first);
    Columns<T, F> columns(count, levels);
    if (columns.storage) {
      work(columns, first, count);
    } else {
#pragma omp atomic write
      status = TD_NO_MEMORY;
    }
  }
  return status;
}

template <typename T> int forward(const T* x, const T* table, TD_HASH_LEVELS, T* out) {
  const int status = check(points, levels, features, active, offsets, resolutions, scales);
  if (status) return status;
  return with_features(features, [&](auto constant) {
    constexpr int F = decltype(constant)::value;
    const int64_t stride = levels * F;
    const int64_t share = std::max((points + pieces() - 1) / pieces(), kFew);
    return over_points<T, F>(
        points, std::min(share, kChunk), active, [&](Columns<T, F>& columns, int64_t first, int64_t count) {
          columns.take_points(x + 3 * first, count);
          for (int64_t l = 0; l < active; ++l) {
            const Level<T> level = level_at<T>(l, offsets, resolutions, scales);
            dispatch([&](auto) TD_INLINE_LAMBDA {
              forward_level<T, F>(
                  columns.place(), columns.pitch, count, level, table + offsets[l] * F, columns.level(l));
            });
          }
          columns.give_rows(out + first * stride, stride, count, active);
        });
  });
}

template <typename T>
int backward(const T* grad, const T* x, const T* table, TD_HASH_LEVELS, T* grad_x, T* grad_table) {
  int status = check(points, levels, features, active, offsets, resolutions, scales);
  if (status) return status;
  return with_features(features, [&](auto constant) {
    constexpr int F = decltype(constant)::value;
    const int64_t stride = levels * F;
    if (grad_x) {
      status =
          over_points<T, F>(points, kFew, active, [&](Columns<T, F>& columns, int64_t first, int64_t count) {
            std::fill(grad_x + 3 * first, grad_x + 3 * (first + count), T(0));
            columns.take_points(x + 3 * first, count);
            columns.take_rows(grad + first * stride, stride, count, active);
            for (int64_t l = 0; l < active; ++l) {
              const Level<T> level = level_at<T>(l, offsets, resolutions, scales);
              dispatch([&](auto) TD_INLINE_LAMBDA {
                points_level<T, F>(
                    x + 3 * first, columns.place(), columns.pitch, count, level, table + offsets[l] * F,
                    columns.level(l), grad_x + 3 * first);
              });
            }
          });
    }
    if (!grad_table || status) return status;
    const int64_t group = std::max<int64_t>((active + pieces() - 1) / pieces(), 1);
#pragma omp parallel for schedule(dynamic, 1) if (points > kFew)
    for (int64_t begin = 0; begin < active; begin += group) {
      const int64_t end = std::min(begin + group, active);
      Columns<T, F> columns(points, end - begin);
      if (!columns.storage) {
#pragma omp atomic write
        status = TD_NO_MEMORY;
        continue;
      }
      for (int64_t first = 0; first < points; first += kChunk) {
        const int64_t count = std::min(kChunk, points - first);
        columns.take_points(x + 3 * first, count);
        columns.take_rows(grad + first * stride + begin * F, stride, count, end - begin);
        for (int64_t l = begin; l < end; ++l) {
          const Level<T> level = level_at<T>(l, offsets, resolutions, scales);
          dispatch([&](auto) TD_INLINE_LAMBDA {
            table_level<T, F>(
                columns.place(), columns.pitch, count, level, columns.level(l - begin),
                grad_table + offsets[l] * F);
          });
        }
      }
    }
    return status;
  });
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
