// A file's bytes, read with every offset checked.
#pragma once

#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include "base/types.hpp"

namespace vert::machine {

class ImageView {
 public:
  ImageView(std::span<const u8> bytes) : bytes_(bytes) {}  // implicit: a view of the same bytes

  [[nodiscard]] u64 size() const { return bytes_.size(); }

  /// The value at `offset`; nothing unless all of it lies in the file.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  [[nodiscard]] std::optional<T> read(u64 offset) const {
    const auto from = slice(offset, sizeof(T));
    if (!from) return std::nullopt;
    T value;
    std::memcpy(&value, from->data(), sizeof value);
    return value;
  }

  [[nodiscard]] std::optional<std::span<const u8>> slice(u64 offset, u64 size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) return std::nullopt;
    return bytes_.subspan(offset, size);
  }

 private:
  std::span<const u8> bytes_;
};

}  // namespace vert::machine
