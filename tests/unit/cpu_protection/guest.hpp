// A guest of tables only: 4 MiB of RAM with a GDT, LDT, IDT, two TSSs, stacks and page tables made by hand,
// and a processor that can be put in any mode. No code runs in it.
#pragma once

#include <memory>
#include <optional>

#include <gtest/gtest.h>

#include "cpu/protection.hpp"

namespace vert::cpu::test {

// Where things lie; linear addresses are physical ones where they are mapped.
inline constexpr u32 kGdt = 0x1000;
inline constexpr u32 kIdt = 0x2000;
inline constexpr u32 kLdtBase = 0x3000;
inline constexpr u32 kTssA = 0x4000;
inline constexpr u32 kTssB = 0x5000;
inline constexpr u32 kUserStack = 0xA000;    // each names its end
inline constexpr u32 kKernelStack = 0x8000;  // in force in level 0
inline constexpr u32 kInnerStack = 0x7000;   // in the TSS, for level 0
inline constexpr u32 kIstStack = 0x6F08;     // not aligned to 16
inline constexpr u32 kPageTables = 0x10000;
inline constexpr u64 kUnmapped = 0x80'0000;  // with paging on
inline constexpr u64 kRip = 0x20000;
inline constexpr u64 kHandler = 0x30000;
inline constexpr u64 kNotCanonical = 0x8000'0000'0000;

// Selectors.
inline constexpr u16 kCode0 = 0x08;
inline constexpr u16 kData0 = 0x10;
inline constexpr u16 kCode3 = 0x1B;
inline constexpr u16 kData3 = 0x23;
inline constexpr u16 kCode64 = 0x28;
inline constexpr u16 kUser64 = 0x33;
inline constexpr u16 kLdtSelector = 0x38;  // 16 bytes
inline constexpr u16 kTaskA = 0x48;        // 16 bytes
inline constexpr u16 kTaskB = 0x58;        // 16 bytes
inline constexpr u16 kAbsentCode = 0x68;
inline constexpr u16 kAbsentData = 0x70;
inline constexpr u16 kReadOnly = 0x78;
inline constexpr u16 kConforming = 0x80;
inline constexpr u16 kExecuteOnly = 0x88;
inline constexpr u16 kGate = 0x90;  // 16 bytes
inline constexpr u16 kCode16 = 0xA0;
inline constexpr u16 kData16 = 0xA8;
inline constexpr u16 kExpandDown = 0xB0;
inline constexpr u16 kSmallCode = 0xB8;  // limit FFFh
inline constexpr u16 kLongAndBig = 0xC0;
inline constexpr u16 kTaskGateSelector = 0xC8;
inline constexpr u16 kSmallData = 0xD0;  // limit FFFh, level 0
inline constexpr u16 kBeyond = 0x108;    // outside the GDT

// Attributes as x86::Segment has them.
inline constexpr u16 kFlat = x86::Segment::kG | x86::Segment::kDb;
inline constexpr u16 kCodeType = 0x9A;  // present, readable, level 0, not accessed
inline constexpr u16 kDataType = 0x92;
[[nodiscard]] constexpr u16 level(unsigned dpl) { return static_cast<u16>(dpl << 5); }

/// A segment descriptor; `limit` is the raw 20-bit field.
[[nodiscard]] constexpr u64 descriptor(u32 base, u32 limit, u16 attributes) {
  return (limit & 0xFFFF) | (u64{base & 0xFFFFFF} << 16) | (u64{attributes} << 40) |
         (u64{limit & 0xF0000} << 32) | (u64{base >> 24} << 56);
}
/// The first 8 bytes of a gate. `low` is the parameter count or IST.
[[nodiscard]] constexpr u64 gate(u8 type, u8 dpl, u16 selector, u32 offset, u8 low = 0) {
  return (offset & 0xFFFF) | (u64{selector} << 16) | (u64{low} << 32) |
         (u64{static_cast<u8>(0x80 | (dpl << 5) | type)} << 40) | (u64{offset >> 16} << 48);
}

class Guest : public ::testing::Test {
 protected:
  Guest();

  // Modes. Each puts kRip in RIP, and the stack pointer of the level in RSP.
  void real_mode();
  void protected_mode(u8 cpl);  // 32-bit, flat, no paging
  void v86_mode(u8 iopl);       // CS, SS 2000h, DS..GS 1000h
  void long_mode(u8 cpl);       // 64-bit code
  void compat_mode(u8 cpl);
  /// Paging as long_mode() has it, in 32-bit protected mode (PAE).
  void enable_pae();

  void put(u64 address, u64 value, unsigned size);
  [[nodiscard]] u64 get(u64 address, unsigned size);
  /// An item of `size` bytes on the stack in force, 0 being its top.
  [[nodiscard]] u64 stacked(unsigned index, unsigned size);
  /// Pushes for a return to pop; the last one ends up at the top.
  void push(std::initializer_list<u64> values, unsigned size);
  void set_gdt(u16 selector, u64 raw) { put(kGdt + (selector & ~7U), raw, 8); }
  void set_idt(u8 vector, u64 raw) { put(kIdt + u64{vector} * 8, raw, 8); }
  void set_idt64(u8 vector, u64 raw, u32 high = 0);
  [[nodiscard]] u8 type_byte(u16 selector) { return static_cast<u8>(get(kGdt + (selector & ~7U) + 5, 1)); }
  x86::Segment& seg(x86::SegmentRegister reg) { return state.seg(reg); }
  [[nodiscard]] u64 rsp() const { return state.gpr[x86::kRsp]; }

  /// Runs `action`, expects that fault, and that nothing but memory changed.
  template <typename Action>
  void expect_fault(const x86::Fault& expected, Action action) {
    const auto before = std::make_unique<CpuState>(state);
    const MaybeFault fault = action();
    ASSERT_TRUE(fault.has_value());
    EXPECT_EQ(fault->vector, expected.vector);
    EXPECT_EQ(fault->has_error_code, expected.has_error_code);
    EXPECT_EQ(fault->error_code, expected.error_code);
    EXPECT_EQ(fault->address, expected.address);
    EXPECT_TRUE(state == *before);
  }

  [[nodiscard]] Interruption external(u8 vector) const {
    return {vector, InterruptSource::kExternal, std::nullopt, state.rip};
  }
  [[nodiscard]] Interruption software(u8 vector) const {
    return {vector, InterruptSource::kSoftware, std::nullopt, state.rip + 2};
  }

  CpuState state;
  std::unique_ptr<memory::GuestMemory> memory;
  memory::Bus mmio;
  memory::Bus pio;
  VcpuEvents events;
  std::optional<x86::CpuModel> model;
  std::unique_ptr<Mmu> mmu_owner;
  Mmu& mmu() { return *mmu_owner; }

 private:
  void write_tables();
  void load_flat(u16 code, u16 data, u8 cpl);
  void attach();
};

#define EXPECT_OK(expression) EXPECT_FALSE((expression).has_value())

}  // namespace vert::cpu::test
