// What all tests of the engine contract share: a rig on the engine under test, and kernel code in it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/assembler.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "x86/exception.hpp"

namespace vert::test {

// Interrupt messages carry their destination as an APIC ID.
inline constexpr u8 kVector = 0x50;

class EngineTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr Gpa kCode{0x18'0000};  // below what the rig hands out
  static constexpr Gpa kData{0x19'0000};

  [[nodiscard]] static u64 code() { return GuestRig::direct(kCode); }
  [[nodiscard]] static u64 data() { return GuestRig::direct(kData); }

  GuestRig& make_rig(unsigned vcpus = 1) {
    rig_ = std::make_unique<GuestRig>(GetParam(), vcpus);
    return *rig_;
  }
  [[nodiscard]] GuestRig& rig() { return *rig_; }

  /// Loads kernel code and sets a vCPU at its start, or at `entry`.
  void start(Assembler& assembler, unsigned vcpu = 0, u64 entry = 0) {
    const std::vector<u8> bytes = assembler.finish();
    rig_->write(kCode, bytes);
    place(entry == 0 ? code() : entry, vcpu);
  }
  void place(u64 rip, unsigned vcpu = 0) {
    // Away from the top, which interrupts from user mode use.
    rig_->set_state(rig_->initial_state(rip, GuestRig::kernel_stack_top(vcpu) - 0x1000, 0, vcpu), vcpu);
  }

  /// Turns the local APIC on, all priorities open.
  void enable_apic(unsigned vcpu = 0) {
    constexpr u32 kSpurious = 0xF0;
    rig_->apic(vcpu).mmio_write(kSpurious, 0x1FF);
  }
  void interrupt(u8 vector, unsigned vcpu = 0) {
    (void)rig_->fabric().send({.destination = rig_->apic(vcpu).id(), .vector = vector});
  }
  void nmi(unsigned vcpu = 0) {
    (void)rig_->fabric().send({.destination = rig_->apic(vcpu).id(), .mode = cpu::DeliveryMode::kNmi});
  }

  /// A handler that adds 1 to the dword at data() + offset and returns; the EOI is the local APIC's own.
  void counting_handler(Assembler& assembler, const std::string& name, u8 offset) {
    assembler.label(name);
    assembler.bytes({0x50}).load(0, data() + offset).bytes({0xFF, 0x00});  // push rax; inc dword [rax]
    assembler.bytes({0x58}).bytes({0x48, 0xCF});                           // pop rax; iretq
  }
  [[nodiscard]] u32 counter(u8 offset = 0) { return *rig_->memory().load<u32>(kData + offset); }
  [[nodiscard]] u64 reg(x86::Gpr index, unsigned vcpu = 0) { return rig_->state(vcpu).gpr[index]; }

 private:
  std::unique_ptr<GuestRig> rig_;
};

}  // namespace vert::test
