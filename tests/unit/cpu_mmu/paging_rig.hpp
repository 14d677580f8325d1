// One linear address mapped through a chain of page tables, in any paging mode.
#pragma once

#include <gtest/gtest.h>
#include <memory>
#include <vector>

#include "cpu/mmu.hpp"
#include "x86/paging.hpp"

namespace vert::test {

enum class Mode { k32, kPae, k4Level, k5Level };

inline constexpr unsigned kPhysicalBits = 46;
inline constexpr x86::PagingLimits kLimits{.physical_bits = kPhysicalBits};
inline constexpr u64 kPtePresent = x86::pte::P;
inline constexpr u64 kPteOpen = x86::pte::P | x86::pte::RW | x86::pte::US;

class PagingRig {
 public:
  static constexpr u64 kRamSize = u64{8} << 20;
  static constexpr u64 kTables = 0x10000;  // one page a level, the top one first
  static constexpr u64 kPage = 0x40000;    // what the address maps to

  explicit PagingRig(Mode mode)
      : memory(memory::GuestMemory::create({{Gpa(0), kRamSize}}).value()), mode_(mode) {
    state.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::WP;
    state.cr3 = kTables;
    if (mode == Mode::k32) state.cr4 = x86::cr4::PSE;
    if (mode != Mode::k32) state.cr4 = x86::cr4::PAE;
    if (mode == Mode::k5Level) state.cr4 |= x86::cr4::LA57;
    if (is_long()) state.efer = x86::efer::LME | x86::efer::LMA;
    state.efer |= mode == Mode::k32 ? 0 : x86::efer::NXE;
  }

  [[nodiscard]] bool is_long() const { return mode_ == Mode::k4Level || mode_ == Mode::k5Level; }
  [[nodiscard]] unsigned levels() const { return static_cast<unsigned>(shifts().size()); }
  [[nodiscard]] u64 entry_size() const { return mode_ == Mode::k32 ? 4 : 8; }
  /// Of the linear-address bits that index each level, the top one first.
  [[nodiscard]] std::vector<unsigned> shifts() const {
    switch (mode_) {
      case Mode::k32: return {22, 12};
      case Mode::kPae: return {30, 21, 12};
      case Mode::k4Level: return {39, 30, 21, 12};
      case Mode::k5Level: return {48, 39, 30, 21, 12};
    }
    return {};
  }

  [[nodiscard]] Gpa entry_address(unsigned level, u64 linear) const {
    const u64 entries = mode_ == Mode::k32 ? 1024 : (mode_ == Mode::kPae && level == 0 ? 4 : 512);
    return Gpa(kTables + level * kPageSize + (linear >> shifts()[level]) % entries * entry_size());
  }
  [[nodiscard]] u64 entry(unsigned level, u64 linear) const {
    const Gpa address = entry_address(level, linear);
    return mode_ == Mode::k32 ? u64{memory->load<u32>(address).value()} : memory->load<u64>(address).value();
  }
  void set_entry(unsigned level, u64 linear, u64 value) {
    const auto* bytes = reinterpret_cast<const u8*>(&value);
    ASSERT_TRUE(memory->write(entry_address(level, linear), {bytes, entry_size()}));
  }
  /// Entries with `flags` down to `depth` (all by default); the last points to `page` and alone has PS.
  void map(u64 linear, u64 page = kPage, u64 flags = kPteOpen, unsigned depth = 0) {
    const unsigned last = (depth == 0 ? levels() : depth) - 1;
    for (unsigned level = 0; level <= last; ++level) {
      const bool pdpte = mode_ == Mode::kPae && level == 0;
      const u64 target = level == last ? page : kTables + (level + 1) * kPageSize;
      const u64 own_flags = level == last ? flags : flags & ~x86::pte::PS;
      set_entry(level, linear, target | (pdpte ? kPtePresent : own_flags));
    }
    if (mode_ == Mode::kPae) {
      ASSERT_TRUE(cpu::load_pdptes(state, *memory, limits));
    }
  }

  [[nodiscard]] bool walk(u64 linear, cpu::AccessKind kind, cpu::Privilege privilege) {
    fault = {};
    return cpu::walk(state, *memory, limits, Gla(linear), kind, privilege, translation, fault);
  }

  std::unique_ptr<memory::GuestMemory> memory;
  x86::PagingLimits limits = kLimits;
  cpu::CpuState state;
  cpu::Translation translation;
  x86::Fault fault;

 private:
  Mode mode_;
};

}  // namespace vert::test
