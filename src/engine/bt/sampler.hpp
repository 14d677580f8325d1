// Where a vCPU's thread spends its time: a timer interrupts it a thousand times a second, and the interrupted
// place is counted: by block of generated code, by thunk, or by what C++ code does.
//
// All on the vCPU's thread, or while that does not run the engine; the signal handler always on it: it
// touches only what the thread leaves alone meanwhile.
#pragma once

#include <array>
#include <atomic>
#include <unordered_map>
#include <vector>

#include <csignal>
#include <ctime>

#include <ucontext.h>

#include "cpu/engine_report.hpp"
#include "engine/bt/block_store.hpp"
#include "engine/bt/code_cache.hpp"
#include "engine/bt/code_names.hpp"
#include "engine/bt/explain.hpp"
#include "x86/cpu_model.hpp"

namespace vert::bt {

class Sampler {
 public:
  /// What the thread does where it is not in the code cache.
  enum class Phase : u8 { kDispatch, kCode, kFallback, kTranslation, kCount };

  Sampler(const CodeCache& cache, const Thunks& thunks, u32 first_code, const x86::CpuModel& model);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  /// The thread runs this translator as long as this lives.
  class Running {
   public:
    explicit Running(Sampler* sampler);
    ~Running();
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

   private:
    Sampler* before_;
  };
  /// The thread is in that phase as long as this lives. `sampler` may be null, here and above.
  class In {
   public:
    In(Sampler* sampler, Phase phase) : sampler_(sampler) {
      if (sampler_ == nullptr) return;
      before_ = sampler_->phase_.exchange(phase, std::memory_order_relaxed);
    }
    ~In() {
      if (sampler_ != nullptr) sampler_->phase_.store(before_, std::memory_order_relaxed);
    }
    In(const In&) = delete;
    In& operator=(const In&) = delete;

   private:
    Sampler* sampler_;
    Phase before_ = Phase::kDispatch;
  };

  /// A block was made of `plan`.
  void block_made(const Block& block, const Emitter::Placed& placed, const BlockPlan& plan);
  void cache_emptied();

  /// With what the handler saw up to now, and a listing of the hottest blocks.
  [[nodiscard]] cpu::SampleReport report(std::size_t hottest) const;

 private:
  /// A block in the cache.
  struct Span {
    u32 hot;
    u32 cold;
    u64 rip;
    Mode mode;
    u64 samples;
    GuestCode guest_code;
  };
  struct Key {
    u64 rip;
    u16 mode;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const { return std::hash<u64>()(key.rip << 12 ^ key.mode); }
  };
  struct Hot {
    u64 samples = 0;
    Mode mode;
    GuestCode guest_code;
  };
  using HotBlocks = std::unordered_map<Key, Hot, KeyHash>;

  static void on_signal(int signal, siginfo_t* info, void* host);
  void take(u64 pc);
  void arm();
  static void collect(const std::vector<Span>& spans, HotBlocks& into);
  [[nodiscard]] cpu::CounterGroup places() const;

  const CodeCache& cache_;
  const std::vector<NamedThunk> thunks_;
  const u32 first_code_;
  const x86::CpuModel model_;
  std::atomic<Phase> phase_ = Phase::kDispatch;
  std::array<u64, static_cast<std::size_t>(Phase::kCount)> by_phase_{};
  std::vector<u64> by_thunk_;
  std::vector<Span> spans_;  // hot parts ascending, cold parts descending
  HotBlocks forgotten_;      // of code caches that were emptied
  timer_t timer_{};
  pid_t armed_ = 0;  // the thread whose time the timer measures, or 0
};

}  // namespace vert::bt
