// The newc format, as Linux's Documentation/driver-api/early-userspace/buffer-format.rst has it.
#include "cli/initramfs.hpp"

#include <sys/stat.h>

#include "base/fd.hpp"

namespace vert::cli {
namespace {

std::span<const u8> as_bytes(std::string_view text) {
  return {reinterpret_cast<const u8*>(text.data()), text.size()};
}

}  // namespace

void Initramfs::add_folder(std::string_view name) { add(name, S_IFDIR | 0755, {}); }

void Initramfs::add_file(std::string_view name, std::span<const u8> content, bool executable) {
  add(name, S_IFREG | (executable ? 0755U : 0644U), content);
}

void Initramfs::add_text(std::string_view name, std::string_view content, bool executable) {
  add_file(name, as_bytes(content), executable);
}

void Initramfs::add_link(std::string_view name, std::string_view target) {
  add(name, S_IFLNK | 0777, as_bytes(target));
}

Status Initramfs::add_host_file(std::string_view name, const std::string& path, bool executable) {
  VERT_ASSIGN(const auto content, base::read_file(path));
  add_file(name, content, executable);
  return {};
}

std::vector<u8> Initramfs::finish() && {
  next_inode_ = 0;
  add("TRAILER!!!", 0, {});
  return std::move(bytes_);
}

void Initramfs::add(std::string_view name, u32 mode, std::span<const u8> content) {
  // Fields: inode, mode, uid, gid, links, mtime, size, device, device number, name's size with NUL, checksum.
  const std::string header =
      fmt::format("070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
                  next_inode_++, mode, 0, 0, 1, 0, content.size(), 0, 0, 0, 0, name.size() + 1, 0);
  const auto append = [this](std::span<const u8> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  };
  append(as_bytes(header));
  append(as_bytes(name));
  bytes_.push_back(0);
  pad();
  append(content);
  pad();
}

void Initramfs::pad() { bytes_.resize((bytes_.size() + 3) / 4 * 4); }

}  // namespace vert::cli
