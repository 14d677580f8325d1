// The serial console's input, and the signals that end or stop vert, on one thread.
//
// Lives while a machine runs: reads what is typed and hands it to the machine, keeps the terminal in raw
// mode, tells the machine the terminal's size, and stops the machine when the user quits, a signal asks for
// it, or the terminal goes away.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "cli/escape.hpp"
#include "cli/serial_output.hpp"
#include "cli/terminal.hpp"
#include "machine/machine.hpp"

namespace vert::cli {

class Console {
 public:
  /// Why the console stopped the machine.
  enum class Ended { kNo, kQuit, kSignal, kTerminalGone, kFailed };

  struct Input {
    int fd = -1;               // -1: none. Stays open for the console's life
    bool is_terminal = false;  // raw mode, escape key; its end is the end of the machine
  };

  /// Blocks in this thread, and so in all that it will start, the signals that the console takes, and ignores
  /// those that a failing write raises. To be called before the machine is made.
  [[nodiscard]] static Status block_signals();
  /// A descriptor, not blocking, from which those signals are to be read.
  [[nodiscard]] static Result<base::Fd> take_signals_here();

  /// Starts the thread. `output` may be null; it and `machine` outlive the console.
  [[nodiscard]] static Result<std::unique_ptr<Console>> start(machine::Machine& machine, SerialOutput* output,
                                                              Input input);
  /// Stops the thread and restores the terminal.
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// Why the machine was stopped, if the console did it; with kSignal, by which.
  [[nodiscard]] Ended ended() const { return ended_.load(); }
  [[nodiscard]] int signal_number() const { return signal_number_.load(); }
  /// With kFailed, why: an errno.
  [[nodiscard]] int error_number() const { return error_number_.load(); }
  /// To be called when the output's consumer has gone. Any thread.
  void output_lost();
  /// To be called when the guest may take typed bytes again. Any thread.
  void serial_ready();

 private:
  Console(machine::Machine& machine, SerialOutput* output, Input input, base::Fd signals, base::Fd wake);
  void run();
  void take_signals();
  void tell_size();
  void take_input();
  void offer_pending();
  void end(Ended why);

  machine::Machine& machine_;
  SerialOutput* output_;
  Input input_;
  std::optional<TerminalGuard> terminal_;
  base::Fd signals_;
  base::Fd wake_;
  std::atomic<Ended> ended_{Ended::kNo};
  std::atomic<int> signal_number_{0};
  std::atomic<int> error_number_{0};
  std::atomic<bool> finish_{false};
  // The thread's own:
  EscapeFilter escape_;
  std::vector<u8> pending_;  // typed, not yet taken by the guest
  bool reading_ = false;
  std::thread thread_;
};

}  // namespace vert::cli
