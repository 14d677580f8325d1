// The two reset registers of the chipset: 0xcf9 (Intel ICH9, 13.7.5) and port 0x92 (system control port A).
//
// Owned by machine/; ports on any vCPU thread. A20 is always on: port 0x92 says so and cannot change it.
#pragma once

#include <functional>
#include <mutex>

#include "base/archive.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

enum class ResetKind : u8 {
  kSoft,  // INIT: the processor only
  kHard,  // the whole machine
};

struct ResetControlState {
  u8 reset_register = 0;
  u8 port_a = 0;

  template <typename Archive>
  void fields(Archive& a) {
    a("reset_register", reset_register);
    a("port_a", port_a);
  }
};

class ResetControl {
 public:
  /// `on_reset` is called on a vCPU thread with no lock held.
  explicit ResetControl(std::function<void(ResetKind)> on_reset);

  /// Claims 0xcf9 and 0x92.
  [[nodiscard]] Status map(memory::Bus& ports);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  [[nodiscard]] u8 read_reset();
  void write_reset(u8 value);
  [[nodiscard]] u8 read_port_a();
  void write_port_a(u8 value);

  std::function<void(ResetKind)> on_reset_;
  PortRange reset_port_;
  PortRange port_a_;

  mutable std::mutex mutex_;
  ResetControlState state_;
};

}  // namespace vert::device
