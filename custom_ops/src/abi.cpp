#include "threedistill_ops.h"

int td_abi_version() {
  return TD_ABI_VERSION;
}
