// The console's thread; see console.hpp.
#include "cli/console.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "base/event_fd.hpp"
#include "base/thread.hpp"

namespace vert::cli {
namespace {

/// Bytes typed ahead of a guest that does not read: beyond this, a terminal's are dropped, a pipe's wait.
constexpr std::size_t kMaxPending = 4096;

constexpr std::string_view kKeys =
    "vert: Ctrl-A x quits, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this help\r\n";

sigset_t console_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH}) {
    sigaddset(&set, signal_number);
  }
  return set;
}

/// Best effort.
void show_keys() {
  if (isatty(STDERR_FILENO) == 0) return;
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kKeys.data(), kKeys.size());
}

/// This console is the machine's own.
void say_that_it_stays() {
  static constexpr std::string_view kText =
      "vert: cannot detach from a VM in the foreground; start it with 'vert run --detach'\r\n";
  if (isatty(STDERR_FILENO) == 0) return;
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText.data(), kText.size());
}

}  // namespace

Status Console::block_signals() {
  const sigset_t set = console_signals();
  if (const int error = pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0)
    return make_system_error(error, "cannot block signals (sigprocmask)");
  // With these, what is written fails with an errno instead.
  for (const int fatal : {SIGPIPE, SIGXFSZ})
    if (signal(fatal, SIG_IGN) == SIG_ERR)
      return make_system_error(errno, "cannot ignore a signal (sigaction)");
  return {};
}

Result<base::Fd> Console::take_signals_here() {
  const sigset_t set = console_signals();
  base::Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return make_system_error(errno, "cannot make a signalfd");
  return fd;
}

Result<std::unique_ptr<Console>> Console::start(machine::Machine& machine, SerialOutput* output,
                                                Input input) {
  VERT_ASSIGN(base::Fd signals, take_signals_here());
  VERT_ASSIGN(base::Fd wake, base::make_event_fd());
  std::unique_ptr<Console> console(new Console(machine, output, input, std::move(signals), std::move(wake)));
  // Signals stay blocked there: it reads them.
  VERT_ASSIGN(console->thread_, base::start_thread("console", [that = console.get()] { that->run(); }));
  return console;
}

Console::Console(machine::Machine& machine, SerialOutput* output, Input input, base::Fd signals,
                 base::Fd wake)
    : machine_(machine),
      output_(output),
      input_(input),
      signals_(std::move(signals)),
      wake_(std::move(wake)) {
  reading_ = input_.fd >= 0;
  if (reading_ && input_.is_terminal) {
    terminal_.emplace(input_.fd);
    reading_ = terminal_->enter_raw();
    if (reading_) show_keys();
  }
}

Console::~Console() {
  finish_.store(true);
  eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void Console::serial_ready() { eventfd_write(wake_.get(), 1); }

void Console::output_lost() { end(Ended::kTerminalGone); }

void Console::end(Ended why) {
  Ended expected = Ended::kNo;
  ended_.compare_exchange_strong(expected, why);
  if (output_ != nullptr) output_->abandon();
  machine_.stop();
}

void Console::run() {
  tell_size();
  while (!finish_.load()) {
    const bool can_take = input_.is_terminal || pending_.empty();
    std::array<pollfd, 3> fds = {pollfd{wake_.get(), POLLIN, 0}, pollfd{signals_.get(), POLLIN, 0},
                                 pollfd{reading_ && can_take ? input_.fd : -1, POLLIN, 0}};
    if (poll(fds.data(), fds.size(), -1) < 0) {
      if (errno == EINTR) continue;
      error_number_.store(errno);
      return end(Ended::kFailed);
    }
    eventfd_t ignored = 0;
    if (fds[0].revents != 0) eventfd_read(wake_.get(), &ignored);
    if (fds[1].revents != 0) take_signals();
    if (fds[2].revents != 0) take_input();
    offer_pending();
  }
}

void Console::take_signals() {
  signalfd_siginfo info = {};
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    const int signal_number = static_cast<int>(info.ssi_signo);
    if (signal_number == SIGTSTP) {
      if (terminal_) terminal_->leave_raw();
      kill(getpid(), SIGSTOP);
    } else if (signal_number == SIGCONT) {
      if (terminal_) reading_ = terminal_->enter_raw();
    } else if (signal_number == SIGWINCH) {
      tell_size();
    } else {
      signal_number_.store(signal_number);
      end(Ended::kSignal);
    }
  }
}

void Console::tell_size() {
  if (!terminal_) return;
  if (const auto size = terminal_size(input_.fd)) machine_.set_console_size(size->columns, size->rows);
}

void Console::take_input() {
  std::array<u8, 1024> bytes;
  const ssize_t count = read(input_.fd, bytes.data(), bytes.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count <= 0) {
    // A hung-up terminal is the end; an input that has been read to its end is not: the guest runs on.
    reading_ = false;
    if (input_.is_terminal) end(Ended::kTerminalGone);
    return;
  }
  const std::span typed(bytes.data(), static_cast<std::size_t>(count));
  if (!input_.is_terminal) {
    pending_.insert(pending_.end(), typed.begin(), typed.end());
    return;
  }
  const EscapeFilter::Command command = escape_.feed(typed, pending_);
  if (pending_.size() > kMaxPending) pending_.resize(kMaxPending);
  if (command == EscapeFilter::Command::kQuit) end(Ended::kQuit);
  if (command == EscapeFilter::Command::kDetach) say_that_it_stays();
  if (command == EscapeFilter::Command::kHelp) show_keys();
}

void Console::offer_pending() {
  if (pending_.empty()) return;
  const std::size_t taken = machine_.console_input(pending_);
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(taken));
}

}  // namespace vert::cli
