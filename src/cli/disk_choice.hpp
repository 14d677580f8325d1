// Which disk of which running machine a command is about. Main thread.
#pragma once

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace vert::cli {

/// A running machine of this user whose disk is that image.
struct DiskUser {
  std::string machine;
  std::string disk;  // its id
};
[[nodiscard]] std::optional<DiskUser> find_disk_of(const std::string& image);
/// The disks in a machine's answer to vm.info: that with this id, serial number or path.
[[nodiscard]] std::optional<std::string> find_disk_id(const nlohmann::json& info, const std::string& word);

}  // namespace vert::cli
