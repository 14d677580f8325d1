// `vert console`: attaches this terminal to a VM's console, and passes on its size.
//
// One thread, which waits for keys, output and signals at once.
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <string>

#include "cli/commands.hpp"
#include "cli/console.hpp"
#include "cli/escape.hpp"
#include "cli/machine_choice.hpp"
#include "cli/terminal.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  vert console web                 attach to the console; the last 64 KiB of output come first
  echo 'uname -a' | timeout 2 vert console web

Keys on a terminal: Ctrl-A d (or x) detaches, Ctrl-A ? shows help, Ctrl-A Ctrl-A sends Ctrl-A. The VM keeps running.
Several clients can attach at once: all see the output, and all can type.)";

constexpr std::string_view kKeys =
    "vert: Ctrl-A d detaches (the VM keeps running), Ctrl-A Ctrl-A sends Ctrl-A\r\n";

/// Writes all of it, waiting as long as the other side takes. False if it has gone.
bool write_all(int fd, std::span<const u8> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      pollfd writable = {fd, POLLOUT, 0};
      ::poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

class Attachment {
 public:
  enum class End { kNone, kDetached, kMachineEnded, kOutputGone, kSignal, kFailed };

  Attachment(const control::LivingMachine& machine, control::ConsoleSocket socket, base::Fd signals)
      : machine_(machine), socket_(std::move(socket.fd)), signals_(std::move(signals)) {
    if (::isatty(STDIN_FILENO) != 0) {
      terminal_.emplace(STDIN_FILENO);
      terminal_->enter_raw();
      say(fmt::format("vert: attached to '{}'; Ctrl-A d detaches, Ctrl-A ? shows help\r\n", machine_.name));
      tell_size();
    }
    if (!write_all(STDOUT_FILENO, socket.greeting)) end_ = End::kOutputGone;
  }

  End run() {
    while (end_ == End::kNone) {
      // Keys wait while the guest has not taken those before.
      std::array<pollfd, 3> fds = {
          pollfd{socket_.get(), static_cast<short>(POLLIN | (pending_.empty() ? 0 : POLLOUT)), 0},
          pollfd{typing_ && pending_.empty() ? STDIN_FILENO : -1, POLLIN, 0},
          pollfd{signals_.get(), POLLIN, 0}};
      if (::poll(fds.data(), fds.size(), -1) < 0) {
        if (errno == EINTR) continue;
        error_number_ = errno;
        end_ = End::kFailed;
        break;
      }
      if (fds[2].revents != 0) take_signals();
      if (fds[1].revents != 0) take_keys();
      if ((fds[0].revents & POLLOUT) != 0) send_pending();
      if ((fds[0].revents & ~POLLOUT) != 0) take_output();
    }
    if (terminal_) terminal_->leave_raw();
    return end_;
  }

  [[nodiscard]] int signal_number() const { return signal_number_; }
  [[nodiscard]] int error_number() const { return error_number_; }
  [[nodiscard]] bool on_terminal() const { return terminal_.has_value(); }

 private:
  static void say(std::string_view text) {
    if (::isatty(STDERR_FILENO) != 0) print_error(text);
  }

  void take_signals() {
    signalfd_siginfo info = {};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      const int number = static_cast<int>(info.ssi_signo);
      if (number == SIGTSTP) {
        if (terminal_) terminal_->leave_raw();
        ::kill(::getpid(), SIGSTOP);
      } else if (number == SIGCONT) {
        if (terminal_) terminal_->enter_raw();
      } else if (number == SIGWINCH) {
        tell_size();
      } else {
        signal_number_ = number;
        end_ = End::kSignal;
      }
    }
  }

  /// A VM that cannot be told works as well.
  void tell_size() {
    static constexpr std::chrono::seconds kLimit{2};
    const auto size = terminal_ ? terminal_size(STDIN_FILENO) : std::nullopt;
    if (!size) return;
    static_cast<void>(control::call(machine_.socket_path(), "PUT", "vm.console-size",
                                    {{"columns", size->columns}, {"rows", size->rows}}, kLimit));
  }

  void take_keys() {
    std::array<u8, 1024> bytes;
    const ssize_t count = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count <= 0) {
      typing_ = false;
      if (terminal_) end_ = End::kDetached;
      return;
    }
    const auto typed = std::span(bytes).first(static_cast<std::size_t>(count));
    EscapeFilter::Command command = EscapeFilter::Command::kNone;
    if (terminal_) {
      command = escape_.feed(typed, pending_);
    } else {
      pending_.assign(typed.begin(), typed.end());
    }
    send_pending();
    if (command == EscapeFilter::Command::kHelp) say(kKeys);
    if (command == EscapeFilter::Command::kDetach || command == EscapeFilter::Command::kQuit)
      end_ = End::kDetached;
  }

  void send_pending() {
    if (pending_.empty()) return;
    const ssize_t count =
        ::send(socket_.get(), pending_.data(), pending_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) pending_.erase(pending_.begin(), pending_.begin() + count);
  }

  void take_output() {
    std::array<u8, 16 * 1024> bytes;
    const ssize_t count = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count <= 0) {
      end_ = End::kMachineEnded;
    } else if (!write_all(STDOUT_FILENO, std::span(bytes).first(static_cast<std::size_t>(count)))) {
      end_ = End::kOutputGone;
    }
  }

  const control::LivingMachine& machine_;
  base::Fd socket_;
  base::Fd signals_;
  std::optional<TerminalGuard> terminal_;
  EscapeFilter escape_;
  std::vector<u8> pending_;  // typed, not yet sent
  bool typing_ = true;
  End end_ = End::kNone;
  int signal_number_ = 0;
  int error_number_ = 0;
};

class ConsoleCommand final : public Command {
 public:
  explicit ConsoleCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("console", "Attach to a VM's console")) {
    add_machine_name(app_, name_);
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto machine, find_machine(name_));
    VERT_ASSIGN(auto socket, control::open_console(machine.socket_path()));
    VERT_TRY(Console::block_signals());
    VERT_ASSIGN(base::Fd signals, Console::take_signals_here());
    install_crash_handlers();
    Attachment attachment(machine, std::move(socket), std::move(signals));
    switch (attachment.run()) {
      case Attachment::End::kMachineEnded:
        print_error(
            fmt::format("{}vert: VM '{}' has ended\n", attachment.on_terminal() ? "\n" : "", machine.name));
        return kExitOk;
      case Attachment::End::kOutputGone: return make_error("standard output was closed");
      case Attachment::End::kSignal:
        return make_error("detached by SIG{}; the VM keeps running",
                          sigabbrev_np(attachment.signal_number()));
      case Attachment::End::kFailed:
        return make_system_error(attachment.error_number(), "cannot wait for input (poll)");
      case Attachment::End::kDetached:
      case Attachment::End::kNone: break;
    }
    if (attachment.on_terminal())
      print_error(
          fmt::format("\nvert: detached from '{}', which keeps running; 'vert console {}' attaches again\n",
                      machine.name, machine.name));
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Command> make_console_command(CLI::App& parent) {
  return std::make_unique<ConsoleCommand>(parent);
}

}  // namespace vert::cli
