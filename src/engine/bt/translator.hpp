// Engine bt: translates guest code to host code, x86-64 to x86-64, and runs it in the host's own registers.
//
// ARCHITECTURE.md, "Engine bt", tells how. What generated code does not do, the fallback engine does, an
// instruction at a time.
#pragma once

#include <memory>
#include <string>

#include "base/error.hpp"
#include "cpu/engine.hpp"

namespace vert::bt {

class Translator final : public cpu::Engine {
 public:
  /// Error: the host lacks instructions (BMI2, FSGSBASE) or memory for code.
  [[nodiscard]] static Result<std::unique_ptr<Translator>> create(
      const cpu::VcpuContext& context, std::unique_ptr<cpu::FallbackEngine> fallback);
  ~Translator() override;

  /// `budget` is exact; so is the count of instructions, if there is a budget.
  [[nodiscard]] cpu::ExitInfo run(cpu::CpuState& state, u64 budget) override;
  void state_changed() override;
  [[nodiscard]] std::vector<cpu::CounterGroup> counters() const override;
  [[nodiscard]] bool start_sampling() override;
  void stop_sampling() override;
  [[nodiscard]] cpu::SampleReport samples(std::size_t hottest) const override;

  /// Whether this host can run the engine; if not, why.
  [[nodiscard]] static Status usable();

 private:
  struct Impl;
  explicit Translator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::bt
