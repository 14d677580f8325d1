// What random guests are made of, and what keeps them from running for ever.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include "support/guest_rig.hpp"
#include "support/random.hpp"

namespace vert::test {

/// Random bytes, with opcodes in between after which system behaviour begins; the rest of such an instruction
/// is left to chance.
void fill_code(Random& random, std::span<u8> code);
/// Numbers near where checks have their edges, and addresses near the guest's own tables.
[[nodiscard]] u64 interesting(Random& random);

/// Does something every few milliseconds, on a thread of its own.
class Ticker {
 public:
  Ticker(std::chrono::milliseconds period, std::function<void()> work);
  ~Ticker();
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace vert::test
