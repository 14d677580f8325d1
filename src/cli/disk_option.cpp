#include "cli/disk_option.hpp"

#include <map>
#include <vector>

#include "cli/text.hpp"

namespace vert::cli {
namespace {

const std::map<std::string, storage::Format> kFormats = {{"raw", storage::Format::kRaw},
                                                         {"qcow2", storage::Format::kQcow2}};
const std::map<std::string, storage::CacheMode> kCacheModes = {
    {"writeback", storage::CacheMode::kWriteback},
    {"none", storage::CacheMode::kNone},
    {"writethrough", storage::CacheMode::kWritethrough},
    {"unsafe", storage::CacheMode::kUnsafe}};

/// At single commas; two are one in a part.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool doubled = text[i] == ',' && i + 1 < text.size() && text[i + 1] == ',';
    if (text[i] == ',' && !doubled)
      parts.emplace_back();
    else
      parts.back() += text[i];
    if (doubled) ++i;
  }
  return parts;
}

template <typename Value>
Result<Value> choose(const char* what, const std::string& name, const std::map<std::string, Value>& known) {
  std::vector<std::string> names;
  for (const auto& [known_name, value] : known) names.push_back(known_name);
  VERT_TRY(check_name(what, name, names));
  return known.at(name);
}

Status apply(const std::string& option, machine::DiskConfig& disk) {
  const std::size_t equals = option.find('=');
  const std::string key = option.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : option.substr(equals + 1);
  VERT_TRY(check_name("disk option", key, {"readonly", "format", "serial", "cache"}));
  if (key == "readonly") {
    if (equals != std::string::npos && value != "on" && value != "off")
      return make_error("readonly is on or off, not '{}'", value);
    disk.image.read_only = value != "off";
  } else if (key == "format") {
    VERT_ASSIGN(disk.image.format, choose("disk format", value, kFormats));
  } else if (key == "cache") {
    VERT_ASSIGN(disk.image.cache, choose("cache mode", value, kCacheModes));
  } else if (value.empty() || value.size() > device::virtio::block::kIdSize) {
    return make_error("a serial number has 1 to {} bytes", device::virtio::block::kIdSize);
  } else {
    disk.serial = value;
  }
  return {};
}

}  // namespace

Result<machine::DiskConfig> parse_disk_option(const std::string& text) {
  const std::vector<std::string> parts = split(text);
  machine::DiskConfig disk;
  disk.path = parts.front();
  if (disk.path.empty())
    return make_error("--disk {}: name a file first, as in --disk disk.img,readonly", text);
  for (std::size_t i = 1; i < parts.size(); ++i)
    if (const Status applied = apply(parts[i], disk); !applied)
      return make_error("--disk {}: {}", text, applied.error().message);
  return disk;
}

}  // namespace vert::cli
