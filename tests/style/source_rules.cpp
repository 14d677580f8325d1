// The layer graph of ARCHITECTURE.md as a table, and the check of each file against it.
#include "style/source_rules.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string_view>

namespace vert::style {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxLines = 800;

/// What each layer may include besides itself. A folder of src/ that is not here is a violation.
const std::map<std::string, std::set<std::string>>& layers() {
  static const std::map<std::string, std::set<std::string>> kLayers = {
      {"base", {}},
      {"x86", {"base"}},
      {"memory", {"base", "x86"}},
      {"cpu", {"base", "x86", "memory"}},
      {"engine/interp", {"base", "x86", "memory", "cpu"}},
      {"engine/bt", {"base", "x86", "memory", "cpu"}},
      {"engine/kvm", {"base", "x86", "memory", "cpu"}},
      {"storage", {"base"}},
      {"device", {"base", "x86", "memory", "cpu", "storage"}},
      {"machine",
       {"base", "x86", "memory", "cpu", "engine/interp", "engine/bt", "engine/kvm", "storage", "device"}},
      {"control", {"base", "x86", "memory", "cpu", "machine"}},
      {"cli", {"base", "x86", "memory", "cpu", "storage", "device", "machine", "control"}},
  };
  return kLayers;
}

/// The layer of a path below src/: its first part, or two for an engine. Files that lie directly in engine/
/// belong to no layer.
std::string layer_of(const fs::path& path) {
  auto part = path.begin();
  std::string layer = part->string();
  if (layer == "engine" && ++part != path.end()) layer += "/" + part->string();
  return layer;
}

struct Include {
  std::string name;
  bool quoted = false;
};

std::optional<Include> parse_include(const std::string& line) {
  static const std::regex kInclude(R"re(^\s*#\s*include\s*([<"])([^>"]+)[>"].*)re");
  std::smatch match;
  if (!std::regex_match(line, match, kInclude)) return std::nullopt;
  return Include{match[2].str(), match[1].str() == "\""};
}

/// Headers that the pure layer x86/ must do without: what POSIX and Linux add to the language.
bool is_os_header(const std::string& name) {
  static const std::set<std::string> kNames = {
      "unistd.h", "fcntl.h", "pthread.h", "signal.h",   "poll.h",    "termios.h",
      "dirent.h", "sched.h", "dlfcn.h",   "ucontext.h", "netdb.h",   "spawn.h",
      "syslog.h", "thread",  "mutex",     "fstream",    "filesystem"};
  static constexpr std::array<std::string_view, 6> kFolders = {"sys/", "linux/",   "asm/",
                                                               "net/", "netinet/", "arpa/"};
  return kNames.contains(name) ||
         std::ranges::any_of(kFolders, [&](std::string_view folder) { return name.starts_with(folder); });
}

class FileCheck {
 public:
  FileCheck(const fs::path& root, const fs::path& file, std::vector<std::string>& found)
      : file_(file.lexically_relative(root)), found_(found) {
    const fs::path below_src = file_.lexically_relative("src");
    in_src_ = !below_src.empty() && *below_src.begin() != "..";
    if (in_src_ && std::distance(below_src.begin(), below_src.end()) > 1) layer_ = layer_of(below_src);
  }

  void run(const fs::path& path) {
    std::ifstream in(path);
    std::string line;
    bool code_seen = false;
    while (std::getline(in, line)) {
      ++line_;
      const auto first = line.find_first_not_of(" \t");
      if (!code_seen && first != std::string::npos) {
        code_seen = true;
        if (!is_head(line.substr(first)))
          report("the file does not begin with a comment that says what it is");
      }
      if (const auto include = parse_include(line)) check_include(*include);
    }
    if (line_ > kMaxLines) report("longer than " + std::to_string(kMaxLines) + " lines; it hides two files");
  }

  void check_layer() {
    if (in_src_ && !layers().contains(layer_)) report("the folder has no place in the layer graph");
  }

 private:
  /// A comment, or the include of the header that bears the same name and so the head for both.
  [[nodiscard]] bool is_head(const std::string& line) const {
    if (line.starts_with("//") || line.starts_with("/*") || line.starts_with("#!")) return true;
    if (file_.extension() == ".S" && line.starts_with("# ")) return true;
    const auto include = parse_include(line);
    const std::string stem = file_.stem().string();
    const std::string tested = stem.ends_with("_test") ? stem.substr(0, stem.size() - 5) : stem;
    return include && include->quoted && fs::path(include->name).filename() == tested + ".hpp";
  }

  void check_include(const Include& include) {
    if (include.name == "linux/kvm.h" && layer_ != "engine/kvm") {
      report("only src/engine/kvm may include <linux/kvm.h>");
    }
    if (layer_ == "x86" && is_os_header(include.name))
      report("x86/ is pure, it must not include " + include.name);
    if (!in_src_ || !include.quoted || include.name.find('/') == std::string::npos) return;
    const std::string target = layer_of(include.name);
    const auto own = layers().find(layer_);
    if (target == layer_ || own == layers().end() || own->second.contains(target)) return;
    report(layer_ + " must not include " + include.name);
  }

  void report(const std::string& what) {
    found_.push_back(file_.string() + ":" + std::to_string(line_) + ": " + what);
  }

  fs::path file_;
  std::vector<std::string>& found_;
  std::string layer_;
  bool in_src_ = false;
  std::size_t line_ = 0;
};

bool is_source(const fs::path& path) {
  static const std::set<std::string> kExtensions = {".cpp", ".hpp", ".c", ".h", ".S", ".inc", ".sh"};
  return kExtensions.contains(path.extension().string());
}

}  // namespace

std::vector<std::string> violations(const fs::path& root) {
  std::vector<std::string> found;
  for (const char* folder : {"src", "bench", "tests", "os"}) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      FileCheck check(root, entry.path(), found);
      check.check_layer();
      check.run(entry.path());
    }
  }
  std::ranges::sort(found);
  return found;
}

}  // namespace vert::style
