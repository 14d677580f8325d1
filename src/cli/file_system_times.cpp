#include "cli/file_system_times.hpp"

extern "C" {  // et/com_err.h does not say so itself
#include <et/com_err.h>
}
#include <ext2fs/ext2fs.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

namespace vert::cli {
namespace {

using FileSystem = std::unique_ptr<std::remove_pointer_t<ext2_filsys>, decltype(&ext2fs_free)>;
using Scan = std::unique_ptr<std::remove_pointer_t<ext2_inode_scan>, decltype(&ext2fs_close_inode_scan)>;

std::unexpected<Error> failed(const std::string& disk, errcode_t code) {
  return make_error("{}: {}", disk, ::error_message(code));
}

void settle(ext2_inode_large& inode, u32 now) {
  inode.i_atime = now;
  inode.i_ctime = now;
  inode.i_mtime = std::min<u32>(inode.i_mtime, now);
  if (inode.i_extra_isize < offsetof(ext2_inode_large, i_crtime_extra) - EXT2_GOOD_OLD_INODE_SIZE) return;
  inode.i_atime_extra = 0;
  inode.i_ctime_extra = 0;
  inode.i_mtime_extra = 0;
  inode.i_crtime = now;
}

errcode_t settle_all(ext2_filsys system) {
  ext2_inode_scan opened = nullptr;
  if (const errcode_t code = ext2fs_open_inode_scan(system, 0, &opened); code != 0) return code;
  const Scan scan(opened, &ext2fs_close_inode_scan);
  const auto size = static_cast<std::size_t>(EXT2_INODE_SIZE(system->super));
  std::vector<char> buffer(std::max(size, sizeof(ext2_inode_large)));
  auto* const inode = reinterpret_cast<ext2_inode_large*>(buffer.data());
  auto* const head = reinterpret_cast<ext2_inode*>(buffer.data());
  for (;;) {
    ext2_ino_t number = 0;
    errcode_t code = ext2fs_get_next_inode_full(opened, &number, head, static_cast<int>(size));
    if (code != 0 || number == 0) return code;
    if (inode->i_links_count == 0) continue;
    settle(*inode, system->super->s_mkfs_time);
    code = ext2fs_write_inode_full(system, number, head, static_cast<int>(size));
    if (code != 0) return code;
  }
}

}  // namespace

Status settle_file_system_times(const std::string& disk, u64 offset) {
  ext2_filsys opened = nullptr;
  const std::string options = fmt::format("offset={}", offset);
  errcode_t code = ext2fs_open2(disk.c_str(), options.c_str(), EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0,
                                unix_io_manager, &opened);
  if (code != 0) return failed(disk, code);
  FileSystem system(opened, &ext2fs_free);
  opened->now = opened->super->s_mkfs_time;
  code = settle_all(opened);
  if (code == 0) code = ext2fs_close(system.release());
  if (code != 0) return failed(disk, code);
  return {};
}

}  // namespace vert::cli
