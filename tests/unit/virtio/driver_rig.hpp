// A driver's side of one virtqueue, split or packed, in a small guest memory.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "device/virtio/device.hpp"

namespace vert::test {

using device::virtio::QueueFeatures;
using device::virtio::QueueLayout;
using device::virtio::Request;
using device::virtio::Virtqueue;

struct Buffer {
  u64 address = 0;
  u32 length = 0;
  bool device_writes = false;
};

struct Used {
  u32 id = 0;
  u32 length = 0;
  bool operator==(const Used&) const = default;
};

class DriverRig {
 public:
  static constexpr u64 kRamSize = u64{1} << 20;
  static constexpr QueueLayout kLayout = {
      .size = 8, .descriptors = 0x1000, .driver = 0x2000, .device = 0x3000};
  static constexpr u64 kTables = 0x4000;  // of indirect descriptors
  static constexpr u64 kData = 0x10000;

  /// Another queue lies at `base`, in the memory of the first.
  explicit DriverRig(QueueFeatures features, std::shared_ptr<memory::GuestMemory> ram = nullptr, u64 base = 0)
      : memory(ram != nullptr ? std::move(ram) : memory::GuestMemory::create({{Gpa(0), kRamSize}}).value()),
        layout{.size = kLayout.size,
               .descriptors = kLayout.descriptors + base,
               .driver = kLayout.driver + base,
               .device = kLayout.device + base},
        tables(kTables + base),
        features_(features) {
    queue = Virtqueue::create(*memory, layout, features).value();
  }
  virtual ~DriverRig() = default;

  /// Makes a chain available, or an indirect table of it; returns the identifier that will come back.
  virtual u16 offer(const std::vector<Buffer>& buffers, bool indirect = false) = 0;
  virtual std::optional<Used> take_used() = 0;
  /// Nothing if it takes longer than any busy host makes it.
  std::optional<Used> wait_for_used() {
    for (int i = 0; i < 10'000; ++i) {
      if (const auto used = take_used()) return used;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return std::nullopt;
  }
  /// No interrupts.
  virtual void suppress_interrupts() = 0;
  /// With the event index: an interrupt once so many more buffers are used.
  virtual void want_interrupt_after(u16 buffers) = 0;
  /// Whether the device wants a notification for the buffer offered last.
  [[nodiscard]] virtual bool device_wants_notification() const = 0;

  template <typename T>
  void store(u64 address, T value) {
    ASSERT_TRUE(memory->write(Gpa(address), {reinterpret_cast<const u8*>(&value), sizeof value}));
  }
  template <typename T>
  [[nodiscard]] T load(u64 address) const {
    return memory->load<T>(Gpa(address)).value();
  }
  /// What the device did before it wrote that is seen after this.
  [[nodiscard]] u16 load_acquire(u64 address) const {
    u8* const host = memory->host(Gpa(address), sizeof(u16));
    return std::atomic_ref<u16>(*reinterpret_cast<u16*>(host)).load(std::memory_order_acquire);
  }
  void store_descriptor(u64 address, const Buffer& buffer, u16 third, u16 fourth) {
    store(address, buffer.address);
    store(address + 8, buffer.length);
    store(address + 12, third);
    store(address + 14, fourth);
  }
  [[nodiscard]] u16 size() const { return kLayout.size; }

  const std::shared_ptr<memory::GuestMemory> memory;
  const QueueLayout layout;
  const u64 tables;
  std::unique_ptr<Virtqueue> queue;

 protected:
  const QueueFeatures features_;
};

inline constexpr u16 kNext = 1;
inline constexpr u16 kWrite = 2;
inline constexpr u16 kIndirect = 4;

[[nodiscard]] inline u16 write_flag(const Buffer& buffer) { return buffer.device_writes ? kWrite : 0; }

class SplitDriver final : public DriverRig {
 public:
  using DriverRig::DriverRig;

  u16 offer(const std::vector<Buffer>& buffers, bool indirect) override {
    const u16 head = next_descriptor_;
    const auto count = static_cast<u16>(buffers.size());
    for (u16 i = 0; i < count; ++i) {
      const auto at = static_cast<u16>(indirect ? i : (head + i) % size());
      const auto next = static_cast<u16>(indirect ? i + 1 : (at + 1) % size());
      const u64 address = indirect ? table_of(head) + i * 16U : place(at);
      const auto flags = static_cast<u16>(write_flag(buffers[i]) | (i + 1 < count ? kNext : 0));
      store_descriptor(address, buffers[i], flags, next);
    }
    if (indirect) store_descriptor(place(head), {table_of(head), count * 16U}, kIndirect, 0);
    next_descriptor_ = static_cast<u16>((head + (indirect ? 1 : count)) % size());
    publish(head);
    return head;
  }
  void publish(u16 head) {
    store(layout.driver + 4 + available_ % size() * 2U, head);
    store(layout.driver + 2, ++available_);
  }
  std::optional<Used> take_used() override {
    if (load_acquire(layout.device + 2) == seen_) return std::nullopt;
    const u64 element = layout.device + 4 + seen_++ % size() * 8U;
    return Used{load<u32>(element), load<u32>(element + 4)};
  }
  void suppress_interrupts() override { store(layout.driver, u16{1}); }
  void want_interrupt_after(u16 buffers) override {
    store(layout.driver + 4 + size() * 2U, static_cast<u16>(seen_ + buffers - 1));
  }
  [[nodiscard]] bool device_wants_notification() const override {
    if (!features_.event_index) return load<u16>(layout.device) == 0;
    return load<u16>(layout.device + 4 + size() * 8U) == static_cast<u16>(available_ - 1);
  }
  [[nodiscard]] static u64 descriptor(u16 index) { return kLayout.descriptors + index * 16U; }

 private:
  [[nodiscard]] u64 place(u16 index) const { return layout.descriptors + index * 16U; }
  [[nodiscard]] u64 table_of(u16 head) const { return tables + head * 0x400U; }

  u16 next_descriptor_ = 0;
  u16 available_ = 0;
  u16 seen_ = 0;
};

class PackedDriver final : public DriverRig {
 public:
  using DriverRig::DriverRig;

  u16 offer(const std::vector<Buffer>& buffers, bool indirect) override {
    const u16 id = static_cast<u16>(100 + next_id_++);
    const u64 table = tables + id % 16 * 0x400U;
    const auto count = static_cast<u16>(buffers.size());
    if (indirect) {
      for (u16 i = 0; i < count; ++i)
        store_descriptor(table + i * 16U, buffers[i], 0, write_flag(buffers[i]));
      put({table, count * 16U}, id, kIndirect);
      slots_.push_back({id, 1});
      return id;
    }
    for (u16 i = 0; i < count; ++i)
      put(buffers[i], id, static_cast<u16>(write_flag(buffers[i]) | (i + 1 < count ? kNext : 0)));
    slots_.push_back({id, count});
    return id;
  }
  void put(const Buffer& buffer, u16 id, u16 flags) {
    last_ = index_ | (wrap_ ? 0x8000 : 0);
    store_descriptor(layout.descriptors + index_ * 16U, buffer, id,
                     static_cast<u16>(flags | (wrap_ ? 0x80 : 0x8000)));
    if (++index_ == size()) {
      index_ = 0;
      wrap_ = !wrap_;
    }
  }
  std::optional<Used> take_used() override {
    const u64 at = layout.descriptors + used_index_ * 16U;
    const u16 flags = load_acquire(at + 14);
    if (((flags & 0x80) != 0) != used_wrap_ || ((flags & 0x8000) != 0) != used_wrap_) return std::nullopt;
    const Used used{load<u16>(at + 12), load<u32>(at + 8)};
    for (auto it = slots_.begin(); it != slots_.end(); ++it) {
      if (it->id != used.id) continue;
      used_index_ = static_cast<u16>(used_index_ + it->count);
      slots_.erase(it);
      break;
    }
    if (used_index_ >= size()) {
      used_index_ = static_cast<u16>(used_index_ - size());
      used_wrap_ = !used_wrap_;
    }
    return used;
  }
  void suppress_interrupts() override { store(layout.driver + 2, u16{1}); }
  /// Only right while each buffer is one descriptor.
  void want_interrupt_after(u16 buffers) override {
    unsigned index = used_index_ + buffers - 1U;
    bool wrap = used_wrap_;
    if (index >= size()) {
      index -= size();
      wrap = !wrap;
    }
    store(layout.driver, static_cast<u16>(index | (wrap ? 0x8000 : 0)));
    store(layout.driver + 2, u16{2});
  }
  [[nodiscard]] bool device_wants_notification() const override {
    const u16 flags = load<u16>(layout.device + 2);
    if (flags != 2) return flags == 0;
    return load<u16>(layout.device) == last_;
  }

 private:
  struct Slots {
    u16 id;
    u16 count;
  };
  std::deque<Slots> slots_;
  u16 next_id_ = 0;
  u16 index_ = 0;
  bool wrap_ = true;
  u16 used_index_ = 0;
  bool used_wrap_ = true;
  int last_ = 0;
};

[[nodiscard]] inline std::unique_ptr<DriverRig> make_driver(
    QueueFeatures features, std::shared_ptr<memory::GuestMemory> ram = nullptr, u64 base = 0) {
  if (features.packed) return std::make_unique<PackedDriver>(features, std::move(ram), base);
  return std::make_unique<SplitDriver>(features, std::move(ram), base);
}

/// The feature bits that a driver accepts for such queues.
[[nodiscard]] inline u64 feature_bits(QueueFeatures features) {
  namespace feature = device::virtio::feature;
  u64 bits = feature::kVersion1;
  if (features.packed) bits |= feature::kRingPacked;
  if (features.indirect) bits |= feature::kIndirectDescriptors;
  if (features.event_index) bits |= feature::kEventIndex;
  return bits;
}

}  // namespace vert::test
