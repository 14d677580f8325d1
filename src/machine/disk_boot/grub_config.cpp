#include "machine/disk_boot/grub_config.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "machine/disk_boot/grub_script.hpp"

namespace vert::machine::disk_boot {

namespace {

constexpr std::array<const char*, 4> kFolders = {"/grub/", "/grub2/", "/boot/grub/", "/boot/grub2/"};

Variables read_environment(Volume& volume) {
  for (const std::string folder : kFolders)
    if (const auto text = volume.files->read_text(folder + "grubenv")) return parse_grub_environment(*text);
  return {};
}

/// A linux command, and the initrd command behind it.
struct LinuxCommands {
  const GrubCommand* linux = nullptr;
  const GrubCommand* initrd = nullptr;
};

bool is_command(const GrubCommand& command, std::string_view name) {
  return command[0].is(name) || command[0].is(std::string(name) + "16") ||
         command[0].is(std::string(name) + "efi");
}

/// An entry may choose, by conditions, between booting with and without an initrd: with one it is sure to
/// boot.
LinuxCommands find_commands(const GrubEntry& entry) {
  LinuxCommands first;
  LinuxCommands current;
  for (const GrubCommand& command : entry.commands) {
    if (is_command(command, "linux")) current = {&command, nullptr};
    if (is_command(command, "initrd") && current.linux != nullptr) return {current.linux, &command};
    if (first.linux == nullptr) first = current;
  }
  return first;
}

/// The number of a partition as GRUB names it: hd0,gpt2 or hd0,2.
std::optional<unsigned> partition_number(std::string_view device) {
  const auto digits = device.find_last_not_of("0123456789") + 1;
  if (!device.starts_with("hd0,") || digits == device.size()) return std::nullopt;
  unsigned number = 0;
  const auto [end, error] = std::from_chars(device.data() + digits, device.data() + device.size(), number);
  if (error != std::errc{}) return std::nullopt;
  return number;
}

class EntryReader {
 public:
  EntryReader(Volumes& volumes, Volume& own, Variables variables)
      : volumes_(volumes), root_(&own), variables_(std::move(variables)) {
    variables_["root"] = "";  // so that ($root)/path is a path without a device
  }

  Result<BootChoice> read(const GrubEntry& entry) {
    const LinuxCommands commands = find_commands(entry);
    if (commands.linux == nullptr || commands.linux->size() < 2) return make_error("boots no Linux");
    for (const GrubCommand& command : entry.commands) find_root(command);
    BootChoice choice;
    VERT_ASSIGN(const auto words, expand(*commands.linux, true));
    if (words.empty()) return make_error("names no kernel");
    VERT_ASSIGN(choice.kernel, find_file(words[0]));
    for (std::size_t i = 1; i < words.size(); ++i) choice.options += (i > 1 ? " " : "") + words[i];
    if (commands.initrd == nullptr) return choice;
    VERT_ASSIGN(const auto initrds, expand(*commands.initrd, false));
    for (const std::string& word : initrds) {
      for (const std::string& path : split_words(word)) {
        VERT_ASSIGN(auto file, find_file(path));
        choice.initrds.push_back(std::move(file));
      }
    }
    return choice;
  }

 private:
  /// The arguments, with variables replaced. One that is nothing but a variable that is not set, is no
  /// argument.
  Result<std::vector<std::string>> expand(const GrubCommand& command, bool quote) const {
    std::vector<std::string> words;
    for (const GrubWord& word : std::span(command).subspan(1)) {
      const auto text = word.expand(variables_);
      if (!text && !word.is_lone_variable())
        return make_error("uses variables that vert does not know ({})", word.source());
      if (!text || (text->empty() && !word.quoted)) continue;
      const bool one_of_several = quote && word.quoted && text->find(' ') != std::string::npos;
      words.push_back(one_of_several ? '"' + *text + '"' : *text);
    }
    return words;
  }

  void find_root(const GrubCommand& command) {
    if (command[0].is("search")) search(command);
    if (!command[0].is("set") || command.size() != 2) return;
    const std::string text = command[1].source();
    const auto number =
        text.starts_with("root=") ? partition_number(std::string_view(text).substr(5)) : std::nullopt;
    if (Volume* const found = number ? volumes_.by_number(*number) : nullptr) root_ = found;
  }

  /// search [--no-floppy] --fs-uuid|--label --set=root [--hint...=DEVICE] NAME
  void search(const GrubCommand& command) {
    bool by_uuid = false;
    bool by_label = false;
    for (const GrubWord& word : command) {
      by_uuid = by_uuid || word.is("--fs-uuid") || word.is("-u");
      by_label = by_label || word.is("--label") || word.is("-l");
      if (word.source().starts_with("--set=") && !word.is("--set=root")) return;
    }
    const auto name = command.back().expand(variables_);
    if (!name || by_uuid == by_label) return;
    if (Volume* const found = by_uuid ? volumes_.by_uuid(*name) : volumes_.by_label(*name)) root_ = found;
  }

  /// A path, with or without a device: (hd0,gpt2)/vmlinuz.
  Result<BootFile> find_file(const std::string& name) {
    Volume* volume = root_;
    std::string path = name;
    const auto end = name.find(')');
    if (name.starts_with('(') && end != std::string::npos) {
      path = name.substr(end + 1);
      const std::string device = name.substr(1, end - 1);
      if (!device.empty()) {
        const auto number = partition_number(device);
        volume = number ? volumes_.by_number(*number) : nullptr;
      }
    }
    auto file = volume != nullptr && path.starts_with('/') ? find_boot_file(*volume, path) : std::nullopt;
    if (!file) return make_error("names {}, which is not there", name);
    return std::move(*file);
  }

  Volumes& volumes_;
  Volume* root_;
  Variables variables_;
};

std::optional<BootChoice> choose_by_script(Volumes& volumes, Volume& volume, const std::string& text,
                                           std::string& note) {
  const auto script = parse_grub_script(text);
  if (!script) {
    note = "grub.cfg is malformed";
    return std::nullopt;
  }
  const Variables environment = read_environment(volume);
  const GrubEntry* const entry = grub_default(*script, environment);
  if (entry == nullptr) return std::nullopt;
  auto choice = EntryReader(volumes, volume, grub_variables(*script, environment)).read(*entry);
  if (!choice) {
    note = fmt::format("entry '{}' of grub.cfg {}", entry->title, choice.error().message);
    return std::nullopt;
  }
  choice->source = fmt::format("grub.cfg, entry '{}'", entry->title);
  return std::move(*choice);
}

}  // namespace

std::optional<BootChoice> choose_by_grub(Volumes& volumes, Volume& volume, std::string& note) {
  for (const std::string folder : kFolders)
    if (const auto text = volume.files->read_text(folder + "grub.cfg"))
      if (auto choice = choose_by_script(volumes, volume, *text, note)) return choice;
  return std::nullopt;
}

Variables read_grub_variables(Volume& volume) {
  Variables environment = read_environment(volume);
  for (const std::string folder : kFolders)
    if (const auto text = volume.files->read_text(folder + "grub.cfg"))
      if (const auto script = parse_grub_script(*text)) return grub_variables(*script, environment);
  return environment;
}

}  // namespace vert::machine::disk_boot
