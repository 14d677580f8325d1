#include "cli/image_options.hpp"

#include <signal.h>
#include <sys/stat.h>

#include <charconv>
#include <cmath>
#include <filesystem>

#include "cli/text.hpp"

namespace vert::cli {
namespace {

using storage::Format;

const std::vector<std::string> kFormats = {"qcow2", "raw"};
const std::vector<std::string> kOptions = {"cluster_size",   "preallocation", "backing_file",
                                           "backing_fmt",    "compat",        "compression_type",
                                           "lazy_refcounts", "refcount_bits", "size"};
const std::vector<std::string> kRawOptions = {"preallocation", "size"};

volatile sig_atomic_t g_interrupted = 0;
struct sigaction g_before = {};

Result<bool> parse_switch(const std::string& key, const std::string& value) {
  if (value == "on") return true;
  if (value == "off") return false;
  return make_error("{} is on or off, not '{}'", key, value);
}

struct KeyValue {
  std::string key;
  std::string value;
};

/// "a=b,c=d,,e": a is "b", c is "d,e".
Result<std::vector<KeyValue>> split_options(const std::string& text) {
  std::vector<KeyValue> found;
  std::string word;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const bool doubled = i + 1 < text.size() && text[i] == ',' && text[i + 1] == ',';
    if (i < text.size() && (text[i] != ',' || doubled)) {
      word += text[i];
      if (doubled) ++i;
      continue;
    }
    if (word.empty() && i == text.size()) break;
    const auto equals = word.find('=');
    if (equals == std::string::npos) return make_error("-o wants NAME=VALUE, and got '{}'", word);
    found.push_back({word.substr(0, equals), word.substr(equals + 1)});
    word.clear();
  }
  return found;
}

Status set_option(const std::string& key, const std::string& value, CreationOptions& options) {
  auto& qcow2 = options.image.qcow2;
  if (key == "size") {
    VERT_ASSIGN(options.size, parse_image_size(value));
  } else if (key == "preallocation") {
    const bool whole = options.image.format == Format::kRaw;
    const std::string on = whole ? "falloc" : "metadata";
    if (value != "off" && value != on) return make_error("preallocation is off or {}, not '{}'", on, value);
    options.image.preallocate = value != "off";
  } else if (key == "cluster_size") {
    VERT_ASSIGN(qcow2.cluster_size, parse_image_size(value));
  } else if (key == "backing_file") {
    qcow2.backing_file = value;
  } else if (key == "backing_fmt") {
    VERT_TRY(parse_format(value));
    qcow2.backing_format = value;
  } else if (key == "compat") {
    if (value != "0.10" && value != "v2" && value != "1.1" && value != "v3")
      return make_error("compat is 1.1 or 0.10, not '{}'", value);
    qcow2.version = value == "0.10" || value == "v2" ? 2 : 3;
  } else if (key == "compression_type") {
    if (value != "zlib" && value != "zstd")
      return make_error("compression_type is zlib or zstd, not '{}'", value);
    qcow2.compression =
        value == "zstd" ? storage::qcow2::CompressionType::kZstd : storage::qcow2::CompressionType::kZlib;
  } else if (key == "lazy_refcounts") {
    VERT_ASSIGN(qcow2.lazy_refcounts, parse_switch(key, value));
  } else {
    VERT_ASSIGN(const u64 bits, parse_image_size(value));
    if (bits > 64) return make_error("refcount_bits is at most 64");
    qcow2.refcount_bits = static_cast<unsigned>(bits);
  }
  return {};
}

}  // namespace

Result<Format> parse_format(const std::string& name) {
  VERT_TRY(check_name("format", name, kFormats));
  return name == "raw" ? Format::kRaw : Format::kQcow2;
}

const char* format_name(Format format) { return format == Format::kRaw ? "raw" : "qcow2"; }

Result<Format> new_format(const std::string& name, const std::string& path) {
  if (!name.empty()) return parse_format(name);
  return path.ends_with(".raw") || path.ends_with(".img") ? Format::kRaw : Format::kQcow2;
}

Result<u64> parse_image_size(const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  const auto refused = [&] { return make_error("'{}' is not a size; write 512M, 10G or 1.5T", text); };
  if (error != std::errc{} || !(number >= 0)) return refused();
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  unsigned shift = 0;
  if (!unit.empty() && unit != "b" && unit != "B") {
    const auto position = std::string_view("KMGTPE").find(static_cast<char>(unit[0] & ~0x20));
    const std::string_view tail = unit.substr(1);
    if (position == std::string_view::npos || !(tail.empty() || tail == "B" || tail == "iB"))
      return refused();
    shift = 10 * (static_cast<unsigned>(position) + 1);
  }
  const double bytes = std::ldexp(number, static_cast<int>(shift));
  if (bytes >= std::ldexp(1.0, 62)) return make_error("{} is too large", text);
  return static_cast<u64>(bytes);
}

Result<u64> parse_new_size(const std::string& text, u64 now) {
  const bool more = text.starts_with("+");
  const bool less = text.starts_with("-");
  VERT_ASSIGN(const u64 number, parse_image_size(more || less ? text.substr(1) : text));
  if (less && number > now) return make_error("it has only {}", format_size(now));
  const u64 size = more ? now + number : less ? now - number : number;
  return (size + 511) / 512 * 512;
}

Result<CreationOptions> parse_creation_options(const std::string& text, Format format) {
  CreationOptions options;
  options.image.format = format;
  VERT_ASSIGN(const auto pairs, split_options(text));
  for (const auto& [key, value] : pairs) {
    VERT_TRY(check_name(format == Format::kRaw ? "option for raw images" : "option", key,
                        format == Format::kRaw ? kRawOptions : kOptions));
    VERT_TRY(set_option(key, value, options));
  }
  return options;
}

Result<std::unique_ptr<storage::Image>> open_backing(storage::IoContext& context, const Backing& backing,
                                                     const std::string& overlay, storage::NewImage& image) {
  if (image.format == Format::kRaw) return make_error("a raw image cannot have a backing file; use qcow2");
  storage::ImageOptions options;
  options.read_only = true;
  if (!backing.format.empty()) {
    VERT_ASSIGN(options.format, parse_format(backing.format));
  }
  // As it will be found from the image.
  const std::filesystem::path folder = std::filesystem::path(overlay).parent_path();
  const std::string path = backing.name.starts_with("/") ? backing.name : (folder / backing.name).string();
  auto opened = context.complete(open_image(context, path, options));
  if (!opened && opened.error().system_error == ENOENT && !folder.empty())
    return make_error("{} (a backing file's name starts at the folder of '{}')", opened.error().message,
                      overlay);
  if (!opened) return opened;
  image.qcow2.backing_file = backing.name;
  image.qcow2.backing_format = format_name((*opened)->format());
  return opened;
}

Status check_new(const std::string& path, bool force) {
  struct stat info = {};
  if (force || ::stat(path.c_str(), &info) != 0) return {};
  return make_error("'{}' exists; choose another name, or overwrite it with --force", path);
}

Result<std::unique_ptr<storage::qcow2::Qcow2Image>> open_qcow2(storage::IoContext& context,
                                                               const std::string& path,
                                                               const storage::qcow2::OpenOptions& options,
                                                               const std::string& format, const char* what) {
  if (!format.empty()) {
    VERT_ASSIGN(const auto named, parse_format(format));
    if (named == Format::kRaw) return make_error("raw images have no {}", what);
  }
  storage::FileOptions file_options;
  file_options.read_only = options.image.read_only;
  VERT_ASSIGN(auto file, storage::ImageFile::open(context, path, file_options));
  VERT_ASSIGN(const auto found, context.complete(storage::file_format(*file)));
  if (found == Format::kRaw) return make_error("'{}' is a raw image, which has no {}", path, what);
  return context.complete(storage::qcow2::Qcow2Image::open(context, std::move(file), options));
}

ImageProgress::ImageProgress() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_interrupted = 1; };
  ::sigaction(SIGINT, &action, &g_before);
}

ImageProgress::~ImageProgress() { ::sigaction(SIGINT, &g_before, nullptr); }

bool ImageProgress::show(u64 done, u64 total) {
  constexpr std::size_t kWidth = 30;
  const u64 percent =
      total == 0 ? 100 : static_cast<u64>(static_cast<double>(done) / static_cast<double>(total) * 100);
  const std::size_t filled = kWidth * percent / 100;
  line_.show(fmt::format("  [{}{}] {:>3}%  {} of {}", std::string(filled, '#'),
                         std::string(kWidth - filled, ' '), percent, format_size(done), format_size(total)));
  return g_interrupted == 0;
}

}  // namespace vert::cli
