// fork, exec, poll, wait; see child_process.hpp.
#include "cli/child_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <sstream>

namespace vert::cli {
namespace {

/// Between fork and exec: only async-signal-safe calls. Never returns.
[[noreturn]] void become(char* const* argv, int input, int output, const ChildProcess::Options& options) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  dup2(input >= 0 ? input : open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  if (options.kept >= 0) fcntl(options.kept, F_SETFD, 0);
  if (options.own_group) setpgid(0, 0);
  execvp(argv[0], argv);
  _exit(127);
}

}  // namespace

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& argv, const Options& options) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return make_system_error(errno, "no pipe");
  base::Fd reading(ends[0]);
  const base::Fd writing(ends[1]);
  base::Fd typed;
  base::Fd heard;
  if (options.typed) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
      return make_system_error(errno, "no socket");
    typed = base::Fd(ends[0]);
    heard = base::Fd(ends[1]);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return make_system_error(errno, "cannot start " + argv[0]);
  if (pid == 0) become(arguments.data(), heard.get(), writing.get(), options);
  if (options.own_group) setpgid(pid, pid);  // whoever of the two is first
  return ChildProcess(pid, std::move(typed), std::move(reading));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::move(other.input_)),
      output_(std::move(other.output_)),
      buffer_(std::move(other.buffer_)) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  static_cast<void>(wait());
}

std::optional<ChildProcess::Line> ChildProcess::take_line(bool at_end) {
  const auto end = buffer_.find('\n');
  if (end == std::string::npos && (!at_end || buffer_.empty())) return std::nullopt;
  std::string text = buffer_.substr(0, end);
  buffer_.erase(0, end == std::string::npos ? end : end + 1);
  while (text.ends_with('\r')) text.pop_back();
  return Line{std::move(text), Clock::now()};
}

Result<bool> ChildProcess::read_more(Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return make_error("the time is over");
    pollfd fd = {output_.get(), POLLIN, 0};
    if (poll(&fd, 1, static_cast<int>(left.count()) + 1) <= 0) continue;
    std::array<char, 4096> bytes;
    const ssize_t count = read(output_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    buffer_.append(bytes.data(), static_cast<std::size_t>(count));
    return true;
  }
}

Result<std::optional<ChildProcess::Line>> ChildProcess::read_line(std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  for (;;) {
    if (auto line = take_line(false)) return line;
    const auto more = read_more(deadline);
    if (!more) return make_error("no output for {} s", limit.count());
    if (!*more) return take_line(true);
  }
}

Result<ChildProcess::Clock::time_point> ChildProcess::wait_for(const std::string& text,
                                                               std::chrono::seconds limit) {
  static constexpr std::size_t kShown = 1000;
  const auto deadline = Clock::now() + limit;
  for (;;) {
    if (const auto found = buffer_.find(text); found != std::string::npos) {
      buffer_.erase(0, found + text.size());
      return Clock::now();
    }
    const auto more = read_more(deadline);
    if (more && *more) continue;
    const std::string what = more ? "the output ended" : fmt::format("{} s went by", limit.count());
    return make_error("{} without '{}'; the last of it:\n{}", what, text,
                      buffer_.substr(buffer_.size() - std::min(buffer_.size(), kShown)));
  }
}

Status ChildProcess::type(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = send(input_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return make_system_error(errno, "cannot type");
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

int ChildProcess::wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::vector<std::string> find_programs(const std::string& name) {
  const char* const path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
  std::vector<std::string> found;
  std::string folder;
  while (std::getline(folders, folder, ':')) {
    std::string candidate = folder + "/" + name;
    if (access(candidate.c_str(), X_OK) == 0) found.push_back(std::move(candidate));
  }
  return found;
}

}  // namespace vert::cli
