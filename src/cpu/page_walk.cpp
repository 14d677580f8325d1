// Page walks (SDM 3A, chapter 4): 32-bit, PAE, 4-level and 5-level paging.
//
// Pure over CpuState and GuestMemory; runs on the vCPU's thread. Other vCPUs change page tables meanwhile, so
// each entry is read once, and accessed and dirty flags are set by compare-exchange; a walk whose entry
// changed underneath starts again.
#include <array>
#include <atomic>
#include <span>

#include "cpu/mmu.hpp"
#include "x86/paging.hpp"

namespace vert::cpu {

namespace {

using x86::Fault;
namespace pte = x86::pte;
namespace pf = x86::pf;

struct Level {
  u8 shift;       // of the linear-address bits that index this table
  u8 index_bits;  // how many of them
  bool may_map;   // an entry with PS maps a large page
};

/// One of the four paging modes, resolved for the processor's present state.
struct Geometry {
  std::span<const Level> levels;
  unsigned entry_size;
  u64 root;            // of the first table
  bool root_is_entry;  // PAE: `root` is a PDPTE
  u64 reserved;        // in every entry
  bool page_size;      // PS is looked at
  bool no_execute;     // XD is looked at
  bool four_or_five_level;
};

constexpr std::array<Level, 2> kLevels32 = {{{22, 10, true}, {12, 10, false}}};
constexpr std::array<Level, 5> kLevels57 = {
    {{48, 9, false}, {39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, false}}};
constexpr std::span<const Level> kLevels48 = std::span(kLevels57).subspan(1);
constexpr std::span<const Level> kLevelsPae = std::span(kLevels57).subspan(3);

constexpr u64 bits(unsigned high, unsigned low) { return (~u64{0} >> (63 - high)) & (~u64{0} << low); }

Geometry geometry_of(const CpuState& state, const x86::PagingLimits& limits, Gla linear) {
  const bool nxe = (state.efer & x86::efer::NXE) != 0;
  const u64 xd = nxe ? 0 : pte::XD;
  if (state.long_mode()) {
    const bool la57 = (state.cr4 & x86::cr4::LA57) != 0;
    return {la57 ? std::span<const Level>(kLevels57) : kLevels48,
            8,
            state.cr3 & pte::kAddressMask,
            false,
            bits(51, limits.physical_bits) | xd,
            true,
            nxe,
            true};
  }
  if ((state.cr4 & x86::cr4::PAE) != 0) {
    const u64 pdpte = state.pdpte[(linear.value() >> 30) & 3];
    return {kLevelsPae, 8, pdpte, true, bits(62, limits.physical_bits) | xd, true, nxe, false};
  }
  return {kLevels32, 4, state.cr3 & 0xFFFFF000, false, 0, (state.cr4 & x86::cr4::PSE) != 0, false, false};
}

/// Bits that must be 0 in an entry of this level (SDM 3A, tables 4-4 to 4-20).
u64 reserved_bits(const Geometry& geometry, const Level& level, u64 entry, const x86::PagingLimits& limits) {
  const bool large = level.may_map && geometry.page_size && (entry & pte::PS) != 0;
  if (geometry.entry_size == 4) {
    // PSE-36 keeps physical bits 39..32 in entry bits 20..13; bit 21 is reserved.
    const unsigned high_bits = limits.physical_bits < 40 ? limits.physical_bits - 32 : 8;
    return large ? bits(21, 13 + high_bits) : 0;
  }
  u64 reserved = geometry.reserved;
  if (large) reserved |= bits(level.shift - 1U, 13);
  if (level.shift >= 39 || (level.shift == 30 && !limits.gigabyte_pages)) reserved |= pte::PS;
  return reserved;
}

/// An entry that took part in a translation, as it was read.
struct Entry {
  u8* host = nullptr;  // null outside RAM
  u64 value = 0;
};

/// The entries from the top to the one that maps the page.
struct Path {
  std::array<Entry, kLevels57.size()> entries;
  unsigned depth = 0;
  unsigned page_shift = 0;
  bool user = true;      // the AND of U/S
  bool writable = true;  // the AND of R/W
  bool no_execute = false;

  [[nodiscard]] u64 leaf() const { return entries[depth - 1].value; }
};

enum class Descent : u8 { kMapped, kNotPresent, kReserved };

// SAFETY: page-table entries are naturally aligned in RAM (tables are page-aligned, or 4 KiB-aligned within
// it), and every vCPU and this code access them as lock-free atomics of the entry's own size.
template <typename T>
std::atomic_ref<T> entry_at(u8* host) {
  return std::atomic_ref<T>(*reinterpret_cast<T*>(host));
}

Entry load_entry(const memory::GuestMemory& memory, Gpa address, unsigned size) {
  u8* host = memory.host(address, size);
  if (size == 4)
    return {host, host != nullptr ? entry_at<u32>(host).load(std::memory_order_acquire) : ~u32{0}};
  return {host, host != nullptr ? entry_at<u64>(host).load(std::memory_order_acquire) : ~u64{0}};
}

Descent descend(const Geometry& geometry, const memory::GuestMemory& memory, const x86::PagingLimits& limits,
                Gla linear, Path& path) {
  u64 table = geometry.root;
  if (geometry.root_is_entry) {
    if ((table & pte::P) == 0) return Descent::kNotPresent;
    table &= pte::kAddressMask;
  }
  for (const Level& level : geometry.levels) {
    const u64 index = (linear.value() >> level.shift) & ((u64{1} << level.index_bits) - 1);
    const Entry entry = load_entry(memory, Gpa(table + index * geometry.entry_size), geometry.entry_size);
    path.entries[path.depth++] = entry;
    if ((entry.value & pte::P) == 0) return Descent::kNotPresent;
    if ((entry.value & reserved_bits(geometry, level, entry.value, limits)) != 0) return Descent::kReserved;
    path.user = path.user && (entry.value & pte::US) != 0;
    path.writable = path.writable && (entry.value & pte::RW) != 0;
    path.no_execute = path.no_execute || (geometry.no_execute && (entry.value & pte::XD) != 0);
    path.page_shift = level.shift;
    if (level.may_map && geometry.page_size && (entry.value & pte::PS) != 0) break;
    table = entry.value & pte::kAddressMask;
  }
  return Descent::kMapped;
}

/// Protection keys (SDM 3A, 4.6.2): only for data at user-mode addresses.
bool key_forbids(const CpuState& state, const Geometry& geometry, const Path& path, AccessKind kind,
                 Privilege privilege) {
  if (!geometry.four_or_five_level || (state.cr4 & x86::cr4::PKE) == 0 || !path.user ||
      kind == AccessKind::kExecute)
    return false;
  const unsigned key = (path.leaf() >> pte::kProtectionKeyShift) & 0xF;
  const u32 rights = state.fpu.pkru >> (key * 2);
  const bool access_disabled = (rights & 1) != 0;
  const bool write_disabled =
      (rights & 2) != 0 && (privilege == Privilege::kUser || (state.cr0 & x86::cr0::WP) != 0);
  return access_disabled || (kind == AccessKind::kWrite && write_disabled);
}

/// Access rights (SDM 3A, 4.6.1), protection keys aside.
bool rights_allow(const CpuState& state, const Path& path, AccessKind kind, Privilege privilege) {
  if (privilege == Privilege::kUser) {
    if (!path.user) return false;
  } else if (path.user) {
    const bool smap = (state.cr4 & x86::cr4::SMAP) != 0 && privilege == Privilege::kSmap;
    const bool smep = (state.cr4 & x86::cr4::SMEP) != 0;
    if (kind == AccessKind::kExecute ? smep : smap) return false;
  }
  switch (kind) {
    case AccessKind::kRead: return true;
    case AccessKind::kWrite:
      return path.writable || (privilege != Privilege::kUser && (state.cr0 & x86::cr0::WP) == 0);
    case AccessKind::kExecute: return !path.no_execute;
  }
  return false;
}

/// The #PF (SDM 3A, 4.7); `cause` holds P, RSVD and PK.
Fault page_fault(const CpuState& state, Gla linear, AccessKind kind, Privilege privilege, u32 cause) {
  u32 code = cause;
  if (kind == AccessKind::kWrite) code |= pf::W;
  if (privilege == Privilege::kUser) code |= pf::U;
  const bool nx = (state.cr4 & x86::cr4::PAE) != 0 && (state.efer & x86::efer::NXE) != 0;
  if (kind == AccessKind::kExecute && (nx || (state.cr4 & x86::cr4::SMEP) != 0)) code |= pf::I;
  return Fault::page(code, linear.value());
}

template <typename T>
bool set_flags(memory::GuestMemory& memory, const Entry& entry, u64 flags) {
  auto expected = static_cast<T>(entry.value);
  const auto desired = static_cast<T>(entry.value | flags);
  if (!entry_at<T>(entry.host).compare_exchange_strong(expected, desired, std::memory_order_acq_rel))
    return false;
  memory.written(entry.host, sizeof(T));
  return true;
}

/// Sets A in all entries and, for a write, D in the last (SDM 3A, 4.8). False if one changed meanwhile.
bool mark_used(memory::GuestMemory& memory, const Geometry& geometry, Path& path, bool dirty) {
  for (unsigned i = 0; i < path.depth; ++i) {
    Entry& entry = path.entries[i];
    const u64 flags = pte::A | (dirty && i + 1 == path.depth ? pte::D : 0);
    if ((entry.value & flags) == flags || entry.host == nullptr) continue;
    const bool done = geometry.entry_size == 4 ? set_flags<u32>(memory, entry, flags)
                                               : set_flags<u64>(memory, entry, flags);
    if (!done) return false;
    entry.value |= flags;
  }
  return true;
}

Gpa mapped_page(const Geometry& geometry, const Path& path, Gla linear) {
  const u64 offset = linear.value() & (bits(path.page_shift - 1U, 0) & ~kPageOffsetMask);
  u64 base = path.leaf() & pte::kAddressMask & ~bits(path.page_shift - 1U, 0);
  if (geometry.entry_size == 4 && path.page_shift == 22) base |= ((path.leaf() >> 13) & 0xFF) << 32;
  return Gpa(base | offset);
}

}  // namespace

bool walk(const CpuState& state, memory::GuestMemory& memory, const x86::PagingLimits& limits, Gla linear,
          AccessKind kind, Privilege privilege, Translation& translation, Fault& fault) {
  if ((state.cr0 & x86::cr0::PG) == 0) {
    translation = {Gpa(linear.page_base().value() & 0xFFFFFFFF), true, false, kPageSize};
    return true;
  }
  const Geometry geometry = geometry_of(state, limits, linear);
  for (;;) {
    Path path;
    const Descent descent = descend(geometry, memory, limits, linear, path);
    if (descent != Descent::kMapped) {
      const u32 cause = descent == Descent::kReserved ? pf::P | pf::RSVD : 0;
      fault = page_fault(state, linear, kind, privilege, cause);
      return false;
    }
    const bool forbidden_by_key = key_forbids(state, geometry, path, kind, privilege);
    if (forbidden_by_key || !rights_allow(state, path, kind, privilege)) {
      fault = page_fault(state, linear, kind, privilege, pf::P | (forbidden_by_key ? pf::PK : 0));
      return false;
    }
    if (!mark_used(memory, geometry, path, kind == AccessKind::kWrite)) continue;
    const bool writable = (path.leaf() & pte::D) != 0 &&
                          rights_allow(state, path, AccessKind::kWrite, privilege) &&
                          !key_forbids(state, geometry, path, AccessKind::kWrite, privilege);
    const bool global = (state.cr4 & x86::cr4::PGE) != 0 && (path.leaf() & pte::G) != 0;
    translation = {mapped_page(geometry, path, linear), writable, global, u64{1} << path.page_shift};
    return true;
  }
}

std::optional<Gpa> debug_walk(const CpuState& state, const memory::GuestMemory& memory,
                              const x86::PagingLimits& limits, Gla linear) {
  if ((state.cr0 & x86::cr0::PG) == 0) return Gpa(linear.page_base().value() & 0xFFFFFFFF);
  const Geometry geometry = geometry_of(state, limits, linear);
  Path path;
  if (descend(geometry, memory, limits, linear, path) != Descent::kMapped) return std::nullopt;
  return mapped_page(geometry, path, linear);
}

bool load_pdptes(CpuState& state, const memory::GuestMemory& memory, const x86::PagingLimits& limits) {
  // SDM 3A, 4.4.1 and table 4-8.
  const u64 reserved = bits(63, limits.physical_bits) | bits(8, 5) | bits(2, 1);
  std::array<u64, 4> loaded{};
  for (unsigned i = 0; i < loaded.size(); ++i) {
    loaded[i] = load_entry(memory, Gpa((state.cr3 & 0xFFFFFFE0) + i * sizeof(u64)), sizeof(u64)).value;
    if ((loaded[i] & pte::P) != 0 && (loaded[i] & reserved) != 0) return false;
  }
  state.pdpte = loaded;
  return true;
}

}  // namespace vert::cpu
