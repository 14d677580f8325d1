#include "storage/qcow2/check.hpp"

#include <algorithm>

#include "storage/qcow2/reference_count.hpp"

namespace vert::storage::qcow2 {
namespace {

class Checker {
 public:
  Checker(Store& store, u64 disk_size) : store_(store) {
    result_.total_clusters = store.geometry().clusters(disk_size);
  }

  Task<Result<CheckResult>> run(Repair repair) {
    VERT_CO_ASSIGN(counted_,
                   ReferenceCount::make(store_, [this](std::string line) { report(std::move(line)); }));
    VERT_CO_TRY(co_await counted_->count_all());
    check_overlaps(co_await store_.map_metadata());
    const u64 unfixable = result_.corruptions;
    VERT_CO_TRY(co_await compare());
    const u64 wrong_counts = result_.corruptions - unfixable;
    VERT_CO_TRY(co_await check_copied(repair == Repair::kAll && unfixable == 0));
    result_.allocated_clusters = counted_->usage().allocated;
    result_.compressed_clusters = counted_->usage().compressed;
    result_.fragmented_clusters = counted_->usage().fragmented;
    if (repair == Repair::kAll && wrong_counts != 0) {
      VERT_CO_TRY(co_await rebuild());
    } else if (repair != Repair::kNone && (wrong_counts == 0 || repair == Repair::kLeaks)) {
      VERT_CO_TRY(co_await free_leaks());
    }
    if (repair == Repair::kAll) {
      result_.corruptions_fixed += wrong_counts;
      if (result_.corruptions == result_.corruptions_fixed) VERT_CO_TRY(co_await clear_marks());
    }
    co_return std::move(result_);
  }

 private:
  void report(std::string line) {
    ++result_.corruptions;
    add_line("ERROR: " + std::move(line));
  }
  void add_line(std::string line) {
    if (result_.problems.size() < CheckResult::kMaxProblems) result_.problems.push_back(std::move(line));
  }
  void check_overlaps(const Status& mapped) {
    if (!mapped) report(mapped.error().message);
  }

  /// What the image says against what was counted.
  Task<Status> compare() {
    const Geometry& geometry = store_.geometry();
    const auto& table = store_.refcounts.table();
    const u64 per_block = geometry.refcounts_per_block();
    std::vector<u8> block(geometry.cluster_size());
    for (u64 first = 0; first < counted_->clusters(); first += per_block) {
      const u64 offset = first / per_block < table.size() ? table[first / per_block] : 0;
      const bool exists = offset != 0 && geometry.in_cluster(offset) == 0;
      if (exists) VERT_CO_TRY(co_await read_bytes(*store_.file, offset, block));
      for (u64 i = 0; i < std::min(per_block, counted_->clusters() - first); ++i)
        compare_one(first + i, exists ? load_refcount(block.data(), geometry.refcount_order, i) : 0);
    }
    co_return Status{};
  }

  void compare_one(u64 cluster, u64 stored) {
    const u64 counted = counted_->at(cluster);
    if (counted != 0 || stored != 0) result_.image_end = (cluster + 1) << store_.geometry().cluster_bits;
    if (stored == counted) return;
    const auto line =
        fmt::format("cluster {} has the refcount {}, and {} references", cluster, stored, counted);
    if (stored > counted) {
      ++result_.leaks;
      add_line("Leaked " + line);
      leaked_.push_back(cluster);
    } else {
      report(line);
    }
  }

  /// Whether the entries of the disk's tables know which clusters are used once only.
  Task<Status> check_copied(bool mend) {
    const Geometry& geometry = store_.geometry();
    const auto l1 = store_.mapping.l1();
    bool l1_mended = false;
    std::vector<u64> seen;
    for (std::size_t i = 0; i < l1.size(); ++i) {
      const u64 table = l1[i] & kOffsetMask;
      if (table == 0 || geometry.in_cluster(table) != 0) continue;
      if (const u64 right = with_copied(l1[i], "L1"); right != l1[i] && mend) {
        store_.mapping.set_l1_entry(i, right);
        ++result_.corruptions_fixed;
        l1_mended = true;
      }
      seen.push_back(table);
    }
    std::ranges::sort(seen);
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const u64 table : seen) VERT_CO_TRY(co_await check_copied_in(table, mend));
    if (l1_mended) VERT_CO_TRY(co_await store_.mapping.write_back());
    co_return Status{};
  }

  Task<Status> check_copied_in(u64 table, bool mend) {
    const Geometry& geometry = store_.geometry();
    const auto extent = store_.file->extent(table, geometry.cluster_size());
    if (!extent.data && extent.length == geometry.cluster_size()) co_return Status{};
    std::vector<u8> raw(geometry.cluster_size());
    VERT_CO_TRY(co_await read_bytes(*store_.file, table, raw));
    u64 mended = 0;
    for (u64 at = 0; at < raw.size(); at += geometry.l2_entry_size()) {
      const auto entry = load_be<u64>(raw.data() + at);
      if ((entry & kCompressedFlag) != 0 || (entry & kOffsetMask) == 0) continue;
      const u64 right = with_copied(entry, "L2");
      if (right == entry || !mend) continue;
      store_be<u64>(raw.data() + at, right);
      ++mended;
    }
    if (mended == 0) co_return Status{};
    VERT_CO_TRY(co_await write_bytes(*store_.file, table, std::move(raw)));
    store_.mapping.forget(table);
    result_.corruptions_fixed += mended;
    co_return Status{};
  }

  u64 with_copied(u64 entry, const char* level) {
    const u64 cluster = (entry & kOffsetMask) >> store_.geometry().cluster_bits;
    if (cluster >= counted_->clusters()) return entry;
    const u64 right = (entry & ~kCopied) | (counted_->at(cluster) == 1 ? kCopied : 0);
    if (right != entry)
      report(fmt::format("an {} entry for cluster {} has the wrong COPIED flag for {} references", level,
                         cluster, counted_->at(cluster)));
    return right;
  }

  Task<Status> free_leaks() {
    for (const u64 cluster : leaked_) {
      VERT_CO_TRY(co_await store_.refcounts.set(cluster, counted_->at(cluster)));
      ++result_.leaks_fixed;
    }
    VERT_CO_TRY(co_await store_.refcounts.write_back());
    co_return co_await store_.file->flush();
  }

  /// A new table with new blocks behind the file's end; the old ones are free once the header names the new.
  Task<Status> rebuild() {
    const Geometry& geometry = store_.geometry();
    counted_->count_refcounts(-1);
    const u64 start = counted_->clusters();
    const u64 per_block = geometry.refcounts_per_block();
    const u64 per_cluster = geometry.cluster_size() / 8;
    u64 blocks = 0;
    u64 table_clusters = 0;
    for (u64 before = ~u64{0}; before != blocks + table_clusters;) {
      before = blocks + table_clusters;
      blocks = (start + before + per_block - 1) / per_block;
      table_clusters = (blocks + per_cluster - 1) / per_cluster;
      if (before == ~u64{0}) before = 0;
    }
    if (table_clusters << geometry.cluster_bits > kMaxRefcountTableBytes)
      co_return make_error("'{}' is too large for a new refcount table", store_.file->path());
    std::vector<u8> table(table_clusters << geometry.cluster_bits);
    for (u64 i = 0; i < blocks; ++i) {
      std::vector<u8> block(geometry.cluster_size());
      for (u64 entry = 0; entry < per_block; ++entry) {
        const u64 cluster = i * per_block + entry;
        const bool is_new = cluster >= start && cluster < start + blocks + table_clusters;
        const u64 count = is_new ? 1 : counted_->at(cluster);
        if (count > geometry.max_refcount())
          co_return make_error("'{}': {} references to a cluster do not fit into a refcount of {} bits",
                               store_.file->path(), count, geometry.refcount_bits());
        if (count != 0) store_refcount(block.data(), geometry.refcount_order, entry, count);
      }
      const u64 offset = (start + table_clusters + i) << geometry.cluster_bits;
      store_be<u64>(table.data() + i * 8, offset);
      VERT_CO_TRY(co_await write_bytes(*store_.file, offset, std::move(block)));
    }
    VERT_CO_TRY(co_await write_bytes(*store_.file, start << geometry.cluster_bits, std::move(table)));
    VERT_CO_TRY(co_await store_.file->flush());
    Header changed = store_.header;
    changed.refcount_table_offset = start << geometry.cluster_bits;
    changed.refcount_table_clusters = static_cast<u32>(table_clusters);
    VERT_CO_TRY(co_await store_.update_header(std::move(changed)));
    result_.leaks_fixed = result_.leaks;
    result_.image_end = (start + table_clusters + blocks) << geometry.cluster_bits;
    co_return co_await store_.refcounts.reload();
  }

  Task<Status> clear_marks() {
    VERT_CO_TRY(co_await store_.map_metadata());
    VERT_CO_TRY(co_await store_.file->flush());
    constexpr u64 kMarks = kIncompatibleCorrupt | kIncompatibleDirty;
    if ((store_.header.incompatible & kMarks) == 0) co_return Status{};
    Header changed = store_.header;
    changed.incompatible &= ~kMarks;
    co_return co_await store_.update_header(std::move(changed));
  }

  Store& store_;
  CheckResult result_;
  std::unique_ptr<ReferenceCount> counted_;
  std::vector<u64> leaked_;
};

}  // namespace

Task<Result<CheckResult>> check(Qcow2Image& image, Repair repair) {
  if (repair != Repair::kNone && image.read_only())
    co_return make_error("'{}' is open for reading only", image.store().file->path());
  Checker checker(image.store(), image.size());
  co_return co_await checker.run(repair);
}

Task<Status> repair_refcounts(Qcow2Image& image) {
  VERT_CO_ASSIGN(const auto result, co_await check(image, Repair::kAll));
  if (result.corruptions == result.corruptions_fixed) co_return Status{};
  co_return make_error("'{}' was not closed properly, and cannot be repaired; see 'vert image check'",
                       image.store().file->path());
}

}  // namespace vert::storage::qcow2
