// `vert image build`: a disk image of a distribution, made from its packages.
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>

#include "cli/host.hpp"
#include "cli/image_build.hpp"
#include "cli/image_commands.hpp"
#include "cli/image_options.hpp"
#include "cli/text.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  A Debian that root logs in to without a password, and how to run it:
    vert image build debian -o debian.qcow2
    vert run debian.qcow2
  The next release, with more software and room, and a password:
    vert image build debian --suite trixie --size 20G --package git --package build-essential
                     --root-password secret -o work.qcow2
  With Debian's kernel for all hardware, and an SSH server that lets your key in:
    vert image build debian --package linux-image-amd64 --ssh-key ~/.ssh/id_ed25519.pub -o web.qcow2

No root is needed where user namespaces are allowed or fakechroot is installed. Packages are kept in
~/.cache/vert/packages.

The same call gives the same file, byte by byte, as long as the mirror has the same packages. What the build
makes is as old as the newest file in the packages; SOURCE_DATE_EPOCH, if set, is that time instead.)";

/// The step that is under way, drawn anew each second by a thread of its own.
class StepBar {
 public:
  StepBar() : ticker_([this](const std::stop_token& stop) { tick(stop); }) {}

  void show(const BuildStep& step) {
    const std::lock_guard lock(mutex_);
    step_ = step;
    draw();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void tick(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      changed_.wait_for(lock, stop, std::chrono::seconds(1), [] { return false; });
      if (!stop.stop_requested() && !step_.name.empty()) draw();
    }
  }

  void draw() {
    constexpr unsigned kWidth = 24;
    std::string bar;
    for (unsigned i = 0; i < kWidth; ++i) bar += i * 100 < step_.percent * kWidth ? '#' : '.';
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - begin_).count();
    line_.show(
        fmt::format("[{}] {:3} %  {}  {}:{:02}", bar, step_.percent, step_.name, seconds / 60, seconds % 60));
  }

  const Clock::time_point begin_ = Clock::now();
  std::mutex mutex_;
  std::condition_variable_any changed_;
  BuildStep step_{};
  ProgressLine line_;
  std::jthread ticker_;  // the last: it ends before the rest
};

Result<std::string> read_text(const std::string& path) {
  std::ifstream file(path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file && text.empty()) return make_error("cannot read '{}'", path);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

class BuildCommand final : public Command {
 public:
  explicit BuildCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("build", "Make a disk image of a Debian from its packages")) {
    app_.add_option("DISTRIBUTION", distribution_, "debian")->type_name("")->required();
    app_.add_option("-o,--output", build_.output,
                    "The image to write: qcow2, or raw if its name ends in .raw or .img")
        ->type_name("FILE")
        ->required();
    app_.add_option("--suite", build_.suite, "Release: bookworm, trixie or sid (default bookworm)");
    app_.add_option("--size", size_, "Size of the disk (default 4G)");
    app_.add_option("--package", build_.packages, "One more package; repeatable")
        ->type_name("NAME")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app_.add_option("--hostname", build_.hostname, "Name of the machine (default debian)");
    app_.add_option("--root-password", password_,
                    "Root's password (default: none is asked for on the console)");
    app_.add_option("--ssh-key", key_file_, "Public key that may log in as root; adds an SSH server")
        ->type_name("FILE");
    app_.add_option("--mirror", build_.mirror, "Where packages come from (default: Debian's)")
        ->type_name("URL");
    app_.add_flag("--allow-expired", build_.allow_expired,
                  "Accept package lists whose date has passed, such as those of snapshot.debian.org");
    app_.add_flag("--force", force_, "Overwrite FILE if it exists");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_TRY(check_name("distribution", distribution_, {"debian"}));
    VERT_ASSIGN(build_.size, parse_image_size(size_));
    VERT_ASSIGN(build_.format, new_format("", build_.output));
    VERT_TRY(check_new(build_.output, force_));
    if (app_.count("--root-password") != 0) build_.root_password = password_;
    if (!key_file_.empty()) {
      VERT_ASSIGN(build_.ssh_key, read_text(key_file_));
    }
    build_.cache = cache_folder() + "/packages/" + build_.suite;
    VERT_TRY(build());
    print_out(fmt::format("{}: Debian {}, {}; log in as root{}\n  vert run {}\n", build_.output, build_.suite,
                          format_size(build_.size), build_.root_password ? "" : ", no password",
                          build_.output));
    return kExitOk;
  }

 private:
  Status build() {
    StepBar bar;
    return build_image(build_, [&](const BuildStep& step) { bar.show(step); });
  }

  CLI::App& app_;
  ImageBuild build_;
  std::string distribution_;
  std::string size_ = "4G";
  std::string password_;
  std::string key_file_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_image_build_command(CLI::App& parent) {
  return std::make_unique<BuildCommand>(parent);
}

}  // namespace vert::cli
