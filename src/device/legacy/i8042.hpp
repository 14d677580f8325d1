// The 8042 keyboard controller at 0x60 and 0x64, with a keyboard and a mouse that answer probes but are
// never touched (IBM PS/2 Technical Reference, Keyboard and Auxiliary Device Controller).
//
// Owned by machine/; ports on any vCPU thread. Commands act at once, so that a probe never waits. Answers
// wait in queues of fixed size; what does not fit is lost, as with the real ones.
#pragma once

#include <array>
#include <functional>
#include <mutex>
#include <span>

#include "base/archive.hpp"
#include "device/interrupt_line.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

struct I8042Queue {
  std::array<u8, 16> bytes{};  // [0] is the oldest
  u8 count = 0;

  template <typename Archive>
  void fields(Archive& a) {
    a("bytes", bytes);
    a("count", count);
  }
};

struct I8042State {
  std::array<u8, 32> ram{};  // [0] is the command byte
  u8 output = 0;             // the output buffer
  bool output_full = false;
  bool output_from_mouse = false;
  bool last_was_command = false;
  u8 data_for = 0;          // the command that takes the next byte at 0x60; 0: the keyboard
  u8 keyboard_command = 0;  // the keyboard's command that takes the next byte
  u8 mouse_command = 0;
  I8042Queue keyboard;
  I8042Queue mouse;

  template <typename Archive>
  void fields(Archive& a) {
    a("ram", ram);
    a("output", output);
    a("output_full", output_full);
    a("output_from_mouse", output_from_mouse);
    a("last_was_command", last_was_command);
    a("data_for", data_for);
    a("keyboard_command", keyboard_command);
    a("mouse_command", mouse_command);
    a("keyboard", keyboard);
    a("mouse", mouse);
  }
};

class I8042 {
 public:
  /// `on_reset` is called on a vCPU thread with no lock held, when the guest pulls the reset output low.
  I8042(InterruptLine& keyboard_irq1, InterruptLine& mouse_irq12, std::function<void()> on_reset);

  /// Claims 0x60 and 0x64.
  [[nodiscard]] Status map(memory::Bus& ports);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  [[nodiscard]] u8 read_data();
  [[nodiscard]] u8 read_status();
  void write_data(u8 value);
  void write_command(u8 command);

  // Each true if the machine is to be reset.
  [[nodiscard]] bool run_command(u8 command);
  [[nodiscard]] bool take_data(u8 command, u8 value);

  void to_keyboard(u8 value);
  void to_mouse(u8 value);
  void answer(u8 value, bool from_mouse);
  static void queue(I8042Queue& queue, std::span<const u8> bytes);
  void refill();
  void update_lines();

  InterruptLine& keyboard_line_;
  InterruptLine& mouse_line_;
  std::function<void()> on_reset_;
  PortRange data_port_;
  PortRange command_port_;

  mutable std::mutex mutex_;
  I8042State state_;
};

}  // namespace vert::device
