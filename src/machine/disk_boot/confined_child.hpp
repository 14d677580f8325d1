// Runs code on a hostile disk in a child process that can do nothing but ask for the disk's bytes, compute,
// and answer.
//
// The child has two descriptors, for its questions and its answer, and no way to get others; a system call
// filter (seccomp); and limits on memory and time. What the host refuses of this is left out, and the answer
// says so.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"
#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot {

struct Confinement {
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

using ConfinedJob = std::function<Status(BlockReader& disk, ConfinedOutput& output)>;

/// Calls `job` in a child process, and reads the disk for it on this thread, until the child ends. `job` must
/// not take locks that other threads may hold; the allocator's are safe. Error: the job's own, one line
/// without control characters; or how the child ended.
[[nodiscard]] Result<ConfinedAnswer> run_confined(const Confinement& confinement, BlockReader& disk,
                                                  const ConfinedJob& job);

}  // namespace vert::machine::disk_boot
