// Guest-physical RAM: one memfd, one host mapping, and per-page marks for code and for the dirty log.
//
// Owned by machine/; shared by all vCPU threads and devices. The layout never changes after create().
// Guest memory changes underneath every reader: copy a value out once, then check it, then use it.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::memory {

/// A contiguous range of RAM. Bases and sizes are multiples of the page size.
struct RamRegion {
  Gpa base;
  u64 size = 0;
};

/// Index of a page of RAM, counted over all regions in order: what per-page tables are indexed by.
using Frame = u32;

/// An engine that keeps code made from guest pages, or writes to guest memory without asking for marks each
/// time. Calls come on any thread, several at once, and may not call GuestMemory.
class CodeWatcher {
 public:
  virtual ~CodeWatcher() = default;
  /// The page was written and its code_version() raised: on the writer's thread.
  virtual void code_written(Frame frame) = 0;
  /// From when this returns, the engine writes to the page through GuestMemory only (until it looks at
  /// marks() anew). It may wait for a vCPU to leave generated code, but not for one that is elsewhere: that
  /// one may be waiting for the caller.
  virtual void drop_writable(Frame frame) = 0;
  /// The same for all pages.
  virtual void drop_all_writable() = 0;
};

class GuestMemory {
 public:
  /// Reserves RAM for `regions` (ascending, disjoint, not empty). The host commits pages as the guest
  /// touches them. Error: the host has not that much address space or memory to give.
  [[nodiscard]] static Result<std::unique_ptr<GuestMemory>> create(std::vector<RamRegion> regions);

  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory() = default;

  [[nodiscard]] std::span<const RamRegion> regions() const { return regions_; }
  [[nodiscard]] u64 size() const { return mapping_.size(); }
  [[nodiscard]] int memfd() const { return memfd_.get(); }

  /// Host address of [gpa, gpa + size), or null unless all of it is RAM within one region.
  /// Whoever writes through it calls written() afterwards, so that code and dirty marks stay true.
  [[nodiscard]] u8* host(Gpa gpa, u64 size) const {
    for (const Mapped& region : mapped_) {
      const u64 offset = gpa - region.base;
      if (offset < region.size) return size <= region.size - offset ? region.host + offset : nullptr;
    }
    return nullptr;
  }

  /// Copies between host and guest. False, with nothing copied, unless the whole range is RAM.
  [[nodiscard]] bool read(Gpa gpa, std::span<u8> to) const;
  [[nodiscard]] bool write(Gpa gpa, std::span<const u8> from);
  /// A value by copy; nothing unless all of it is RAM.
  template <typename T>
  [[nodiscard]] std::optional<T> load(Gpa gpa) const {
    T value;
    if (!read(gpa, {reinterpret_cast<u8*>(&value), sizeof value})) return std::nullopt;
    return value;
  }

  [[nodiscard]] Frame frame_of(const u8* host_address) const {
    return static_cast<Frame>(static_cast<u64>(host_address - mapping_.data()) >> kPageShift);
  }
  /// The reverse of host(): `host_address` lies in RAM.
  [[nodiscard]] Gpa gpa_of(const u8* host_address) const {
    for (const Mapped& region : mapped_) {
      const auto offset = static_cast<u64>(host_address - region.host);
      if (offset < region.size) return region.base + offset;
    }
    check_failed("host address in RAM", __FILE__, __LINE__);
  }
  [[nodiscard]] Frame frame_count() const { return static_cast<Frame>(mapping_.size() >> kPageShift); }

  // Code pages. An engine that caches anything made from a page's bytes calls watch_code() first, reads the
  // bytes after, and remembers the version that watch_code() gave; the cached thing is stale once
  // code_version() differs. A write to a watched page ends the watch (but see kFreeUnwatches): whoever finds
  // a thing stale calls watch_code() again before it looks at the bytes.

  /// From when this returns, the next write to the page that is not visible to a reader after this call will
  /// raise its code_version() over what this returns. Cheap if the page is watched already; else a barrier on
  /// all vCPU threads.
  u32 watch_code(Frame frame) {
    // The version first: a page that is still watched after it was read cannot lose its watch without raising
    // it.
    const u32 version = code_version(frame);
    writes_in_a_row_[frame].store(0, std::memory_order_relaxed);
    if ((marks_[frame].load(std::memory_order_acquire) & kWatched) != 0) return version;
    return start_watch(frame);
  }
  [[nodiscard]] u32 code_version(Frame frame) const {
    return code_versions_[frame].load(std::memory_order_acquire);
  }

  /// Any thread, at any time. No call to the watcher is under way, nor comes, once remove_code_watcher()
  /// returned.
  void add_code_watcher(CodeWatcher& watcher);
  void remove_code_watcher(CodeWatcher& watcher);

  /// One byte for each frame, for fast paths: any mark at all means that a write there must go through this
  /// class.
  [[nodiscard]] const std::atomic<u8>* marks() const { return marks_.get(); }

  /// To be called after each write of [host_address, host_address + size), size > 0, in whatever pages.
  void written(const u8* host_address, u64 size) {
    const Frame first = frame_of(host_address);
    const Frame last = frame_of(host_address + size - 1);
    for (Frame frame = first; frame <= last; ++frame) written_frame(frame);
  }
  /// As written(), for a store that lies in one page.
  void written_frame(Frame frame) {
    // Order: the store comes before this load in program order; watch_code() makes the pair safe with a
    // process-wide barrier, so that the hot path needs none.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    const u8 marks = marks_[frame].load(std::memory_order_relaxed);
    if (marks != 0) [[unlikely]]
      written_marked(frame, marks);
  }

  // Dirty log, for snapshots and migration.

  /// Starts (all pages clean) or stops the log.
  void set_dirty_log(bool on);
  /// Frames written since the log started or was last taken; clears them. Any thread.
  [[nodiscard]] std::vector<Frame> take_dirty();

 private:
  struct Mapped {
    Gpa base;
    u64 size;
    u8* host;
  };
  static constexpr u8 kCode = 1;       // writes raise code_version()
  static constexpr u8 kLogWrites = 2;  // the dirty log is on and the page is clean
  static constexpr u8 kWatched = 4;    // kCode has reached all threads

  // Pages that mix code and data would be watched and unwatched without end: after the first few times, a
  // page stays watched until it is written kWritesInARow times with nobody asking for the watch in between.
  static constexpr u8 kFreeUnwatches = 16;
  static constexpr u8 kWritesInARow = 8;
  static constexpr std::size_t kCodeMutexes = 64;

  GuestMemory(std::vector<RamRegion> regions, base::Fd memfd, base::Mapping mapping);
  void written_marked(Frame frame, u8 marks);
  [[nodiscard]] u32 start_watch(Frame frame);
  void code_page_written(Frame frame);
  [[nodiscard]] bool write_ends_watch(Frame frame);
  template <typename Call>
  void tell_watchers(Call call);

  std::vector<RamRegion> regions_;
  std::vector<Mapped> mapped_;
  base::Fd memfd_;
  base::Mapping mapping_;
  std::unique_ptr<std::atomic<u8>[]> marks_;
  std::unique_ptr<std::atomic<u32>[]> code_versions_;
  std::unique_ptr<std::atomic<u64>[]> dirty_;
  // Starts and ends of a frame's watch are serialised by its mutex, which also guards its unwatches_.
  std::array<std::mutex, kCodeMutexes> code_mutexes_;
  std::unique_ptr<u8[]> unwatches_;  // up to kFreeUnwatches; see write_ends_watch()
  std::unique_ptr<std::atomic<u8>[]> writes_in_a_row_;
  std::shared_mutex watchers_mutex_;
  std::vector<CodeWatcher*> watchers_;
  std::atomic<bool> dirty_log_ = false;
};

}  // namespace vert::memory
