#include "vm/harness/vert_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "cli/host.hpp"

namespace vert::vm_test {
namespace {

struct Ends {
  base::Fd child_input;
  base::Fd child_output;
  base::Fd child_error;
};

struct PipeEnds {
  base::Fd reading;
  base::Fd writing;
};

PipeEnds make_pipe() {
  std::array<int, 2> ends{};
  VERT_CHECK(pipe2(ends.data(), O_CLOEXEC) == 0);
  return {base::Fd(ends[0]), base::Fd(ends[1])};
}

base::Fd duplicate(const base::Fd& fd) { return base::Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)); }

/// Between fork and exec: only async-signal-safe calls.
[[noreturn]] void become(char* const* argv, const Ends& ends, bool terminal) {
  setsid();
  if (terminal) ioctl(ends.child_input.get(), TIOCSCTTY, 0);
  dup2(ends.child_input.get(), STDIN_FILENO);
  dup2(ends.child_output.get(), STDOUT_FILENO);
  dup2(ends.child_error.get(), STDERR_FILENO);
  execv(argv[0], argv);
  _exit(127);
}

}  // namespace

VertProcess::VertProcess(const std::vector<std::string>& arguments, Console console) {
  Ends ends;
  if (console == Console::kTerminal) {
    input_ = base::Fd(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    std::array<char, 128> name{};
    VERT_CHECK(grantpt(input_.get()) == 0 && unlockpt(input_.get()) == 0);
    VERT_CHECK(ptsname_r(input_.get(), name.data(), name.size()) == 0);
    terminal_ = base::Fd(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    output_fd_ = duplicate(input_);
    ends = {duplicate(terminal_), duplicate(terminal_), duplicate(terminal_)};
  } else {
    PipeEnds input = make_pipe();
    PipeEnds output = make_pipe();
    PipeEnds error = make_pipe();
    input_ = std::move(input.writing);
    output_fd_ = std::move(output.reading);
    error_fd_ = std::move(error.reading);
    ends = {std::move(input.reading), std::move(output.writing), std::move(error.writing)};
  }
  std::vector<std::string> words = {VERT_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  signal(SIGPIPE, SIG_IGN);
  pid_ = fork();
  VERT_CHECK(pid_ >= 0);
  if (pid_ == 0) become(argv.data(), ends, console == Console::kTerminal);
}

VertProcess::~VertProcess() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void VertProcess::send(const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t count = write(input_.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) return;
    if (count > 0) done += static_cast<std::size_t>(count);
  }
}

void VertProcess::close_input() { input_.reset(); }

bool VertProcess::read_some(Clock::time_point deadline) {
  std::array<pollfd, 2> fds = {pollfd{output_fd_.get(), POLLIN, 0}, pollfd{error_fd_.get(), POLLIN, 0}};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  if (left <= 0 || (fds[0].fd < 0 && fds[1].fd < 0)) return false;
  const int ready = poll(fds.data(), fds.size(), static_cast<int>(std::min<i64>(left, 1000)));
  if (ready <= 0) return true;
  const auto take = [](base::Fd& fd, std::string& text) {
    std::array<char, 65536> bytes;
    const ssize_t count = read(fd.get(), bytes.data(), bytes.size());
    if (count <= 0) return fd.reset();
    text.append(bytes.data(), static_cast<std::size_t>(count));
    std::erase(text, '\r');
  };
  if (fds[0].revents != 0) take(output_fd_, output_);
  if (fds[1].revents != 0) take(error_fd_, errors_);
  return true;
}

bool VertProcess::expect(const std::string& text, std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  for (;;) {
    const auto at = output_.find(text, seen_);
    if (at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    if (!read_some(deadline)) return false;
  }
}

std::optional<std::string> VertProcess::next_line(std::chrono::seconds limit) {
  const std::size_t from = seen_;
  if (!expect("\n", limit)) return std::nullopt;
  return output_.substr(from, seen_ - 1 - from);
}

End VertProcess::wait(std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  int status = 0;
  while (waitpid(pid_, &status, WNOHANG) == 0) {
    if (Clock::now() >= deadline) return {};
    read_some(std::min(deadline, Clock::now() + std::chrono::milliseconds(20)));
    if (!output_fd_.valid() && !error_fd_.valid()) usleep(10000);
  }
  pid_ = -1;
  const bool terminal = terminal_.valid();
  const auto last =
      Clock::now() + (terminal ? std::chrono::milliseconds(50) : std::chrono::milliseconds(5000));
  while (read_some(last)) {
  }
  if (WIFSIGNALED(status)) return {.status = std::nullopt, .signal = WTERMSIG(status)};
  return {.status = WEXITSTATUS(status), .signal = std::nullopt};
}

void VertProcess::kill(int signal_number) const { ::kill(pid_, signal_number); }

void VertProcess::resize_terminal(unsigned short columns, unsigned short rows) const {
  const winsize size = {.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  VERT_CHECK(ioctl(input_.get(), TIOCSWINSZ, &size) == 0);
}

void VertProcess::hang_up() {
  terminal_.reset();
  output_fd_.reset();
  input_.reset();
}

termios VertProcess::terminal_mode() const {
  termios mode = {};
  VERT_CHECK(tcgetattr(terminal_.get(), &mode) == 0);
  return mode;
}

bool VertProcess::terminal_is_raw() const { return (terminal_mode().c_lflag & (ECHO | ICANON | ISIG)) == 0; }

std::optional<std::string> cached_kernel(const std::string& name) {
  std::string path = cli::cache_folder() + "/boot/vmlinuz-" + name;
  return access(path.c_str(), R_OK) == 0 ? std::optional(std::move(path)) : std::nullopt;
}

std::optional<std::string> cached_module(const std::string& kernel, const std::string& name) {
  std::string path = cli::cache_folder() + "/modules/" + kernel + "/" + name + ".ko";
  return access(path.c_str(), R_OK) == 0 ? std::optional(std::move(path)) : std::nullopt;
}

std::optional<std::string> busybox() {
  for (const std::string& path : {cli::cache_folder() + "/busybox", std::string("/bin/busybox")}) {
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return std::nullopt;
}

std::optional<std::string> busybox_i386() {
  std::string path = cli::cache_folder() + "/busybox-i386";
  return access(path.c_str(), R_OK) == 0 ? std::optional(std::move(path)) : std::nullopt;
}

bool long_tests() { return getenv("VERT_TEST_LONG") != nullptr; }

}  // namespace vert::vm_test
