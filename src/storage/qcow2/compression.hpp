// Compressed clusters: raw deflate with a small window, as QEMU makes it, or zstd. Pure; any thread.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "storage/qcow2/format.hpp"

namespace vert::storage::qcow2 {

/// Fills all of `to`; whatever follows in `from` is not looked at. False: `from` is not such data.
[[nodiscard]] bool decompress(CompressionType type, std::span<const u8> from, std::span<u8> to);
/// None: it would not become smaller.
[[nodiscard]] std::optional<std::vector<u8>> compress(CompressionType type, std::span<const u8> from);

}  // namespace vert::storage::qcow2
