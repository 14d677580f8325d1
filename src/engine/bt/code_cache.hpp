// The code cache: memory for generated code, mapped twice, so that no mapping is both writable and
// executable.
//
// One for each translator, on its thread. Addresses in it are offsets, the same in both mappings. It is
// emptied as a whole when it is full.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::bt {

class CodeCache {
 public:
  /// Error: the host has not the memory, or forbids executable memory.
  [[nodiscard]] static Result<CodeCache> create(std::size_t size);

  /// Where the next code goes, and how much room is left.
  [[nodiscard]] u32 position() const { return position_; }
  [[nodiscard]] std::size_t room() const { return writable_.size() - position_; }
  [[nodiscard]] u8* write_at(u32 offset) { return writable_.data() + offset; }
  void take(std::size_t size) { position_ = static_cast<u32>((position_ + size + 15) & ~std::size_t{15}); }
  /// Forgets all code from `offset` on.
  void rewind(u32 offset) { position_ = offset; }

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
      : writable_(std::move(writable)), executable_(std::move(executable)) {}

  base::Mapping writable_;
  base::Mapping executable_;
  u32 position_ = 0;
};

}  // namespace vert::bt
