// The topology of marching tetrahedra: which grid edges the surface crosses, and its triangles. The numbering
// of vertices follows the edges in rising order, so nothing depends on the number of threads.
#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>
#include <memory>

namespace {

constexpr int64_t kChunk = 1 << 14; // tetrahedra per task, as in threedistill/ops/marching_tets.py
constexpr int kEnds[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};

TD_INLINE int pattern(const uint8_t* inside, const int32_t* tet) {
  return inside[tet[0]] | inside[tet[1]] << 1 | inside[tet[2]] << 2 | inside[tet[3]] << 3;
}

void count_chunk(
    const uint8_t* inside, const int32_t* tets, int64_t first, int64_t last, const int32_t* triangles,
    int64_t* counts) {
  dispatch([&](auto) TD_INLINE_LAMBDA {
    int64_t crossed = 0, faces = 0;
    for (int64_t t = first; t < last; ++t) {
      const int code = pattern(inside, tets + 4 * t);
      crossed += code != 0 && code != 15;
      faces += triangles[code];
    }
    counts[0] = crossed, counts[1] = faces;
  });
}

// The distinct crossed edges, bucketed by their lower point: bucket p holds the upper ends, rising, in
// upper[start[p] .. start[p] + count[p]), and vertex numbers from first[p].
struct Edges {
  std::unique_ptr<int32_t[]> start, count, first, upper;
};

template <typename Visit> void crossed_edges(const uint8_t* inside, const int32_t* tet, Visit visit) {
  for (const auto& ends : kEnds) {
    const int32_t a = tet[ends[0]], b = tet[ends[1]];
    if (inside[a] != inside[b]) visit(std::min(a, b), std::max(a, b));
  }
}

int64_t collect(
    const uint8_t* inside, const int32_t* tets, const int64_t* which, int64_t crossed, int64_t points,
    Edges& e) {
  for (int64_t p = 0; p <= points; ++p) e.start[p] = 0;
  for (int64_t k = 0; k < crossed; ++k)
    crossed_edges(inside, tets + 4 * which[k], [&](int32_t low, int32_t) { ++e.start[low + 1]; });
  for (int64_t p = 0; p < points; ++p) e.start[p + 1] += e.start[p], e.count[p] = 0;
  for (int64_t k = 0; k < crossed; ++k)
    crossed_edges(inside, tets + 4 * which[k], [&](int32_t low, int32_t high) {
      int32_t *begin = e.upper.get() + e.start[low], *end = begin + e.count[low];
      int32_t* at = std::lower_bound(begin, end, high);
      if (at != end && *at == high) return;
      std::copy_backward(at, end, end + 1);
      *at = high;
      ++e.count[low];
    });
  int64_t total = 0;
  for (int64_t p = 0; p < points; ++p) e.first[p] = int32_t(total), total += e.count[p];
  return total;
}

template <typename T>
int marching_tets(
    const T* signs, const int32_t* tets, int64_t points, int64_t count, const int32_t* table, int64_t* counts,
    const int64_t* starts, int32_t* edges, int32_t* faces, int64_t* which, int64_t* vertices) {
  if (points < 0 || count < 0) return TD_BAD_ARGUMENT;
  std::unique_ptr<uint8_t[]> inside(new (std::nothrow) uint8_t[size_t(points + 1)]);
  if (!inside) return TD_NO_MEMORY;
  for (int64_t p = 0; p < points; ++p) inside[p] = signs[p] < 0;
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  if (!starts) { // count only
    bool fits = true;
#pragma omp parallel for schedule(static) reduction(&& : fits)
    for (int64_t i = 0; i < 4 * count; ++i) fits = fits && tets[i] >= 0 && tets[i] < points;
    if (!fits) return TD_BAD_INDEX;
    int32_t triangles[16];
    for (int code = 0; code < 16; ++code)
      triangles[code] = (table[6 * code] >= 0) + (table[6 * code + 3] >= 0);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < chunks; ++c)
      count_chunk(
          inside.get(), tets, c * kChunk, std::min(count, (c + 1) * kChunk), triangles, counts + 2 * c);
    return TD_OK;
  }
  int64_t crossed = 0;
#pragma omp parallel for schedule(static) reduction(+ : crossed)
  for (int64_t c = 0; c < chunks; ++c) {
    crossed += counts[2 * c];
    if (!counts[2 * c]) continue;
    int64_t at = starts[2 * c];
    for (int64_t t = c * kChunk; t < std::min(count, (c + 1) * kChunk); ++t) {
      const int code = pattern(inside.get(), tets + 4 * t);
      if (code != 0 && code != 15) which[at++] = t;
    }
  }
  Edges e;
  const size_t room = size_t(points + 1);
  e.start.reset(new (std::nothrow) int32_t[room]), e.count.reset(new (std::nothrow) int32_t[room]);
  e.first.reset(new (std::nothrow) int32_t[room]);
  e.upper.reset(new (std::nothrow) int32_t[size_t(4 * crossed + 1)]);
  if (!e.start || !e.count || !e.first || !e.upper) return TD_NO_MEMORY;
  vertices[0] = collect(inside.get(), tets, which, crossed, points, e);
  for (int64_t p = 0; p < points; ++p)
    for (int32_t k = 0; k < e.count[p]; ++k) {
      int32_t* edge = edges + 2 * (int64_t(e.first[p]) + k);
      edge[0] = int32_t(p), edge[1] = e.upper[e.start[p] + k];
    }
  int64_t face = 0;
  for (int64_t k = 0; k < crossed; ++k) {
    const int32_t* tet = tets + 4 * which[k];
    const int32_t* row = table + 6 * pattern(inside.get(), tet);
    for (int i = 0; i < 6 && row[i] >= 0; ++i) {
      const int32_t a = tet[kEnds[row[i]][0]], b = tet[kEnds[row[i]][1]];
      const int32_t low = std::min(a, b), high = std::max(a, b);
      const int32_t* begin = e.upper.get() + e.start[low];
      faces[face++] = e.first[low] + int32_t(std::lower_bound(begin, begin + e.count[low], high) - begin);
    }
  }
  return TD_OK;
}

} // namespace

int td_marching_tets_f32(
    const float* signs, const int32_t* tets, int64_t points, int64_t count, const int32_t* table,
    int64_t* counts, const int64_t* starts, int32_t* edges, int32_t* faces, int64_t* which,
    int64_t* vertices) {
  return marching_tets(signs, tets, points, count, table, counts, starts, edges, faces, which, vertices);
}
int td_marching_tets_f64(
    const double* signs, const int32_t* tets, int64_t points, int64_t count, const int32_t* table,
    int64_t* counts, const int64_t* starts, int32_t* edges, int32_t* faces, int64_t* which,
    int64_t* vertices) {
  return marching_tets(signs, tets, points, count, table, counts, starts, edges, faces, which, vertices);
}
