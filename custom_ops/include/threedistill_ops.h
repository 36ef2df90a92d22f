// The C ABI of the native kernels: plain pointers and sizes, row-major contiguous arrays, no torch.
//
// Every function returns a td_status. The suffix names the scalar type: _f32 float, _f64 double. The Python side
// (threedistill/ops/*.py) checks shapes, types and devices; the kernels check what only a pass over the data can
// tell (indices). No kernel keeps state between calls.
#pragma once

#include "common.h"

// The version of this interface; threedistill/ops/_native.py refuses a library with another one.
#define TD_ABI_VERSION 1
TD_EXPORT int td_abi_version();

// Triangle id, perspective-correct barycentrics and clip w of the nearest triangle at each pixel centre.
TD_EXPORT int td_rasterize_f32(
    const float* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles, int64_t height,
    int64_t width, int32_t* triangle, float* barycentric, float* depth);
TD_EXPORT int td_rasterize_f64(
    const double* clip, const int32_t* faces, int64_t images, int64_t vertices, int64_t triangles, int64_t height,
    int64_t width, int32_t* triangle, double* barycentric, double* depth);
