#include "dense/amx_permission.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pepnet {

bool amx_permitted() {
#if defined(__x86_64__) && defined(__linux__)
  // arch/x86/include/uapi/asm/prctl.h; older system headers do not have them.
  constexpr long kGetPermitted = 0x1022;
  constexpr long kRequest = 0x1023;
  constexpr long kTileData = 18;
  static const bool permitted = [] {
    if (syscall(SYS_arch_prctl, kRequest, kTileData) != 0) return false;
    unsigned long granted = 0;
    return syscall(SYS_arch_prctl, kGetPermitted, &granted) == 0 && (granted >> kTileData & 1UL) != 0;
  }();
  return permitted;
#else
  return false;
#endif
}

}  // namespace pepnet
