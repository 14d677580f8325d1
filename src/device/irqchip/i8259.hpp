// The two cascaded 8259A interrupt controllers of a PC, with the edge/level control registers of its chipset
// (8259A datasheet, Intel 231468; ICH9 datasheet, 13.4 for ELCR).
//
// Owned by machine/. Any thread. One mutex; the output callback runs with it released, and INTR itself is an
// atomic, so that the vCPU's look at it takes no lock. Buffered mode, slave identification (ICW2 of 8085
// mode, ICW3) and the LTIM bit have no effect, as on chipsets, where cascade and triggers are fixed or
// ELCR's.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <mutex>

#include "base/archive.hpp"
#include "cpu/local_apic.hpp"
#include "memory/bus.hpp"

namespace vert::device {

/// One 8259A. Bit n of a set stands for its input IRn.
struct I8259Chip {
  u8 lines = 0;  // levels of the inputs
  u8 elcr = 0;   // level-triggered inputs
  u8 irr = 0;
  u8 isr = 0;
  u8 imr = 0xFF;
  u8 vector_base = 0;
  u8 top = 0;        // the input of highest priority
  u8 init_step = 0;  // the ICW that is awaited (2..4), or 0
  bool single = false;
  bool icw4_follows = false;
  bool auto_eoi = false;
  bool rotate_on_auto_eoi = false;
  bool special_fully_nested = false;
  bool special_mask = false;
  bool poll = false;
  bool read_isr = false;

  template <typename Archive>
  void fields(Archive& a) {
    a("lines", lines);
    a("elcr", elcr);
    a("irr", irr);
    a("isr", isr);
    a("imr", imr);
    a("vector_base", vector_base);
    a("top", top);
    a("init_step", init_step);
    a("single", single);
    a("icw4_follows", icw4_follows);
    a("auto_eoi", auto_eoi);
    a("rotate_on_auto_eoi", rotate_on_auto_eoi);
    a("special_fully_nested", special_fully_nested);
    a("special_mask", special_mask);
    a("poll", poll);
    a("read_isr", read_isr);
  }
};

struct I8259State {
  std::array<I8259Chip, 2> chips;  // master, slave

  template <typename Archive>
  void fields(Archive& a) {
    a("chips", chips);
  }
};

class I8259 final : public cpu::ExternalInterruptSource {
 public:
  static constexpr u64 kMasterPort = 0x20;
  static constexpr u64 kSlavePort = 0xA0;
  static constexpr u64 kElcrPort = 0x4D0;

  I8259() = default;
  I8259(const I8259&) = delete;
  I8259& operator=(const I8259&) = delete;

  /// Claims the ports of both chips and ELCR.
  [[nodiscard]] Status attach(memory::Bus& pio);
  /// Called when pending() changed, or stayed true with another request behind it: for
  /// LocalApic::external_interrupt_changed(). Set once, before the machine starts.
  void set_output_callback(std::function<void()> callback) { output_changed_ = std::move(callback); }

  /// Drives an input, 0..15; input 2 is the cascade and ignores it.
  void set_input(unsigned irq, bool level);
  [[nodiscard]] bool pending() override { return output_.load(std::memory_order_acquire); }
  [[nodiscard]] u8 acknowledge() override;

  /// As after power-up; levels of the inputs stay.
  void reset();
  [[nodiscard]] base::Document save();
  [[nodiscard]] Status restore(const base::Document& document);

 private:
  /// Two byte-wide registers on the bus.
  class Ports final : public memory::BusDevice {
   public:
    Ports(I8259& pic, u64 base) : pic_(pic), base_(base) {}
    [[nodiscard]] u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    I8259& pic_;
    const u64 base_;
  };

  [[nodiscard]] u8 read_port(u64 port);
  void write_port(u64 port, u8 value);
  void write_elcr(unsigned index, u8 value);
  /// Recomputes cascade and output. True if the callback is due.
  [[nodiscard]] bool update();
  void notify(bool due) {
    if (due && output_changed_) output_changed_();
  }

  std::mutex mutex_;
  I8259State state_;
  std::atomic<bool> output_ = false;
  std::function<void()> output_changed_;
  Ports master_ports_{*this, kMasterPort};
  Ports slave_ports_{*this, kSlavePort};
  Ports elcr_ports_{*this, kElcrPort};
};

}  // namespace vert::device
