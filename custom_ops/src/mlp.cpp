// A small multilayer perceptron, forward and backward, over blocks of points whose activations never leave
// the cache.
//
// Matrices are padded to multiples of kLane columns, so that one small product serves all three uses:
//   forward   H_l  = H_{l-1} W^T      rows = points
//   to inputs dH_{l-1} = dH_l W       rows = points
//   to weights dW += dH_l^T H_{l-1}   rows = outputs
// The backward pass recomputes the activations: for these widths that is cheaper than storing and reading
// them. grad_weights is summed per chunk of points; chunks depend on the number of points only and are added
// in order, so the result does not depend on the number of threads.
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace {

constexpr int kMaxLayers = 8, kMaxWidth = 64;
constexpr int kLane = 8;         // padding of widths
constexpr int64_t kBlock = 64;   // points whose activations are in cache together
constexpr int64_t kChunk = 4096; // points per partial sum of grad_weights, at least
constexpr int64_t kChunks = 256; // partial sums, at most

// C[m][n] (+)= sum_k A[m * rows + k * columns] B[k][n]: a tile of R rows by V vectors stays in registers.
template <typename T, int R, int V, int N>
TD_INLINE void tile(
    int depth, const T* TD_RESTRICT a, int rows, int columns, const T* TD_RESTRICT b, int ldb,
    T* TD_RESTRICT c, int ldc, bool add) {
  pack<T, N> sum[R][V] = {};
  if (add)
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < V; ++j) sum[i][j] = load<T, N>(c + i * ldc + j * N);
  for (int k = 0; k < depth; ++k) {
    pack<T, N> right[V];
    for (int j = 0; j < V; ++j) right[j] = load<T, N>(b + k * ldb + j * N);
    for (int i = 0; i < R; ++i) {
      const T left = a[i * rows + k * columns];
      for (int j = 0; j < V; ++j) sum[i][j] += right[j] * left;
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) store<T, N>(c + i * ldc + j * N, sum[i][j]);
}

// height and width are multiples of kLane; N values make one 32-byte vector.
template <typename T>
TD_INLINE void product(
    int height, int width, int depth, const T* a, int rows, int columns, const T* b, int ldb, T* c, int ldc,
    bool add) {
  constexpr int N = 32 / sizeof(T);
  int n = 0;
  for (; n + 2 * N <= width; n += 2 * N)
    for (int m = 0; m < height; m += 4)
      tile<T, 4, 2, N>(depth, a + m * rows, rows, columns, b + n, ldb, c + m * ldc + n, ldc, add);
  if (n < width)
    for (int m = 0; m < height; m += 8)
      tile<T, 8, 1, N>(depth, a + m * rows, rows, columns, b + n, ldb, c + m * ldc + n, ldc, add);
}

template <typename T>
void run_product(
    int height, int width, int depth, const T* a, int rows, int columns, const T* b, int ldb, T* c, int ldc,
    bool add) {
  dispatch([&](auto)
               TD_INLINE_LAMBDA { product<T>(height, width, depth, a, rows, columns, b, ldb, c, ldc, add); });
}
template <typename T> void run_relu(T* values, int64_t count) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    for (int64_t i = 0; i < count; ++i) values[i] = values[i] < 0 ? T(0) : values[i]; /* NaN passes */
  });
}
template <typename T> void run_mask(T* grad, const T* values, int64_t count) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    for (int64_t i = 0; i < count; ++i) grad[i] = values[i] > 0 ? grad[i] : T(0);
  });
}

inline int padded(int64_t width) {
  return int(width + kLane - 1) / kLane * kLane;
}

// Weights padded with zeros, once as given (outputs x inputs) and once transposed.
template <typename T> struct Network {
  int layers;
  int width[kMaxLayers + 1], pad[kMaxLayers + 1];
  int64_t start[kMaxLayers + 1]; // of each padded matrix
  int64_t columns;               // padded widths summed: activations of one point
  std::unique_ptr<T[]> straight, transposed;

  bool build(const T* weights, int64_t count, const int64_t* widths) {
    layers = int(count);
    start[0] = 0, columns = 0;
    for (int l = 0; l <= layers; ++l)
      width[l] = int(widths[l]), pad[l] = padded(widths[l]), columns += pad[l];
    for (int l = 0; l < layers; ++l) start[l + 1] = start[l] + int64_t(pad[l]) * pad[l + 1];
    straight.reset(new (std::nothrow) T[start[layers]]());
    transposed.reset(new (std::nothrow) T[start[layers]]());
    if (!straight || !transposed) return false;
    for (int l = 0; l < layers; weights += width[l] * width[l + 1], ++l)
      for (int o = 0; o < width[l + 1]; ++o)
        for (int i = 0; i < width[l]; ++i) {
          straight[start[l] + o * pad[l] + i] = weights[o * width[l] + i];
          transposed[start[l] + i * pad[l + 1] + o] = weights[o * width[l] + i];
        }
    return true;
  }
};

// Rows of `width` values into rows of `pad`, zeros between and after, up to kBlock rows.
template <typename T> void spread(const T* from, int64_t count, int width, int pad, T* to) {
  if (width == pad) {
    std::memcpy(to, from, sizeof(T) * count * width);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(to + i * pad, from + i * width, sizeof(T) * width);
      std::fill(to + i * pad + width, to + (i + 1) * pad, T(0));
    }
  }
  std::fill(to + count * pad, to + kBlock * pad, T(0));
}

template <typename T> void gather(const T* from, int64_t count, int width, int pad, T* to) {
  if (width == pad)
    std::memcpy(to, from, sizeof(T) * count * width);
  else
    for (int64_t i = 0; i < count; ++i)
      for (int j = 0; j < width; ++j) to[i * width + j] = from[i * pad + j];
}

// Activations of layers 0..last of one block; layer l begins at where[l].
template <typename T>
void activate(const Network<T>& net, const T* x, int64_t count, int last, T* const* where) {
  spread(x, count, net.width[0], net.pad[0], where[0]);
  for (int l = 0; l < last; ++l) {
    run_product(
        int(kBlock), net.pad[l + 1], net.width[l], where[l], net.pad[l], 1,
        net.transposed.get() + net.start[l], net.pad[l + 1], where[l + 1], net.pad[l + 1], false);
    if (l + 1 < net.layers) run_relu(where[l + 1], kBlock * net.pad[l + 1]);
  }
}

int check(int64_t points, int64_t layers, const int64_t* widths) {
  if (points < 0 || layers < 1 || layers > kMaxLayers) return TD_BAD_ARGUMENT;
  for (int64_t l = 0; l <= layers; ++l)
    if (widths[l] < 1 || widths[l] > kMaxWidth) return TD_BAD_ARGUMENT;
  return TD_OK;
}

template <typename T>
int forward(const T* x, const T* weights, int64_t points, int64_t layers, const int64_t* widths, T* out) {
  if (const int status = check(points, layers, widths)) return status;
  Network<T> net;
  if (!net.build(weights, layers, widths)) return TD_NO_MEMORY;
  const int64_t tasks = (points + kChunk - 1) / kChunk;
  int status = TD_OK;
#pragma omp parallel for schedule(dynamic, 1) if (tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    std::unique_ptr<T[]> work(new (std::nothrow) T[kBlock * net.columns]);
    if (!work) {
#pragma omp atomic write
      status = TD_NO_MEMORY;
      continue;
    }
    T* where[kMaxLayers + 1] = {work.get()};
    for (int l = 0; l < net.layers; ++l) where[l + 1] = where[l] + kBlock * net.pad[l];
    const int64_t end = std::min(points, (task + 1) * kChunk);
    for (int64_t begin = task * kChunk; begin < end; begin += kBlock) {
      const int64_t count = std::min(kBlock, end - begin);
      activate(net, x + begin * net.width[0], count, net.layers, where);
      const int width = net.width[net.layers];
      gather(where[net.layers], count, width, net.pad[net.layers], out + begin * width);
    }
  }
  return status;
}

template <typename T>
int backward(
    const T* grad, const T* x, const T* weights, int64_t points, int64_t layers, const int64_t* widths,
    T* grad_x, T* grad_weights) {
  if (const int status = check(points, layers, widths)) return status;
  Network<T> net;
  if (!net.build(weights, layers, widths)) return TD_NO_MEMORY;
  const int64_t least = (points + kChunks - 1) / kChunks;
  const int64_t chunk = std::max(kChunk, (least + kBlock - 1) / kBlock * kBlock);
  const int64_t tasks = (points + chunk - 1) / chunk, size = net.start[net.layers];
  std::unique_ptr<T[]> partial(
      grad_weights ? new (std::nothrow) T[std::max<int64_t>(tasks, 1) * size]() : nullptr);
  if (grad_weights && !partial) return TD_NO_MEMORY;
  int status = TD_OK;
#pragma omp parallel for schedule(dynamic, 1) if (tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    std::unique_ptr<T[]> work(new (std::nothrow) T[kBlock * (net.columns + 2 * kMaxWidth)]);
    if (!work) {
#pragma omp atomic write
      status = TD_NO_MEMORY;
      continue;
    }
    T* where[kMaxLayers + 1] = {work.get()};
    for (int l = 0; l < net.layers; ++l) where[l + 1] = where[l] + kBlock * net.pad[l];
    T* const spare = work.get() + kBlock * net.columns;
    const int64_t end = std::min(points, (task + 1) * chunk);
    for (int64_t begin = task * chunk; begin < end; begin += kBlock) {
      const int64_t count = std::min(kBlock, end - begin);
      activate(net, x + begin * net.width[0], count, net.layers - 1, where);
      T *above = spare, *below = spare + kBlock * kMaxWidth;
      spread(grad + begin * net.width[net.layers], count, net.width[net.layers], net.pad[net.layers], above);
      for (int l = net.layers - 1; l >= 0; --l) {
        const int outputs = net.pad[l + 1], inputs = net.pad[l];
        if (grad_weights)
          run_product(
              outputs, inputs, int(count), above, 1, outputs, where[l], inputs,
              partial.get() + task * size + net.start[l], inputs, true);
        if (l == 0 && !grad_x) break;
        run_product(
            int(kBlock), inputs, net.width[l + 1], above, outputs, 1, net.straight.get() + net.start[l],
            inputs, below, inputs, false);
        if (l > 0) run_mask(below, where[l], kBlock * inputs);
        std::swap(above, below);
      }
      if (grad_x) gather(above, count, net.width[0], net.pad[0], grad_x + begin * net.width[0]);
    }
  }
  if (grad_weights) {
    for (int64_t task = 1; task < tasks; ++task)
      for (int64_t i = 0; i < size; ++i) partial[i] += partial[task * size + i];
    for (int l = 0; l < net.layers; grad_weights += net.width[l] * net.width[l + 1], ++l)
      gather(partial.get() + net.start[l], net.width[l + 1], net.width[l], net.pad[l], grad_weights);
  }
  return status;
}

} // namespace

int td_fused_mlp_f32(
    const float* x, const float* weights, int64_t points, int64_t layers, const int64_t* widths, float* out) {
  return forward(x, weights, points, layers, widths, out);
}
int td_fused_mlp_f64(
    const double* x, const double* weights, int64_t points, int64_t layers, const int64_t* widths,
    double* out) {
  return forward(x, weights, points, layers, widths, out);
}
int td_fused_mlp_backward_f32(
    const float* grad, const float* x, const float* weights, int64_t points, int64_t layers,
    const int64_t* widths, float* grad_x, float* grad_weights) {
  return backward(grad, x, weights, points, layers, widths, grad_x, grad_weights);
}
int td_fused_mlp_backward_f64(
    const double* grad, const double* x, const double* weights, int64_t points, int64_t layers,
    const int64_t* widths, double* grad_x, double* grad_weights) {
  return backward(grad, x, weights, points, layers, widths, grad_x, grad_weights);
}
