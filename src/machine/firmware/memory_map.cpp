#include "machine/firmware/memory_map.hpp"

#include <algorithm>

namespace vert::machine {

Result<MemoryMap> MemoryMap::make(u64 memory_bytes) {
  if (memory_bytes < kMinMemory)
    return make_error("{} KiB of guest memory is too little; the minimum is {} MiB", memory_bytes >> 10,
                      kMinMemory >> 20);
  if (memory_bytes > kMaxMemory)
    return make_error("{} GiB of guest memory is too much; the maximum is {} GiB", memory_bytes >> 30,
                      kMaxMemory >> 30);
  if (memory_bytes % kPageSize != 0)
    return make_error("{} bytes of memory are not a multiple of {}", memory_bytes, kPageSize);
  const u64 low_end = std::min(memory_bytes, kEcamBase);
  return MemoryMap(low_end, kFourGiB + (memory_bytes - low_end));
}

std::vector<memory::RamRegion> MemoryMap::ram_regions() const {
  std::vector<memory::RamRegion> regions = {{Gpa(0), low_end_}};
  if (high_end_ > kFourGiB) regions.push_back({Gpa(kFourGiB), high_end_ - kFourGiB});
  return regions;
}

std::vector<E820Entry> MemoryMap::e820() const {
  std::vector<E820Entry> entries = {
      {0, kEbdaBase, E820Type::kRam},
      {kEbdaBase, kOneMiB - kEbdaBase, E820Type::kReserved},
      {kOneMiB, low_end_ - kOneMiB, E820Type::kRam},
      {kEcamBase, kEcamSize, E820Type::kReserved},
  };
  if (high_end_ > kFourGiB) entries.push_back({kFourGiB, high_end_ - kFourGiB, E820Type::kRam});
  return entries;
}

}  // namespace vert::machine
