#include "engine/bt/code_cache.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace vert::bt {

Result<CodeCache> CodeCache::create(std::size_t size) {
  base::Fd memfd(memfd_create("vert-code", MFD_CLOEXEC));
  if (!memfd.valid() || ftruncate(memfd.get(), static_cast<off_t>(size)) != 0)
    return make_system_error(errno, "cannot make memory for translated code");
  VERT_ASSIGN(auto writable, base::Mapping::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get()));
  VERT_ASSIGN(auto executable, base::Mapping::map(size, PROT_READ | PROT_EXEC, MAP_SHARED, memfd.get()));
  return CodeCache(std::move(memfd), std::move(writable), std::move(executable));
}

void CodeCache::patch(u32 site, u32 target) {
  const u32 displacement = target - (site + 4);
  std::memcpy(write_at(site), &displacement, sizeof displacement);
}

}  // namespace vert::bt
