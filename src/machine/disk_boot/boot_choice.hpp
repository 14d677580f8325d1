// What is to be booted, before it has been read: the answer of each way to look for it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "machine/disk_boot/volumes.hpp"

namespace vert::machine::disk_boot {

/// A file that was found.
struct BootFile {
  std::string path;
  Volume* volume = nullptr;
  ExtFileSystem::File file;
};

struct BootChoice {
  BootFile kernel;
  std::vector<BootFile> initrds;  // they are loaded one behind the other
  std::string options;
  std::string source;  // for people: "grub.cfg, entry 'Debian GNU/Linux'"
};

/// The file at that path of the volume, if it is there.
[[nodiscard]] inline std::optional<BootFile> find_boot_file(Volume& volume, const std::string& path) {
  const auto file = volume.files->find(path);
  if (!file) return std::nullopt;
  return BootFile{path, &volume, *file};
}

}  // namespace vert::machine::disk_boot
