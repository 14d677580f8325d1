#include "base/host_memory.hpp"

#include <sys/sysinfo.h>

namespace vert::base {

std::optional<HostMemory> host_memory() {
  struct sysinfo info = {};
  if (::sysinfo(&info) != 0) return std::nullopt;
  return HostMemory{.ram = u64{info.totalram} * info.mem_unit, .swap = u64{info.totalswap} * info.mem_unit};
}

}  // namespace vert::base
