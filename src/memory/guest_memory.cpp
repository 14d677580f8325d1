#include "memory/guest_memory.hpp"

#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/host_memory.hpp"
#include "base/shared_file.hpp"

namespace vert::memory {

namespace {

/// A full barrier on every running thread of this process: the slow side of the pair whose fast side is in
/// written_frame(). Ready before the first guest runs, so that nothing can fail later.
class ProcessWideBarrier {
 public:
  [[nodiscard]] static Result<const ProcessWideBarrier*> get() {
    static const ProcessWideBarrier barrier;
    if (!barrier.page_) return std::unexpected(barrier.page_.error());
    return &barrier;
  }

  void issue() const {
    if (registered_ && ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0) return;
    // Where membarrier(2) is forbidden, taking a right away from a page interrupts every core that runs us.
    const std::scoped_lock lock(mutex_);
    VERT_CHECK(::mprotect(page_->data(), kPageSize, PROT_READ | PROT_WRITE) == 0);
    *static_cast<volatile u8*>(page_->data()) = 1;
    VERT_CHECK(::mprotect(page_->data(), kPageSize, PROT_READ) == 0);
  }

 private:
  ProcessWideBarrier() {
    registered_ = ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    page_ = base::Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  }

  bool registered_ = false;
  Result<base::Mapping> page_;
  mutable std::mutex mutex_;
};

void process_wide_barrier() { (*ProcessWideBarrier::get())->issue(); }

}  // namespace

GuestMemory::GuestMemory(std::vector<RamRegion> regions, base::Fd memfd, base::Mapping mapping)
    : regions_(std::move(regions)),
      memfd_(std::move(memfd)),
      mapping_(std::move(mapping)),
      marks_(std::make_unique<std::atomic<u8>[]>(frame_count())),
      code_versions_(std::make_unique<std::atomic<u32>[]>(frame_count())),
      dirty_(std::make_unique<std::atomic<u64>[]>((frame_count() + 63) / 64)),
      unwatches_(std::make_unique<u8[]>(frame_count())),
      writes_in_a_row_(std::make_unique<std::atomic<u8>[]>(frame_count())) {
  u8* host = mapping_.data();
  for (const RamRegion& region : regions_) {
    mapped_.push_back({region.base, region.size, host});
    host += region.size;
  }
}

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::vector<RamRegion> regions) {
  u64 total = 0;
  u64 end_of_last = 0;
  for (const RamRegion& region : regions) {
    const u64 base = region.base.value();
    if (region.size == 0 || (base | region.size) % kPageSize != 0 || base < end_of_last ||
        base + region.size < base)
      return make_error("guest memory cannot have a region of {:#x} bytes at {:#x}", region.size, base);
    end_of_last = base + region.size;
    total += region.size;
  }
  if (total == 0 || (total >> kPageShift) > ~Frame{0})
    return make_error("a guest cannot have {} bytes of memory", total);
  if (const auto host = base::host_memory(); host && total > host->total())
    return make_error("cannot allocate {} MiB of guest memory: the host has {} MiB", total >> 20,
                      host->total() >> 20);
  VERT_TRY(ProcessWideBarrier::get());

  VERT_ASSIGN(base::Fd memfd, base::make_shared_file(total, "guest memory"));
  auto mapping = base::Mapping::map(total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd.get());
  if (!mapping)
    return make_error("cannot allocate {} MiB of guest memory: {}", total >> 20, mapping.error().message);
  ::madvise(mapping->data(), total, MADV_HUGEPAGE);  // only a wish
  ::madvise(mapping->data(), total, MADV_DONTDUMP);
  return std::unique_ptr<GuestMemory>(
      new GuestMemory(std::move(regions), std::move(memfd), std::move(*mapping)));
}

bool GuestMemory::read(Gpa gpa, std::span<u8> to) const {
  const u8* from = host(gpa, to.size());
  if (from == nullptr) return false;
  if (!to.empty()) std::memcpy(to.data(), from, to.size());
  return true;
}

bool GuestMemory::write(Gpa gpa, std::span<const u8> from) {
  u8* to = host(gpa, from.size());
  if (to == nullptr) return false;
  if (from.empty()) return true;
  std::memcpy(to, from.data(), from.size());
  written(to, from.size());
  return true;
}

u32 GuestMemory::start_watch(Frame frame) {
  const std::scoped_lock lock(code_mutexes_[frame % kCodeMutexes]);
  if ((marks_[frame].load(std::memory_order_acquire) & kWatched) == 0) {
    marks_[frame].fetch_or(kCode, std::memory_order_seq_cst);
    process_wide_barrier();
    tell_watchers([frame](CodeWatcher& watcher) { watcher.drop_writable(frame); });
    // kWatched comes after the barrier: whoever sees it, of several who watch the same page, needs none.
    marks_[frame].fetch_or(kWatched, std::memory_order_release);
  }
  return code_version(frame);
}

void GuestMemory::written_marked(Frame frame, u8 marks) {
  if ((marks & kCode) != 0) code_page_written(frame);
  if ((marks & kLogWrites) != 0) {
    // Clear the mark before the bit is set: take_dirty() takes the bit before it sets the mark again.
    marks_[frame].fetch_and(static_cast<u8>(~kLogWrites), std::memory_order_seq_cst);
    dirty_[frame / 64].fetch_or(u64{1} << (frame % 64), std::memory_order_seq_cst);
  }
}

void GuestMemory::code_page_written(Frame frame) {
  const std::scoped_lock lock(code_mutexes_[frame % kCodeMutexes]);
  const bool end = write_ends_watch(frame);
  // Order: while kWatched is gone and kCode is not, new watches wait for the mutex and writes still come
  // here. So a watch_code() that took the old watch for good has a version that is raised below, before any
  // write goes unseen.
  if (end) marks_[frame].fetch_and(static_cast<u8>(~kWatched), std::memory_order_seq_cst);
  code_versions_[frame].fetch_add(1, std::memory_order_seq_cst);
  tell_watchers([frame](CodeWatcher& watcher) { watcher.code_written(frame); });
  if (end) marks_[frame].fetch_and(static_cast<u8>(~kCode), std::memory_order_seq_cst);
}

bool GuestMemory::write_ends_watch(Frame frame) {
  u8& unwatches = unwatches_[frame];
  if (unwatches < kFreeUnwatches) {
    ++unwatches;
    return true;
  }
  // Whoever asks for the watch meanwhile sets it to 0; if that is lost, the watch ends sooner.
  const auto writes = static_cast<u8>(writes_in_a_row_[frame].load(std::memory_order_relaxed) + 1);
  writes_in_a_row_[frame].store(writes, std::memory_order_relaxed);
  return writes >= kWritesInARow;
}

template <typename Call>
void GuestMemory::tell_watchers(Call call) {
  const std::shared_lock lock(watchers_mutex_);
  for (CodeWatcher* watcher : watchers_) call(*watcher);
}

void GuestMemory::add_code_watcher(CodeWatcher& watcher) {
  const std::unique_lock lock(watchers_mutex_);
  watchers_.push_back(&watcher);
}

void GuestMemory::remove_code_watcher(CodeWatcher& watcher) {
  const std::unique_lock lock(watchers_mutex_);
  std::erase(watchers_, &watcher);
}

void GuestMemory::set_dirty_log(bool on) {
  // Bits are cleared while no page has the mark, so that no write between loses its bit.
  dirty_log_.store(on);
  for (Frame frame = 0; frame < frame_count(); ++frame)
    marks_[frame].fetch_and(static_cast<u8>(~kLogWrites), std::memory_order_relaxed);
  for (Frame word = 0; word < (frame_count() + 63) / 64; ++word)
    dirty_[word].store(0, std::memory_order_seq_cst);
  if (!on) return;
  for (Frame frame = 0; frame < frame_count(); ++frame)
    marks_[frame].fetch_or(kLogWrites, std::memory_order_relaxed);
  process_wide_barrier();
  tell_watchers([](CodeWatcher& watcher) { watcher.drop_all_writable(); });
}

std::vector<Frame> GuestMemory::take_dirty() {
  std::vector<Frame> frames;
  for (Frame word = 0; word < (frame_count() + 63) / 64; ++word) {
    u64 bits = dirty_[word].exchange(0, std::memory_order_seq_cst);
    while (bits != 0) {
      const Frame frame = word * 64 + static_cast<Frame>(std::countr_zero(bits));
      bits &= bits - 1;
      if (dirty_log_.load()) marks_[frame].fetch_or(kLogWrites, std::memory_order_seq_cst);
      frames.push_back(frame);
    }
  }
  // A write that saw no mark before this barrier is visible to a copy made after it.
  process_wide_barrier();
  if (!frames.empty()) tell_watchers([](CodeWatcher& watcher) { watcher.drop_all_writable(); });
  return frames;
}

}  // namespace vert::memory
