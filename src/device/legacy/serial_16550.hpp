// A 16550A UART (National Semiconductor PC16550D) as a PC wires it: OUT2 gates the interrupt.
//
// Owned by machine/. Ports on any vCPU thread, receive() on any thread, the character timeout on the timer
// thread. The line runs at infinite speed: a byte written is out at once, and the transmitter is always
// empty, so a guest that floods it makes nothing grow. Input is held back by the sender: receive() takes
// what fits the receiver FIFO, hence only loopback can overrun. CTS, DSR and DCD are always on.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "base/archive.hpp"
#include "base/time.hpp"
#include "device/interrupt_line.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

inline constexpr u64 kCom1Base = 0x3f8;
inline constexpr unsigned kCom1Irq = 4;

struct Serial16550State {
  u8 ier = 0;
  u8 fcr = 0;
  u8 lcr = 0;
  u8 mcr = 0;
  u8 msr_delta = 0;  // the low four bits of MSR
  u8 scratch = 0;
  u16 divisor = 12;      // 9600 baud
  bool overrun = false;  // LSR bit 1
  bool transmit_interrupt = false;
  bool timeout_interrupt = false;
  bool input_refused = false;        // receive() must be offered more
  u64 timeout_deadline_ns = 0;       // 0: not running
  std::array<u8, 16> fifo{};         // [0] is the oldest
  std::array<u8, 16> fifo_errors{};  // LSR bits 2-4 of each
  u8 fifo_count = 0;

  template <typename Archive>
  void fields(Archive& a) {
    a("ier", ier);
    a("fcr", fcr);
    a("lcr", lcr);
    a("mcr", mcr);
    a("msr_delta", msr_delta);
    a("scratch", scratch);
    a("divisor", divisor);
    a("overrun", overrun);
    a("transmit_interrupt", transmit_interrupt);
    a("timeout_interrupt", timeout_interrupt);
    a("input_refused", input_refused);
    a("timeout_deadline_ns", timeout_deadline_ns);
    a("fifo", fifo);
    a("fifo_errors", fifo_errors);
    a("fifo_count", fifo_count);
  }
};

class Serial16550 {
 public:
  static constexpr u64 kPorts = 8;
  using Output = std::function<void(std::span<const u8>)>;

  /// `output` is called on vCPU threads with no lock held. Everything outlives the device.
  Serial16550(base::TimeService& time, InterruptLine& line, Output output);

  /// Claims the eight ports from `base`.
  [[nodiscard]] Status map(memory::Bus& ports, u64 base);

  /// Bytes from the other end of the line. Returns how many were taken; when that is not all, the ready
  /// callback is called once there is room.
  [[nodiscard]] std::size_t receive(std::span<const u8> bytes);
  /// Called on a vCPU thread with no lock held. To be set before the guest runs.
  void set_ready_callback(std::function<void()> on_ready) { on_ready_ = std::move(on_ready); }

  [[nodiscard]] u8 read(u64 offset);
  void write(u64 offset, u8 value);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  [[nodiscard]] bool fifo_enabled() const { return (state_.fcr & 1) != 0; }
  [[nodiscard]] bool loopback() const;
  [[nodiscard]] unsigned capacity() const { return fifo_enabled() ? 16 : 1; }
  [[nodiscard]] unsigned trigger_level() const;
  [[nodiscard]] u8 modem_inputs() const;
  [[nodiscard]] u8 interrupt_identification() const;

  [[nodiscard]] u8 read_locked(u64 offset);
  [[nodiscard]] u8 read_receiver();
  [[nodiscard]] u8 read_interrupt_identification();
  [[nodiscard]] u8 read_line_status();
  [[nodiscard]] u8 read_modem_status();

  /// True if `value` goes out on the line.
  [[nodiscard]] bool transmit(u8 value);
  void write_register(u64 offset, u8 value);
  void write_interrupt_enable(u8 value);
  void write_fifo_control(u8 value);
  void write_line_control(u8 value);
  void write_modem_control(u8 value);
  void push(u8 value, u8 errors);
  void clear_receiver();
  void start_character_timeout();
  void on_timer();
  void update_line();
  [[nodiscard]] bool take_ready();

  base::TimeService& time_;
  InterruptLine& line_;
  Output output_;
  std::function<void()> on_ready_;
  PortRange range_;

  mutable std::mutex mutex_;
  Serial16550State state_;
  std::unique_ptr<base::Timer> timer_;  // last: its destructor waits for on_timer()
};

}  // namespace vert::device
