// The C ABI of the native kernels: plain pointers and sizes, row-major contiguous arrays, no torch.
//
// Every function returns a td_status. The suffix names the scalar type: _f32 float, _f64 double. The Python
// side (threedistill/ops/*.py) checks shapes, types and devices; the kernels check what only a pass over the
// data can tell (indices). No kernel keeps state between calls.
#pragma once

#include "common.h"

// The version of this interface; threedistill/ops/_native.py refuses a library with another one.
#define TD_ABI_VERSION 2
TD_EXPORT int td_abi_version();

// Narrows the instruction sets that are used to `most` (0 the compiler's baseline, 1 AVX2, 2 AVX-512) or what
// the processor has, and returns which one is used from now on. Not while a kernel runs.
TD_EXPORT int td_simd(int most);
TD_EXPORT int td_simd_level();

// Triangle id, perspective-correct barycentrics and clip w of the nearest triangle at each pixel centre.
TD_EXPORT int td_rasterize_f32(
    const float* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles,
    int64_t height, int64_t width, int32_t* triangle, float* barycentric, float* depth);
TD_EXPORT int td_rasterize_f64(
    const double* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles,
    int64_t height, int64_t width, int32_t* triangle, double* barycentric, double* depth);

// Vertex attributes at pixel centres: triangle is the rasteriser's, pixels the flat indices of covered pixels
// in rising order. Gradients must be zero on entry.
#define TD_SEEN(T)                                                                                           \
  const T *attributes, const T *clip, const int32_t *faces, const int32_t *triangle, const int64_t *pixels,  \
      int64_t count, int64_t channels, int64_t views, int64_t vertices, int64_t triangles, int64_t height,   \
      int64_t width
TD_EXPORT int td_interpolate_f32(TD_SEEN(float), float* out);
TD_EXPORT int td_interpolate_f64(TD_SEEN(double), double* out);
TD_EXPORT int
td_interpolate_backward_f32(TD_SEEN(float), const float* grad, float* grad_attributes, float* grad_clip);
TD_EXPORT int
td_interpolate_backward_f64(TD_SEEN(double), const double* grad, double* grad_attributes, double* grad_clip);

// Multiresolution hash encoding. Per level: resolution, scale, first entry (offsets has levels + 1 values),
// and whether it is hashed (dense otherwise). features is 1, 2, 4 or 8; only the first `active` levels are
// computed. grad_table must be zero on entry; grad_x or grad_table may be null.
#define TD_HASH_LEVELS                                                                                       \
  int64_t points, int64_t levels, int64_t features, int64_t active, const int64_t *offsets,                  \
      const int64_t *resolutions, const double *scales
TD_EXPORT int td_hash_encode_f32(const float* x, const float* table, TD_HASH_LEVELS, float* out);
TD_EXPORT int td_hash_encode_f64(const double* x, const double* table, TD_HASH_LEVELS, double* out);
TD_EXPORT int td_hash_encode_backward_f32(
    const float* grad, const float* x, const float* table, TD_HASH_LEVELS, float* grad_x, float* grad_table);
TD_EXPORT int td_hash_encode_backward_f64(
    const double* grad, const double* x, const double* table, TD_HASH_LEVELS, double* grad_x,
    double* grad_table);

// A multilayer perceptron without biases, ReLU between layers: widths[0..layers] (1..64 each), weights are
// the (widths[l + 1], widths[l]) matrices one after the other. grad_x or grad_weights (same packing) may be
// null.
TD_EXPORT int td_fused_mlp_f32(
    const float* x, const float* weights, int64_t points, int64_t layers, const int64_t* widths, float* out);
TD_EXPORT int td_fused_mlp_f64(
    const double* x, const double* weights, int64_t points, int64_t layers, const int64_t* widths,
    double* out);
TD_EXPORT int td_fused_mlp_backward_f32(
    const float* grad, const float* x, const float* weights, int64_t points, int64_t layers,
    const int64_t* widths, float* grad_x, float* grad_weights);
TD_EXPORT int td_fused_mlp_backward_f64(
    const double* grad, const double* x, const double* weights, int64_t points, int64_t layers,
    const int64_t* widths, double* grad_x, double* grad_weights);

// Fixed-step ray marching through an occupancy grid of resolution^3 bytes. With offsets null: writes the
// number of samples of each ray to counts. Otherwise writes sample s of ray r at offsets[r] + s.
#define TD_MARCH_GRID(T)                                                                                     \
  const T *origins, const T *directions, const T *jitter, const uint8_t *occupied, int64_t rays,             \
      int64_t resolution, double bound, double step, double nearest, int64_t max_samples
TD_EXPORT int td_march_f32(
    TD_MARCH_GRID(float), int64_t* counts, const int64_t* offsets, int64_t* ray, float* start, float* end);
TD_EXPORT int td_march_f64(
    TD_MARCH_GRID(double), int64_t* counts, const int64_t* offsets, int64_t* ray, double* start, double* end);

// Emission-absorption compositing of samples packed along rays (offsets has rays + 1 values).
TD_EXPORT int td_composite_f32(
    const float* density, const float* rgb, const float* start, const float* end, const int64_t* offsets,
    int64_t rays, int64_t samples, float* color, float* opacity, float* depth, float* weights);
TD_EXPORT int td_composite_f64(
    const double* density, const double* rgb, const double* start, const double* end, const int64_t* offsets,
    int64_t rays, int64_t samples, double* color, double* opacity, double* depth, double* weights);
TD_EXPORT int td_composite_backward_f32(
    const float* density, const float* rgb, const float* start, const float* end, const int64_t* offsets,
    int64_t rays, int64_t samples, const float* weights, const float* grad_color, const float* grad_opacity,
    const float* grad_depth, const float* grad_weights, float* grad_density, float* grad_rgb);
TD_EXPORT int td_composite_backward_f64(
    const double* density, const double* rgb, const double* start, const double* end, const int64_t* offsets,
    int64_t rays, int64_t samples, const double* weights, const double* grad_color,
    const double* grad_opacity, const double* grad_depth, const double* grad_weights, double* grad_density,
    double* grad_rgb);

// Front-to-back compositing of projected Gaussians: means (views, count, 2) in pixels, conics (.., 3) the
// inverse covariances (xx, xy, yy), opacities (..), features (.., channels), depths (..) for the order; a
// depth that is not positive hides its Gaussian. The backward pass takes the forward one's results. Gradients
// must be zero on entry: only what is visible is written. pulls, (views, count, 2): sums over pixels of each
// one's absolute gradient by the mean.
#define TD_SPLATS(T)                                                                                         \
  const T *means, const T *conics, const T *opacities, const T *features, const T *depths, int64_t views,    \
      int64_t count, int64_t channels, int64_t height, int64_t width
TD_EXPORT int td_splat_f32(TD_SPLATS(float), float* image, float* alpha);
TD_EXPORT int td_splat_f64(TD_SPLATS(double), double* image, double* alpha);
TD_EXPORT int td_splat_backward_f32(
    TD_SPLATS(float), const float* image, const float* alpha, const float* grad_image,
    const float* grad_alpha, float* grad_means, float* grad_conics, float* grad_opacities,
    float* grad_features);
TD_EXPORT int td_splat_backward_f64(
    TD_SPLATS(double), const double* image, const double* alpha, const double* grad_image,
    const double* grad_alpha, double* grad_means, double* grad_conics, double* grad_opacities,
    double* grad_features);
TD_EXPORT int td_splat_backward_absolute_f32(
    TD_SPLATS(float), const float* image, const float* alpha, const float* grad_image,
    const float* grad_alpha, float* grad_means, float* grad_conics, float* grad_opacities,
    float* grad_features, float* pulls);
TD_EXPORT int td_splat_backward_absolute_f64(
    TD_SPLATS(double), const double* image, const double* alpha, const double* grad_image,
    const double* grad_alpha, double* grad_means, double* grad_conics, double* grad_opacities,
    double* grad_features, double* pulls);

// The topology of marching tetrahedra: inside is signs < 0, table the (16, 2, 3) edge numbers of the
// triangles of each sign pattern. With starts null: writes the crossed tetrahedra and triangles of each chunk
// of 2^14 to counts. Otherwise writes the crossed edges, the triangles, the crossed tetrahedra and the number
// of edges.
#define TD_MARCHING_TETS                                                                                     \
  const int32_t *tets, int64_t points, int64_t count, const int32_t *table, int64_t *counts,                 \
      const int64_t *starts, int32_t *edges, int32_t *faces, int64_t *which, int64_t *vertices
TD_EXPORT int td_marching_tets_f32(const float* signs, TD_MARCHING_TETS);
TD_EXPORT int td_marching_tets_f64(const double* signs, TD_MARCHING_TETS);

// Half-edge 3 g + k across each edge of each triangle, -1 where not exactly two triangles meet.
TD_EXPORT int
td_face_neighbours_f32(const int32_t* faces, int64_t triangles, int64_t vertices, int32_t* neighbours);

// Silhouettes between neighbouring pixel centres: for every pixel, to its right and below it, the flat
// indices of the nearer pixel, the other one, and the edge's two vertices; the first is -1 where nothing
// passes.
#define TD_CROSSINGS(T)                                                                                      \
  const T *clip, const int32_t *faces, const int32_t *neighbours, const int32_t *triangle, const T *depth,   \
      int64_t views, int64_t vertices, int64_t triangles, int64_t height, int64_t width, int64_t *found
TD_EXPORT int td_silhouette_crossings_f32(TD_CROSSINGS(float));
TD_EXPORT int td_silhouette_crossings_f64(TD_CROSSINGS(double));
