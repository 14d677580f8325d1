// An image in memory that remembers what was asked of it, can fail, and can keep requests waiting.
#pragma once

#include <fcntl.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "storage/image.hpp"

namespace vert::test {

/// What the test and the image share; the image lives on the device's thread.
struct FakeDisk {
  explicit FakeDisk(u64 size) : bytes(size) {}

  std::mutex mutex;
  std::vector<u8> bytes;
  std::vector<std::string> history;
  int next_error = 0;  // of each request until it is 0 again
  bool read_only = false;
  /// While set, requests wait.
  std::atomic<bool> held = false;
  std::atomic<int> waiting = 0;

  [[nodiscard]] std::vector<std::string> asked() {
    const std::lock_guard lock(mutex);
    return history;
  }
  void set_error(int error) {
    const std::lock_guard lock(mutex);
    next_error = error;
  }
};

class FakeImage final : public storage::Image {
 public:
  FakeImage(storage::IoContext& context, FakeDisk& disk)
      : context_(context),
        disk_(disk),
        size_(disk.bytes.size()),
        null_(::open("/dev/null", O_RDWR | O_CLOEXEC)) {}

  [[nodiscard]] storage::Format format() const override { return storage::Format::kRaw; }
  [[nodiscard]] u64 size() const override { return size_; }
  [[nodiscard]] bool read_only() const override { return disk_.read_only; }

  storage::Task<Status> read(u64 offset, storage::Buffers buffers) override {
    VERT_CO_TRY(co_await begin(fmt::format("read {} {}", offset, storage::total_size(buffers))));
    const std::lock_guard lock(disk_.mutex);
    storage::copy_to(buffers, std::span(disk_.bytes).subspan(offset, storage::total_size(buffers)));
    co_return Status{};
  }
  storage::Task<Status> write(u64 offset, storage::Buffers buffers) override {
    VERT_CO_TRY(co_await begin(fmt::format("write {} {}", offset, storage::total_size(buffers))));
    const std::lock_guard lock(disk_.mutex);
    storage::copy_from(buffers, std::span(disk_.bytes).subspan(offset, storage::total_size(buffers)));
    co_return Status{};
  }
  storage::Task<Status> write_zeroes(u64 offset, u64 length, bool unmap) override {
    return begin(fmt::format("zero {} {}{}", offset, length, unmap ? " unmap" : ""));
  }
  storage::Task<Status> discard(u64 offset, u64 length) override {
    return begin(fmt::format("discard {} {}", offset, length));
  }
  storage::Task<Status> flush() override { return begin("flush"); }
  storage::Task<Status> close() override { return begin("close"); }
  storage::Task<Status> resize(u64 size) override {
    size_ = size;
    return begin(fmt::format("resize {}", size));
  }
  storage::Task<Result<Extent>> extent(u64 /*offset*/, u64 length) override {
    co_return Extent{.length = length};
  }

 private:
  storage::Task<Status> begin(std::string what) {
    ++disk_.waiting;
    do {  // always once, so that no request ends at once
      static_cast<void>(co_await context_.data_sync(null_.get()));
    } while (disk_.held);
    --disk_.waiting;
    const std::lock_guard lock(disk_.mutex);
    disk_.history.push_back(std::move(what));
    if (disk_.next_error != 0) co_return make_system_error(disk_.next_error, "fake");
    co_return Status{};
  }

  storage::IoContext& context_;
  FakeDisk& disk_;
  std::atomic<u64> size_;
  const base::Fd null_;
};

}  // namespace vert::test
