// The journal of an ext4 that was not unmounted (jbd2's format, Linux, filesystems/ext4/journal): what it has
// for blocks of the file system that were not written to their places before the machine was killed.
//
// It is not replayed, which would write to the disk: the blocks are read from the journal instead. Checksums
// and fast commits are not looked at.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <unordered_map>

#include "base/types.hpp"

namespace vert::machine::disk_boot {

struct JournalledBlock {
  u64 offset = 0;        // where its newest content is, in bytes from the file system's begin
  bool escaped = false;  // its first four bytes, which are a journal's magic number, are zeros there
};

/// By the block's number in the file system.
using JournalledBlocks = std::unordered_map<u64, JournalledBlock>;

inline constexpr u32 kJournalMagic = 0xC03B3998;  // big-endian

struct JournalSource {
  u32 block_size = 0;
  /// Where a block of the journal is, in bytes from the file system's begin.
  std::function<std::optional<u64>(u32 index)> locate;
  /// Fills the bytes from there; false if that fails.
  std::function<bool(u64 offset, std::span<u8> bytes)> read;
};

/// What transactions that are complete have written. Empty if the journal is, or if it is damaged.
[[nodiscard]] JournalledBlocks read_journal(const JournalSource& source);

}  // namespace vert::machine::disk_boot
