// What every kernel shares: the exported symbol, the return codes, the compiler's words.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef _OPENMP
#  include <omp.h>
#endif

#if defined(_WIN32)
#  define TD_EXPORT extern "C" __declspec(dllexport)
#else
#  define TD_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Whether inner loops are compiled for several instruction sets, of which one is chosen at run time (simd.h).
#if !defined(TD_NO_CLONES) && defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#  define TD_WIDER
#endif

#if defined(__GNUC__) || defined(__clang__)
#  define TD_INLINE inline __attribute__((always_inline))
#  define TD_INLINE_LAMBDA __attribute__((always_inline))
#  define TD_RESTRICT __restrict__
#else
#  define TD_INLINE __forceinline
#  define TD_INLINE_LAMBDA
#  define TD_RESTRICT __restrict
#endif

// The number of the lowest bit that is set; bits must not be 0.
TD_INLINE int lowest_bit(uint64_t bits) {
#if defined(__GNUC__) || defined(__clang__)
  return __builtin_ctzll(bits);
#else
  int at = 0;
  for (; !(bits & 1); bits >>= 1) ++at;
  return at;
#endif
}

// Return codes, turned into Python exceptions by threedistill/ops/_native.py.
enum td_status : int {
  TD_OK = 0,
  TD_BAD_ARGUMENT = 1, // a size or a flag out of range
  TD_BAD_INDEX = 2,    // an index points outside its array
  TD_NO_MEMORY = 3,
};

inline int td_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}
