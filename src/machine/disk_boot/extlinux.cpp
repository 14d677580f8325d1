#include "machine/disk_boot/extlinux.hpp"

#include <algorithm>

#include "machine/disk_boot/config_text.hpp"

namespace vert::machine::disk_boot {

namespace {

struct Label {
  std::string name;
  std::string title;
  std::string kernel;
  std::vector<std::string> initrds;
  std::optional<std::string> append;
};

struct Config {
  std::string default_name;
  std::string append;  // for labels without one
  std::vector<Label> labels;
};

std::vector<std::string> split_list(std::string list) {
  std::ranges::replace(list, ',', ' ');
  return split_words(list);
}

void add_menu_line(const std::string& text, Config& config) {
  const std::vector<ConfigLine> line = config_lines(text);
  if (line.empty() || config.labels.empty()) return;
  if (line[0].key == "default") config.default_name = config.labels.back().name;
  if (line[0].key == "label") {
    config.labels.back().title = line[0].value;
    std::erase(config.labels.back().title, '^');  // marks the key for it
  }
}

void add_label_line(const ConfigLine& line, Label& label) {
  if (line.key == "kernel" || line.key == "linux") label.kernel = line.value;
  if (line.key == "initrd") label.initrds = split_list(line.value);
  if (line.key == "append") label.append = line.value;
}

Config parse(std::string_view text) {
  Config config;
  for (const ConfigLine& line : config_lines(text)) {
    if (line.key == "default" && config.default_name.empty())
      config.default_name = line.value;
    else if (line.key == "label")
      config.labels.push_back(
          {.name = line.value, .title = line.value, .kernel = {}, .initrds = {}, .append = {}});
    else if (line.key == "menu")
      add_menu_line(line.value, config);
    else if (!config.labels.empty())
      add_label_line(line, config.labels.back());
    else if (line.key == "append")
      config.append = line.value;
  }
  return config;
}

const Label* find_default(const Config& config) {
  const auto named = std::ranges::find(config.labels, config.default_name, &Label::name);
  if (named != config.labels.end()) return &*named;
  return config.labels.empty() ? nullptr : &config.labels.front();
}

/// Relative paths begin where the configuration is.
Result<BootFile> find_file(Volume& volume, const std::string& folder, const std::string& name) {
  auto file = find_boot_file(volume, name.starts_with('/') ? name : folder + name);
  if (!file) return make_error("names {}, which is not there", name);
  return std::move(*file);
}

/// The options without "initrd=FILE", by which an initrd may be named, too.
std::string take_initrds(const std::string& append, std::vector<std::string>& initrds) {
  std::string options;
  for (const std::string& word : split_words(append)) {
    if (word.starts_with("initrd=") && initrds.empty())
      initrds = split_list(word.substr(7));
    else
      options += (options.empty() ? "" : " ") + word;
  }
  return options;
}

Result<BootChoice> read_label(Volume& volume, const std::string& folder, const Config& config,
                              const Label& label) {
  if (label.kernel.empty()) return make_error("names no kernel");
  BootChoice choice;
  VERT_ASSIGN(choice.kernel, find_file(volume, folder, label.kernel));
  std::vector<std::string> initrds = label.initrds;
  const std::string append = label.append.value_or(config.append);
  choice.options = take_initrds(append == "-" ? "" : append, initrds);
  for (const std::string& name : initrds) {
    VERT_ASSIGN(auto file, find_file(volume, folder, name));
    choice.initrds.push_back(std::move(file));
  }
  return choice;
}

}  // namespace

std::optional<BootChoice> choose_by_extlinux(Volumes& /*volumes*/, Volume& volume, std::string& note) {
  for (const std::string folder :
       {"/extlinux/", "/", "/syslinux/", "/boot/extlinux/", "/boot/", "/boot/syslinux/"}) {
    for (const std::string name : {"extlinux.conf", "syslinux.cfg"}) {
      const auto text = volume.files->read_text(folder + name);
      if (!text) continue;
      const Config config = parse(*text);
      const Label* const label = find_default(config);
      if (label == nullptr) continue;
      auto choice = read_label(volume, folder, config, *label);
      if (choice) {
        choice->source = fmt::format("{}, entry '{}'", name, label->title);
        return std::move(*choice);
      }
      note = fmt::format("entry '{}' of {} {}", label->title, name, choice.error().message);
    }
  }
  return std::nullopt;
}

}  // namespace vert::machine::disk_boot
