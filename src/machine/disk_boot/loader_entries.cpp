#include "machine/disk_boot/loader_entries.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <tuple>

#include "machine/disk_boot/config_text.hpp"
#include "machine/disk_boot/grub_config.hpp"
#include "machine/disk_boot/version_order.hpp"

namespace vert::machine::disk_boot {

namespace {

constexpr std::size_t kMaxEntries = 1000;
constexpr std::string_view kEnding = ".conf";

struct Entry {
  std::string id;       // the file's name without .conf and boot counter
  bool failed = false;  // its boot counter has run out
  std::string title;
  std::string version;
  std::string machine_id;
  std::string sort_key;
  std::string linux;
  std::vector<std::string> initrds;
  std::string options;
};

/// NAME[+LEFT[-DONE]]: how many attempts to boot it are left.
void parse_name(std::string_view name, Entry& entry) {
  name.remove_suffix(kEnding.size());
  const auto plus = name.rfind('+');
  const bool counted = plus != std::string_view::npos && plus + 1 < name.size() &&
                       name.find_first_not_of("0123456789-", plus + 1) == std::string_view::npos;
  entry.id = name.substr(0, counted ? plus : name.size());
  if (counted) {
    const std::string_view left = name.substr(plus + 1, name.find('-', plus) - plus - 1);
    entry.failed = left.find_first_not_of('0') == std::string_view::npos;
  }
}

std::optional<Entry> parse_entry(std::string_view name, std::string_view text) {
  Entry entry;
  parse_name(name, entry);
  for (auto& [key, value] : config_lines(text)) {
    if (key == "title") entry.title = value;
    if (key == "version") entry.version = value;
    if (key == "machine-id") entry.machine_id = lower_case(value);
    if (key == "sort-key") entry.sort_key = value;
    if (key == "linux") entry.linux = value;
    if (key == "options") entry.options += (entry.options.empty() ? "" : " ") + value;
    if (key == "architecture" && lower_case(value) != "x64") return std::nullopt;
    if (key == "initrd") std::ranges::copy(split_words(value), std::back_inserter(entry.initrds));
  }
  if (entry.linux.empty()) return std::nullopt;  // an EFI program
  if (entry.title.empty()) entry.title = entry.id;
  return entry;
}

/// As the specification has it under "Sorting": what goes first in the menu is booted.
bool goes_before(const Entry& a, const Entry& b) {
  if (a.failed != b.failed) return b.failed;
  if (a.sort_key.empty() != b.sort_key.empty()) return b.sort_key.empty();
  if (!a.sort_key.empty()) {
    if (a.sort_key != b.sort_key) return a.sort_key < b.sort_key;
    if (a.machine_id != b.machine_id) return a.machine_id < b.machine_id;
    const auto order = compare_versions(a.version, b.version);
    if (order != std::strong_ordering::equal) return order == std::strong_ordering::greater;
  }
  return compare_versions(a.id, b.id) == std::strong_ordering::greater;
}

std::vector<Entry> read_entries(Volume& volume, const std::string& folder) {
  std::vector<Entry> entries;
  for (const std::string& name : volume.files->list(folder)) {
    if (!name.ends_with(kEnding) || entries.size() >= kMaxEntries) continue;
    const auto text = volume.files->read_text(folder + "/" + name);
    if (!text) continue;
    if (auto entry = parse_entry(name, *text)) entries.push_back(std::move(*entry));
  }
  std::ranges::stable_sort(entries, goes_before);
  return entries;
}

/// The pattern of loader.conf, or what grubby has noted for Fedora's GRUB.
std::string default_pattern(Volume& volume, const std::string& base, const Variables& variables) {
  if (const auto text = volume.files->read_text(base + "/loader/loader.conf"))
    for (const auto& [key, value] : config_lines(*text))
      if (key == "default" && !value.empty() && !value.starts_with('@')) return value;
  const auto saved = variables.find("saved_entry");
  return saved != variables.end() ? saved->second : "";
}

bool matches(const Entry& entry, const std::string& pattern) {
  return entry.id == pattern || ::fnmatch(pattern.c_str(), entry.id.c_str(), FNM_CASEFOLD) == 0 ||
         ::fnmatch(pattern.c_str(), (entry.id + std::string(kEnding)).c_str(), FNM_CASEFOLD) == 0;
}

/// Fedora's entries may leave options to GRUB's variables. Other words with a '$' are meant as they are.
Result<std::string> expand(const std::string& text, const Variables& variables) {
  std::string expanded;
  for (std::string word : split_words(text)) {
    if (word.starts_with('$') && word.size() > 1) {
      const bool braced = word.starts_with("${") && word.ends_with('}');
      const std::string name = braced ? word.substr(2, word.size() - 3) : word.substr(1);
      auto value = variables.find(name);
      if (value == variables.end() && name == "kernelopts") value = variables.find("default_kernelopts");
      if (value == variables.end() && name == "kernelopts") return make_error("leaves its options to GRUB");
      word = value != variables.end() ? value->second : "";
    }
    if (!word.empty()) expanded += (expanded.empty() ? "" : " ") + word;
  }
  return expanded;
}

class EntryReader {
 public:
  EntryReader(Volume& volume, std::string base, Variables variables)
      : volume_(volume), base_(std::move(base)), variables_(std::move(variables)) {}

  Result<BootChoice> read(const Entry& entry) const {
    BootChoice choice;
    VERT_ASSIGN(choice.kernel, find_file(entry.linux));
    for (const std::string& initrd : entry.initrds) {
      VERT_ASSIGN(const std::string names, expand(initrd, variables_));
      for (const std::string& name : split_words(names)) {
        VERT_ASSIGN(auto file, find_file(name));
        choice.initrds.push_back(std::move(file));
      }
    }
    VERT_ASSIGN(choice.options, expand(entry.options, variables_));
    choice.source = fmt::format("loader entry '{}'", entry.title);
    return choice;
  }

 private:
  /// Paths begin at the file system's root; some tools write them as from the folder that has loader/.
  Result<BootFile> find_file(const std::string& name) const {
    const std::string path = name.starts_with('/') ? name : "/" + name;
    if (auto file = find_boot_file(volume_, path)) return std::move(*file);
    if (auto file = find_boot_file(volume_, base_ + path)) return std::move(*file);
    return make_error("names {}, which is not there", name);
  }

  Volume& volume_;
  std::string base_;
  Variables variables_;
};

std::optional<BootChoice> choose_in(Volume& volume, const std::string& base, std::string& note) {
  std::vector<Entry> entries = read_entries(volume, base + "/loader/entries");
  if (entries.empty()) return std::nullopt;
  const Variables variables = read_grub_variables(volume);
  if (const std::string pattern = default_pattern(volume, base, variables); !pattern.empty())
    std::stable_partition(entries.begin(), entries.end(),
                          [&](const Entry& entry) { return matches(entry, pattern); });
  const EntryReader reader(volume, base, variables);
  for (const Entry& entry : entries) {
    auto choice = reader.read(entry);
    if (choice) return std::move(*choice);
    if (note.empty()) note = fmt::format("loader entry '{}' {}", entry.title, choice.error().message);
  }
  return std::nullopt;
}

}  // namespace

std::optional<BootChoice> choose_by_loader_entries(Volumes& /*volumes*/, Volume& volume, std::string& note) {
  for (const std::string base : {"", "/boot"})
    if (auto choice = choose_in(volume, base, note)) return choice;
  return std::nullopt;
}

}  // namespace vert::machine::disk_boot
