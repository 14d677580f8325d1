// Runs single host instructions as generated code has them, beside pages that must not be touched.
#pragma once

#include <csignal>
#include <span>

#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::test {

/// What became of an instruction: the signal that it raised, 0 for none, and where the access was.
struct Outcome {
  int signal = 0;
  u64 address = 0;
};

class Host {
 public:
  Host();

  /// Runs `code` with the guest's RBX, and its RSP, at page() + offset. Flags and vector registers begin the
  /// same each time.
  [[nodiscard]] Outcome run(std::span<const u8> code, std::size_t offset);

  /// A page between two without access.
  [[nodiscard]] std::span<u8> page() const;
  void fill_page(u8 value);

 private:
  base::Mapping code_;
  base::Mapping pages_;
};

}  // namespace vert::test
