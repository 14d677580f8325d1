#include "storage/qcow2/header.hpp"

#include <algorithm>
#include <string_view>

namespace vert::storage::qcow2 {
namespace {

constexpr u32 kEndOfExtensions = 0;
constexpr u32 kBackingFormat = 0xE2792ACA;
constexpr u32 kFeatureNames = 0x6803F857;
constexpr u32 kBitmaps = 0x23852875;
constexpr u64 kFeatureNameSize = 48;

struct FeatureName {
  u8 type;
  u8 bit;
  std::string_view name;
};
/// What vert writes into new images, for programs that do not know a feature.
constexpr FeatureName kKnownFeatures[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"}};

std::string text_of(std::span<const u8> bytes) {
  std::string text(bytes.begin(), bytes.end());
  return text.substr(0, text.find('\0'));
}

struct Extensions {
  std::optional<std::string> backing_format;
  std::optional<std::vector<u8>> bitmaps;
  std::span<const u8> feature_names;
};

Result<Extensions> parse_extensions(std::span<const u8> area) {
  Extensions found;
  while (area.size() >= 8) {
    const auto type = load_be<u32>(area.data());
    const u64 length = load_be<u32>(area.data() + 4);
    if (type == kEndOfExtensions) break;
    if (length > area.size() - 8)
      return make_error("its header extension {:#x} is longer than the header", type);
    const auto data = area.subspan(8, length);
    if (type == kBackingFormat) found.backing_format = text_of(data);
    if (type == kFeatureNames) found.feature_names = data;
    if (type == kBitmaps) found.bitmaps.emplace(data.begin(), data.end());
    area = area.subspan(std::min<u64>(8 + (length + 7) / 8 * 8, area.size()));
  }
  return found;
}

/// The image's own name for a feature that vert does not know.
std::string feature_name(std::span<const u8> names, unsigned bit) {
  for (; names.size() >= kFeatureNameSize; names = names.subspan(kFeatureNameSize)) {
    if (names[0] != 0 || names[1] != bit) continue;
    return fmt::format("{} (bit {})", printable(text_of(names.subspan(2, kFeatureNameSize - 2))), bit);
  }
  return fmt::format("bit {}", bit);
}

Status check_features(const Header& header, std::span<const u8> feature_names) {
  constexpr u64 kKnown = kIncompatibleDirty | kIncompatibleCorrupt | kIncompatibleDataFile |
                         kIncompatibleCompression | kIncompatibleExtendedL2;
  if ((header.incompatible & kIncompatibleDataFile) != 0)
    return make_error("it keeps its data in an external data file, which vert does not support");
  std::string unknown;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (((header.incompatible & ~kKnown) >> bit & 1) == 0) continue;
    unknown += (unknown.empty() ? "" : ", ") + feature_name(feature_names, bit);
  }
  if (!unknown.empty())
    return make_error(
        "it needs features that vert does not have: {}; 'qemu-img convert' makes an image without", unknown);
  return {};
}

/// A table of `bytes` at `offset`: aligned, and within the file.
Status check_table(const Header& header, std::string_view what, u64 offset, u64 bytes, u64 file_size) {
  if (header.geometry.in_cluster(offset) != 0)
    return make_error("its {} does not start at a cluster (offset {:#x})", what, offset);
  if (offset > file_size || bytes > file_size - offset)
    return make_error("its {} lies behind the file's end: the file was cut short; copy it again", what);
  return {};
}

Status check_tables(const Header& header, u64 file_size) {
  const Geometry& geometry = header.geometry;
  const u64 l1_bytes = u64{header.l1_entries} * 8;
  const u64 table_bytes = u64{header.refcount_table_clusters} << geometry.cluster_bits;
  if (l1_bytes > kMaxL1Bytes) return make_error("its L1 table has {} entries, too many", header.l1_entries);
  if (geometry.l1_entries(header.size) > header.l1_entries)
    return make_error("its L1 table has {} entries, too few for {} bytes", header.l1_entries, header.size);
  if (header.l1_entries != 0)
    VERT_TRY(check_table(header, "L1 table", header.l1_offset, l1_bytes, file_size));
  if (table_bytes == 0) return make_error("it has no refcount table");
  if (table_bytes > kMaxRefcountTableBytes)
    return make_error("its refcount table has {} clusters, too many", header.refcount_table_clusters);
  VERT_TRY(check_table(header, "refcount table", header.refcount_table_offset, table_bytes, file_size));
  if (header.snapshots > kMaxSnapshots) return make_error("it has {} snapshots, too many", header.snapshots);
  if (header.snapshots == 0) return {};
  return check_table(header, "snapshot table", header.snapshots_offset, 40, file_size);
}

Status parse_version_3(std::span<const u8> bytes, Header& header) {
  const auto at = [&](u64 offset) { return bytes.data() + offset; };
  if (bytes.size() < kHeaderSizeV3) return make_error("the file is cut short in its header");
  header.incompatible = load_be<u64>(at(72));
  header.compatible = load_be<u64>(at(80));
  header.autoclear = load_be<u64>(at(88));
  header.geometry.refcount_order = load_be<u32>(at(96));
  header.length = load_be<u32>(at(100));
  header.geometry.extended_l2 = (header.incompatible & kIncompatibleExtendedL2) != 0;
  if (header.length < kHeaderSizeV3 || header.length > header.geometry.cluster_size() ||
      header.length > bytes.size())
    return make_error("its header cannot be {} bytes long", header.length);
  if (header.geometry.refcount_order > 6)
    return make_error("its refcounts cannot be 2^{} bits wide", header.geometry.refcount_order);
  const u8 compression = header.length > kHeaderSizeV3 ? bytes[kHeaderSizeV3] : 0;
  if (compression > static_cast<u8>(CompressionType::kZstd))
    return make_error("it is compressed in a way that vert does not know (type {})", compression);
  if ((compression != 0) != ((header.incompatible & kIncompatibleCompression) != 0))
    return make_error("its compression type {} and the feature bit for it contradict each other",
                      compression);
  header.compression = static_cast<CompressionType>(compression);
  return {};
}

Status parse_backing_file(std::span<const u8> cluster, u32 size, Header& header) {
  if (header.backing_offset == 0) return {};
  if (size == 0 || size > kMaxBackingName)
    return make_error("its backing file's name cannot be {} bytes long", size);
  if (header.backing_offset < header.length || header.backing_offset > cluster.size() ||
      size > cluster.size() - header.backing_offset)
    return make_error("its backing file's name does not lie in its header");
  header.backing_file = text_of(cluster.subspan(header.backing_offset, size));
  return {};
}

void append_extension(std::vector<u8>& bytes, u32 type, std::span<const u8> data) {
  std::array<u8, 8> start{};
  store_be<u32>(start.data(), type);
  store_be<u32>(start.data() + 4, static_cast<u32>(data.size()));
  bytes.insert(bytes.end(), start.begin(), start.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  bytes.resize((bytes.size() + 7) / 8 * 8);
}

std::span<const u8> bytes_of(const std::string& text) {
  return {reinterpret_cast<const u8*>(text.data()), text.size()};
}

}  // namespace

std::string printable(std::string text) {
  constexpr std::size_t kLongest = 200;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

Result<unsigned> parse_cluster_bits(std::span<const u8> start) {
  if (load_be<u32>(start.data()) != kMagic) return make_error("it is not a qcow2 image");
  const auto version = load_be<u32>(start.data() + 4);
  if (version != 2 && version != 3)
    return make_error("it is of version {}; vert knows qcow2 of versions 2 and 3", version);
  const auto cluster_bits = load_be<u32>(start.data() + 20);
  if (cluster_bits < kMinClusterBits || cluster_bits > kMaxClusterBits)
    return make_error("its clusters cannot have 2^{} bytes", cluster_bits);
  return cluster_bits;
}

Result<Header> parse_header(std::span<const u8> cluster, u64 file_size) {
  const auto at = [&](u64 offset) { return cluster.data() + offset; };
  if (cluster.size() < kHeaderSizeV2) return make_error("the file is cut short in its header");
  Header header;
  VERT_ASSIGN(header.geometry.cluster_bits, parse_cluster_bits(cluster));
  header.geometry.version = load_be<u32>(at(4));
  header.backing_offset = load_be<u64>(at(8));
  header.size = load_be<u64>(at(24)) / kSectorSize * kSectorSize;
  header.l1_entries = load_be<u32>(at(36));
  header.l1_offset = load_be<u64>(at(40));
  header.refcount_table_offset = load_be<u64>(at(48));
  header.refcount_table_clusters = load_be<u32>(at(56));
  header.snapshots = load_be<u32>(at(60));
  header.snapshots_offset = load_be<u64>(at(64));
  if (header.geometry.version == 2)
    header.length = kHeaderSizeV2;
  else
    VERT_TRY(parse_version_3(cluster, header));
  const auto encryption = load_be<u32>(at(32));
  if (encryption != 0)
    return make_error("it is encrypted ({}), which vert does not support",
                      encryption == 1   ? "AES"
                      : encryption == 2 ? "LUKS"
                                        : fmt::format("method {}", encryption));
  VERT_TRY(parse_backing_file(cluster, load_be<u32>(at(16)), header));
  const u64 extensions_end = header.backing_file ? header.backing_offset : cluster.size();
  VERT_ASSIGN(const auto extensions,
              parse_extensions(cluster.subspan(header.length, extensions_end - header.length)));
  header.backing_format = extensions.backing_format;
  header.bitmaps = extensions.bitmaps;
  VERT_TRY(check_features(header, extensions.feature_names));
  if (header.geometry.extended_l2 && header.geometry.cluster_bits < 14)
    return make_error("its clusters are too small for extended L2 entries");
  VERT_TRY(check_tables(header, file_size));
  return header;
}

std::vector<u8> Header::encode_fields() const {
  std::vector<u8> bytes(geometry.version == 2 ? kHeaderSizeV2 : kHeaderSizeV3);
  const auto at = [&](u64 offset) { return bytes.data() + offset; };
  store_be<u32>(at(0), kMagic);
  store_be<u32>(at(4), geometry.version);
  store_be<u64>(at(8), backing_offset);
  store_be<u32>(at(16), backing_file ? static_cast<u32>(backing_file->size()) : 0);
  store_be<u32>(at(20), geometry.cluster_bits);
  store_be<u64>(at(24), size);
  store_be<u32>(at(36), l1_entries);
  store_be<u64>(at(40), l1_offset);
  store_be<u64>(at(48), refcount_table_offset);
  store_be<u32>(at(56), refcount_table_clusters);
  store_be<u32>(at(60), snapshots);
  store_be<u64>(at(64), snapshots_offset);
  if (geometry.version == 2) return bytes;
  store_be<u64>(at(72), incompatible);
  store_be<u64>(at(80), compatible);
  store_be<u64>(at(88), autoclear);
  store_be<u32>(at(96), geometry.refcount_order);
  store_be<u32>(at(100), length);
  return bytes;
}

Result<std::vector<u8>> Header::encode() const {
  Header placed = *this;
  std::vector<u8> rest;
  if (geometry.version != 2) {
    placed.length = kHeaderSizeV3 + 8;
    rest = {static_cast<u8>(compression), 0, 0, 0, 0, 0, 0, 0};
  }
  if (backing_format) append_extension(rest, kBackingFormat, bytes_of(*backing_format));
  if (geometry.version != 2) {
    std::vector<u8> names;
    for (const FeatureName& feature : kKnownFeatures) {
      names.push_back(feature.type);
      names.push_back(feature.bit);
      names.insert(names.end(), feature.name.begin(), feature.name.end());
      names.resize((names.size() + kFeatureNameSize - 1) / kFeatureNameSize * kFeatureNameSize);
    }
    // The smallest clusters have room for one or the other.
    if (geometry.cluster_bits >= 10 || !backing_file) append_extension(rest, kFeatureNames, names);
  }
  append_extension(rest, kEndOfExtensions, {});
  const u64 fixed = geometry.version == 2 ? kHeaderSizeV2 : kHeaderSizeV3;
  if (backing_file) {
    placed.backing_offset = fixed + rest.size();
    const auto name = bytes_of(*backing_file);
    rest.insert(rest.end(), name.begin(), name.end());
  }
  std::vector<u8> bytes = placed.encode_fields();
  bytes.insert(bytes.end(), rest.begin(), rest.end());
  if (bytes.size() > geometry.cluster_size() || (backing_file && backing_file->size() > kMaxBackingName))
    return make_error("the backing file's name is too long for the header");
  bytes.resize(geometry.cluster_size());
  return bytes;
}

}  // namespace vert::storage::qcow2
