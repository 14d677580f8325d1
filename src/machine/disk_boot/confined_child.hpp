// Runs code on hostile input in a child process that can do nothing but read what it was given, compute, and
// answer.
//
// The child has its descriptors only, no way to get others, a system call filter (seccomp), and limits on
// memory and time. A host that refuses some of this gets the rest, and the answer says what was missing.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::machine::disk_boot {

struct Confinement {
  std::vector<int> descriptors;     // that the child may read from
  std::vector<u64> section_limits;  // the answer's parts, and how many bytes each may have
  u64 memory_bytes = u64{256} << 20;
  std::chrono::milliseconds time = std::chrono::seconds(20);
};

/// Where the child's job puts its answer, section after section.
class ConfinedOutput {
 public:
  explicit ConfinedOutput(int fd) : fd_(fd) {}

  Status write(std::span<const u8> bytes);
  Status write(std::string_view text);
  void end_section();

  [[nodiscard]] const std::vector<u64>& sizes() const { return sizes_; }

 private:
  int fd_;
  u64 size_ = 0;
  std::vector<u64> sizes_;
};

struct ConfinedAnswer {
  std::vector<std::vector<u8>> sections;
  std::string missing;  // what the host refused to confine the child with; empty if nothing
};

/// Calls `job` in a child process that it forks, and waits for it. `job` must not take locks that other
/// threads may hold; the allocator's are safe. Error: the job's own, one line without control characters; or
/// how the child ended.
[[nodiscard]] Result<ConfinedAnswer> run_confined(const Confinement& confinement,
                                                  const std::function<Status(ConfinedOutput&)>& job);

}  // namespace vert::machine::disk_boot
