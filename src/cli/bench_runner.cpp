// Bare metal as child processes, guests through `vert run` or QEMU with the same kernel and RAM disk.
#include "cli/bench_runner.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <optional>

#include "cli/bench_peer.hpp"
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
std::chrono::seconds silence_limit(BenchScale scale) {
  return std::chrono::seconds(scale == BenchScale::lecture_full ? 7200 : 300);
}

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

/// Runs a program as a child of vert's; what it computes must be what it computed before.
Result<double> run_bare_task(const BenchTask& task, BenchScale scale, BenchReference& reference) {
  const std::string path = program_file(task.program->name);
  VERT_ASSIGN(ChildProcess child, ChildProcess::start({path, fmt::format("{}", task.count)}));
  VERT_ASSIGN(const auto line, child.read_line(silence_limit(scale)));
  const int status = child.wait();
  if (!line || status != 0) {
    return make_error("{} ended with status {}{}", path, status, line ? ": " + line->text : "");
  }
  VERT_ASSIGN(const BenchOutput output, parse_bench_output(line->text));
  if (!reference.learn(task, output.checksum)) {
    return make_error("{}: this host computes now one thing, now another; it cannot be relied on",
                      reference.difference(task, output.checksum));
  }
  return output.seconds;
}

Status measure_bare(BenchResult& result, const BenchOptions& options, BenchReference& reference,
                    BenchProgress& progress) {
  for (unsigned run = 0; run < options.runs; ++run) {
    BenchRow row;
    for (const BenchTask& task : result.tasks) {
      progress.step(fmt::format("{}, run {}", task.program->name, run + 1));
      VERT_ASSIGN(const double seconds, run_bare_task(task, options.scale, reference));
      row.push_back(seconds);
    }
    result.seconds.push_back(std::move(row));
  }
  result.host_seconds = result.seconds;
  return {};
}

std::size_t unknown_tasks(const BenchResult& result, const BenchReference& reference) {
  return static_cast<std::size_t>(
      std::ranges::count_if(result.tasks, [&](const BenchTask& task) { return !reference.knows(task); }));
}

Status learn_tasks(const BenchResult& result, const BenchOptions& options, BenchReference& reference,
                   BenchProgress& progress) {
  for (const BenchTask& task : result.tasks) {
    if (reference.knows(task)) continue;
    progress.step(fmt::format("{} on bare metal, for its result", task.program->name));
    VERT_TRY(run_bare_task(task, options.scale, reference));
  }
  return {};
}

/// The guest's RAM disk in a memory file: nothing is left behind, however vert ends.
Result<base::Fd> make_ram_disk(const BenchResult& result, unsigned runs) {
  Initramfs archive;
  std::string plan;
  for (unsigned run = 0; run < runs; ++run) {
    for (const BenchTask& task : result.tasks) plan += fmt::format("{} {}\n", task.program->name, task.count);
  }
  VERT_TRY(archive.add_host_file("init", program_file("init"), true));
  for (const BenchTask& task : result.tasks) {
    VERT_TRY(archive.add_host_file(task.program->name, program_file(task.program->name), true));
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

/// `peer` is nothing for vert's own engines.
std::vector<std::string> guest_command(const std::string& engine, const std::optional<BenchPeer>& peer,
                                       const std::string& kernel, const std::string& ram_disk) {
  const std::string append(kBenchAppend);
  const std::string memory(kBenchMemory);
  if (peer) {
    auto command = peer_command(*peer, memory);
    command.insert(command.end(), {"-kernel", kernel, "-initrd", ram_disk, "-append", append});
    return command;
  }
  return {program_path(), "run",      "--engine", engine,     "--cpus", "1",        "--memory", memory,
          "--no-reboot",  "--kernel", kernel,     "--initrd", ram_disk, "--append", append};
}

/// Takes the guest's lines (bench/guest/init.c says which) as they come.
class GuestReader {
 public:
  GuestReader(BenchResult& result, const BenchReference& reference, BenchProgress& progress)
      : result_(result), reference_(reference), progress_(progress), start_(Clock::now()) {}

  /// False once the guest has said that it is done.
  Result<bool> take(const ChildProcess::Line& line) {
    const auto said = parse_bench_event(line.text);
    if (!said) return true;
    const auto& [event, program, value] = *said;
    if (event == "done") return false;
    if (event == "boot") result_.boot_seconds = seconds_between(start_, line.arrival);
    if (event == "failed") return make_error("{} failed in the guest with wait status {}", program, value);
    if (event == "begin") {
      begin_ = line.arrival;
      progress_.step(fmt::format("{}, run {}", program, result_.seconds.size() + 1));
    }
    if (event == "end") VERT_TRY(take_output(program, value, line.arrival));
    return true;
  }

  /// What the guest computed wrongly, program by program; empty if nothing.
  [[nodiscard]] std::string differences() const {
    std::string text;
    for (const auto& [program, difference] : differences_) text += (text.empty() ? "" : "; ") + difference;
    return text;
  }

 private:
  Status take_output(const std::string& program, const std::string& value, Clock::time_point arrival) {
    const BenchTask& task = result_.tasks[row_.size()];
    if (program != task.program->name) return make_error("the guest ran {} out of turn", program);
    VERT_ASSIGN(const BenchOutput output, parse_bench_output(value));
    std::string difference = reference_.difference(task, output.checksum);
    if (!difference.empty()) differences_.try_emplace(program, std::move(difference));
    row_.push_back(output.seconds);
    host_row_.push_back(seconds_between(begin_, arrival));
    if (row_.size() < result_.tasks.size()) return {};
    result_.seconds.push_back(std::exchange(row_, {}));
    result_.host_seconds.push_back(std::exchange(host_row_, {}));
    return {};
  }

  BenchResult& result_;
  const BenchReference& reference_;
  BenchProgress& progress_;
  Clock::time_point start_;
  Clock::time_point begin_;
  std::map<std::string, std::string> differences_;
  BenchRow row_;
  BenchRow host_row_;
};

std::string join(const std::deque<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += "\n    " + line;
  return text;
}

Status measure_guest(BenchResult& result, const std::optional<BenchPeer>& peer, const BenchOptions& options,
                     BenchReference& reference, BenchProgress& progress) {
  VERT_TRY(learn_tasks(result, options, reference, progress));
  VERT_ASSIGN(const base::Fd ram_disk, make_ram_disk(result, options.runs));
  const auto command = guest_command(result.engine, peer, options.kernel,
                                     fmt::format("/proc/{}/fd/{}", getpid(), ram_disk.get()));
  for (const std::string& word : command) result.command += (result.command.empty() ? "" : " ") + word;
  VERT_ASSIGN(ChildProcess child, ChildProcess::start(command));
  GuestReader reader(result, reference, progress);
  progress.step("booting");
  VERT_TRY(follow_guest(child, silence_limit(options.scale),
                        [&](const ChildProcess::Line& line) { return reader.take(line); }));
  if (result.seconds.size() != options.runs)
    return make_error("the guest ran {} times", result.seconds.size());
  const std::string differences = reader.differences();
  if (!differences.empty()) return make_error("WRONG RESULTS: {}", differences);
  return {};
}

}  // namespace

Status follow_guest(ChildProcess& child, std::chrono::seconds silence,
                    const std::function<Result<bool>(const ChildProcess::Line&)>& take) {
  static constexpr std::size_t kLastLines = 12;
  std::deque<std::string> last_lines;
  for (bool running = true; running;) {
    const auto line = child.read_line(silence);
    if (!line) return make_error("{}; its last lines:{}", line.error().message, join(last_lines));
    if (!*line)
      return make_error("the guest ended early, status {}; its last lines:{}", child.wait(),
                        join(last_lines));
    last_lines.push_back((*line)->text);
    if (last_lines.size() > kLastLines) last_lines.pop_front();
    const auto more = take(**line);
    if (!more) return make_error("{}; its last lines:{}", more.error().message, join(last_lines));
    running = *more;
  }
  return {};
}

bool BenchReference::learn(const BenchTask& task, const std::string& checksum) {
  return checksums_.try_emplace(key(task), checksum).first->second == checksum;
}

std::string BenchReference::difference(const BenchTask& task, const std::string& checksum) const {
  const auto known = checksums_.find(key(task));
  VERT_CHECK(known != checksums_.end());
  if (known->second == checksum) return {};
  return fmt::format("{} {} computes {}, on bare metal {}", task.program->name, task.count, checksum,
                     known->second);
}

BenchResult run_bench(const std::string& engine, const BenchOptions& options, BenchReference& reference,
                      BenchProgress& progress) {
  BenchResult result;
  result.engine = engine;
  result.tasks = bench_tasks(options.programs, engine, options.scale);
  std::optional<BenchPeer> peer;
  if (engine == "qemu") {
    peer = find_peer();
    if (!peer) {
      result.skipped = true;
      result.failure = kNoPeer;
      return result;
    }
    result.version = peer->version;
  }
  const bool bare = engine == "bare";
  progress.start(engine,
                 options.runs * result.tasks.size() + (bare ? 0 : unknown_tasks(result, reference) + 1));
  const Status status = bare ? measure_bare(result, options, reference, progress)
                             : measure_guest(result, peer, options, reference, progress);
  if (!status) result.failure = status.error().message;
  progress.finish(result.measured());
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

void BenchProgress::finish(bool measured) {
  const double seconds = seconds_between(begin_, Clock::now());
  print_error(fmt::format("{}{}: {} in {:.0f} s\n", terminal_ ? "\r\033[K" : "", engine_,
                          measured ? "measured" : "failed", seconds));
}

}  // namespace vert::cli
