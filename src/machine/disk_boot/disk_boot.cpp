#include "machine/disk_boot/disk_boot.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "machine/disk_boot/boot_search.hpp"
#include "machine/disk_boot/confined_child.hpp"

namespace vert::machine::disk_boot {

namespace {

/// Both are shown to people and written as JSON.
std::string printable(const std::vector<u8>& bytes) {
  std::string text(bytes.begin(), bytes.end());
  std::ranges::replace_if(
      text, [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

}  // namespace

Result<DiskBoot> find_disk_boot(BlockReader& disk, const std::string& name) {
  Confinement confinement;
  confinement.section_limits = {kMaxBootFile, kMaxBootFile, kMaxBootText, kMaxBootText};
  auto answer = run_confined(confinement, disk, search_and_copy);
  if (!answer) return make_error("{}: {}: name a kernel with --kernel", name, answer.error().message);
  if (!answer->missing.empty())
    base::log(base::LogLevel::kDebug, "{}: read in a child process that this host does not fully confine: {}",
              name, answer->missing);
  auto& sections = answer->sections;
  return DiskBoot{std::move(sections[0]), std::move(sections[1]), printable(sections[2]),
                  printable(sections[3])};
}

}  // namespace vert::machine::disk_boot
