// Small fixed-size vectors. With gcc and clang they are the compilers' own vector types, which map to
// registers whatever the target; the loop vectoriser leaves loops over them alone. Elsewhere a plain struct
// does.
#pragma once

#include <cstring>
#include <type_traits>

#include "common.h"

#if defined(__GNUC__) || defined(__clang__)
template <typename T, int N> struct Pack {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T> struct Pack<T, 1> {
  struct type {
    T v;
    TD_INLINE T& operator[](int) { return v; }
    TD_INLINE type operator*(type o) const { return {v * o.v}; }
    TD_INLINE type operator*(T o) const { return {v * o}; }
    TD_INLINE type operator/(type o) const { return {v / o.v}; }
    TD_INLINE type operator+(type o) const { return {v + o.v}; }
    TD_INLINE type operator-(type o) const { return {v - o.v}; }
    TD_INLINE type& operator+=(type o) { return v += o.v, *this; }
  };
};
#else
template <typename T, int N> struct Pack {
  struct type {
    T v[N];
    TD_INLINE T& operator[](int i) { return v[i]; }
    TD_INLINE type operator*(type o) const {
      for (int i = 0; i < N; ++i) o.v[i] *= v[i];
      return o;
    }
    TD_INLINE type operator*(T o) const {
      type r;
      for (int i = 0; i < N; ++i) r.v[i] = v[i] * o;
      return r;
    }
    TD_INLINE type operator/(type o) const {
      for (int i = 0; i < N; ++i) o.v[i] = v[i] / o.v[i];
      return o;
    }
    TD_INLINE type operator+(type o) const {
      for (int i = 0; i < N; ++i) o.v[i] += v[i];
      return o;
    }
    TD_INLINE type operator-(type o) const {
      for (int i = 0; i < N; ++i) o.v[i] = v[i] - o.v[i];
      return o;
    }
    TD_INLINE type& operator+=(type o) {
      for (int i = 0; i < N; ++i) v[i] += o.v[i];
      return *this;
    }
  };
};
#endif

template <typename T, int N> using pack = typename Pack<T, N>::type;

// Unaligned load and store.
template <typename T, int N> TD_INLINE pack<T, N> load(const T* from) {
  pack<T, N> r;
  std::memcpy(&r, from, sizeof r);
  return r;
}
template <typename T, int N> TD_INLINE void store(T* to, pack<T, N> value) {
  std::memcpy(to, &value, sizeof value);
}
template <typename T, int N> TD_INLINE pack<T, N> filled(T value) {
#if defined(__GNUC__) || defined(__clang__)
  return value + pack<T, N>{}; // a broadcast (without the sum gcc inserts lane by lane); -0 becomes 0
#else
  pack<T, N> r;
  for (int i = 0; i < N; ++i) r[i] = value;
  return r;
#endif
}

// x >= least ? yes : no, in every lane (no where x is NaN).
template <typename T, int N>
TD_INLINE pack<T, N> at_least(pack<T, N> x, T least, pack<T, N> yes, pack<T, N> no) {
#if defined(__GNUC__) || defined(__clang__)
  return x >= least ? yes : no;
#else
  for (int i = 0; i < N; ++i) no[i] = x[i] >= least ? yes[i] : no[i];
  return no;
#endif
}

// x < 0 ? x : -x, also for zeros; x must not be NaN.
template <typename T, int N> TD_INLINE pack<T, N> minus_abs(pack<T, N> x) {
#if defined(__GNUC__) || defined(__clang__)
  return x > 0 ? -x : x;
#else
  for (int i = 0; i < N; ++i) x[i] = x[i] > 0 ? -x[i] : x[i];
  return x;
#endif
}

// The sum of the lanes, by halves.
template <typename T, int N> TD_INLINE T total(pack<T, N> x) {
#if defined(__GNUC__) && !defined(__clang__)
  typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type Index
      __attribute__((vector_size(N * sizeof(T))));
  Index lane;
  for (int k = 0; k < N; ++k) lane[k] = k;
  for (int half = N / 2; half; half /= 2) x += __builtin_shuffle(x, lane ^ half);
  return x[0];
#else
  T lanes[N];
  store<T, N>(lanes, x);
  for (int half = N / 2; half; half /= 2)
    for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
  return lanes[0];
#endif
}

// The instruction sets inner loops are compiled for, and the one in use (abi.cpp).
enum td_simd_level : int { TD_SIMD_BASELINE, TD_SIMD_AVX2, TD_SIMD_AVX512 };
extern int td_simd_in_use;

#ifdef TD_WIDER
template <typename Work> __attribute__((target("avx2,fma"), noinline)) void with_avx2(const Work& work) {
  work(std::integral_constant<int, 8>());
}
template <typename Work>
__attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq"), noinline)) void
with_avx512(const Work& work) {
  work(std::integral_constant<int, 16>());
}
#endif

// Calls work(lanes), lanes being how many floats are well worked on together, compiled for the instruction
// set in use. work is a lambda marked TD_INLINE_LAMBDA, and so is everything it calls, without an OpenMP
// region.
template <typename Work> TD_INLINE void dispatch(const Work& work) {
#ifdef TD_WIDER
  if (td_simd_in_use == TD_SIMD_AVX512) return with_avx512(work);
  if (td_simd_in_use == TD_SIMD_AVX2) return with_avx2(work);
#endif
  work(std::integral_constant<int, 8>());
}
