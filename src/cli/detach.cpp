#include "cli/detach.hpp"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "cli/commands.hpp"

namespace vert::cli {
namespace {

/// What the background process reports once the VM runs: its name, a newline, and possibly a notice.
Result<std::string> read_all(const base::Fd& from) {
  std::string text;
  std::array<char, 512> bytes;
  while (true) {
    const ssize_t count = ::read(from.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return make_system_error(errno, "cannot read from a pipe");
    if (count == 0) return text;
    text.append(bytes.data(), static_cast<std::size_t>(count));
  }
}

/// The process that the user waits for.
Result<int> wait_for_start(pid_t background, const base::Fd& news) {
  const Result<std::string> news_text = read_all(news);
  if (!news_text) {
    ::kill(background, SIGKILL);
    return std::unexpected(news_text.error());
  }
  const std::string& text = *news_text;
  if (const std::size_t end = text.find('\n'); end != std::string::npos) {
    if (end + 1 < text.size()) print_error(fmt::format("vert: {}\n", text.substr(end + 1)));
    print_out(text.substr(0, end + 1));
    return kExitOk;
  }
  int status = 0;
  while (::waitpid(background, &status, 0) < 0)
    if (errno != EINTR) return make_system_error(errno, "cannot wait for the VM's process");
  if (WIFSIGNALED(status))
    return make_error("vert was killed by SIG{} before the VM started", sigabbrev_np(WTERMSIG(status)));
  return WEXITSTATUS(status);  // it has said why
}

Result<base::Fd> open_log_file(const std::string& path) {
  base::Fd log(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666));
  if (!log.valid()) return make_system_error(errno, fmt::format("--log {}", path));
  return log;
}

/// The VM is about to run: reports that, and gives up the user's standard streams.
Status leave(const RunStart& start, const base::Fd& log, base::Fd& news) {
  const std::string text = start.name + "\n" + start.notice;
  if (::write(news.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return make_error("the starting vert process has gone");
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
    if (::dup2(log.get(), fd) < 0) return make_system_error(errno, "cannot write to the VM's log");
  news.reset();
  return {};
}

Result<int> run_in_background(const RunPlan& plan, base::Fd news) {
  ::setsid();
  const base::Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid() || ::dup2(null.get(), STDIN_FILENO) < 0) return make_system_error(errno, "/dev/null");
  base::Fd log;
  if (!plan.log.empty()) {
    VERT_ASSIGN(log, open_log_file(plan.log));
  }
  return run_machine(
      plan, [&](const RunStart& start) { return leave(start, log.valid() ? log : start.log, news); });
}

}  // namespace

Result<int> run_detached(const RunPlan& plan) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return make_system_error(errno, "cannot make a pipe");
  base::Fd reading(ends[0]);
  base::Fd writing(ends[1]);
  const pid_t background = ::fork();
  if (background < 0) return make_system_error(errno, "cannot start a process");
  if (background == 0) {
    reading.reset();
    return run_in_background(plan, std::move(writing));
  }
  writing.reset();
  return wait_for_start(background, reading);
}

}  // namespace vert::cli
