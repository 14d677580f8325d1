// What the guest's serial console prints, on its way to a file descriptor of the host.
//
// A vCPU hands its bytes over through a buffer of bounded size; a thread of its own writes them out. A slow
// consumer slows the guest down and loses nothing. One that takes nothing at all for a while (a stopped
// pager, a pseudo-terminal that nobody reads) must not hold up the guest: what does not fit is then dropped,
// and a line in the output says how much. One that goes away is reported once.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <thread>

#include "base/fd.hpp"
#include "machine/machine.hpp"

namespace vert::cli {

class SerialOutput final : public machine::SerialBackend {
 public:
  struct Limits {
    std::size_t buffer_bytes = std::size_t{1} << 20;
    /// How long a vCPU waits for a consumer that takes nothing before bytes are dropped.
    std::chrono::milliseconds patience{200};
  };

  /// `on_lost(errno)` is called once, on the writing thread, when the consumer has gone (broken pipe, hung-up
  /// terminal). A full disk is not that: it is warned about once, and the bytes are lost.
  [[nodiscard]] static Result<std::unique_ptr<SerialOutput>> start(base::Fd fd, Limits limits,
                                                                   std::function<void(int)> on_lost);
  /// Leaves what has not been written; call drain() before, to wait for it.
  ~SerialOutput() override;
  SerialOutput(const SerialOutput&) = delete;
  SerialOutput& operator=(const SerialOutput&) = delete;

  /// A descriptor for the same file as `fd`, such that writing never blocks and other holders of `fd` do not
  /// notice. Falls back to a plain copy where the host cannot do that.
  [[nodiscard]] static Result<base::Fd> duplicate_for_output(int fd);

  void write(std::span<const u8> bytes) override;
  /// From now on nothing waits and everything is dropped. Any thread.
  void abandon();
  /// Waits until all is written, or nothing has moved for `patience`. False if something is left.
  bool drain(std::chrono::milliseconds patience);

 private:
  struct Shared;
  explicit SerialOutput(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  static void write_out(const std::shared_ptr<Shared>& shared);

  // The thread shares ownership: if the host's write never returns, it is left behind at exit.
  std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace vert::cli
