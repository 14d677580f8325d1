// The file in which perf(1) looks names of generated code up: lines of "address size name", both in
// hexadecimal.
//
// One file a process, to which each translator appends whole lines; any thread. Code that takes the place of
// older code at the same address has a later line.
#pragma once

#include <string>
#include <string_view>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::bt {

class PerfMap {
 public:
  /// This process's file, /tmp/perf-PID.map; empty at its first opening.
  [[nodiscard]] static Result<PerfMap> open();
  /// Error: it cannot be written, or somebody else owns it.
  [[nodiscard]] static Result<PerfMap> open(const std::string& path, bool emptied);

  /// What cannot be written is lost.
  void add(const u8* code, std::size_t size, std::string_view name);

 private:
  explicit PerfMap(base::Fd file) : file_(std::move(file)) {}
  base::Fd file_;
};

}  // namespace vert::bt
