// The subcommands of vert: each adds its options to the command line and, when chosen, runs.
//
// A command's function returns the exit status of the program, or an error that run_program() prints as one
// line, with the status that failure_status() gives. Main thread.
#pragma once

#include <memory>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.hpp"

namespace vert::cli {

/// The exit statuses of vert besides isa-debug-exit's (value << 1) | 1.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitGuestCrashed = 2;
/// vert's own failures where 1 is what the guest may report, as with timeout(1) and Docker.
inline constexpr int kExitFailureBesideGuest = 125;

class Command {
 public:
  virtual ~Command() = default;
  [[nodiscard]] virtual CLI::App& app() = 0;
  [[nodiscard]] virtual Result<int> run() = 0;
};

[[nodiscard]] std::unique_ptr<Command> make_run_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_bench_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_explain_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_doctor_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_ls_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_info_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_console_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_stop_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_kill_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_pause_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_resume_command(CLI::App& parent);

/// Adds all commands to `app`. No option of theirs takes more than its value, and of one that is given again
/// the last counts, unless it can be repeated.
[[nodiscard]] std::vector<std::unique_ptr<Command>> make_commands(CLI::App& app);
/// The exit status for vert's own failures with this command line, whether or not it can be parsed.
[[nodiscard]] int failure_status(int argc, const char* const* argv);
/// Parses the command line, runs the command and prints what went wrong; the whole program.
[[nodiscard]] int run_program(int argc, const char* const* argv);

/// Writes to standard output; an error there (a full disk, a closed pipe) shows in the exit status.
void print_out(std::string_view text);
/// Writes to standard error; what cannot be written is lost.
void print_error(std::string_view text);
/// Makes `path` hold `text`.
[[nodiscard]] Status write_file(const std::string& path, std::string_view text);

}  // namespace vert::cli
