// The engine contract: what runs a vCPU. DESIGN: The engine contract.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/time.hpp"
#include "base/types.hpp"
#include "cpu/cpu_state.hpp"
#include "cpu/engine_report.hpp"
#include "memory/bus.hpp"
#include "memory/guest_memory.hpp"
#include "x86/cpu_model.hpp"

namespace vert::cpu {

class LocalApic;

/// What other threads ask of a vCPU. Bits are set by anyone and taken by the vCPU's thread.
class VcpuEvents {
 public:
  static constexpr u32 kKick = 1U << 0;       // leave the engine: somebody wants the thread
  static constexpr u32 kInterrupt = 1U << 1;  // the local APIC may have an interrupt to take: ask it
  static constexpr u32 kNmi = 1U << 2;        // take_nmi() takes it
  static constexpr u32 kInit = 1U << 3;
  static constexpr u32 kSipi = 1U << 4;
  static constexpr u32 kSmi = 1U << 5;        // taken and dropped: there is no SMM
  static constexpr u32 kSecondNmi = 1U << 6;  // set by request() only, and only beside kNmi

  /// Called after a bit was set, to wake a thread that waits in the machine, or an engine that runs where
  /// the bits are not looked at (a signal to a thread inside KVM_RUN). Set once, before threads start.
  using Waker = void (*)(void* context);
  void set_waker(Waker waker, void* context) {
    waker_ = waker;
    waker_context_ = context;
  }

  void request(u32 bits) {
    request_own(bits);
    if (waker_ != nullptr) waker_(waker_context_);
  }
  /// For a signal handler on the vCPU's thread, which is awake: calls no waker. Async-signal-safe.
  void request_own(u32 bits) {
    u32 before = pending_.load(std::memory_order_relaxed);
    while (!pending_.compare_exchange_weak(before, with(before, bits), std::memory_order_seq_cst)) {
    }
    if (attention_.load(std::memory_order_seq_cst) != nullptr) set_attention_word();
  }

  /// An engine's byte that request() sets to 1 after the bits, for generated code to look at. The engine
  /// clears it before it looks at pending().
  void set_attention(std::atomic<u8>& word) { attention_.store(&word, std::memory_order_seq_cst); }
  /// Ends that, unless another engine has set a byte of its own meanwhile. Once this returns, nobody touches
  /// `word`.
  void clear_attention(std::atomic<u8>& word) {
    std::atomic<u8>* mine = &word;
    attention_.compare_exchange_strong(mine, nullptr, std::memory_order_seq_cst);
    while (attention_users_.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
  }
  [[nodiscard]] u32 pending() const { return pending_.load(std::memory_order_relaxed); }
  /// Takes (clears) those of `bits` that are set and returns them.
  [[nodiscard]] u32 take(u32 bits) { return pending_.fetch_and(~bits, std::memory_order_seq_cst) & bits; }

  /// Takes one NMI. A second one that was asked for before stays: a processor serves one and keeps one more
  /// (SDM 3A, 6.7.1).
  void take_nmi() {
    u32 before = pending_.load(std::memory_order_relaxed);
    const auto after = [](u32 bits) { return (bits & kSecondNmi) != 0 ? bits & ~kSecondNmi : bits & ~kNmi; };
    while (!pending_.compare_exchange_weak(before, after(before), std::memory_order_seq_cst)) {
    }
  }
  /// The handler of an NMI has returned: those that came meanwhile are one.
  void merge_nmis() { static_cast<void>(take(kSecondNmi)); }

  /// The vector of the last SIPI; valid once kSipi was taken.
  std::atomic<u8> sipi_vector = 0;

 private:
  static constexpr u32 with(u32 before, u32 bits) {
    const bool second = (before & bits & kNmi) != 0;
    return before | bits | (second ? kSecondNmi : 0);
  }
  void set_attention_word() {
    attention_users_.fetch_add(1, std::memory_order_seq_cst);
    if (std::atomic<u8>* word = attention_.load(std::memory_order_seq_cst))
      word->store(1, std::memory_order_seq_cst);
    attention_users_.fetch_sub(1, std::memory_order_seq_cst);
  }

  std::atomic<u32> pending_ = 0;
  std::atomic<std::atomic<u8>*> attention_ = nullptr;
  std::atomic<u32> attention_users_ = 0;
  Waker waker_ = nullptr;
  void* waker_context_ = nullptr;
};

/// What the vCPUs of one machine share besides memory and buses.
struct CpuTopology {
  unsigned vcpu_count = 1;
};

/// What an engine may reach: one for each vCPU, made by machine/. All of it outlives the engine.
struct VcpuContext {
  unsigned index = 0;  // also the initial APIC ID
  CpuTopology topology;
  memory::GuestMemory* memory = nullptr;
  memory::Bus* mmio = nullptr;
  memory::Bus* pio = nullptr;
  LocalApic* apic = nullptr;
  VcpuEvents* events = nullptr;
  const x86::CpuModel* model = nullptr;
  EngineAids aids{};
};

/// Why an engine came back.
enum class Exit : u8 {
  kHalt,      // state.activity is kHalted: wait for an event, then run again
  kShutdown,  // triple fault: state.activity is kShutdown; ExitInfo::description says what led to it
  kKick,      // kKick, kInit or kSipi is pending (not taken): the machine settles it
  kBudget,    // the instruction budget is used up
};

struct ExitInfo {
  Exit reason = Exit::kKick;
  /// Instructions that completed in this run.
  u64 instructions = 0;
  /// For people, with kShutdown: the faults that led here.
  std::string description;
};

inline constexpr u64 kNoBudget = ~u64{0};

/// Runs one vCPU. One object for each vCPU, used on that vCPU's thread only.
class Engine {
 public:
  virtual ~Engine() = default;

  /// Runs until an exit, executing at most `budget` instructions (interp: exactly, where nothing else ends
  /// the run sooner). `state` is canonical and precise on return. Interrupts from the local APIC and NMIs are
  /// taken inside, within a bounded number of instructions. A fault in the guest is delivered, not returned.
  [[nodiscard]] virtual ExitInfo run(CpuState& state, u64 budget) = 0;

  /// To be called when, since the last run, the caller changed more of `state` than general registers, RIP,
  /// RFLAGS, segment registers, CPL, FPU state, the TSC's offset and the activity, or handed in another: drop
  /// everything derived from it.
  virtual void state_changed() = 0;

  /// What the engine has counted since it was made, for people. Not while run() is under way.
  [[nodiscard]] virtual std::vector<CounterGroup> counters() const { return {}; }
  /// From now on looks where the time goes, as if EngineAids::samples had asked for it; returns false if it
  /// cannot. Neither while run() is under way, but on any thread.
  [[nodiscard]] virtual bool start_sampling() { return false; }
  virtual void stop_sampling() {}
  /// Where the time went since, with that many of the hottest blocks. Not while run() is under way.
  [[nodiscard]] virtual SampleReport samples(std::size_t /*hottest*/) const { return {}; }
};

/// An engine that can also settle single instructions for another, which runs the same vCPU most of the time.
class FallbackEngine : public Engine {
 public:
  /// Changes whenever a run may have changed what the guest's linear addresses translate to.
  [[nodiscard]] virtual u64 translation_epoch() const = 0;
  /// The caller changed what linear addresses translate to.
  virtual void forget_translations() = 0;
};

}  // namespace vert::cpu
