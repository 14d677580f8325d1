// MSI-X of one PCI function: its table of messages and its pending bits (PCI 3.0, 6.8.2).
//
// Owned by the device, which puts the region into a memory BAR and the capability into its configuration
// space. Registers on any vCPU thread, notify() on any thread. One mutex, held while a message is sent, so
// that none comes once the guest has masked its vector; it lies inside the device's locks and outside the
// local APICs'.
#pragma once

#include <algorithm>
#include <functional>
#include <mutex>
#include <vector>

#include "base/archive.hpp"
#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::device {

struct MsixVector {
  u64 address = 0;
  u32 data = 0;
  bool masked = true;
  bool pending = false;

  template <typename Archive>
  void fields(Archive& a) {
    a("address", address);
    a("data", data);
    a("masked", masked);
    a("pending", pending);
  }
};

struct MsixState {
  std::vector<MsixVector> vectors;

  template <typename Archive>
  void fields(Archive& a) {
    a("vectors", vectors);
  }
};

class Msix {
 public:
  static constexpr u32 kRegionSize = 0x1000;  // the table from 0, the pending bits from kPendingOffset on
  static constexpr u32 kPendingOffset = 0x800;
  static constexpr unsigned kMaxVectors = kPendingOffset / 16;
  static constexpr u8 kCapabilityId = 0x11;
  static constexpr u8 kCapabilitySize = 12;

  /// What the capability and the command register say.
  struct Control {
    bool enabled = false;
    bool function_masked = false;
    bool bus_master = false;  // a message is a memory write
  };
  /// Sends a message; called with the mutex held.
  using Send = std::function<void(u64 address, u32 data)>;

  /// `vectors` is 1 to kMaxVectors.
  Msix(unsigned vectors, Send send);

  /// The guest's accesses to the region. Only aligned ones of 4 and 8 bytes have an effect.
  [[nodiscard]] u64 read(u64 offset, unsigned size) const;
  void write(u64 offset, unsigned size, u64 value);

  void set_control(const Control& control);
  [[nodiscard]] bool enabled() const;
  [[nodiscard]] unsigned vector_count() const { return static_cast<unsigned>(vectors_.size()); }

  /// Sends the vector's message, or keeps it until it may be sent. Without MSI-X, or for a vector that there
  /// is not, nothing happens.
  void notify(unsigned vector);

  /// Whether `is_wanted(address, data)` holds for a message that notify() would send at once.
  template <typename IsWanted>
  [[nodiscard]] bool any_ready(IsWanted is_wanted) const {
    const std::lock_guard lock(mutex_);
    return control_.enabled && std::ranges::any_of(vectors_, [&](const MsixVector& vector) {
             return may_send(vector) && is_wanted(vector.address, vector.data);
           });
  }

  [[nodiscard]] MsixState save() const;
  [[nodiscard]] Status restore(const MsixState& state);
  void reset();

 private:
  [[nodiscard]] u32 read_dword(u64 offset) const;
  void write_dword(u64 offset, u32 value);
  [[nodiscard]] bool may_send(const MsixVector& vector) const {
    return !vector.masked && !control_.function_masked && control_.bus_master;
  }
  void deliver(MsixVector& vector);
  void deliver_pending();

  const Send send_;
  mutable std::mutex mutex_;
  std::vector<MsixVector> vectors_;
  Control control_;
};

}  // namespace vert::device
