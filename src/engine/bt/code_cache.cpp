#include "engine/bt/code_cache.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace vert::bt {

std::size_t usual_cache_size(unsigned vcpus) {
  constexpr std::size_t kMebibyte = 1 << 20;
  constexpr std::size_t kTogether = 256 * kMebibyte;
  return std::clamp(kTogether / vcpus, 32 * kMebibyte, 128 * kMebibyte);
}

Result<CodeCache> CodeCache::create(std::size_t size) {
  // Anonymous, for perf looks names up in its map files for such memory only.
  VERT_ASSIGN(auto writable, base::Mapping::map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  VERT_ASSIGN(auto executable, writable.map_again(PROT_READ | PROT_EXEC));
  return CodeCache(std::move(writable), std::move(executable));
}

void CodeCache::patch(u32 site, u32 target) {
  const u32 displacement = target - (site + 4);
  std::memcpy(write_at(site), &displacement, sizeof displacement);
}

}  // namespace vert::bt
