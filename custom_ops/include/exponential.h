// exp(x) - 1 and exp(x) without branches, so that loops over them vectorise.
#pragma once

#include <cstring>
#include <type_traits>

#include "simd.h"

// x = n ln 2 + r with |r| <= ln 2 / 2, Taylor's series of exp(r) - 1 to the last bit of T, and 2^n built from
// the bits that rounding leaves in the last place.
template <typename T> struct Exponential;
template <> struct Exponential<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kTerms = 8;
  static constexpr Bits kOne = 0x3f800000;
  static constexpr float kRound = 12582912.0f, kHigh = 0.693359375f, kLow = -2.12194440e-4f, kLeast = -87,
                         kMost = 88;
};
template <> struct Exponential<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kTerms = 14;
  static constexpr Bits kOne = 0x3ff0000000000000;
  static constexpr double kRound = 6755399441055744.0, kHigh = 0.693145751953125,
                          kLow = 1.42860682030941723212e-6, kLeast = -708, kMost = 709;
};

template <typename T> TD_INLINE T expm1(T x) {
  using E = Exponential<T>;
  x = x < E::kLeast ? E::kLeast : x; // written so that NaN stays NaN
  x = x > E::kMost ? E::kMost : x;
  const T shifted = x * T(1.4426950408889634) + E::kRound;
  const T n = shifted - E::kRound;
  const T r = (x - n * E::kHigh) - n * E::kLow;
  T series = 1;
  for (int k = E::kTerms; k > 1; --k) series = series * r * (T(1) / T(k)) + 1; // 1 + r/2 (1 + r/3 (1 + ...))
  typename E::Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = typename E::Bits((uint64_t(bits) << E::kMantissa) + uint64_t(E::kOne));
  T power;
  std::memcpy(&power, &bits, sizeof power);
  return power * (r * series) + (power - 1);
}

// exp(x) for x <= 0 in every lane: the same steps with a shorter chain of dependent operations (pairs of
// terms, then Horner's rule in r^2). Below kLeast it stays at exp(kLeast).
template <typename T, int N> TD_INLINE pack<T, N> exp_of_negative(pack<T, N> x) {
  using E = Exponential<T>;
  using V = pack<T, N>;
  x = at_least<T, N>(x, E::kLeast, x, filled<T, N>(E::kLeast));
  const V round = filled<T, N>(E::kRound);
  const V shifted = x * T(1.4426950408889634) + round, n = shifted - round;
  const V r = (x - n * T(E::kHigh)) - n * T(E::kLow), square = r * r;
  T factorial[E::kTerms] = {1};
  for (int k = 1; k < E::kTerms; ++k) factorial[k] = factorial[k - 1] * T(k);
  V series = filled<T, N>(T(1) / factorial[E::kTerms - 2]) + r * (T(1) / factorial[E::kTerms - 1]);
  for (int k = E::kTerms - 4; k >= 0; k -= 2)
    series = series * square + (filled<T, N>(T(1) / factorial[k]) + r * (T(1) / factorial[k + 1]));
#if defined(__GNUC__) || defined(__clang__)
  typedef typename std::make_unsigned<typename E::Bits>::type Bits
      __attribute__((vector_size(N * sizeof(T))));
  Bits bits;
#else
  typename std::make_unsigned<typename E::Bits>::type bits[N];
#endif
  std::memcpy(&bits, &shifted, sizeof bits);
#if defined(__GNUC__) || defined(__clang__)
  bits = (bits << E::kMantissa) + E::kOne;
#else
  for (int i = 0; i < N; ++i) bits[i] = (bits[i] << E::kMantissa) + E::kOne;
#endif
  V power;
  std::memcpy(&power, &bits, sizeof power);
  return power * series;
}
