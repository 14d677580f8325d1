// The wiring from devices to the interrupt controllers: global system interrupts (GSIs) as ACPI counts them.
//
// GSI n is pin n of the I/O APIC; GSIs below 16 also reach the input of the same number at the 8259s. The one
// exception is the timer: ISA IRQ 0 is GSI 2, which the MADT must say. (Input 2 of the 8259s is the cascade,
// and pin 0 of the I/O APIC is not connected.)
//
// Owned by machine/. Lines are made before it starts, and driven by any thread. One mutex, held while the
// controllers are driven, so that levels reach them in order; it lies inside the devices' locks and outside
// the controllers'.
#pragma once

#include <array>
#include <deque>
#include <mutex>
#include <vector>

#include "base/archive.hpp"
#include "device/interrupt_line.hpp"
#include "device/irqchip/i8259.hpp"
#include "device/irqchip/io_apic.hpp"

namespace vert::device {

struct InterruptRouterState {
  std::vector<u8> levels;  // of each line, in the order in which they were made

  template <typename Archive>
  void fields(Archive& a) {
    a("levels", levels);
  }
};

class InterruptRouter {
 public:
  /// The GSI of an ISA IRQ other than 2.
  [[nodiscard]] static constexpr unsigned gsi_of_isa(unsigned irq) { return irq == 0 ? 2 : irq; }

  InterruptRouter(I8259& pic, IoApic& io_apic) : pic_(pic), io_apic_(io_apic) {}
  InterruptRouter(const InterruptRouter&) = delete;
  InterruptRouter& operator=(const InterruptRouter&) = delete;

  /// A new line to a GSI, 1..23. A GSI is asserted while any of its lines is. Lives as long as the router.
  [[nodiscard]] InterruptLine& connect(unsigned gsi);
  /// A new line to an ISA IRQ, 0..15 without 2.
  [[nodiscard]] InterruptLine& connect_isa(unsigned irq);

  [[nodiscard]] base::Document save();
  /// Drives nothing: the controllers' states hold the levels of their inputs.
  [[nodiscard]] Status restore(const base::Document& document);

 private:
  struct Line final : InterruptLine {
    Line(InterruptRouter& owner, unsigned number) : router(owner), gsi(number) {}
    void set(bool asserted) override { router.set(*this, asserted); }

    InterruptRouter& router;
    const unsigned gsi;
    bool level = false;
  };

  void set(Line& line, bool level);

  I8259& pic_;
  IoApic& io_apic_;
  std::mutex mutex_;
  std::deque<Line> lines_;
  std::array<unsigned, IoApic::kPins> asserted_{};  // how many lines of each GSI are
};

}  // namespace vert::device
