#include "machine/disk_boot/boot_search.hpp"

#include <array>

#include "machine/disk_boot/boot_choice.hpp"
#include "machine/disk_boot/disk_boot.hpp"
#include "machine/disk_boot/extlinux.hpp"
#include "machine/disk_boot/grub_config.hpp"
#include "machine/disk_boot/loader_entries.hpp"
#include "machine/disk_boot/newest_kernel.hpp"

namespace vert::machine::disk_boot {

namespace {

using Method = std::optional<BootChoice> (*)(Volumes&, Volume&, std::string&);

/// What a boot loader is told to boot goes before guesses, wherever it is.
std::optional<BootChoice> choose(Volumes& volumes) {
  static constexpr std::array<Method, 3> kLoaders = {choose_by_loader_entries, choose_by_grub,
                                                     choose_by_extlinux};
  std::string note;
  for (Volume* const volume : volumes.readable())
    for (const Method method : kLoaders)
      if (auto choice = method(volumes, *volume, note)) return choice;
  for (Volume* const volume : volumes.readable()) {
    auto choice = choose_newest_kernel(volumes, *volume);
    if (!choice) continue;
    if (!note.empty()) choice->source += ", since " + note;
    return choice;
  }
  return std::nullopt;
}

u64 padded(u64 size) { return (size + 3) & ~u64{3}; }

Status check_sizes(const BootChoice& choice) {
  if (choice.kernel.file.size == 0) return make_error("{} is empty", choice.kernel.path);
  if (choice.kernel.file.size > kMaxBootFile)
    return make_error("{} has {} MiB, which is too big for a kernel", choice.kernel.path,
                      choice.kernel.file.size >> 20);
  u64 total = 0;
  for (const BootFile& initrd : choice.initrds) {
    if (initrd.file.size > kMaxBootFile || total + padded(initrd.file.size) > kMaxBootFile)
      return make_error("{} has {} MiB, which is too big for an initial RAM disk", initrd.path,
                        initrd.file.size >> 20);
    total += padded(initrd.file.size);
  }
  return {};
}

Status copy_file(const BootFile& file, ConfinedOutput& output) {
  const Status copied =
      file.volume->files->copy(file.file, [&](std::span<const u8> piece) { return output.write(piece); });
  if (!copied) return make_error("{}: {}", file.path, copied.error().message);
  return {};
}

/// Archives of an initial RAM disk begin at multiples of four bytes (Linux, driver-api/early-userspace).
Status copy_initrds(const BootChoice& choice, ConfinedOutput& output) {
  static constexpr std::array<u8, 4> kZeros{};
  for (const BootFile& initrd : choice.initrds) {
    VERT_TRY(copy_file(initrd, output));
    if (&initrd != &choice.initrds.back())
      VERT_TRY(output.write(std::span(kZeros).first(padded(initrd.file.size) - initrd.file.size)));
  }
  return {};
}

bool has_console(std::string_view options) {
  return (" " + std::string(options)).find(" console=") != std::string::npos;
}

std::string command_line(const BootChoice& choice) {
  if (has_console(choice.options)) return choice.options;
  return choice.options + (choice.options.empty() ? "" : " ") + "console=ttyS0";
}

std::string describe(const BootChoice& choice) {
  std::string text = "booting " + choice.kernel.path;
  for (const BootFile& initrd : choice.initrds)
    text += (&initrd == &choice.initrds.front() ? " with " : " and ") + initrd.path;
  return fmt::format("{} ({})", text, choice.source);
}

}  // namespace

Status search_and_copy(BlockReader& disk, ConfinedOutput& output) {
  VERT_ASSIGN(Volumes volumes, Volumes::open(disk));
  const auto choice = choose(volumes);
  if (!choice) return std::unexpected(volumes.describe_failure());
  VERT_TRY(check_sizes(*choice));
  const std::string options = command_line(*choice);
  if (options.size() > kMaxBootText)
    return make_error("the command line has {} bytes, which no kernel takes", options.size());
  VERT_TRY(copy_file(choice->kernel, output));
  output.end_section();
  VERT_TRY(copy_initrds(*choice, output));
  output.end_section();
  VERT_TRY(output.write(options));
  output.end_section();
  VERT_TRY(output.write(describe(*choice).substr(0, kMaxBootText)));
  output.end_section();
  return {};
}

}  // namespace vert::machine::disk_boot
