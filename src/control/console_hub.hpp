// The serial console's output, for all who look: the local end, if there is one, and watchers that come and
// go. The last of it is kept for those who come later.
//
// Memory is bounded: all watchers read from one ring. One that is slow slows the guest down and loses
// nothing; one that takes nothing at all for a while must not hold the guest up: it loses the oldest bytes,
// and reads a line that says how many. Owned by whoever runs the machine; outlives the machine and all
// watchers.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "machine/machine.hpp"

namespace vert::control {

class ConsoleHub final : public machine::SerialBackend {
 public:
  struct Limits {
    std::size_t replayed = std::size_t{64} << 10;  // what a new watcher gets of what was before
    std::size_t ring = std::size_t{256} << 10;     // more than that
    /// How long a vCPU waits for a watcher that has half a ring to read and takes nothing.
    std::chrono::milliseconds patience{200};
  };

  /// `local` may be null, and outlives the hub.
  explicit ConsoleHub(machine::SerialBackend* local) : ConsoleHub(local, Limits{}) {}
  ConsoleHub(machine::SerialBackend* local, Limits limits);

  /// Output of the guest; on a vCPU thread.
  void write(std::span<const u8> bytes) override;

  /// One who looks. One thread at a time.
  class Watcher {
   public:
    ~Watcher();
    Watcher(const Watcher&) = delete;
    Watcher& operator=(const Watcher&) = delete;
    /// Copies what comes next, without taking it; returns how many bytes.
    [[nodiscard]] std::size_t peek(std::span<u8> out);
    /// So many of the bytes that the last peek() gave have reached whoever looks.
    void consume(std::size_t count);

   private:
    friend ConsoleHub;
    Watcher(ConsoleHub& hub, std::function<void()> on_output) : hub_(hub), on_output_(std::move(on_output)) {}
    ConsoleHub& hub_;
    const std::function<void()> on_output_;
    std::string note_;      // about lost bytes, on its way
    u64 position_ = 0;      // in all that was ever written
    u64 peeked_at_ = 0;     // where position_ was at the last peek()
    u64 lost_ = 0;          // since then, not told of yet
    bool stalled_ = false;  // took nothing for `patience`
  };
  /// `on_output` is called, on a vCPU thread with a lock held, when there is something to peek at again: it
  /// may only pass that on.
  [[nodiscard]] std::unique_ptr<Watcher> watch(std::function<void()> on_output);

  /// While this lives, no vCPU waits for watchers: whoever serves these is about to wait for the vCPUs. The
  /// other half of the ring takes what they say until then.
  class Hurry {
   public:
    explicit Hurry(ConsoleHub& hub) : hub_(hub) { hub_.hurry(1); }
    ~Hurry() { hub_.hurry(-1); }
    Hurry(const Hurry&) = delete;
    Hurry& operator=(const Hurry&) = delete;

   private:
    ConsoleHub& hub_;
  };

  /// Waits until all watchers have taken all, or nothing has moved for `patience`.
  void drain(std::chrono::milliseconds patience);

 private:
  [[nodiscard]] u64 unread(const Watcher& watcher) const { return written_ - watcher.position_; }
  [[nodiscard]] std::size_t most_unread() const { return hurries_ != 0 ? ring_.size() : ring_.size() / 2; }
  [[nodiscard]] std::size_t room() const;
  void stall_slowest();
  void hurry(int change);
  void append(std::span<const u8> bytes);

  machine::SerialBackend* const local_;
  const Limits limits_;

  std::mutex mutex_;  // guards what follows, and the watchers' insides
  std::condition_variable changed_;
  std::vector<u8> ring_;
  u64 written_ = 0;   // in all
  u64 consumed_ = 0;  // by all watchers together: moves when one of them does
  int hurries_ = 0;
  std::list<Watcher*> watchers_;
};

}  // namespace vert::control
