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

// 2^x for x <= 0 in every lane: x = n + r with |r| <= 1 / 2, Taylor's series in pairs of terms (a shorter
// chain of dependent operations), then n added to the exponent's bits. Below T's least exponent the result
// means nothing.
template <typename T, int N> TD_INLINE pack<T, N> exp2_of_negative(pack<T, N> x) {
  using E = Exponential<T>;
  using V = pack<T, N>;
  const V round = filled<T, N>(E::kRound), shifted = x + round, r = x - (shifted - round), square = r * r;
  T term[E::kTerms] = {1};
  for (int k = 1; k < E::kTerms; ++k) term[k] = term[k - 1] * T(0.69314718055994530942) / T(k);
  V series = filled<T, N>(term[E::kTerms - 2]) + r * term[E::kTerms - 1];
  for (int k = E::kTerms - 4; k >= 0; k -= 2)
    series = series * square + (filled<T, N>(term[k]) + r * term[k + 1]);
#if defined(__GNUC__) || defined(__clang__)
  typedef typename std::make_unsigned<typename E::Bits>::type Bits
      __attribute__((vector_size(N * sizeof(T))));
  Bits bits, power;
  std::memcpy(&bits, &series, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  bits += power << E::kMantissa;
#else
  typename std::make_unsigned<typename E::Bits>::type bits[N], power[N];
  std::memcpy(&bits, &series, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  for (int i = 0; i < N; ++i) bits[i] += power[i] << E::kMantissa;
#endif
  std::memcpy(&series, &bits, sizeof series);
  return series;
}
