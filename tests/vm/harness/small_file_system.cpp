#include "vm/harness/small_file_system.hpp"

#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

namespace vert::vm_test {
namespace {

Status enter_namespace() {
  const auto user = ::getuid();
  const auto group = ::getgid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
    return make_system_error(errno, "user namespaces are forbidden");
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << fmt::format("{0} {0} 1", user);
  std::ofstream("/proc/self/gid_map") << fmt::format("{0} {0} 1", group);
  return {};
}

}  // namespace

Result<SmallFileSystem> SmallFileSystem::mount(u64 bytes) {
  std::string path = "/tmp/vert-test-small.XXXXXX";
  VERT_TRY(enter_namespace());
  if (::mkdtemp(path.data()) == nullptr) return make_system_error(errno, path);
  SmallFileSystem made(path);
  if (::mount("tmpfs", path.c_str(), "tmpfs", 0, fmt::format("size={}", bytes).c_str()) != 0)
    return make_system_error(errno, "no tmpfs can be mounted");
  return made;
}

SmallFileSystem::~SmallFileSystem() {
  if (path_.empty()) return;
  ::umount2(path_.c_str(), MNT_DETACH);
  ::rmdir(path_.c_str());
}

Status SmallFileSystem::resize(u64 bytes) const {
  if (::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, fmt::format("size={}", bytes).c_str()) == 0)
    return {};
  return make_system_error(errno, "cannot make room");
}

}  // namespace vert::vm_test
