// The code cache: memory for generated code, mapped twice, so that no mapping is both writable and
// executable.
//
// One for each translator, on its thread. Addresses in it are offsets, the same in both mappings. What
// usually runs is filled in from the front, what usually does not from the back; when it is full, it is
// emptied as a whole.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::bt {

/// Of each vCPU's, in bytes. When one is full, all its code is made anew, the kernel's too: a boot of a
/// distribution makes some 300 MiB, since each process has its libraries at other addresses.
[[nodiscard]] std::size_t usual_cache_size(unsigned vcpus);

class CodeCache {
 public:
  /// Error: the host has not the memory, or forbids executable memory.
  [[nodiscard]] static Result<CodeCache> create(std::size_t size);

  /// Where the next hot code goes, where cold code begins, and how much room is between them.
  [[nodiscard]] u32 position() const { return position_; }
  [[nodiscard]] u32 cold_position() const { return cold_position_; }
  [[nodiscard]] std::size_t room() const { return cold_position_ - position_; }
  [[nodiscard]] std::size_t size() const { return writable_.size(); }
  [[nodiscard]] std::size_t used() const { return writable_.size() - room(); }
  [[nodiscard]] u8* write_at(u32 offset) { return writable_.data() + offset; }
  /// Takes room for hot code and for cold code, which was written before `cold_position()`.
  void take(u32 hot, u32 cold) {
    position_ += hot;
    cold_position_ -= cold;
  }
  /// The next hot code goes over the last `size` bytes.
  void take_back(u32 size) { position_ -= size; }
  void align() { position_ = (position_ + 15) & ~15U; }
  /// Forgets all code from `offset` on.
  void rewind(u32 offset) {
    position_ = offset;
    cold_position_ = static_cast<u32>(writable_.size());
  }

  [[nodiscard]] const u8* code(u32 offset) const { return executable_.data() + offset; }
  [[nodiscard]] bool contains(u64 host_address) const {
    return host_address - reinterpret_cast<u64>(executable_.data()) < executable_.size();
  }
  [[nodiscard]] u32 offset_of(u64 host_address) const {
    return static_cast<u32>(host_address - reinterpret_cast<u64>(executable_.data()));
  }

  /// Lets the 32-bit displacement at `site` lead to `target`.
  void patch(u32 site, u32 target);

 private:
  CodeCache(base::Mapping writable, base::Mapping executable)
      : writable_(std::move(writable)),
        executable_(std::move(executable)),
        cold_position_(static_cast<u32>(writable_.size())) {}

  base::Mapping writable_;
  base::Mapping executable_;
  u32 position_ = 0;
  u32 cold_position_;
};

}  // namespace vert::bt
