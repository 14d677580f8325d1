// The oracle: runs cases on the host processor, in a worker process of its own.
//
// The worker maps the case's address space at its fixed addresses, loads all registers, jumps, and takes the
// state from the signal that ends the case. It lives for many cases; one that does not end is killed with the
// worker, and a new worker goes on behind it. Used by one thread.
#pragma once

#include <memory>

#include "base/error.hpp"
#include "diff/harness/case.hpp"

namespace vert::diff {

class NativeExecutor final : public Executor {
 public:
  /// Error: the host's kernel or processor lacks what the worker needs (FSGSBASE in user mode).
  [[nodiscard]] static Result<std::unique_ptr<NativeExecutor>> create();
  ~NativeExecutor() override;

  [[nodiscard]] std::size_t capacity() const override;
  [[nodiscard]] Input& input(std::size_t index) override;
  void submit(std::size_t count) override;
  void finish() override;
  [[nodiscard]] const Output& output(std::size_t index) const override;

 private:
  struct Impl;
  explicit NativeExecutor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::diff
