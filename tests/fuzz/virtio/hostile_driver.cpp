#include "fuzz/virtio/hostile_driver.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/error.hpp"
#include "device/virtio/block.hpp"
#include "device/virtio/console.hpp"
#include "device/virtio/entropy.hpp"
#include "device/virtio/virtio_pci.hpp"
#include "unit/virtio/fake_image.hpp"

namespace vert::fuzz {
namespace {

using namespace device::virtio;

constexpr u64 kRamSize = 0x10000;
constexpr u64 kBar = 0xC000'0000;
constexpr u16 kRingSize = 8;
constexpr std::size_t kMaxSteps = 512;

/// The rings of queue 0 and 1, tables of indirect descriptors, and data.
constexpr u64 kRings = 0x1000;
constexpr u64 kRingsOfAQueue = 0x1000;
constexpr u64 kDriverPart = 0x400;
constexpr u64 kDevicePart = 0x800;
constexpr u64 kTables = 0x4000;
constexpr u64 kData = 0x6000;

// Registers, as in virtio 1.2, 4.1.4.3.
constexpr u64 kFeatureSelect = 0x08;
constexpr u64 kFeature = 0x0C;
constexpr u64 kStatus = 0x14;
constexpr u64 kQueueSelect = 0x16;
constexpr u64 kQueueSize = 0x18;
constexpr u64 kQueueVector = 0x1A;
constexpr u64 kQueueEnable = 0x1C;
constexpr u64 kQueueDescriptors = 0x20;
constexpr u64 kQueueDriver = 0x28;
constexpr u64 kQueueDevice = 0x30;
constexpr u64 kQueueReset = 0x3A;

struct Line final : device::InterruptLine {
  void set(bool /*on*/) override {}
};

/// The bytes, of which there are zeros without end.
class Input {
 public:
  explicit Input(std::span<const u8> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool is_over() const { return bytes_.empty(); }
  u64 number(unsigned size) {
    u64 value = 0;
    std::memcpy(&value, bytes_.data(), std::min<std::size_t>(size, bytes_.size()));
    bytes_ = bytes_.subspan(std::min<std::size_t>(size, bytes_.size()));
    return value;
  }
  u8 byte() { return static_cast<u8>(number(1)); }
  u64 below(u64 bound) { return number(bound > 0x100 ? 2 : 1) % bound; }

 private:
  std::span<const u8> bytes_;
};

class Driver {
 public:
  explicit Driver(std::span<const u8> bytes)
      : input_(bytes),
        pci_(
            "virtio-fuzz", {mmio_, ports_}, *memory_, line_, [](u64, u32) {}, make_device()) {
    place_bar();
  }
  // The device's threads still write to the memory.
  ~Driver() { pci_.reset(); }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  void run() {
    for (std::size_t i = 0; i < kMaxSteps && !input_.is_over(); ++i) step();
  }

 private:
  std::unique_ptr<VirtioDevice> make_device() {
    switch (input_.below(3)) {
      case 0: return Entropy::create().value();
      case 1: {
        auto console = Console::create([](std::span<const u8>) {}).value();
        console_ = console.get();
        return console;
      }
      default: break;
    }
    auto context = storage::IoContext::create().value();
    auto image = std::make_unique<test::FakeImage>(*context, disk_);
    return Block::create(std::move(context), std::move(image), {.serial = "fuzz", .queues = 2}).value();
  }

  void place_bar() {
    pci_.config_write(device::kPciBar0, 4, kBar);
    pci_.config_write(device::kPciCommand, 2, device::kPciCommandMemory | device::kPciCommandBusMaster);
  }
  void write(u64 offset, unsigned size, u64 value) { mmio_.write(kBar + offset, size, value); }
  [[nodiscard]] u64 read(u64 offset, unsigned size) { return mmio_.read(kBar + offset, size); }
  template <typename T>
  void store(u64 address, T value) {
    static_cast<void>(memory_->write(Gpa(address), {reinterpret_cast<const u8*>(&value), sizeof value}));
  }

  void step() {
    switch (input_.below(16)) {
      case 0: store_anywhere(); break;
      case 1: write(register_offset(), 1U << input_.below(4), input_.number(8)); break;
      case 2: static_cast<void>(read(register_offset(), 1U << input_.below(4))); break;
      case 3:
        pci_.config_write(input_.byte(), 1U << input_.below(3), static_cast<u32>(input_.number(4)));
        break;
      case 4: static_cast<void>(pci_.config_read(input_.byte(), 1U << input_.below(3))); break;
      case 5:
      case 6: notify(input_.below(3)); break;
      case 7: start(); break;
      case 8:
      case 9:
      case 10: offer(); break;
      case 11: use_device(); break;
      case 12: pause_and_resume(); break;
      case 13: save_and_restore(); break;
      case 14: reset(); break;
      default: reset_queue(); break;
    }
  }

  /// Mostly where rings are.
  void store_anywhere() {
    const u64 at = input_.below(4) == 0 ? input_.number(2) : kRings + (input_.number(2) & 0x1FFF);
    switch (input_.below(4)) {
      case 0: store(at, input_.byte()); break;
      case 1: store(at, static_cast<u16>(input_.number(2))); break;
      case 2: store(at, static_cast<u32>(input_.number(4))); break;
      default: store(at, input_.number(8)); break;
    }
  }
  [[nodiscard]] u64 register_offset() {
    const u64 region = input_.below(6);
    return region < 5 ? (region << 12) + input_.byte() : input_.number(2);
  }
  void notify(u64 queue) { write(VirtioPci::kNotify + queue * VirtioPci::kNotifyMultiplier, 2, queue); }

  /// As a driver does it, but for what the bytes choose.
  void start() {
    const u8 choice = input_.byte();
    packed_ = (choice & 1) != 0;
    u64 features = feature::kVersion1 | (input_.byte() & 0x7F);
    if (packed_) features |= feature::kRingPacked;
    if ((choice & 2) != 0) features |= feature::kIndirectDescriptors;
    if ((choice & 4) != 0) features |= feature::kEventIndex;
    if ((choice & 8) != 0) features |= feature::kRingReset;
    if ((choice & 16) == 0) write(kStatus, 1, 0);
    write(kStatus, 1, status::kAcknowledge | status::kDriver);
    for (const u64 half : {0U, 1U}) {
      write(kFeatureSelect, 4, half);
      write(kFeature, 4, features >> 32 * half);
    }
    write(kStatus, 1, status::kAcknowledge | status::kDriver | status::kFeaturesOk);
    for (u64 queue = 0; queue < 2; ++queue) enable_queue(queue);
    write(kStatus, 1, status::kAcknowledge | status::kDriver | status::kFeaturesOk | status::kDriverOk);
  }
  void enable_queue(u64 queue) {
    const u64 rings = kRings + queue * kRingsOfAQueue;
    const std::array<u8, kRingsOfAQueue> zeros{};
    static_cast<void>(memory_->write(Gpa(rings), zeros));
    queues_[queue] = {};
    write(kQueueSelect, 2, queue);
    write(kQueueSize, 2, kRingSize);
    write(kQueueVector, 2, queue);
    write(kQueueDescriptors, 8, rings);
    write(kQueueDriver, 8, rings + kDriverPart);
    write(kQueueDevice, 8, rings + kDevicePart);
    write(kQueueEnable, 2, 1);
  }
  void reset_queue() {
    const u64 queue = input_.below(2);
    write(kQueueSelect, 2, queue);
    write(kQueueReset, 2, 1);
    if (input_.below(2) == 0) enable_queue(queue);
  }
  void reset() {
    if (input_.below(2) == 0) {
      write(kStatus, 1, 0);
      return;
    }
    constexpr u16 kResetControl = 0xA8;  // if it is somewhere else, step() finds it
    pci_.config_write(kResetControl, 1, 1);
    if (input_.below(4) != 0) place_bar();
  }

  /// A chain, most of whose descriptors are in order.
  void offer() {
    const u64 queue = input_.below(2);
    const u64 count = 1 + input_.below(4);
    const bool indirect = input_.below(4) == 0;
    const u64 table = indirect ? kTables + queue * 0x100 : 0;
    Place& place = queues_[queue];
    const u16 head = place.index;
    for (u64 i = 0; i < count; ++i) {
      u64 address = kData + input_.below(16) * 0x400;
      u32 length = static_cast<u32>(input_.below(3) == 0 ? input_.number(2) : 16U << input_.below(4));
      if (input_.below(16) == 0) address = input_.number(8);
      if (input_.below(16) == 0) length = static_cast<u32>(input_.number(4));
      const bool writes = input_.below(2) != 0;
      const bool more = i + 1 < count;
      // For a disk: a header that asks for something.
      if (i == 0) {
        store(address, static_cast<u32>(input_.below(16)));
        store(address + 8, input_.below(4096));
      }
      const auto flags = static_cast<u16>((writes ? 2 : 0) | (more ? 1 : 0));
      if (indirect)
        put_descriptor(table + i * 16, address, length, flags, static_cast<u16>(i + 1), false);
      else
        add_to_ring(queue, address, length, flags);
    }
    constexpr u16 kIndirect = 4;
    if (indirect) add_to_ring(queue, table, static_cast<u32>(count * 16), kIndirect);
    if (!packed_) publish(queue, head);
    if (input_.below(4) != 0) notify(queue);
  }
  void put_descriptor(u64 at, u64 address, u32 length, u16 flags, u16 next, bool in_ring) {
    store(at, address);
    store(at + 8, length);
    store(at + 12, packed_ ? (in_ring ? u16{7} : u16{0}) : flags);
    store(at + 14, packed_ ? flags : next);
  }
  void add_to_ring(u64 queue, u64 address, u32 length, u16 flags) {
    Place& place = queues_[queue];
    const u64 at = kRings + queue * kRingsOfAQueue + place.index * 16U;
    const auto available = static_cast<u16>(packed_ ? (place.wrap ? 0x80 : 0x8000) : 0);
    const auto next = static_cast<u16>((place.index + 1) % kRingSize);
    put_descriptor(at, address, length, static_cast<u16>(flags | available), next, true);
    if (next == 0) place.wrap = !place.wrap;
    place.index = next;
  }
  void publish(u64 queue, u16 head) {
    Place& place = queues_[queue];
    const u64 ring = kRings + queue * kRingsOfAQueue + kDriverPart;
    store(ring + 4 + place.available % kRingSize * 2U, head);
    store(ring + 2, ++place.available);
  }

  void use_device() {
    const u8 choice = input_.byte();
    if (console_ == nullptr) {
      disk_.set_error(choice % 8 == 0 ? ENOSPC : choice % 8 == 1 ? EIO : 0);
      return;
    }
    if (choice % 4 == 0) {
      console_->set_size(choice, choice);
      return;
    }
    const std::array<u8, 64> typed{};
    const std::size_t size = choice % typed.size();
    VERT_CHECK(console_->receive(std::span(typed).first(size)) <= size);
  }
  void pause_and_resume() {
    pci_.pause();
    if (input_.below(4) == 0) step();
    pci_.resume();
  }
  /// Whatever a driver has done, what is saved can be restored.
  void save_and_restore() {
    pci_.pause();
    if (const auto saved = pci_.save()) {
      const Status restored = pci_.restore(*saved);
      if (!restored) log_and_abort(restored.error().message);
    }
    pci_.resume();
  }
  [[noreturn]] static void log_and_abort(const std::string& message) {
    fmt::print(stderr, "a saved state was refused: {}\n", message);
    std::abort();
  }

  struct Place {
    u16 index = 0;
    bool wrap = true;
    u16 available = 0;
  };

  Input input_;
  memory::Bus mmio_;
  memory::Bus ports_;
  Line line_;
  test::FakeDisk disk_{0x10000};
  std::unique_ptr<memory::GuestMemory> memory_ = memory::GuestMemory::create({{Gpa(0), kRamSize}}).value();
  Console* console_ = nullptr;
  bool packed_ = false;
  std::array<Place, 2> queues_;
  VirtioPci pci_;
};

}  // namespace

void drive_virtio(std::span<const u8> bytes) { Driver(bytes).run(); }

}  // namespace vert::fuzz
