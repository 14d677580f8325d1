#include "cli/image_build.hpp"

#include <crypt.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <deque>
#include <filesystem>

#include "base/fd.hpp"
#include "cli/child_process.hpp"
#include "cli/commands.hpp"
#include "cli/file_system_times.hpp"
#include "cli/image_build_script.hpp"
#include "cli/temporary_folder.hpp"
#include "cli/text.hpp"
#include "storage/convert.hpp"
#include "storage/new_image.hpp"

namespace vert::cli {
namespace {

namespace fs = std::filesystem;

constexpr u64 kMinSize = u64{1} << 30;
constexpr u64 kMebibyte = u64{1} << 20;
constexpr u64 kPartitionOffset = u64{1} << 20;
constexpr i64 kLastTime = 0x7FFF'FFFF;  // of ext4 without its extension
/// What packages take for the present while they are installed, unless the user says. It shows in the initial
/// RAM disk and in when passwords were last changed.
constexpr i64 kInstallTime = 1'704'067'200;   // 2024
constexpr std::chrono::minutes kSilence{15};  // of mmdebstrap, on a slow network

/// What a system needs to start, to be logged in to, and to install more.
constexpr std::array kBasePackages = {
    "systemd-sysv", "systemd-resolved", "udev",           "dbus", "libpam-systemd", "kmod", "iproute2",
    "iputils-ping", "procps",           "netbase",        "less", "vim-tiny",       "zstd", "initramfs-tools",
    "e2fsprogs",    "ca-certificates",  "bash-completion"};
constexpr std::string_view kKernel = "linux-image-cloud-amd64";

constexpr std::string_view kNoMode = "unable to pick chroot mode";
constexpr std::string_view kNoModeAdvice =
    "this user may not use user namespaces: apt install uidmap and give the user lines in /etc/subuid and "
    "/etc/subgid, or apt install fakechroot fakeroot, or build as root";

constexpr std::string_view kExpired = " is expired (invalid since";

constexpr std::array kSteps = {
    BuildStep{"running apt-get update", "reading the package lists", 0},
    BuildStep{"downloading packages with apt", "downloading packages", 8},
    BuildStep{"extracting archives", "extracting packages", 18},
    BuildStep{"installing essential packages", "installing the base", 22},
    BuildStep{"installing remaining packages", "installing packages", 35},
    BuildStep{"vert: configuring", "configuring", 75},
    BuildStep{"vert: writing the disk", "writing the disk", 78},
    BuildStep{"vert: converting", "making the image smaller", 88},
};

/// Where an image is made, in the folder for temporary files. Only this user may enter it. In a user
/// namespace the script is somebody else: it enters by a descriptor that it inherits, and may do all it likes
/// in the folder inside.
class WorkFolder {
 public:
  static Result<WorkFolder> create() {
    const char* base = ::getenv("TMPDIR");
    VERT_ASSIGN(auto made,
                TemporaryFolder::create(base != nullptr && *base != 0 ? base : "/tmp", "vert-build."));
    WorkFolder folder(std::move(made));
    const std::string inner = folder.inner();
    if (::mkdir(inner.c_str(), 0700) != 0 || ::chmod(inner.c_str(), 0777) != 0)
      return make_system_error(errno, inner);
    folder.entry_ = base::Fd(::open(inner.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!folder.entry_.valid()) return make_system_error(errno, inner);
    return folder;
  }

  /// For a file that the script reads.
  [[nodiscard]] Status put(const std::string& name, std::string_view text) const {
    const std::string path = inner() + "/" + name;
    VERT_TRY(write_file(path, text));
    if (::chmod(path.c_str(), 0644) != 0) return make_system_error(errno, path);
    return {};
  }
  [[nodiscard]] std::string disk() const { return inner() + "/disk.raw"; }
  /// For a program to inherit.
  [[nodiscard]] int entry() const { return entry_.get(); }

 private:
  explicit WorkFolder(TemporaryFolder folder) : folder_(std::move(folder)) {}
  [[nodiscard]] std::string inner() const { return folder_.path() + "/shared"; }
  TemporaryFolder folder_;
  base::Fd entry_;
};

/// While it exists, signals that ask vert to end go to mmdebstrap and all that it runs, which tidy up first.
class Interruption {
 public:
  Interruption() {
    g_signal = 0;
    struct sigaction action = {};
    action.sa_handler = [](int number) {
      g_signal = number;
      if (g_group > 0) ::kill(-g_group, number);
    };
    for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &before_[i]);
  }
  ~Interruption() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  static void pass_on_to(pid_t group) {
    g_group = group;
    if (g_signal != 0 && group > 0) ::kill(-group, g_signal);  // it came before there was anybody
  }
  static Status check() {
    if (g_signal != 0) return make_error("interrupted");
    return {};
  }

 private:
  static constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};
  static inline volatile sig_atomic_t g_signal = 0;
  static inline volatile sig_atomic_t g_group = 0;
  std::array<struct sigaction, kSignals.size()> before_{};
};

/// FNV-1a, which is the same everywhere.
u64 hash_of(std::string_view text, u64 start) {
  u64 hash = 0xCBF2'9CE4'8422'2325 ^ start;
  for (const char c : text) hash = (hash ^ static_cast<u8>(c)) * 0x100'0000'01B3;
  return hash;
}

std::string shell_quoted(std::string_view text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

bool has_only(std::string_view text, std::string_view more) {
  return !text.empty() && text.front() != '-' && std::ranges::all_of(text, [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           more.find(c) != std::string_view::npos;
  });
}

Result<std::string> password_hash(const std::string& password, std::string_view inputs) {
  const std::string salt = fmt::format("$6${:016x}$", hash_of(inputs, 3));
  crypt_data data{};
  const char* const hash = ::crypt_r(password.c_str(), salt.c_str(), &data);
  if (hash == nullptr || *hash == '*') return make_error("the root password cannot be used");
  return std::string(hash);
}

Status check(const ImageBuild& build) {
  if (build.size < kMinSize || build.size % kMebibyte != 0)
    return make_error("--size: a system needs at least 1G, in whole MiB");
  if (!has_only(build.hostname, "-") || build.hostname.size() > 63)
    return make_error("--hostname {}: letters, digits and '-' only", build.hostname);
  for (const std::string& package : build.packages)
    if (!has_only(package, "+-.:=~/"))
      return make_error("--package {}: no name of a package; repeat --package for more than one", package);
  if (!has_only(build.suite, "-"))
    return make_error("--suite {}: no name of a suite, such as bookworm", build.suite);
  if (!build.mirror.empty() && !has_only(build.mirror, ":/.-_~%+@"))
    return make_error("--mirror {}: no address, such as http://deb.debian.org/debian", build.mirror);
  return {};
}

Status check_tools() {
  // mke2fs and sfdisk are in /sbin, which an ordinary user's PATH need not have.
  const auto missing = [](const std::string& tool) {
    return find_programs(tool).empty() && ::access(("/usr/sbin/" + tool).c_str(), X_OK) != 0 &&
           ::access(("/sbin/" + tool).c_str(), X_OK) != 0;
  };
  constexpr std::array<std::pair<const char*, const char*>, 3> kTools = {
      {{"mmdebstrap", "mmdebstrap"}, {"mke2fs", "e2fsprogs"}, {"sfdisk", "fdisk"}}};
  for (const auto& [tool, package] : kTools)
    if (missing(tool)) return make_error("building an image needs {}: apt install {}", tool, package);
  return {};
}

Result<std::optional<i64>> given_time() {
  const char* const given = ::getenv("SOURCE_DATE_EPOCH");
  if (given == nullptr || *given == 0) return std::nullopt;
  const std::string_view text(given);
  i64 seconds = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc{} || rest != text.data() + text.size() || seconds <= 0 || seconds > kLastTime)
    return make_error("SOURCE_DATE_EPOCH={}: not a number of seconds since 1970", text);
  return seconds;
}

std::vector<std::string> command_line(const ImageBuild& build, const WorkFolder& folder,
                                      std::optional<i64> seconds) {
  std::string packages;
  for (const std::string& package : build_packages(build))
    packages += (packages.empty() ? "" : ",") + package;
  std::vector<std::string> words = {
      "env",           fmt::format("SOURCE_DATE_EPOCH={}", seconds.value_or(kInstallTime)),
      "mmdebstrap",    "--variant=minbase",
      "--format=null", "--include=" + packages};
  // Documentation that nobody reads on a virtual machine.
  for (const char* path : {"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
                           "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*",
                           "path-exclude=/usr/share/locale/*", "path-include=/usr/share/locale/locale.alias"})
    words.push_back(std::string("--dpkgopt=") + path);
  if (build.allow_expired) words.emplace_back("--aptopt=Acquire::Check-Valid-Until \"false\"");
  // The cache: packages go into the new system's before apt looks for them, and come back.
  const std::string entry = fmt::format("/proc/self/fd/{}", folder.entry());
  const std::string archives = "/var/cache/apt/archives";
  words.insert(words.end(), {"--skip=download/empty", "--skip=essential/unlink",
                             "--setup-hook=mkdir -p \"$1\"" + archives + "/partial",
                             "--setup-hook=sync-in " + shell_quoted(build.cache) + " " + archives,
                             "--customize-hook=rm -f \"$1\"" + archives + "/lock",
                             "--customize-hook=sync-out " + archives + " " + shell_quoted(build.cache),
                             fmt::format("--customize-hook=sh {0}/customize.sh \"$1\" {0}", entry)});
  words.push_back(build.suite);
  words.emplace_back("/dev/null");
  if (!build.mirror.empty()) words.push_back(build.mirror);
  return words;
}

/// Runs mmdebstrap, and tells of its steps. Its own errors are the error.
Status install(const std::vector<std::string>& words, const WorkFolder& folder,
               const std::function<void(const BuildStep&)>& progress) {
  VERT_ASSIGN(ChildProcess child, ChildProcess::start(words, {.kept = folder.entry(), .own_group = true}));
  Interruption::pass_on_to(child.pid());
  std::string error;
  std::string_view advice;
  std::deque<std::string> last;
  while (true) {
    VERT_ASSIGN(const auto line, child.read_line(kSilence));
    if (!line) break;
    const std::string_view text = line->text;
    if (text.starts_with("E: ") && error.empty()) error = text.substr(3);
    if (text.starts_with("E: ") && text.find(kExpired) != std::string_view::npos)
      advice = "; --allow-expired accepts it";
    last.emplace_back(text);
    if (last.size() > 8) last.pop_front();
    for (const BuildStep& step : kSteps)
      if (text.starts_with("I: ") && text.substr(3).starts_with(step.line)) progress(step);
  }
  Interruption::pass_on_to(0);
  const int result = child.wait();
  VERT_TRY(Interruption::check());
  if (result == 0) return {};
  if (error.starts_with(kNoMode)) return make_error("{}", kNoModeAdvice);
  std::string context;
  for (const std::string& line : last) context += "\n  " + line;
  return make_error("mmdebstrap: {}{}{}", error.empty() ? "failed" : error, advice, context);
}

Status write_output(const ImageBuild& build, const std::string& disk) {
  VERT_ASSIGN(const auto context, storage::IoContext::create());
  VERT_ASSIGN(const auto from, context->complete(storage::open_image(
                                   *context, disk, {.format = storage::Format::kRaw, .read_only = true})));
  storage::NewImage made;
  made.format = build.format;
  made.size = build.size;
  made.qcow2.compression = storage::qcow2::CompressionType::kZstd;
  VERT_TRY(context->complete(storage::create_image(*context, build.output, made)));
  storage::ImageOptions options;
  options.format = build.format;
  VERT_ASSIGN(const auto to, context->complete(storage::open_image(*context, build.output, options)));
  storage::ConvertOptions convert_options;
  convert_options.compress = build.format == storage::Format::kQcow2;
  convert_options.in_order = true;
  convert_options.progress = [](u64, u64) { return Interruption::check().has_value(); };
  VERT_TRY(context->complete(storage::convert(*from, *to, convert_options)));
  return context->complete(to->close());
}

}  // namespace

std::span<const BuildStep> build_steps() { return kSteps; }

std::vector<std::string> build_packages(const ImageBuild& build) {
  std::vector<std::string> packages(kBasePackages.begin(), kBasePackages.end());
  const auto is_kernel = [](const std::string& name) { return name.starts_with("linux-image"); };
  if (std::ranges::none_of(build.packages, is_kernel)) packages.emplace_back(kKernel);
  if (!build.ssh_key.empty()) packages.emplace_back("openssh-server");
  packages.insert(packages.end(), build.packages.begin(), build.packages.end());
  return packages;
}

Result<std::string> build_settings(const ImageBuild& build, std::optional<i64> seconds) {
  std::string inputs =
      fmt::format("{} {} {} {}", build.suite, build.size, build.hostname, seconds.value_or(0));
  for (const std::string& package : build.packages) inputs += " " + package;
  std::string hash;
  if (build.root_password) {
    VERT_ASSIGN(hash, password_hash(*build.root_password, inputs));
  }
  std::string text;
  const auto set = [&](std::string_view name, std::string_view value) {
    text += fmt::format("{}={}\n", name, shell_quoted(value));
  };
  set("hostname", build.hostname);
  set("size", fmt::format("{}", build.size));
  set("offset", fmt::format("{}", kPartitionOffset));
  set("inputs", inputs);
  set("seconds", seconds ? fmt::format("{}", *seconds) : "");
  set("password_hash", hash);
  set("ssh_key", build.ssh_key);
  return text;
}

Status build_image(const ImageBuild& build, const std::function<void(const BuildStep&)>& progress) {
  VERT_TRY(check(build));
  VERT_TRY(check_tools());
  std::error_code failed;
  fs::create_directories(build.cache, failed);
  if (failed)
    return make_error("cannot make the folder for packages '{}': {}", build.cache, failed.message());
  VERT_ASSIGN(const auto seconds, given_time());
  const Interruption interruption;
  VERT_ASSIGN(const auto folder, WorkFolder::create());
  VERT_ASSIGN(const std::string settings, build_settings(build, seconds));
  VERT_TRY(folder.put("settings", settings));
  VERT_TRY(folder.put("customize.sh", kCustomizeScript));
  VERT_TRY(install(command_line(build, folder, seconds), folder, progress));
  progress(kSteps.back());
  VERT_TRY(settle_file_system_times(folder.disk(), kPartitionOffset));
  Status written = write_output(build, folder.disk());
  if (!written) ::unlink(build.output.c_str());
  return written;
}

}  // namespace vert::cli
