#include "machine/boot_files.hpp"

#include <sys/stat.h>

#include "base/fd.hpp"
#include "machine/disk_boot/disk_boot.hpp"
#include "machine/disk_boot/image_reader.hpp"

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

/// As on QEMU: "FILE ARGUMENTS,FILE ARGUMENTS"; a comma of a name or argument is doubled.
std::vector<std::string> split_modules(std::string_view list) {
  std::vector<std::string> modules(1);
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] == ',' && list.substr(i + 1).starts_with(','))
      modules.back().push_back(list[++i]);
    else if (list[i] == ',')
      modules.emplace_back();
    else
      modules.back().push_back(list[i]);
  }
  return modules;
}

void keep_module(BootFiles& files, const std::string& name, const std::string& command_line,
                 std::vector<u8> bytes) {
  const auto& kept = files.modules.emplace_back(std::move(bytes));
  files.source.modules.push_back({name, command_line, kept});
}

Status read_module(BootFiles& files, const std::string& name, const std::string& command_line,
                   u64 memory_bytes) {
  if (name.empty()) return make_error("--initrd: a module without a name");
  VERT_ASSIGN(auto bytes, read_image(name, memory_bytes));
  keep_module(files, name, command_line, std::move(bytes));
  return {};
}

Status read_modules(BootFiles& files, const MachineConfig& config) {
  for (const std::string& line : split_modules(config.initrd))
    VERT_TRY(read_module(files, line.substr(0, line.find(' ')), line, config.memory_bytes));
  return {};
}

Result<std::unique_ptr<BootFiles>> read_from_disk(const MachineConfig& config, bool disks_open) {
  const DiskConfig& disk = config.disks.front();
  storage::ImageOptions options = disk.image;
  options.read_only = true;
  options.cache = storage::CacheMode::kWriteback;
  options.lock = !disks_open;
  VERT_ASSIGN(const auto context, storage::IoContext::create());
  VERT_ASSIGN(const auto image, context->complete(storage::open_image(*context, disk.path, options)));
  disk_boot::ImageReader reader(*context, *image);
  auto search = disk_boot::find_disk_boot(reader, disk.path);
  if (!search) return std::unexpected(reader.failure().value_or(search.error()));
  disk_boot::DiskBoot found = std::move(*search);
  if (config.notice) config.notice(found.description);
  auto files = std::make_unique<BootFiles>();
  files->kernel = std::move(found.kernel);
  files->source.kernel_name = disk.path;
  files->source.kernel = files->kernel;
  files->source.command_line = config.append.empty() ? found.command_line : config.append;
  if (!config.initrd.empty())
    VERT_TRY(read_module(*files, config.initrd, config.initrd, config.memory_bytes));
  else if (!found.initrd.empty())
    keep_module(*files, disk.path, "", std::move(found.initrd));
  return files;
}

}  // namespace

bool boots_from_disk(const MachineConfig& config) { return config.kernel.empty() && !config.disks.empty(); }

Result<std::unique_ptr<BootFiles>> read_boot_files(const MachineConfig& config, bool disks_open) {
  if (boots_from_disk(config)) return read_from_disk(config, disks_open);
  if (config.kernel.empty()) return make_error("no kernel is given: name one with --kernel");
  auto files = std::make_unique<BootFiles>();
  VERT_ASSIGN(files->kernel, read_image(config.kernel, config.memory_bytes));
  files->source.kernel_name = config.kernel;
  files->source.kernel = files->kernel;
  files->source.command_line = config.append;
  if (config.initrd.empty()) return files;
  VERT_ASSIGN(const KernelKind kind, detect_kernel(config.kernel, files->kernel));
  if (kind == KernelKind::kMultiboot)
    VERT_TRY(read_modules(*files, config));
  else
    VERT_TRY(read_module(*files, config.initrd, config.initrd, config.memory_bytes));
  return files;
}

}  // namespace vert::machine
