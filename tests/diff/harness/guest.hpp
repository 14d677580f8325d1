// The engine under test: runs cases in user mode of a rig, in the address space that native code sees.
#pragma once

#include <memory>
#include <string>

#include "diff/harness/case.hpp"

namespace vert::diff {

class GuestExecutor final : public Executor {
 public:
  explicit GuestExecutor(const std::string& engine);
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
