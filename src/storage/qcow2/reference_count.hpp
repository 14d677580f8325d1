// Counts the references to each cluster of a qcow2 file by walking all its tables.
//
// Each L2 table is read once, however many L1 entries name it, so the work is bounded by the file's size; and
// tables in holes of the file are not read at all.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "storage/qcow2/store.hpp"

namespace vert::storage::qcow2 {

class ReferenceCount {
 public:
  using Report = std::function<void(std::string)>;

  /// `report` gets a line for each reference that cannot be right.
  [[nodiscard]] static Result<std::unique_ptr<ReferenceCount>> make(Store& store, Report report);

  /// All references. Error: the file cannot be read.
  [[nodiscard]] Task<Status> count_all();
  /// Those by the refcounts themselves; -1 takes them out again.
  void count_refcounts(i64 weight);

  /// Of the file.
  [[nodiscard]] u64 clusters() const { return clusters_; }
  [[nodiscard]] u64 at(u64 cluster) const { return cluster < clusters_ ? counts_[cluster] : 0; }

  /// What the disk's own tables have.
  struct Usage {
    u64 allocated = 0;
    u64 compressed = 0;
    u64 fragmented = 0;
  };
  [[nodiscard]] const Usage& usage() const { return usage_; }

 private:
  struct Free {
    void operator()(u32* counts) const { std::free(counts); }
  };
  struct Table {
    u64 offset = 0;
    u64 references = 0;
    bool is_disks = false;
  };

  ReferenceCount(Store& store, Report report, u64 clusters, u32* counts)
      : store_(store), report_(std::move(report)), clusters_(clusters), counts_(counts) {}
  void count(u64 offset, u64 length, i64 weight, const char* what);
  void add_l1(const std::vector<u64>& l1, bool is_disks, std::vector<Table>& tables);
  [[nodiscard]] Task<Status> count_l2(Table table);
  void count_entry(const u8* raw, const Table& table, u64& next);
  [[nodiscard]] Task<Status> count_bitmaps();

  Store& store_;
  const Report report_;
  const u64 clusters_;
  const std::unique_ptr<u32[], Free> counts_;
  Usage usage_;
};

}  // namespace vert::storage::qcow2
