// Front-to-back compositing of projected Gaussians, forward and backward.
//
// Each view's Gaussians are sorted by depth and listed in the tiles they touch; a tile has one owner, who
// works through its list and holds the tile's pixels in L1. The backward pass writes one row of partial
// gradients per (Gaussian, tile) pair and adds a Gaussian's rows up in the order of its tiles, so there are
// no atomics and nothing depends on the number of threads.
#include "exponential.h"
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

namespace {

constexpr int kTile = 16, kPixels = kTile * kTile;    // pixels per side and in all
constexpr int kLanes = 8, kGroups = kPixels / kLanes; // neighbouring pixels are worked on together
constexpr int kSweep = 32;                            // Gaussians between looks at which pixels are finished
constexpr int kMaxChannels = 16;
constexpr int kMoments = 6;     // sums of a Gaussian's gradients, and with absolute ones two more
constexpr double kSlack = 0.01; // pixels: boxes are computed in double, opacities in T

// The same three numbers as in gsplat 1.5.3, which serves CUDA: what is thinner is skipped, what is denser is
// capped, and a pixel is finished before less than kDark of its light is left.
template <typename T> constexpr T kLeast = T(1) / T(255);
template <typename T> constexpr T kMost = T(0.999);
template <typename T> constexpr T kDark = T(1e-4);

template <typename T> struct Splat {
  T x, y, a, b, c, opacity;
  int32_t index;          // in its view
  int32_t x0, x1, y0, y1; // pixels where its opacity can reach kLeast, inclusive
};

struct Entry {
  int32_t rank; // in the sorted list
  int32_t pair; // row of partial gradients
};

template <typename T> struct View {
  std::vector<Splat<T>> splats;     // visible ones, near to far
  std::vector<int32_t> first_pair;  // per splat, and the end
  std::vector<int32_t> first_entry; // per tile, and the end
  std::vector<Entry> entries;
};

// Stable, by the bits of positive floats: their order is that of the integers.
void sort_by_key(std::vector<uint64_t>& items) {
  std::vector<uint64_t> other(items.size());
  for (int shift = 32; shift < 64; shift += 11) {
    uint32_t start[2049] = {};
    for (const uint64_t item : items) ++start[(item >> shift & 2047) + 1];
    for (int k = 0; k < 2048; ++k) start[k + 1] += start[k];
    for (const uint64_t item : items) other[start[item >> shift & 2047]++] = item;
    items.swap(other);
  }
}

TD_INLINE int32_t pixel(double value, double low, double high) {
  return int32_t(std::min(std::max(value, low), high));
}

// False where it shows nothing: behind the camera, too thin, outside the picture, or not finite.
template <typename T>
TD_INLINE bool setup(const T* mean, const T* conic, T opacity, int64_t height, int64_t width, Splat<T>& s) {
  const double x = mean[0], y = mean[1], a = conic[0], b = conic[1], c = conic[2];
  const double det = a * c - b * b, limit = 2 * std::log(255 * double(opacity));
  if (!(opacity >= kLeast<T>) || !(a > 0 && c > 0 && det > 0) || !std::isfinite(a + c + x + y + limit))
    return false;
  const double rx = std::sqrt(limit * c / det) + kSlack, ry = std::sqrt(limit * a / det) + kSlack;
  s.x0 = pixel(std::ceil(x - rx - 0.5), 0, double(width));
  s.x1 = pixel(std::floor(x + rx - 0.5), -1, double(width - 1));
  s.y0 = pixel(std::ceil(y - ry - 0.5), 0, double(height));
  s.y1 = pixel(std::floor(y + ry - 0.5), -1, double(height - 1));
  s.x = mean[0], s.y = mean[1], s.a = conic[0], s.b = conic[1], s.c = conic[2], s.opacity = opacity;
  return s.x0 <= s.x1 && s.y0 <= s.y1;
}

template <typename T>
void sort_into_tiles(
    const T* means, const T* conics, const T* opacities, const T* depths, int64_t count, int64_t height,
    int64_t width, View<T>& view) {
  std::vector<uint64_t> keys;
  std::vector<Splat<T>> found;
  for (int64_t i = 0; i < count; ++i) {
    const float depth = float(depths[i]);
    Splat<T> s;
    if (!(depth > 0) || !std::isfinite(depth)) continue;
    if (!setup(means + 2 * i, conics + 3 * i, opacities[i], height, width, s)) continue;
    s.index = int32_t(i);
    uint32_t bits;
    std::memcpy(&bits, &depth, sizeof bits);
    keys.push_back(uint64_t(bits) << 32 | found.size());
    found.push_back(s);
  }
  sort_by_key(keys);
  const int32_t across = int32_t((width + kTile - 1) / kTile), down = int32_t((height + kTile - 1) / kTile);
  view.splats.resize(found.size());
  view.first_pair.assign(found.size() + 1, 0);
  view.first_entry.assign(size_t(across) * down + 1, 0);
  for (size_t rank = 0; rank < keys.size(); ++rank) {
    const Splat<T>& s = view.splats[rank] = found[uint32_t(keys[rank])];
    int32_t tiles = 0;
    for (int32_t ty = s.y0 / kTile; ty <= s.y1 / kTile; ++ty)
      for (int32_t tx = s.x0 / kTile; tx <= s.x1 / kTile; ++tx, ++tiles)
        ++view.first_entry[ty * across + tx + 1];
    view.first_pair[rank + 1] = view.first_pair[rank] + tiles;
  }
  for (size_t t = 1; t < view.first_entry.size(); ++t) view.first_entry[t] += view.first_entry[t - 1];
  view.entries.resize(size_t(view.first_entry.back()));
  std::vector<int32_t> next(view.first_entry.begin(), view.first_entry.end() - 1);
  for (size_t rank = 0; rank < keys.size(); ++rank) {
    const Splat<T>& s = view.splats[rank];
    int32_t pair = view.first_pair[rank];
    for (int32_t ty = s.y0 / kTile; ty <= s.y1 / kTile; ++ty)
      for (int32_t tx = s.x0 / kTile; tx <= s.x1 / kTile; ++tx)
        view.entries[size_t(next[ty * across + tx]++)] = {int32_t(rank), pair++};
  }
}

// The part of a tile that a splat may touch: rows, and groups of kLanes pixels in each.
struct Touched {
  int y0, y1, g0, g1;
};
template <typename T> TD_INLINE Touched touched(const Splat<T>& s, int left, int top) {
  return {
      std::max(s.y0 - top, 0), std::min(s.y1 - top, kTile - 1), std::max(s.x0 - left, 0) / kLanes,
      std::min(s.x1 - left, kTile - 1) / kLanes};
}

template <typename T> using Lanes = pack<T, kLanes>;

// Centres of neighbouring pixels.
template <typename T> TD_INLINE Lanes<T> pixel_steps() {
  Lanes<T> steps;
  for (int k = 0; k < kLanes; ++k) steps[k] = T(k) + T(0.5);
  return steps;
}

// alpha_k = min(0.999, o exp(-(a dx^2 + c dy^2) / 2 - b dx dy)) at each dx, 0 where below 1 / 255.
template <typename T> TD_INLINE Lanes<T> alphas(const Splat<T>& s, Lanes<T> dx, T dy) {
  const Lanes<T> none = {}, along = filled<T, kLanes>(s.b * dy),
                 across = filled<T, kLanes>(T(-0.5) * s.c * dy * dy);
  Lanes<T> power = across - dx * (along + dx * (T(0.5) * s.a));
  power = at_least<T, kLanes>(power, T(0), none, power);
  Lanes<T> value = exp_of_negative<T, kLanes>(power) * s.opacity;
  value = at_least<T, kLanes>(value, kMost<T>, filled<T, kLanes>(kMost<T>), value);
  return at_least<T, kLanes>(value, kLeast<T>, value, none);
}

// Weights of a group, and the light that is left; a finished pixel keeps its light with a minus sign.
template <typename T> TD_INLINE Lanes<T> absorb(Lanes<T> alpha, Lanes<T>& through) {
  const Lanes<T> weight = through * alpha, next = through - weight, none = {};
  const Lanes<T> closed = at_least<T, kLanes>(through, T(0), none - through, through);
  through = at_least<T, kLanes>(next, kDark<T>, next, closed);
  return at_least<T, kLanes>(next, kDark<T>, weight, none);
}

// Which groups still have a pixel that takes something; false where none has.
template <typename T> TD_INLINE bool find_open(const Lanes<T>* through, bool* open) {
  bool any = false;
  for (int g = 0; g < kGroups; ++g) {
    T most = through[g][0];
    for (int k = 1; k < kLanes; ++k) most = most > through[g][k] ? most : through[g][k];
    open[g] = most > 0;
    any = any || open[g];
  }
  return any;
}

template <typename T> TD_INLINE T total(Lanes<T> x) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

// A tile and what both passes are told of it.
template <typename T> struct Tile {
  const View<T>& view;
  const T* features; // of the view
  int32_t index;
  int left, top, channels;
  int64_t height, width; // of the picture
  bool absolute;         // whether the lengths of the pixels' pulls are wanted, too
};

// Front to back through a tile's Gaussians, until no pixel takes anything: reach(s) for each of them, then
// take(g, alpha, before, weight) for each group of pixels it may touch; before is the light that arrives.
template <typename T, typename Reach, typename Take>
TD_INLINE void front_to_back(const Tile<T>& tile, Lanes<T>* through, Reach reach, Take take) {
  const View<T>& view = tile.view;
  const int left = tile.left, top = tile.top; // what take writes could alias the tile's own
  const Lanes<T> steps = pixel_steps<T>();
  bool open[kGroups];
  std::fill(open, open + kGroups, true);
  for (int g = 0; g < kGroups; ++g) through[g] = filled<T, kLanes>(1);
  const int32_t first = view.first_entry[tile.index], last = view.first_entry[tile.index + 1];
  for (int32_t e = first; e < last; ++e) {
    if ((e - first) % kSweep == kSweep - 1 && !find_open<T>(through, open)) break;
    const Splat<T>& s = view.splats[view.entries[e].rank];
    reach(s);
    const Touched t = touched(s, left, top);
    for (int y = t.y0; y <= t.y1; ++y) {
      for (int x = t.g0; x <= t.g1; ++x) {
        const int g = y * (kTile / kLanes) + x;
        if (!open[g]) continue;
        const Lanes<T> dx = steps + filled<T, kLanes>(T(left + x * kLanes) - s.x);
        const Lanes<T> alpha = alphas(s, dx, T(top + y) + T(0.5) - s.y), before = through[g];
        take(g, alpha, before, absorb<T>(alpha, through[g]));
      }
    }
  }
}

// With kChannels = 0 the number of channels is the tile's.
template <int kChannels, typename T>
TD_INLINE void forward_tile(const Tile<T>& tile, T* image, T* alpha_out) {
  const int channels = kChannels ? kChannels : tile.channels, left = tile.left, top = tile.top;
  Lanes<T> through[kGroups], sum[kMaxChannels][kGroups];
  for (int c = 0; c < channels; ++c) std::fill(sum[c], sum[c] + kGroups, Lanes<T>{});
  const T* f = nullptr;
  front_to_back<T>(
      tile, through,
      [&](const Splat<T>& s) TD_INLINE_LAMBDA { f = tile.features + int64_t(s.index) * channels; },
      [&](int g, Lanes<T>, Lanes<T>, Lanes<T> weight) TD_INLINE_LAMBDA {
        for (int c = 0; c < channels; ++c) sum[c][g] += weight * f[c];
      });
  for (int y = 0; y < kTile && top + y < tile.height; ++y)
    for (int x = 0; x < kTile && left + x < tile.width; ++x) {
      const int64_t at = (top + y) * tile.width + left + x;
      const int g = (y * kTile + x) / kLanes, k = x % kLanes;
      for (int c = 0; c < channels; ++c) image[at * channels + c] = sum[c][g][k];
      alpha_out[at] = 1 - std::abs(through[g][k]);
    }
}

// What the second loop of the backward pass needs of a group of pixels.
template <typename T> struct Record {
  T alpha[kLanes], through[kLanes]; // alpha is 0 where the pixel takes nothing
  int32_t group;
};

template <typename T> struct Tape {
  std::vector<Record<T>> records; // only grows; `first` says how many count
  std::vector<size_t> first;      // per entry that was reached, and the end
};

// With g_i = sum_c f_ic dL/dC_c + dL/dA, T_i the light before Gaussian i and w_i = T_i alpha_i:
//   dL/dalpha_i = T_i g_i - sum_{j > i} w_j g_j / (1 - alpha_i),   dL/df_i = w_i dL/dC.
// The first loop goes front to back and remembers T and alpha, the second comes back with the sum behind.
// With kAbsolute it sums |dL_p/dmean|, over x and y apart, beside the moments, p the pixels.
template <int kChannels, bool kAbsolute, typename T>
TD_INLINE void
backward_tile(const Tile<T>& tile, const T* grad_image, const T* grad_alpha, Tape<T>& tape, T* partial) {
  const int channels = kChannels ? kChannels : tile.channels, left = tile.left, top = tile.top;
  const View<T>& view = tile.view;
  Lanes<T> through[kGroups], behind[kGroups], grad[kMaxChannels + 1][kGroups];
  const Lanes<T> none = {}, one = filled<T, kLanes>(1), steps = pixel_steps<T>();
  std::fill(behind, behind + kGroups, none);
  for (int y = 0; y < kTile; ++y)
    for (int x = 0; x < kTile; ++x) {
      const bool inside = top + y < tile.height && left + x < tile.width;
      const int64_t at = (top + y) * tile.width + left + x;
      const int g = (y * kTile + x) / kLanes, k = x % kLanes;
      for (int c = 0; c < channels; ++c) grad[c][g][k] = inside ? grad_image[at * channels + c] : T(0);
      grad[channels][g][k] = inside ? grad_alpha[at] : T(0);
    }
  tape.first.clear();
  size_t used = 0;
  front_to_back<T>(
      tile, through,
      [&](const Splat<T>&) TD_INLINE_LAMBDA {
        tape.first.push_back(used);
        if (used + kGroups > tape.records.size()) tape.records.resize(2 * used + kGroups);
      },
      [&](int g, Lanes<T> alpha, Lanes<T> before, Lanes<T> weight) TD_INLINE_LAMBDA {
        if (!(total<T>(weight) > 0)) return;
        Record<T>& r = tape.records[used++];
        r.group = g;
        store<T, kLanes>(r.through, before);
        store<T, kLanes>(r.alpha, at_least<T, kLanes>(weight, kDark<T> * kLeast<T> / 2, alpha, none));
      });
  tape.first.push_back(used);

  const int moments = kMoments + (kAbsolute ? 2 : 0), columns = moments + channels;
  for (int64_t e = int64_t(tape.first.size()) - 2; e >= 0; --e) {
    const Entry entry = view.entries[size_t(view.first_entry[tile.index] + e)];
    const Splat<T>& s = view.splats[entry.rank];
    const T* f = tile.features + int64_t(s.index) * channels;
    Lanes<T> sums[kMoments + 2] = {}, colors[kChannels ? kChannels : kMaxChannels];
    for (int c = 0; c < channels; ++c) colors[c] = none;
    for (size_t i = tape.first[size_t(e)]; i < tape.first[size_t(e) + 1]; ++i) {
      const Record<T>& r = tape.records[i];
      const int g = r.group, p = g * kLanes;
      const Lanes<T> dx = steps + filled<T, kLanes>(T(left + p % kTile) - s.x);
      const T dy = T(top + p / kTile) + T(0.5) - s.y;
      const Lanes<T> alpha = load<T, kLanes>(r.alpha), before = load<T, kLanes>(r.through);
      const Lanes<T> weight = before * alpha;
      Lanes<T> slope = grad[channels][g];
      for (int c = 0; c < channels; ++c) {
        slope += grad[c][g] * f[c];
        colors[c] += grad[c][g] * weight;
      }
      const Lanes<T> own = weight * slope;
      slope = before * slope - behind[g] / (one - alpha);
      behind[g] += own;
      // dL/dpower = alpha dL/dalpha; the cap has no slope.
      const Lanes<T> m = at_least<T, kLanes>(alpha, kMost<T>, none, alpha) * slope, mx = m * dx, my = m * dy;
      sums[0] += m, sums[1] += mx, sums[2] += my;
      sums[3] += mx * dx, sums[4] += mx * dy, sums[5] += my * dy;
      if (kAbsolute) {
        const Lanes<T> px = mx * s.a + my * s.b, py = mx * s.b + my * s.c;
        sums[6] += at_least<T, kLanes>(px, T(0), px, none - px);
        sums[7] += at_least<T, kLanes>(py, T(0), py, none - py);
      }
    }
    T* row = partial + int64_t(entry.pair) * columns;
    for (int q = 0; q < moments; ++q) row[q] = total<T>(sums[q]);
    for (int c = 0; c < channels; ++c) row[moments + c] = total<T>(colors[c]);
  }
}

// The plain functions that are compiled for each instruction set; colour and depth, the usual four channels,
// have code of their own, whose sums stay in registers.
#define TD_SPLAT_CLONES(T)                                                                                   \
  TD_CLONES void run_forward(const Tile<T>& tile, T* image, T* alpha) {                                      \
    if (tile.channels == 4)                                                                                  \
      forward_tile<4>(tile, image, alpha);                                                                   \
    else                                                                                                     \
      forward_tile<0>(tile, image, alpha);                                                                   \
  }                                                                                                          \
  TD_CLONES void run_backward(                                                                               \
      const Tile<T>& tile, const T* grad_image, const T* grad_alpha, Tape<T>& tape, T* partial) {            \
    if (tile.absolute)                                                                                       \
      backward_tile<0, true>(tile, grad_image, grad_alpha, tape, partial);                                   \
    else if (tile.channels == 4)                                                                             \
      backward_tile<4, false>(tile, grad_image, grad_alpha, tape, partial);                                  \
    else                                                                                                     \
      backward_tile<0, false>(tile, grad_image, grad_alpha, tape, partial);                                  \
  }
TD_SPLAT_CLONES(float)
TD_SPLAT_CLONES(double)

// Runs work(i) for i in [0, count) on all threads; a failed allocation in any of them becomes a status.
template <typename Work> int in_parallel(int64_t count, bool threads, Work work) {
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) if (threads)
  for (int64_t i = 0; i < count; ++i) try {
      if (!failed) work(i);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  return failed ? TD_NO_MEMORY : TD_OK;
}

template <typename T> struct Scene {
  const T *means, *conics, *opacities, *features, *depths;
  int64_t views, count, channels, height, width;
  int64_t across, tiles;
  std::vector<View<T>> lists;

  int prepare() {
    if (views < 0 || count < 0 || channels < 1 || channels > kMaxChannels || height < 1 || width < 1 ||
        height > (1 << 20) || width > (1 << 20) || count > (1 << 30))
      return TD_BAD_ARGUMENT;
    across = (width + kTile - 1) / kTile, tiles = across * ((height + kTile - 1) / kTile);
    try {
      lists.resize(size_t(views));
    } catch (const std::bad_alloc&) {
      return TD_NO_MEMORY;
    }
    return in_parallel(views, count > 512, [&](int64_t v) {
      sort_into_tiles(
          means + 2 * v * count, conics + 3 * v * count, opacities + v * count, depths + v * count, count,
          height, width, lists[size_t(v)]);
    });
  }
  // Runs work(tile, v) for every tile of every view.
  template <typename Work> int in_tiles(bool absolute, Work work) const {
    return in_parallel(views * tiles, true, [&](int64_t task) {
      const int64_t v = task / tiles, tile = task % tiles;
      const int left = int(tile % across) * kTile, top = int(tile / across) * kTile;
      const T* own = features + v * count * channels;
      work(
          Tile<T>{lists[size_t(v)], own, int32_t(tile), left, top, int(channels), height, width, absolute},
          v);
    });
  }
};

template <typename T> int forward(Scene<T> scene, T* image, T* alpha) {
  if (const int status = scene.prepare()) return status;
  const int64_t pixels = scene.height * scene.width;
  return scene.in_tiles(false, [&](const Tile<T>& tile, int64_t v) {
    run_forward(tile, image + v * pixels * scene.channels, alpha + v * pixels);
  });
}

// Sums over pixels of dL/dpower times 1, dx, dy, dx^2, dx dy, dy^2, turned into the parameters' gradients,
// and the absolute sums that stand behind them.
template <typename T>
void gather(
    const View<T>& view, const std::vector<T>& partial, int channels, T* grad_means, T* grad_conics,
    T* grad_opacities, T* grad_features, T* pulls) {
  const int moments = kMoments + (pulls ? 2 : 0), columns = moments + channels;
  for (size_t rank = 0; rank < view.splats.size(); ++rank) {
    const Splat<T>& s = view.splats[rank];
    T sum[kMoments + 2 + kMaxChannels] = {};
    for (int32_t pair = view.first_pair[rank]; pair < view.first_pair[rank + 1]; ++pair)
      for (int q = 0; q < columns; ++q) sum[q] += partial[size_t(pair) * columns + q];
    const int64_t i = s.index;
    grad_opacities[i] = sum[0] / s.opacity;
    grad_means[2 * i] = s.a * sum[1] + s.b * sum[2];
    grad_means[2 * i + 1] = s.b * sum[1] + s.c * sum[2];
    grad_conics[3 * i] = T(-0.5) * sum[3];
    grad_conics[3 * i + 1] = -sum[4];
    grad_conics[3 * i + 2] = T(-0.5) * sum[5];
    for (int c = 0; c < channels; ++c) grad_features[i * channels + c] = sum[moments + c];
    if (pulls) pulls[2 * i] = sum[kMoments], pulls[2 * i + 1] = sum[kMoments + 1];
  }
}

template <typename T>
int backward(
    Scene<T> scene, const T* grad_image, const T* grad_alpha, T* grad_means, T* grad_conics,
    T* grad_opacities, T* grad_features, T* pulls) {
  if (const int status = scene.prepare()) return status;
  const int64_t pixels = scene.height * scene.width, channels = scene.channels, count = scene.count;
  const int64_t columns = kMoments + (pulls ? 2 : 0) + channels;
  std::vector<std::vector<T>> partial(size_t(scene.views));
  const int status = in_parallel(scene.views, false, [&](int64_t v) {
    const View<T>& view = scene.lists[size_t(v)];
    partial[size_t(v)].assign(size_t(view.first_pair.back()) * size_t(columns), T(0));
  });
  if (status) return status;
  const int drawn = scene.in_tiles(pulls != nullptr, [&](const Tile<T>& tile, int64_t v) {
    static thread_local Tape<T> tape; // keeps its memory from call to call
    run_backward(
        tile, grad_image + v * pixels * channels, grad_alpha + v * pixels, tape, partial[size_t(v)].data());
  });
  if (drawn) return drawn;
  return in_parallel(scene.views, count > 512, [&](int64_t v) {
    gather(
        scene.lists[size_t(v)], partial[size_t(v)], int(channels), grad_means + 2 * v * count,
        grad_conics + 3 * v * count, grad_opacities + v * count, grad_features + v * count * channels,
        pulls ? pulls + 2 * v * count : nullptr);
  });
}

#define TD_SCENE(T)                                                                                          \
  Scene<T> {                                                                                                 \
    means, conics, opacities, features, depths, views, count, channels, height, width, 0, 0, {}              \
  }

} // namespace

int td_splat_f32(TD_SPLATS(float), float* image, float* alpha) {
  return forward(TD_SCENE(float), image, alpha);
}
int td_splat_f64(TD_SPLATS(double), double* image, double* alpha) {
  return forward(TD_SCENE(double), image, alpha);
}
int td_splat_backward_f32(
    TD_SPLATS(float), const float* grad_image, const float* grad_alpha, float* grad_means, float* grad_conics,
    float* grad_opacities, float* grad_features) {
  return backward(
      TD_SCENE(float), grad_image, grad_alpha, grad_means, grad_conics, grad_opacities, grad_features,
      static_cast<float*>(nullptr));
}
int td_splat_backward_f64(
    TD_SPLATS(double), const double* grad_image, const double* grad_alpha, double* grad_means,
    double* grad_conics, double* grad_opacities, double* grad_features) {
  return backward(
      TD_SCENE(double), grad_image, grad_alpha, grad_means, grad_conics, grad_opacities, grad_features,
      static_cast<double*>(nullptr));
}
int td_splat_backward_absolute_f32(
    TD_SPLATS(float), const float* grad_image, const float* grad_alpha, float* grad_means, float* grad_conics,
    float* grad_opacities, float* grad_features, float* pulls) {
  return backward(
      TD_SCENE(float), grad_image, grad_alpha, grad_means, grad_conics, grad_opacities, grad_features, pulls);
}
int td_splat_backward_absolute_f64(
    TD_SPLATS(double), const double* grad_image, const double* grad_alpha, double* grad_means,
    double* grad_conics, double* grad_opacities, double* grad_features, double* pulls) {
  return backward(
      TD_SCENE(double), grad_image, grad_alpha, grad_means, grad_conics, grad_opacities, grad_features,
      pulls);
}
