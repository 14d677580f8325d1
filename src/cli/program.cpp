// The command line as a whole: parses it, runs the chosen command, prints what went wrong as one line.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/disk_command.hpp"
#include "cli/text.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  vert doctor                                check what this host supports
  vert image build debian -o debian.qcow2    make a disk with a Debian from its packages
  vert run debian.qcow2                      boot it, with its console on this terminal
  vert run --kernel vmlinuz --initrd rd.img --append 'console=ttyS0'
                                             boot a Linux kernel without a disk
  vert run --detach --name web --kernel ...  the same in the background
  vert ls                                    list running VMs
  vert console web                           attach to a VM's console
  vert image create disk.qcow2 20G           make an empty disk
  vert bench                                 compare guests with bare metal on this host
  vert explain /usr/bin/env                  show a program's code and its translation

'vert COMMAND --help' shows a command's options, with examples.)";

/// Descriptors 0 to 2 must be something: else a file that vert opens would become its standard error.
void ensure_standard_descriptors() {
  int fd = 0;
  do {
    fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

/// No option takes more than its value, and of one that is given again the last counts.
void set_up(CLI::App& app) {
  app.allow_extras();
  app.fallthrough(false);
  for (CLI::Option* option : app.get_options()) {
    option->allow_extra_args(false);
    const bool repeatable = option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
    if (option->get_items_expected_max() == 1 && !repeatable)
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  for (CLI::App* command : app.get_subcommands(nullptr)) set_up(*command);
}

/// The command that was chosen, or the command of a command: "image create".
struct Chosen {
  const CLI::App* app;
  std::string words;
};
Chosen chosen_in(const CLI::App& top) {
  Chosen chosen{&top, ""};
  for (auto next = top.get_subcommands(); !next.empty(); next = chosen.app->get_subcommands()) {
    chosen.app = next[0];
    chosen.words += (chosen.words.empty() ? "" : " ") + chosen.app->get_name();
  }
  return chosen;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  return names;
}

/// What to say about an argument that nothing takes.
Error unexpected_argument(const std::string& argument, const CLI::App& app, const std::string& words) {
  const std::string help = words.empty() ? "vert --help" : "vert " + words + " --help";
  const bool is_command = app.get_subcommands(nullptr).empty();
  const std::string word = argument.substr(0, argument.find('='));
  const bool option = argument.starts_with("-") && argument.size() > 1;
  const auto hint = closest_match(word, option ? option_names(app) : command_names(app));
  const std::string what = option ? "unknown option" : is_command ? "unexpected argument" : "unknown command";
  if (hint) return {fmt::format("{} '{}'; did you mean '{}'?", what, word, *hint)};
  return {fmt::format("{} '{}'; see '{}'", what, word, help)};
}

/// CLI11's own words, as one line.
Error parse_failure(const CLI::ParseError& error, const CLI::App& app) {
  std::string text = error.what();
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr && text.starts_with("--")) {
    text = text.substr(0, text.find(':')) + " needs a value";
  }
  std::ranges::replace(text, '\n', ' ');
  const std::string words = chosen_in(app).words;
  return {fmt::format("{}; see 'vert {}--help'", text, words.empty() ? "" : words + " ")};
}

Result<int> parse_and_run(int argc, const char* const* argv) {
  CLI::App app("vert runs unmodified operating systems on any x86-64 Linux machine.", "vert");
  app.footer(kExamples);
  app.set_version_flag("--version", "vert " VERT_VERSION, "Show the version and exit");
  app.get_formatter()->column_width(28);
  app.allow_extras();
  const auto commands = make_commands(app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::Success)) {
      return std::unexpected(parse_failure(error, app));
    }
    // --help and --version come as exceptions too.
    const auto [chosen, words] = chosen_in(app);
    const bool version = dynamic_cast<const CLI::CallForVersion*>(&error) != nullptr;
    const std::string parents = words.substr(0, words.rfind(' ') + 1);
    print_out(version           ? std::string(error.what()) + "\n"
              : words.empty()   ? app.help()
              : parents.empty() ? chosen->help("vert")
                                : chosen->help("vert " + parents.substr(0, parents.size() - 1)));
    return kExitOk;
  }
  const auto [chosen, words] = chosen_in(app);
  if (const auto left = chosen->remaining(); !left.empty())
    return std::unexpected(unexpected_argument(left[0], *chosen, words));
  for (const auto& command : commands)
    if (command->app().parsed()) return command->run();
  print_out(app.help());
  return kExitFailure;
}

}  // namespace

std::vector<std::unique_ptr<Command>> make_commands(CLI::App& app) {
  std::vector<std::unique_ptr<Command>> commands;
  for (const auto make :
       {make_run_command, make_ls_command, make_info_command, make_console_command, make_stop_command,
        make_kill_command, make_pause_command, make_resume_command, make_image_command, make_disk_command,
        make_bench_command, make_explain_command, make_doctor_command})
    commands.push_back(make(app));
  for (const auto& command : commands) set_up(command->app());
  return commands;
}

int failure_status(int argc, const char* const* argv) {
  const std::vector<std::string_view> words(argv, argv + argc);
  if (words.size() < 2 || words[1] != "run") return kExitFailure;
  for (std::size_t i = 2; i < words.size(); ++i) {
    const bool is_value = words[i] == "isa-debug-exit" && words[i - 1] == "--device";
    if (is_value || words[i] == "--device=isa-debug-exit") return kExitFailureBesideGuest;
  }
  return kExitFailure;
}

void print_out(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void print_error(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

Status write_file(const std::string& path, std::string_view text) {
  std::FILE* const file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return make_system_error(errno, path);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed) return make_system_error(errno, path);
  return {};
}

int run_program(int argc, const char* const* argv) {
  ensure_standard_descriptors();
  const int failure = failure_status(argc, argv);
  int status = failure;
  try {
    const Result<int> result = parse_and_run(argc, argv);
    if (!result) print_error(fmt::format("vert: {}\n", result.error().message));
    status = result.value_or(failure);
  } catch (const std::bad_alloc&) {
    print_error("vert: out of memory\n");
  } catch (const std::exception& exception) {
    print_error(fmt::format("vert: {}\n", exception.what()));
  }
  if (std::fflush(stdout) != 0 && status == kExitOk) {
    print_error("vert: cannot write to standard output\n");
    status = failure;
  }
  return status;
}

}  // namespace vert::cli
