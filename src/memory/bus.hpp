// Where guest accesses that are not RAM go: memory-mapped and port I/O.
//
// A Bus maps address ranges to devices. vCPU threads dispatch at the same time; a device locks for itself.
// Engines see the Bus only; devices see neither engine nor vCPU. Unclaimed reads give all ones, unclaimed
// writes vanish, as on a PC.
#pragma once

#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::memory {

/// What answers in a range of a Bus. `offset` is from the start of the range; size is 1, 2, 4 or 8 and
/// offset + size may pass the range's end by up to 7 bytes (a wide access at its last byte).
/// Called on any vCPU thread, with no lock held. Must not throw, and must bear any value.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  /// The value in the low `size` bytes; whatever lies above them is ignored.
  [[nodiscard]] virtual u64 read(u64 offset, unsigned size) = 0;
  virtual void write(u64 offset, unsigned size, u64 value) = 0;
};

class Bus {
 public:
  Bus() = default;
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  /// Claims [base, base + size). `device` must outlive the bus or its unmap(). Any thread (PCI BARs move
  /// while the guest runs). Error: the range is empty, wraps or overlaps another.
  [[nodiscard]] Status map(u64 base, u64 size, BusDevice& device, std::string name);
  void unmap(u64 base);

  [[nodiscard]] u64 read(u64 address, unsigned size) const;
  void write(u64 address, unsigned size, u64 value) const;

 private:
  struct Range {
    u64 base;
    u64 size;
    BusDevice* device;
    std::string name;
  };
  struct Hit {
    BusDevice* device;
    u64 offset;
  };
  [[nodiscard]] Hit find(u64 address) const;

  mutable std::shared_mutex mutex_;  // taken for the look-up only, never across a device's call
  std::vector<Range> ranges_;        // ascending by base
};

}  // namespace vert::memory
