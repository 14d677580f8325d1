#include "machine/disk_boot/newest_kernel.hpp"

#include <algorithm>
#include <array>
#include <sstream>

#include "machine/disk_boot/version_order.hpp"

namespace vert::machine::disk_boot {

namespace {

constexpr std::string_view kKernelPrefix = "vmlinuz-";

/// What package managers and editors leave behind, and rescue kernels, are no candidates.
bool is_leftover(std::string_view name) {
  static constexpr std::array<std::string_view, 7> kEndings = {".old", ".bak",     "~",      ".dpkg-tmp",
                                                               ".sig", ".rpmsave", ".rpmnew"};
  return name.find("rescue") != std::string_view::npos || name.find(".dpkg-") != std::string_view::npos ||
         std::ranges::any_of(kEndings, [&](std::string_view ending) { return name.ends_with(ending); });
}

/// The versions of the kernels in that folder, newest first.
std::vector<std::string> kernel_versions(Volume& volume, const std::string& folder) {
  std::vector<std::string> versions;
  for (const std::string& name : volume.files->list(folder))
    if (name.starts_with(kKernelPrefix) && !is_leftover(name))
      versions.push_back(name.substr(kKernelPrefix.size()));
  std::ranges::stable_sort(versions, [](const std::string& a, const std::string& b) {
    return compare_versions(a, b) == std::strong_ordering::greater;
  });
  return versions;
}

void add_initrd(BootChoice& choice, Volume& volume, const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    if (auto found = find_boot_file(volume, path)) {
      choice.initrds.push_back(std::move(*found));
      return;
    }
  }
}

/// Debian, Fedora, Arch, SUSE and Alpine, in this order.
std::vector<std::string> initrd_paths(const std::string& folder, const std::string& version) {
  return {folder + "initrd.img-" + version, folder + "initramfs-" + version + ".img",
          folder + "initrd-" + version, folder + "initramfs-" + version};
}

std::optional<BootChoice> find_kernel(Volume& volume) {
  BootChoice choice;
  for (const std::string folder : {"/boot/", "/"}) {
    for (const std::string& version : kernel_versions(volume, folder)) {
      auto kernel = find_boot_file(volume, fmt::format("{}{}{}", folder, kKernelPrefix, version));
      if (!kernel) continue;
      choice.kernel = std::move(*kernel);
      add_initrd(choice, volume, initrd_paths(folder, version));
      return choice;
    }
  }
  for (const std::string folder : {"/", "/boot/"}) {
    auto kernel = find_boot_file(volume, folder + "vmlinuz");
    if (!kernel) continue;
    choice.kernel = std::move(*kernel);
    add_initrd(choice, volume, {folder + "initrd.img", folder + "initrd", folder + "initramfs.img"});
    return choice;
  }
  return std::nullopt;
}

/// What /etc/fstab mounts at /; empty if it does not say.
std::string fstab_root(const Volume& root) {
  const auto text = root.files != nullptr ? root.files->read_text("/etc/fstab") : std::nullopt;
  if (!text) return "";
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string device;
    std::string target;
    if (words >> device >> target && !device.starts_with('#') && target == "/") return device;
  }
  return "";
}

/// Names that hold on every machine; /dev/sda1 may be another disk's in vert.
bool is_stable_name(std::string_view device) {
  static constexpr std::array<std::string_view, 6> kBeginnings = {
      "UUID=", "PARTUUID=", "LABEL=", "PARTLABEL=", "/dev/mapper/", "/dev/disk/by-"};
  return std::ranges::any_of(kBeginnings, [&](std::string_view start) { return device.starts_with(start); });
}

/// The value for root=. Without an initrd the kernel itself must understand it.
std::string root_device(const Volume& root, bool has_initrd) {
  std::string device = fstab_root(root);
  std::erase(device, '"');
  if (device.starts_with("PARTUUID=") || (has_initrd && is_stable_name(device))) return device;
  if (root.partition) return "PARTUUID=" + root.partition->uuid;
  return has_initrd && root.files != nullptr ? "UUID=" + root.files->uuid() : "/dev/vda";
}

}  // namespace

std::optional<BootChoice> choose_newest_kernel(Volumes& volumes, Volume& volume) {
  auto choice = find_kernel(volume);
  if (!choice) return std::nullopt;
  choice->source = fmt::format("the newest kernel on {}", volume.place());
  if (const Volume* const root = volumes.root(volume))
    choice->options = fmt::format("root={} ro", root_device(*root, !choice->initrds.empty()));
  else
    choice->source += ", no root file system found: name it with --append root=...";
  return choice;
}

}  // namespace vert::machine::disk_boot
