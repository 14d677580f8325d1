// The reference engine: one function an instruction, slow and obviously right.
#pragma once

#include <memory>

#include "cpu/engine.hpp"

namespace vert::interp {

class Interpreter final : public cpu::FallbackEngine {
 public:
  explicit Interpreter(const cpu::VcpuContext& context);
  ~Interpreter() override;

  [[nodiscard]] cpu::ExitInfo run(cpu::CpuState& state, u64 budget) override;
  void state_changed() override;
  [[nodiscard]] u64 translation_epoch() const override;
  void forget_translations() override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::interp
