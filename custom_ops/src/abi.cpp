#include "simd.h"
#include "threedistill_ops.h"

#include <algorithm>

namespace {

int widest() {
#ifdef TD_WIDER
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return TD_SIMD_BASELINE;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return wide ? TD_SIMD_AVX512 : TD_SIMD_AVX2;
#else
  return TD_SIMD_BASELINE;
#endif
}

} // namespace

int td_simd_in_use = widest();

int td_abi_version() {
  return TD_ABI_VERSION;
}
int td_simd_level() {
  return td_simd_in_use;
}
int td_simd(int most) {
  return td_simd_in_use = std::min(widest(), std::max(most, 0));
}
