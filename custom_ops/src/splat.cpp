// Front-to-back compositing of projected Gaussians, forward and backward.
//
// Each view's Gaussians are sorted by depth and listed in the tiles they touch, with the blocks of pixels
// they may show in; a tile has one owner, who works through its list and holds the tile's pixels in L1. The
// backward pass writes one row of partial gradients per (Gaussian, tile) pair and adds a Gaussian's rows up
// in the order of its tiles, so there are no atomics and nothing depends on the number of threads.
#include "exponential.h"
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

namespace {

constexpr int kTile = 32, kPixels = kTile * kTile; // pixels per side and in all
constexpr int kBlock = 4, kArea = kBlock * kBlock; // the same of a block, which is worked on together
constexpr int kAcross = kTile / kBlock, kBlocks = kAcross * kAcross;
static_assert(kAcross == 8 && kBlocks == 64, "a bit each in an uint64_t, a byte per row");
constexpr int kSweep = 32;  // Gaussians between looks at which blocks are finished
constexpr int kChunk = 512; // Gaussians per task
constexpr int kMaxChannels = 16;
constexpr int kMoments = 6;     // sums of a Gaussian's gradients, and with absolute ones two more
constexpr double kSlack = 0.01; // pixels: boxes are computed in double, opacities in T

// The same three numbers as in gsplat 1.5.3, which serves CUDA: what is thinner is skipped, what is denser is
// capped, and a pixel is finished before less than kDark of its light is left.
template <typename T> constexpr T kLeast = T(1) / T(255);
template <typename T> constexpr T kMost = T(0.999);
template <typename T> constexpr T kDark = T(1e-4);

constexpr double kLn2 = 0.69314718055994530942;

template <typename T> struct Splat {
  T x, y, opacity;
  T xx, xy, yy;  // log2(alpha / opacity) = xx dx^2 + xy dx dy + yy dy^2
  T least;       // of that logarithm, for alpha >= kLeast
  int32_t index; // in its view
  int32_t x0, x1, y0,
      y1; // pixels where its opacity can reach kLeast, inclusive; x0 > x1 where there are none
};

struct Entry {
  int32_t rank;    // in the sorted list
  int32_t pair;    // row of partial gradients
  uint64_t blocks; // that it may show in
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

// An empty box where it shows nothing: behind the camera, too thin, outside the picture, or not finite.
template <typename T>
TD_INLINE Splat<T>
setup(const T* mean, const T* conic, T opacity, T depth, int32_t index, int64_t height, int64_t width) {
  Splat<T> s;
  s.index = index, s.x0 = 1, s.x1 = 0;
  const double x = mean[0], y = mean[1], a = conic[0], b = conic[1], c = conic[2], det = a * c - b * b;
  if (!(depth > 0) || !std::isfinite(float(depth)) || !(opacity >= kLeast<T>) || !(a > 0 && c > 0 && det > 0))
    return s;
  const double limit = 2 * double(std::log(255 * opacity));
  if (!std::isfinite(a + c + x + y + limit)) return s;
  const double rx = std::sqrt(limit * c / det) + kSlack, ry = std::sqrt(limit * a / det) + kSlack;
  s.x0 = pixel(std::ceil(x - rx - 0.5), 0, double(width));
  s.x1 = pixel(std::floor(x + rx - 0.5), -1, double(width - 1));
  s.y0 = pixel(std::ceil(y - ry - 0.5), 0, double(height));
  s.y1 = pixel(std::floor(y + ry - 0.5), -1, double(height - 1));
  if (s.y0 > s.y1) s.x0 = 1, s.x1 = 0;
  s.x = mean[0], s.y = mean[1], s.opacity = opacity;
  s.xx = T(-0.5 / kLn2 * a), s.xy = T(-1 / kLn2 * b), s.yy = T(-0.5 / kLn2 * c),
  s.least = T(-0.5 / kLn2 * limit);
  return s;
}

// Of a tile's blocks those that the ellipse a dx^2 + 2 b dx dy + c dy^2 = limit reaches into: over a row of
// blocks it goes furthest at its tip or, where that lies outside of the row, at the row's end next to it. The
// blocks are worked out in float, all rows at once, and rounded to the outside.
template <typename T> TD_INLINE uint64_t touched(const Splat<T>& s, int32_t left, int32_t top) {
  const double a = -double(s.xx), b = -0.5 * double(s.xy), c = -double(s.yy), limit = -double(s.least);
  const double exact = std::max(a * c - b * b, 0.0);
  const float det = float(exact), square = float(limit * a * (1 + 1e-6)), slant = float(b / a);
  const float tip = float(b * std::sqrt(limit / std::max(c * exact, 1e-300))), inverse = float(1 / a);
  const float x = float(double(s.x) - left - 0.5), y = float(top + 0.5 - double(s.y));
  uint32_t rows[kAcross];
  for (int k = 0; k < kAcross; ++k) {
    const float first = y + float(k * kBlock), last = first + float(kBlock - 1);
    const float right = std::min(std::max(-tip, first), last), other = std::min(std::max(tip, first), last);
    const float most = x - slant * right + inverse * std::sqrt(std::max(square - det * right * right, 0.0f));
    const float least = x - slant * other - inverse * std::sqrt(std::max(square - det * other * other, 0.0f));
    const float ahead = (most + float(kSlack)) / kBlock, behind = (least - float(kSlack) + 1) / kBlock;
    const int32_t x1 =
        int32_t(std::min(std::max(ahead, -1.0f) + 1, float(kAcross))); // one past the last block
    const int32_t x0 = int32_t(std::min(std::max(behind, 0.0f), float(kAcross)));
    rows[k] = ((1u << x1) - 1) & ~((1u << x0) - 1);
  }
  uint64_t blocks = 0;
  for (int k = 0; k < kAcross; ++k) blocks |= uint64_t(rows[k]) << kAcross * k;
  const int y0 = std::max(s.y0 - top, 0) / kBlock, y1 = std::min(s.y1 - top, kTile - 1) / kBlock;
  const uint64_t all = ~uint64_t(0);
  return blocks & all << kAcross * y0 & all >> kAcross * (kAcross - 1 - y1);
}

template <typename T>
void sort_into_tiles(
    const Splat<T>* found, const T* depths, int64_t count, int64_t height, int64_t width, View<T>& view) {
  std::vector<uint64_t> keys;
  keys.reserve(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    if (found[i].x0 > found[i].x1) continue;
    const float depth = float(depths[i]);
    uint32_t bits;
    std::memcpy(&bits, &depth, sizeof bits);
    keys.push_back(uint64_t(bits) << 32 | uint64_t(i));
  }
  sort_by_key(keys);
  const int32_t across = int32_t((width + kTile - 1) / kTile), down = int32_t((height + kTile - 1) / kTile);
  view.splats.resize(keys.size());
  view.first_pair.assign(keys.size() + 1, 0);
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
  dispatch([&](auto) TD_INLINE_LAMBDA {
    for (size_t rank = 0; rank < keys.size(); ++rank) {
      const Splat<T>& s = view.splats[rank];
      int32_t pair = view.first_pair[rank];
      for (int32_t ty = s.y0 / kTile; ty <= s.y1 / kTile; ++ty)
        for (int32_t tx = s.x0 / kTile; tx <= s.x1 / kTile; ++tx)
          view.entries[size_t(next[ty * across + tx]++)] = {
              int32_t(rank), pair++, touched(s, tx * kTile, ty * kTile)};
    }
  });
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

// Calls visit(k, at) for the tile's pixels that lie in the picture: k in the order of blocks, at in the
// picture's.
template <typename T, typename Visit> TD_INLINE void each_pixel(const Tile<T>& tile, Visit visit) {
  const int rows = int(std::min<int64_t>(kTile, tile.height - tile.top));
  const int columns = int(std::min<int64_t>(kTile, tile.width - tile.left));
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x)
      visit(
          (y / kBlock * kAcross + x / kBlock) * kArea + y % kBlock * kBlock + x % kBlock,
          (tile.top + y) * tile.width + tile.left + x);
}

// Blocks with a pixel that still takes something.
template <typename T> TD_INLINE uint64_t still_open(const T* through) {
  uint64_t open = 0;
  for (int block = 0; block < kBlocks; ++block) {
    T most = through[block * kArea];
    for (int k = 1; k < kArea; ++k)
      most = most > through[block * kArea + k] ? most : through[block * kArea + k];
    open |= uint64_t(most > 0) << block;
  }
  return open;
}

// Front to back through a tile's Gaussians, until no pixel takes anything: visit(entry, its splat, its blocks
// that take something).
template <typename T, typename Visit>
TD_INLINE void front_to_back(const Tile<T>& tile, T* through, Visit visit) {
  const View<T>& view = tile.view;
  uint64_t open = ~uint64_t(0);
  std::fill(through, through + kPixels, T(1));
  const int32_t first = view.first_entry[tile.index], last = view.first_entry[tile.index + 1];
  for (int32_t e = first; e < last; ++e) {
    if ((e - first) % kSweep == kSweep - 1 && !(open = still_open(through))) break;
    const Entry& entry = view.entries[e];
    if (const uint64_t blocks = entry.blocks & open) visit(entry, view.splats[entry.rank], blocks);
  }
}

// Of the pixels of a block, in a table: compilers build vectors lane by lane otherwise.
template <typename T> struct Centres {
  T x[kArea], y[kArea];
  constexpr Centres() : x(), y() {
    for (int k = 0; k < kArea; ++k) x[k] = T(k % kBlock) + T(0.5), y[k] = T(k / kBlock) + T(0.5);
  }
};
template <typename T> constexpr Centres<T> kCentres{};

// Calls take(k, dx, dy, alpha) for N neighbouring pixels after the other: k is the first one's number in the
// tile, dx and dy lead there from the splat's centre, alpha is 0 where below 1 / 255.
template <int N, typename T, typename Take>
TD_INLINE void each_group(const Tile<T>& tile, const Splat<T>& s, uint64_t blocks, Take take) {
  using V = pack<T, N>;
  const V columns = load<T, N>(kCentres<T>.x), rows = load<T, N>(kCentres<T>.y);
  do {
    const int block = lowest_bit(blocks);
    const V dx = columns + filled<T, N>(T(tile.left + block % kAcross * kBlock)) - filled<T, N>(s.x);
    for (int k = 0; k < kArea; k += N) {
      const V dy =
          rows + filled<T, N>(T(tile.top + block / kAcross * kBlock + k / kBlock)) - filled<T, N>(s.y);
      V power = dx * (dx * s.xx + dy * s.xy) + dy * (dy * s.yy);
      power = at_least<T, N>(power, T(0), V{}, power);
      V alpha = exp2_of_negative<T, N>(power) * s.opacity;
      alpha = at_least<T, N>(alpha, kMost<T>, filled<T, N>(kMost<T>), alpha);
      take(block * kArea + k, dx, dy, at_least<T, N>(power, s.least, alpha, V{}));
    }
  } while (blocks &= blocks - 1); // never none: sums then stay in registers
}

// The weights of a group, and alpha turned to 0 where nothing is taken; a finished pixel keeps the light that
// is left with a minus sign.
template <int N, typename T> TD_INLINE pack<T, N> absorb(pack<T, N>& alpha, T* through) {
  using V = pack<T, N>;
  const V before = load<T, N>(through), next = before - before * alpha;
  store<T, N>(through, at_least<T, N>(next, kDark<T>, next, minus_abs<T, N>(before)));
  alpha = at_least<T, N>(next, kDark<T>, alpha, V{});
  return before * alpha;
}

// With kChannels = 0 the number of channels is the tile's.
template <int N, int kChannels, typename T>
TD_INLINE void forward_tile(const Tile<T>& tile, T* image, T* alpha_out) {
  const int channels = kChannels ? kChannels : tile.channels;
  alignas(64) T through[kPixels], sum[kChannels ? kChannels : kMaxChannels][kPixels];
  for (int c = 0; c < channels; ++c) std::fill(sum[c], sum[c] + kPixels, T(0));
  front_to_back(tile, through, [&](const Entry&, const Splat<T>& s, uint64_t blocks) TD_INLINE_LAMBDA {
    const T* f = tile.features + int64_t(s.index) * channels;
    each_group<N>(tile, s, blocks, [&](int k, pack<T, N>, pack<T, N>, pack<T, N> alpha) TD_INLINE_LAMBDA {
      const pack<T, N> weight = absorb<N>(alpha, through + k);
      for (int c = 0; c < channels; ++c) store<T, N>(sum[c] + k, load<T, N>(sum[c] + k) + weight * f[c]);
    });
  });
  each_pixel(tile, [&](int k, int64_t at) TD_INLINE_LAMBDA {
    for (int c = 0; c < channels; ++c) image[at * channels + c] = sum[c][k];
    alpha_out[at] = 1 - std::abs(through[k]);
  });
}

// With g_i = sum_c f_ic dL/dC_c + dL/dA, T_i the light before Gaussian i and w_i = T_i alpha_i:
//   dL/dalpha_i = T_i g_i - sum_{j > i} w_j g_j / (1 - alpha_i),   dL/df_i = w_i dL/dC.
// The sum over all j is that of the forward pass' results, so what is left of it is known from the front,
// too. With kAbsolute it sums |dL_p/dmean|, over x and y apart, beside the moments, p the pixels.
template <int N, int kChannels, bool kAbsolute, typename T>
TD_INLINE void backward_tile(
    const Tile<T>& tile, const T* image, const T* alpha, const T* grad_image, const T* grad_alpha,
    T* partial) {
  using V = pack<T, N>;
  const int channels = kChannels ? kChannels : tile.channels;
  const int moments = kMoments + (kAbsolute ? 2 : 0), columns = moments + channels;
  alignas(64) T through[kPixels], behind[kPixels], solid[kPixels];
  alignas(64) T grad[kChannels ? kChannels : kMaxChannels][kPixels];
  std::fill(behind, behind + kPixels, T(0)), std::fill(solid, solid + kPixels, T(0));
  for (int c = 0; c < channels; ++c) std::fill(grad[c], grad[c] + kPixels, T(0));
  each_pixel(tile, [&](int k, int64_t at) TD_INLINE_LAMBDA {
    solid[k] = grad_alpha[at];
    behind[k] = grad_alpha[at] * alpha[at];
    for (int c = 0; c < channels; ++c) {
      grad[c][k] = grad_image[at * channels + c];
      behind[k] += grad[c][k] * image[at * channels + c];
    }
  });
  front_to_back(tile, through, [&](const Entry& entry, const Splat<T>& s, uint64_t blocks) TD_INLINE_LAMBDA {
    const T* f = tile.features + int64_t(s.index) * channels;
    V sums[kMoments + 2] = {}, colors[kChannels ? kChannels : kMaxChannels];
    for (int c = 0; c < channels; ++c) colors[c] = V{};
    each_group<N>(tile, s, blocks, [&](int k, V dx, V dy, V alpha) TD_INLINE_LAMBDA {
      const V weight = absorb<N>(alpha, through + k);
      V slope = load<T, N>(solid + k);
      for (int c = 0; c < channels; ++c) {
        const V g = load<T, N>(grad[c] + k);
        slope += g * f[c], colors[c] += g * weight;
      }
      const V own = weight * slope, rest = load<T, N>(behind + k) - own;
      store<T, N>(behind + k, rest);
      // dL/dpower = alpha dL/dalpha; the cap has no slope.
      V m = own - rest * (alpha / (filled<T, N>(1) - alpha));
      m = at_least<T, N>(alpha, kMost<T>, V{}, m);
      const V mx = m * dx, my = m * dy;
      sums[0] += m, sums[1] += mx, sums[2] += my;
      sums[3] += mx * dx, sums[4] += mx * dy, sums[5] += my * dy;
      if (kAbsolute) {
        const V px = mx * (2 * s.xx) + my * s.xy, py = mx * s.xy + my * (2 * s.yy);
        sums[6] += minus_abs<T, N>(px), sums[7] += minus_abs<T, N>(py); // the sign is turned in the end
      }
    });
    T* row = partial + int64_t(entry.pair) * columns;
    for (int q = 0; q < moments; ++q) row[q] = total<T, N>(sums[q]);
    for (int c = 0; c < channels; ++c) row[moments + c] = total<T, N>(colors[c]);
  });
}

// Colour and depth, the usual four channels, have code of their own, whose sums stay in registers.
template <typename T> void run_forward(const Tile<T>& tile, T* image, T* alpha) {
  dispatch([&](auto lanes) TD_INLINE_LAMBDA {
    if (tile.channels == 4)
      forward_tile<lanes, 4>(tile, image, alpha);
    else
      forward_tile<lanes, 0>(tile, image, alpha);
  });
}
template <typename T>
void run_backward(
    const Tile<T>& tile, const T* image, const T* alpha, const T* grad_image, const T* grad_alpha,
    T* partial) {
  dispatch([&](auto lanes) TD_INLINE_LAMBDA {
    if (tile.absolute)
      backward_tile<lanes, 0, true>(tile, image, alpha, grad_image, grad_alpha, partial);
    else if (tile.channels == 4)
      backward_tile<lanes, 4, false>(tile, image, alpha, grad_image, grad_alpha, partial);
    else
      backward_tile<lanes, 0, false>(tile, image, alpha, grad_image, grad_alpha, partial);
  });
}

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
    const std::unique_ptr<Splat<T>[]> found(new (std::nothrow) Splat<T>[size_t(views * count)]);
    if (!found) return TD_NO_MEMORY;
    const int64_t chunks = (views * count + kChunk - 1) / kChunk;
    in_parallel(chunks, chunks > 1, [&](int64_t chunk) {
      const int64_t first = chunk * kChunk, last = std::min(first + kChunk, views * count);
      dispatch([&](auto) TD_INLINE_LAMBDA {
        for (int64_t i = first; i < last; ++i)
          found[size_t(i)] = setup(
              means + 2 * i, conics + 3 * i, opacities[i], depths[i], int32_t(i % count), height, width);
      });
    });
    return in_parallel(views, count > kChunk, [&](int64_t v) {
      sort_into_tiles(found.get() + v * count, depths + v * count, count, height, width, lists[size_t(v)]);
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
    const View<T>& view, const std::vector<T>& partial, const T* conics, int channels, size_t begin,
    size_t end, T* grad_means, T* grad_conics, T* grad_opacities, T* grad_features, T* pulls) {
  const int moments = kMoments + (pulls ? 2 : 0), columns = moments + channels;
  for (size_t rank = begin; rank < end; ++rank) {
    const Splat<T>& s = view.splats[rank];
    T sum[kMoments + 2 + kMaxChannels] = {};
    for (int32_t pair = view.first_pair[rank]; pair < view.first_pair[rank + 1]; ++pair)
      for (int q = 0; q < columns; ++q) sum[q] += partial[size_t(pair) * columns + q];
    const int64_t i = s.index;
    const T a = conics[3 * i], b = conics[3 * i + 1], c = conics[3 * i + 2];
    grad_opacities[i] = sum[0] / s.opacity;
    grad_means[2 * i] = a * sum[1] + b * sum[2];
    grad_means[2 * i + 1] = b * sum[1] + c * sum[2];
    grad_conics[3 * i] = T(-0.5) * sum[3];
    grad_conics[3 * i + 1] = -sum[4];
    grad_conics[3 * i + 2] = T(-0.5) * sum[5];
    for (int c = 0; c < channels; ++c) grad_features[i * channels + c] = sum[moments + c];
    if (pulls)
      for (int d = 0; d < 2; ++d) pulls[2 * i + d] = T(-kLn2) * sum[kMoments + d];
  }
}

template <typename T>
int backward(
    Scene<T> scene, const T* image, const T* alpha, const T* grad_image, const T* grad_alpha, T* grad_means,
    T* grad_conics, T* grad_opacities, T* grad_features, T* pulls) {
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
    const int64_t at = v * pixels;
    run_backward(
        tile, image + at * channels, alpha + at, grad_image + at * channels, grad_alpha + at,
        partial[size_t(v)].data());
  });
  if (drawn) return drawn;
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  return in_parallel(scene.views * chunks, scene.views * chunks > 1, [&](int64_t task) {
    const int64_t v = task / chunks, begin = task % chunks * kChunk;
    const View<T>& view = scene.lists[size_t(v)];
    gather(
        view, partial[size_t(v)], scene.conics + 3 * v * count, int(channels),
        std::min(size_t(begin), view.splats.size()), std::min(size_t(begin + kChunk), view.splats.size()),
        grad_means + 2 * v * count, grad_conics + 3 * v * count, grad_opacities + v * count,
        grad_features + v * count * channels, pulls ? pulls + 2 * v * count : nullptr);
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
    TD_SPLATS(float), const float* image, const float* alpha, const float* grad_image,
    const float* grad_alpha, float* grad_means, float* grad_conics, float* grad_opacities,
    float* grad_features) {
  return backward(
      TD_SCENE(float), image, alpha, grad_image, grad_alpha, grad_means, grad_conics, grad_opacities,
      grad_features, static_cast<float*>(nullptr));
}
int td_splat_backward_f64(
    TD_SPLATS(double), const double* image, const double* alpha, const double* grad_image,
    const double* grad_alpha, double* grad_means, double* grad_conics, double* grad_opacities,
    double* grad_features) {
  return backward(
      TD_SCENE(double), image, alpha, grad_image, grad_alpha, grad_means, grad_conics, grad_opacities,
      grad_features, static_cast<double*>(nullptr));
}
int td_splat_backward_absolute_f32(
    TD_SPLATS(float), const float* image, const float* alpha, const float* grad_image,
    const float* grad_alpha, float* grad_means, float* grad_conics, float* grad_opacities,
    float* grad_features, float* pulls) {
  return backward(
      TD_SCENE(float), image, alpha, grad_image, grad_alpha, grad_means, grad_conics, grad_opacities,
      grad_features, pulls);
}
int td_splat_backward_absolute_f64(
    TD_SPLATS(double), const double* image, const double* alpha, const double* grad_image,
    const double* grad_alpha, double* grad_means, double* grad_conics, double* grad_opacities,
    double* grad_features, double* pulls) {
  return backward(
      TD_SCENE(double), image, alpha, grad_image, grad_alpha, grad_means, grad_conics, grad_opacities,
      grad_features, pulls);
}
