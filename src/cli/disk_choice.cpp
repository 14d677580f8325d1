#include "cli/disk_choice.hpp"

#include <filesystem>

#include "cli/machine_choice.hpp"
#include "control/client.hpp"

namespace vert::cli {

std::optional<std::string> find_disk_id(const nlohmann::json& info, const std::string& word) {
  const nlohmann::json::json_pointer pointer("/config/disks");
  if (!info.contains(pointer) || !info.at(pointer).is_array()) return std::nullopt;
  for (const nlohmann::json& disk : info.at(pointer)) {
    const std::string id = text_at(disk, "/id");
    std::error_code ignored;
    const bool is_file = std::filesystem::equivalent(text_at(disk, "/path"), word, ignored);
    if (id == word || text_at(disk, "/serial") == word || is_file) return id;
  }
  return std::nullopt;
}

std::optional<DiskUser> find_disk_of(const std::string& image) {
  const auto machines = control::living_machines();
  if (!machines) return std::nullopt;
  for (const control::LivingMachine& machine : *machines) {
    const auto info = control::call(machine.socket_path(), "GET", "vm.info", {}, std::chrono::seconds(2));
    const auto disk = info ? find_disk_id(*info, image) : std::nullopt;
    if (disk) return DiskUser{machine.name, *disk};
  }
  return std::nullopt;
}

}  // namespace vert::cli
