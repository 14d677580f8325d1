#include "machine/boot/entry_state.hpp"

#include <array>

namespace vert::machine {

namespace {

using x86::Descriptor;
using x86::Segment;

constexpr u16 kCodeSelector = 0x10;  // Linux's __BOOT_CS, __BOOT_DS and __BOOT_TSS
constexpr u16 kDataSelector = 0x18;
constexpr u16 kTssSelector = 0x20;

// Descriptors (SDM 3A, 3.4.5): base 0, limit 4 GiB, present, accessed.
constexpr Descriptor kCode32{0x00CF'9B00'0000'FFFF};
constexpr Descriptor kCode64{0x00AF'9B00'0000'FFFF};
constexpr Descriptor kData{0x00CF'9300'0000'FFFF};
constexpr Descriptor kBusyTss{0x0000'8B00'0000'0067};

template <std::size_t N>
void put_quadwords(Placement& placement, u64 address, const std::array<u64, N>& values) {
  placement.put_boot_data(address, {reinterpret_cast<const u8*>(values.data()), sizeof values});
}

void load_segments(Placement& placement, cpu::CpuState& state, Descriptor code) {
  const std::array<u64, 5> gdt = {0, 0, code.raw, kData.raw, kBusyTss.raw};
  put_quadwords(placement, boot_area::kGdt, gdt);
  state.gdtr = {boot_area::kGdt, sizeof gdt - 1};
  state.idtr = {0, 0};
  for (Segment& segment : state.segment) segment = kData.to_segment(kDataSelector);
  state.seg(x86::kCs) = code.to_segment(kCodeSelector);
  state.tr = kBusyTss.to_segment(kTssSelector);
  state.ldtr = {.unusable = true};
  state.cpl = 0;
  state.rflags = x86::rflags::kFixed1;
}

/// 2 MiB pages for the first 4 GiB, supervisor, writable.
void map_four_gib(Placement& placement) {
  constexpr u64 kPresentWritable = 3;
  constexpr u64 kLargePage = 1U << 7;
  constexpr u64 kDirectories = 4;
  std::array<u64, 512> table{};
  table[0] = (boot_area::kPageTables + kPageSize) | kPresentWritable;
  put_quadwords(placement, boot_area::kPageTables, table);
  for (u64 i = 0; i < kDirectories; ++i)
    table[i] = (boot_area::kPageTables + (2 + i) * kPageSize) | kPresentWritable;
  put_quadwords(placement, boot_area::kPageTables + kPageSize, table);
  for (u64 directory = 0; directory < kDirectories; ++directory) {
    for (u64 i = 0; i < table.size(); ++i)
      table[i] = ((directory * table.size() + i) << 21) | kPresentWritable | kLargePage;
    put_quadwords(placement, boot_area::kPageTables + (2 + directory) * kPageSize, table);
  }
}

}  // namespace

void enter_flat32(Placement& placement, cpu::CpuState& state, u32 entry) {
  load_segments(placement, state, kCode32);
  state.gpr = {};
  state.cr0 = x86::cr0::PE | x86::cr0::ET;
  state.cr3 = 0;
  state.cr4 = 0;
  state.efer = 0;
  // Where firmware leaves it: kernels that return to real mode count on the vectors there.
  state.idtr = {0, 0x3FF};
  state.rip = entry;
}

void enter_long_mode(Placement& placement, cpu::CpuState& state, u64 entry) {
  map_four_gib(placement);
  load_segments(placement, state, kCode64);
  state.gpr = {};
  state.cr0 = x86::cr0::PE | x86::cr0::ET | x86::cr0::PG;
  state.cr3 = boot_area::kPageTables;
  state.cr4 = x86::cr4::PAE;
  state.efer = x86::efer::LME | x86::efer::LMA;
  state.rip = entry;
}

}  // namespace vert::machine
