// Bare metal as child processes, guests through `vert run` or QEMU with the same kernel and RAM disk.
#include "cli/bench_runner.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <deque>
#include <sstream>

#include "cli/child_process.hpp"
#include "cli/commands.hpp"
#include "cli/host.hpp"
#include "cli/initramfs.hpp"

namespace vert::cli {
namespace {

using Clock = ChildProcess::Clock;

std::string program_file(std::string_view name) {
  return fmt::format("{}/bench/guest/{}", program_folder(), name);
}

/// How long a guest may be silent: a run of the full size takes minutes on a slow engine.
std::chrono::seconds silence_limit(bool full) { return std::chrono::seconds(full ? 7200 : 300); }

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

Result<double> parse_seconds(const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || *end != '\0' || !(seconds > 0))
    return make_error("'{}' is no time in seconds", text);
  return seconds;
}

Result<double> run_bare_program(std::size_t program, u64 count, std::chrono::seconds limit) {
  const std::string path = program_file(kPrograms[program].name);
  VERT_ASSIGN(ChildProcess child, ChildProcess::start({path, fmt::format("{}", count)}));
  VERT_ASSIGN(const auto line, child.read_line(limit));
  const int status = child.wait();
  if (!line || status != 0) return make_error("{} ended with status {}", path, status);
  return parse_seconds(line->text);
}

Status measure_bare(BenchResult& result, const BenchOptions& options, BenchProgress& progress) {
  for (unsigned run = 0; run < options.runs; ++run) {
    BenchRow row{};
    for (std::size_t program = 0; program < kBenchPrograms; ++program) {
      progress.step(fmt::format("{}, run {}", kPrograms[program].name, run + 1));
      VERT_ASSIGN(row[program],
                  run_bare_program(program, result.counts[program], silence_limit(options.full)));
    }
    result.seconds.push_back(row);
  }
  result.host_seconds = result.seconds;
  return {};
}

/// The guest's RAM disk in a memory file: nothing is left behind, however vert ends.
Result<base::Fd> make_ram_disk(const BenchResult& result, unsigned runs) {
  Initramfs archive;
  std::string plan;
  for (unsigned run = 0; run < runs; ++run) {
    for (std::size_t program = 0; program < kBenchPrograms; ++program) {
      plan += fmt::format("{} {}\n", kPrograms[program].name, result.counts[program]);
    }
  }
  VERT_TRY(archive.add_host_file("init", program_file("init"), true));
  for (const BenchProgram& program : kPrograms) {
    VERT_TRY(archive.add_host_file(program.name, program_file(program.name), true));
  }
  archive.add_text("plan", plan);
  const std::vector<u8> bytes = std::move(archive).finish();

  base::Fd file(memfd_create("vert-bench-initrd", MFD_CLOEXEC));
  if (!file.valid()) return make_system_error(errno, "no memory file for the guest's RAM disk");
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = write(file.get(), bytes.data() + done, bytes.size() - done);
    if (count < 0) return make_system_error(errno, "no memory for the guest's RAM disk");
    done += static_cast<std::size_t>(count);
  }
  return file;
}

std::vector<std::string> guest_command(const std::string& engine, const std::string& kernel,
                                       const std::string& ram_disk) {
  const std::string append(kBenchAppend);
  const std::string memory(kBenchMemory);
  if (engine == "qemu") {
    return {"qemu-system-x86_64",
            "-accel",
            "tcg",
            "-machine",
            "q35",
            "-cpu",
            "max,la57=off",
            "-smp",
            "1",
            "-m",
            memory,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
            kernel,
            "-initrd",
            ram_disk,
            "-append",
            append};
  }
  return {program_path(), "run",      "--engine", engine,     "--cpus", "1",        "--memory", memory,
          "--no-reboot",  "--kernel", kernel,     "--initrd", ram_disk, "--append", append};
}

/// Takes the guest's lines (bench/guest/init.c says which) as they come.
class GuestReader {
 public:
  GuestReader(BenchResult& result, BenchProgress& progress)
      : result_(result), progress_(progress), start_(Clock::now()) {}

  /// False once the guest has said that it is done.
  Result<bool> take(const ChildProcess::Line& line) {
    static constexpr std::string_view kMark = "vert-bench ";
    const auto mark = line.text.find(kMark);
    if (mark == std::string::npos) return true;
    std::istringstream words(line.text.substr(mark + kMark.size()));
    std::string event;
    std::string program;
    std::string value;
    words >> event >> program >> value;
    if (event == "done") return false;
    if (event == "boot") result_.boot_seconds = seconds_between(start_, line.arrival);
    if (event == "failed") return make_error("{} failed in the guest with wait status {}", program, value);
    if (event == "begin") {
      begin_ = line.arrival;
      progress_.step(fmt::format("{}, run {}", program, result_.seconds.size() + 1));
    }
    if (event == "end") VERT_TRY(take_time(program, value, line.arrival));
    return true;
  }

 private:
  Status take_time(const std::string& program, const std::string& value, Clock::time_point arrival) {
    if (program != kPrograms[next_].name) return make_error("the guest ran {} out of turn", program);
    VERT_ASSIGN(row_[next_], parse_seconds(value));
    host_row_[next_] = seconds_between(begin_, arrival);
    next_ = (next_ + 1) % kBenchPrograms;
    if (next_ != 0) return {};
    result_.seconds.push_back(row_);
    result_.host_seconds.push_back(host_row_);
    return {};
  }

  BenchResult& result_;
  BenchProgress& progress_;
  Clock::time_point start_;
  Clock::time_point begin_;
  std::size_t next_ = 0;
  BenchRow row_{};
  BenchRow host_row_{};
};

std::string join(const std::deque<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += "\n    " + line;
  return text;
}

Status measure_guest(BenchResult& result, const BenchOptions& options, BenchProgress& progress) {
  static constexpr std::size_t kLastLines = 12;
  VERT_ASSIGN(const base::Fd ram_disk, make_ram_disk(result, options.runs));
  const auto command =
      guest_command(result.engine, options.kernel, fmt::format("/proc/{}/fd/{}", getpid(), ram_disk.get()));
  for (const std::string& word : command) result.command += (result.command.empty() ? "" : " ") + word;
  VERT_ASSIGN(ChildProcess child, ChildProcess::start(command));
  GuestReader reader(result, progress);
  std::deque<std::string> last_lines;
  bool running = true;
  progress.step("booting");
  while (running) {
    const auto line = child.read_line(silence_limit(options.full));
    if (!line) return make_error("{}; its last lines:{}", line.error().message, join(last_lines));
    if (!*line)
      return make_error("the guest ended early, status {}; its last lines:{}", child.wait(),
                        join(last_lines));
    last_lines.push_back((*line)->text);
    if (last_lines.size() > kLastLines) last_lines.pop_front();
    VERT_ASSIGN(running, reader.take(**line));
  }
  if (result.seconds.size() != options.runs)
    return make_error("the guest ran {} times", result.seconds.size());
  return {};
}

}  // namespace

BenchResult run_bench(const std::string& engine, const BenchOptions& options, BenchProgress& progress) {
  BenchResult result;
  result.engine = engine;
  result.counts = bench_counts(engine, options.full);
  if (engine == "qemu" && !find_program("qemu-system-x86_64")) {
    result.skipped = true;
    result.failure = "qemu-system-x86_64 is not installed (apt install qemu-system-x86)";
    return result;
  }
  const bool bare = engine == "bare";
  progress.start(engine, options.runs * kBenchPrograms + (bare ? 0 : 1));
  const Status status =
      bare ? measure_bare(result, options, progress) : measure_guest(result, options, progress);
  if (!status) result.failure = status.error().message;
  progress.finish(result);
  return result;
}

BenchProgress::BenchProgress() : terminal_(isatty(STDERR_FILENO) != 0) {}

void BenchProgress::start(std::string engine, std::size_t steps) {
  engine_ = std::move(engine);
  steps_ = steps;
  step_ = 0;
  begin_ = Clock::now();
}

void BenchProgress::step(std::string_view what) {
  const double seconds = seconds_between(begin_, Clock::now());
  if (terminal_) {
    static constexpr std::size_t kWidth = 24;
    const std::size_t filled = steps_ == 0 ? 0 : step_ * kWidth / steps_;
    print_error(fmt::format("\r\033[K{:<7} [{:#<{}}{:.<{}}] {:3.0f} s  {}", engine_, "", filled, "",
                            kWidth - filled, seconds, what));
  } else {
    print_error(fmt::format("{}: step {} of {}, {:.0f} s: {}\n", engine_, step_ + 1, steps_, seconds, what));
  }
  ++step_;
}

void BenchProgress::finish(const BenchResult& result) {
  const double seconds = seconds_between(begin_, Clock::now());
  print_error(fmt::format("{}{}: {} in {:.0f} s\n", terminal_ ? "\r\033[K" : "", engine_,
                          result.measured() ? "measured" : "failed", seconds));
}

}  // namespace vert::cli
