// Small fixed-size vectors. With gcc and clang they are the compilers' own vector types, which map to
// registers whatever the target; the loop vectoriser leaves loops over them alone. Elsewhere a plain struct
// does.
#pragma once

#include <cstring>

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
  return value - pack<T, N>{}; // a broadcast; element by element it would be a chain of insertions
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
