#include "machine/boot_files.hpp"

#include <sys/stat.h>

#include "base/fd.hpp"

namespace vert::machine {

namespace {

Result<std::vector<u8>> read_image(const std::string& path, u64 memory_bytes) {
  struct stat info {};
  // read_file() tells what is wrong with a file that cannot be looked at.
  if (::stat(path.c_str(), &info) == 0 && static_cast<u64>(info.st_size) >= memory_bytes)
    return make_error("{}: has {} MiB, more than the machine's memory: try more --memory", path,
                      static_cast<u64>(info.st_size) >> 20);
  VERT_ASSIGN(auto bytes, base::read_file(path));
  if (bytes.empty()) return make_error("{}: is empty", path);
  return bytes;
}

}  // namespace

Result<std::unique_ptr<BootFiles>> read_boot_files(const MachineConfig& config) {
  if (config.kernel.empty()) return make_error("no kernel is given: name one with --kernel");
  auto files = std::make_unique<BootFiles>();
  VERT_ASSIGN(files->kernel, read_image(config.kernel, config.memory_bytes));
  files->source.kernel_name = config.kernel;
  files->source.kernel = files->kernel;
  files->source.command_line = config.append;
  if (!config.initrd.empty()) {
    VERT_ASSIGN(files->initrd, read_image(config.initrd, config.memory_bytes));
    files->source.initrd_name = config.initrd;
    files->source.initrd = files->initrd;
  }
  return files;
}

}  // namespace vert::machine
