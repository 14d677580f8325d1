#include "base/shared_file.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

namespace vert::base {

namespace {

/// Folders for temporary files; those in memory first.
std::vector<std::string> temporary_folders() {
  std::vector<std::string> folders = {"/dev/shm"};
  if (const char* const runtime = ::getenv("XDG_RUNTIME_DIR"); runtime != nullptr && runtime[0] == '/')
    folders.emplace_back(runtime);
  folders.emplace_back("/tmp");
  return folders;
}

/// Pages of a file without room behind it would end vert with SIGBUS when they are touched.
bool has_room(const Fd& file, u64 size) {
  struct statvfs info = {};
  return ::fstatvfs(file.get(), &info) == 0 && u64{info.f_bavail} * info.f_frsize >= size;
}

Fd make_deleted_file(const std::string& folder) {
  Fd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600));
  if (file.valid()) return file;
  std::string name = folder + "/vert-XXXXXX";  // a file system without O_TMPFILE
  file = Fd(::mkostemp(name.data(), O_CLOEXEC));
  if (file.valid()) ::unlink(name.c_str());
  return file;
}

bool resize(const Fd& file, u64 size) { return ::ftruncate(file.get(), static_cast<off_t>(size)) == 0; }

}  // namespace

Result<Fd> make_shared_file(u64 size, const std::string& what) {
  Fd memfd(::memfd_create(what.c_str(), MFD_CLOEXEC));
  if (memfd.valid() && resize(memfd, size)) return memfd;
  const int error_number = errno;
  if (memfd.valid()) return make_system_error(error_number, fmt::format("cannot allocate {}", what));
  for (const std::string& folder : temporary_folders()) {
    Fd file = make_deleted_file(folder);
    if (file.valid() && has_room(file, size) && resize(file, size)) return file;
  }
  return make_system_error(
      error_number,
      fmt::format(
          "cannot allocate {}: memfd_create fails, and no directory for temporary files has {} MiB free",
          what, size >> 20));
}

}  // namespace vert::base
