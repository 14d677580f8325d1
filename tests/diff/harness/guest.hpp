// The engine under test: runs cases in user mode of a rig, in the address space that native code sees.
//
// How it runs a case follows from the case's first address, so that all ways get their share and a case is
// always run the same way: with a budget of instructions or without, for an engine may run other code then;
// and at once, or a second time, when the engine knows the code, and has it linked and its pages at hand.
#pragma once

#include <memory>
#include <string>

#include "diff/harness/case.hpp"
#include "x86/cpu_model.hpp"

namespace vert::diff {

class GuestExecutor final : public Executor {
 public:
  /// One engine, as "bt"; or several, as "bt,interp", that take turns every few instructions.
  explicit GuestExecutor(const std::string& engines);
  GuestExecutor(const std::string& engine, const x86::CpuModel& model);
  ~GuestExecutor() override;

  [[nodiscard]] std::size_t capacity() const override;
  [[nodiscard]] Input& input(std::size_t index) override;
  void submit(std::size_t count) override;
  void finish() override {}
  [[nodiscard]] const Output& output(std::size_t index) const override;

  /// Runs one case from an input that lies elsewhere.
  void run(const Input& input, Output& output);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::diff
