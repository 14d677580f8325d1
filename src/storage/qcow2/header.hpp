// The header of a qcow2 image: read with every field checked, and written.
//
// Pure; any thread.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "storage/qcow2/format.hpp"

namespace vert::storage::qcow2 {

inline constexpr u64 kHeaderSizeV2 = 72;
inline constexpr u64 kHeaderSizeV3 = 104;

struct Header {
  Geometry geometry;
  u64 size = 0;
  u64 backing_offset = 0;
  u32 l1_entries = 0;
  u64 l1_offset = 0;
  u64 refcount_table_offset = 0;
  u32 refcount_table_clusters = 0;
  u32 snapshots = 0;
  u64 snapshots_offset = 0;
  u64 incompatible = 0;
  u64 compatible = 0;
  u64 autoclear = 0;
  u32 length = kHeaderSizeV3;
  CompressionType compression = CompressionType::kZlib;

  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  /// The bitmaps extension as it is on disk.
  std::optional<std::vector<u8>> bitmaps;

  /// The fields up to header_length's, or version 2's: what changes while an image is used.
  [[nodiscard]] std::vector<u8> encode_fields() const;
  /// A new image's header with its extensions, as long as a cluster. Error: there is no room for the names.
  [[nodiscard]] Result<std::vector<u8>> encode() const;
};

/// A name from an image, for messages: it can hold anything, and be long.
[[nodiscard]] std::string printable(std::string text);
/// cluster_bits, from the first bytes (24 at least), to know how much to read. Error: not a qcow2 image.
[[nodiscard]] Result<unsigned> parse_cluster_bits(std::span<const u8> start);
/// `cluster` is the image's first cluster, or what the file has of it. The error says what the image needs
/// that vert does not have, or what is wrong.
[[nodiscard]] Result<Header> parse_header(std::span<const u8> cluster, u64 file_size);

}  // namespace vert::storage::qcow2
