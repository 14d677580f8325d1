#include "engine/bt/perf_map.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include <fmt/format.h>

namespace vert::bt {

Result<PerfMap> PerfMap::open() {
  static std::atomic<bool> opened = false;
  return open(fmt::format("/tmp/perf-{}.map", ::getpid()), !opened.exchange(true));
}

Result<PerfMap> PerfMap::open(const std::string& path, bool emptied) {
  base::Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) return make_system_error(errno, fmt::format("cannot write {} for perf", path));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_uid != ::geteuid())
    return make_error("{} is somebody else's; perf would not take it", path);
  if (emptied && ::ftruncate(file.get(), 0) != 0)
    return make_system_error(errno, fmt::format("cannot empty {}", path));
  return PerfMap(std::move(file));
}

void PerfMap::add(const u8* code, std::size_t size, std::string_view name) {
  const std::string line = fmt::format("{:x} {:x} {}\n", reinterpret_cast<u64>(code), size, name);
  static_cast<void>(!::write(file_.get(), line.data(), line.size()));
}

}  // namespace vert::bt
