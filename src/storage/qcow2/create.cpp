#include "storage/qcow2/create.hpp"

#include <bit>

namespace vert::storage::qcow2 {

Status check_options(const CreateOptions& options) {
  const u64 smallest = u64{1} << kMinClusterBits;
  const u64 largest = u64{1} << kMaxClusterBits;
  if (!std::has_single_bit(options.cluster_size) || options.cluster_size < smallest ||
      options.cluster_size > largest)
    return make_error("cluster_size must be a power of two between 512 and 2M");
  if (!std::has_single_bit(options.refcount_bits) || options.refcount_bits > 64)
    return make_error("refcount_bits must be a power of two, at most 64");
  if (options.version == 2) {
    if (options.refcount_bits != 16) return make_error("refcount_bits other than 16 need compat=1.1");
    if (options.lazy_refcounts) return make_error("lazy_refcounts=on needs compat=1.1");
    if (options.compression != CompressionType::kZlib)
      return make_error("compression_type=zstd needs compat=1.1");
  }
  const Geometry geometry{options.version, static_cast<unsigned>(std::countr_zero(options.cluster_size)), 4,
                          false};
  if (options.size > u64{1} << 62 || geometry.l1_entries(options.size) * 8 > kMaxL1Bytes)
    return make_error("a disk of {} bytes needs a larger cluster_size than {}", options.size,
                      options.cluster_size);
  return {};
}

/// The header, the refcount table, its first block, and the L1 table, one behind the other. The L1 table of
/// a very large disk is more than one block counts; so it is added when the image is there.
Task<Status> write_empty(ImageFile& file, CreateOptions options) {
  VERT_CO_TRY(check_options(options));
  Header header;
  header.geometry = {options.version, static_cast<unsigned>(std::countr_zero(options.cluster_size)),
                     static_cast<unsigned>(std::countr_zero(options.refcount_bits)), false};
  const u64 cluster = options.cluster_size;
  header.refcount_table_offset = cluster;
  header.refcount_table_clusters = 1;
  header.l1_offset = 3 * cluster;
  header.l1_entries = 0;
  header.compression = options.compression;
  if (options.compression != CompressionType::kZlib) header.incompatible |= kIncompatibleCompression;
  if (options.lazy_refcounts) header.compatible |= kCompatibleLazyRefcounts;
  header.backing_file = options.backing_file;
  header.backing_format = options.backing_format;
  VERT_CO_ASSIGN(auto bytes, header.encode());
  bytes.resize(3 * cluster);
  store_be<u64>(bytes.data() + cluster, 2 * cluster);
  for (u64 i = 0; i < 3; ++i)
    store_refcount(bytes.data() + 2 * cluster, header.geometry.refcount_order, i, 1);
  co_return co_await write_bytes(file, 0, std::move(bytes));
}

}  // namespace vert::storage::qcow2
