// Guest-linear memory: paging, the soft TLB, and every access an engine's C++ code makes to the guest.
//
// One Mmu for each vCPU, used on its thread. A failed access returns false and leaves the fault in fault();
// nothing was written then, except by an access that crosses pages onto MMIO (which is not restartable on
// hardware either). Addresses are linear: segmentation is the caller's (cpu/protection.hpp).
#pragma once

#include <array>
#include <bitset>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "cpu/cpu_state.hpp"
#include "cpu/engine.hpp"
#include "x86/exception.hpp"

namespace vert::cpu {

enum class AccessKind : u8 { kRead, kWrite, kExecute };

/// As what an access counts for U/S, SMAP and protection keys (SDM 3A, 4.6.1).
enum class Privilege : u8 {
  kUser,        // CPL 3
  kSupervisor,  // CPL < 3, explicit, with EFLAGS.AC = 1 or CR4.SMAP = 0: user pages allowed
  kSmap,        // CPL < 3 with SMAP in force, or an implicit supervisor access (descriptor tables, TSS)
};

/// Outcome of a walk: where the page lies and what may be done with it.
struct Translation {
  Gpa page;               // base of the 4 KiB page that holds the address
  bool writable = false;  // through this mapping, by this privilege, now: D is set too
  bool global = false;
  u64 page_size = kPageSize;
};

/// Walks the page tables that `state` points at (SDM 3A, chapter 4; 32-bit, PAE, 4- and 5-level), sets A and
/// D as an access of that kind does, and checks permissions, WP, NX, SMEP, SMAP, protection keys and reserved
/// bits. Without paging the address maps to itself. False with the #PF in `fault`; the linear address must be
/// canonical. Page tables outside RAM read as all ones.
[[nodiscard]] bool walk(const CpuState& state, memory::GuestMemory& memory, const x86::PagingLimits& limits,
                        Gla linear, AccessKind kind, Privilege privilege, Translation& translation,
                        x86::Fault& fault);

/// As walk(), for debuggers: no permission check, no A or D, no fault. Nothing if the address is not mapped.
[[nodiscard]] std::optional<Gpa> debug_walk(const CpuState& state, const memory::GuestMemory& memory,
                                            const x86::PagingLimits& limits, Gla linear);

/// Loads state.pdpte from CR3 for PAE paging. False, #GP(0) at the caller, if a present entry has reserved
/// bits.
[[nodiscard]] bool load_pdptes(CpuState& state, const memory::GuestMemory& memory,
                               const x86::PagingLimits& limits);

class Mmu {
 public:
  /// `state` may be replaced by attach(). No pointer in `context` is kept but those in it.
  explicit Mmu(const VcpuContext& context) : context_(context) {}

  /// Works on `state` from now on; flushes.
  void attach(CpuState& state);

  /// The privilege of the current instruction's own accesses. To be called after each change of CPL, of
  /// EFLAGS.AC, of CR4.SMAP and after attach().
  void update_privilege();
  [[nodiscard]] Privilege privilege() const { return privilege_; }

  [[nodiscard]] const x86::Fault& fault() const { return fault_; }
  [[nodiscard]] const x86::CpuModel& model() const { return *context_.model; }

  /// Reads or writes 1, 2, 4, 8 or 16 bytes (unsigned integers; u128 as two quadwords).
  template <typename T>
  [[nodiscard]] bool read(Gla address, T& value) {
    return read_as(privilege_, address, value);
  }
  template <typename T>
  [[nodiscard]] bool write(Gla address, T value) {
    return write_as(privilege_, address, value);
  }
  template <typename T>
  [[nodiscard]] bool read_as(Privilege privilege, Gla address, T& value) {
    if (const u8* host = lookup(AccessKind::kRead, privilege, address, sizeof(T))) [[likely]] {
      std::memcpy(&value, host, sizeof(T));
      return true;
    }
    return slow_read(privilege, address, {reinterpret_cast<u8*>(&value), sizeof(T)});
  }
  template <typename T>
  [[nodiscard]] bool write_as(Privilege privilege, Gla address, T value) {
    if (u8* host = lookup(AccessKind::kWrite, privilege, address, sizeof(T))) [[likely]] {
      store(host, value);
      context_.memory->written_frame(context_.memory->frame_of(host));
      return true;
    }
    return slow_write(privilege, address, {reinterpret_cast<const u8*>(&value), sizeof(T)});
  }

  /// Bytes of any number; all permissions are checked before the first byte is written.
  [[nodiscard]] bool read_bytes(Gla address, std::span<u8> to) { return slow_read(privilege_, address, to); }
  [[nodiscard]] bool write_bytes(Gla address, std::span<const u8> from) {
    return slow_write(privilege_, address, from);
  }

  /// Checks that [address, address + size) may be read or written, without doing so.
  [[nodiscard]] bool probe(AccessKind kind, Privilege privilege, Gla address, u64 size);

  /// For read-modify-write, locked or not: checks write permission for size (1..16) bytes at `address`.
  /// On success `host` points to them if they are RAM and contiguous on the host (then: modify atomically
  /// where LOCK asks for it, and call written()), else it is null: do read() and write(), under
  /// split_lock_mutex() if locked.
  [[nodiscard]] bool prepare_rmw(Gla address, unsigned size, u8*& host) {
    host = lookup(AccessKind::kWrite, privilege_, address, size);
    if (host != nullptr) [[likely]]
      return true;
    return slow_prepare_rmw(address, size, host);
  }
  void written(const u8* host, u64 size) { context_.memory->written(host, size); }

  /// Host address of `address`, good to the end of its page, for bulk access; null for what is not RAM.
  /// Whoever writes there calls written().
  [[nodiscard]] bool host_address(AccessKind kind, Privilege privilege, Gla address, u8*& host) {
    host = lookup(kind, privilege, address, 1);
    if (host != nullptr) [[likely]]
      return true;
    Target target;
    if (!translate(kind, privilege, address, target)) return false;
    host = target.host;
    return true;
  }

  /// Where `address` lies for instruction fetch: the host page and its guest-physical base. A page of code
  /// outside RAM gives host == nullptr (execution there raises #GP in vert: a documented simplification).
  struct CodePage {
    const u8* host = nullptr;
    Gpa gpa;
  };
  [[nodiscard]] bool translate_code(Gla address, CodePage& page);

  /// A data breakpoint: completed accesses that touch [address, address + size) are noted.
  struct Watch {
    Gla address;
    u64 size = 0;        // 0: none
    bool reads = false;  // writes are always noted
  };
  /// Watches these from now on, the breakpoints DR0..DR3 (SDM 3B, 17.2). Their pages bypass the TLB.
  void set_watches(const std::array<Watch, 4>& watches);
  /// The breakpoints that were hit since the last call, as DR6 has them.
  [[nodiscard]] u32 take_watch_hits() { return std::exchange(watch_hits_, 0); }

  /// Changes whenever a translation may have changed: while it and the privilege stay the same, so does what
  /// translate_code() gives.
  [[nodiscard]] u64 epoch() const { return epoch_; }

  /// Translates for debuggers and device-like accesses: no A or D bits, no fault, no permission check.
  [[nodiscard]] std::optional<Gpa> translate_for_debug(Gla address) const;

  /// Forgets all translations. To be called after each change of CR0.PG or WP, CR3, CR4, EFER and PKRU.
  void flush();
  /// INVLPG: forgets the page, of whatever size, that holds `address`.
  void flush_page(Gla address);

 private:
  // A direct-mapped TLB, one bank for each kind and privilege. A tag holds the page number and the
  // generation, so that a flush is one increment. Only RAM is cached; MMIO always takes the slow path.
  struct Entry {
    u64 tag = 0;
    u8* page = nullptr;
  };
  static constexpr unsigned kIndexBits = 11;
  static constexpr unsigned kSize = 1U << kIndexBits;
  static constexpr unsigned kPrivileges = 3;
  static constexpr unsigned kKinds = 3;

  [[nodiscard]] u64 tag_of(Gla address) const { return (address.value() & ~kPageOffsetMask) ^ generation_; }
  [[nodiscard]] Entry& entry_for(AccessKind kind, Privilege privilege, Gla address) {
    return tlb_[static_cast<unsigned>(kind)][static_cast<unsigned>(privilege)][address.page_number() % kSize];
  }
  /// Host address for an access that lies in one page and hits the TLB, else null.
  [[nodiscard]] u8* lookup(AccessKind kind, Privilege privilege, Gla address, u64 size) {
    const Entry& entry = entry_for(kind, privilege, address);
    const u64 offset = address.page_offset();
    if (entry.tag != tag_of(address) || offset + size > kPageSize) return nullptr;
    return entry.page + offset;
  }
  template <typename T>
  static void store(u8* host, T value) {
    std::memcpy(host, &value, sizeof(T));
  }

  struct Target {
    u8* host = nullptr;  // of the address itself; null outside RAM
    Gpa gpa;
  };
  /// Where an access of at most a page's size lies: in one page or in two.
  struct Range {
    Target first;
    Target second;
    u64 first_size = 0;
  };
  /// Translates the page of `address` and fills the TLB if it is RAM.
  [[nodiscard]] bool translate(AccessKind kind, Privilege privilege, Gla address, Target& target);
  [[nodiscard]] bool translate_range(AccessKind kind, Privilege privilege, Gla address, u64 size,
                                     Range& range);
  [[nodiscard]] bool check_canonical(Gla address, u64 size);
  /// Outside long mode linear addresses have 32 bits.
  [[nodiscard]] Gla wrapped(Gla address) const;
  void read_target(const Target& target, std::span<u8> to);
  void write_target(const Target& target, std::span<const u8> from);
  [[gnu::noinline]] [[nodiscard]] bool slow_read(Privilege privilege, Gla address, std::span<u8> to);
  [[gnu::noinline]] [[nodiscard]] bool slow_write(Privilege privilege, Gla address, std::span<const u8> from);
  [[gnu::noinline]] [[nodiscard]] bool slow_prepare_rmw(Gla address, unsigned size, u8*& host);

  // Which stretches of 4 MiB, and of 1 GiB, hold large pages of which a part is in the TLB: INVLPG of one
  // address in such a page must forget all of it. Stretches share bits modulo the sets' size.
  static constexpr std::array<unsigned, 2> kLargePageShifts = {22, 30};
  static constexpr unsigned kLargePageSlots = 512;
  [[nodiscard]] static std::size_t large_page_slot(std::size_t set, Gla address) {
    return (address.value() >> kLargePageShifts[set]) % kLargePageSlots;
  }
  void remember_large_page(Gla address, u64 page_size);

  [[nodiscard]] bool watched_page(Gla address) const;
  void note_access(AccessKind kind, Gla address, u64 size);

  VcpuContext context_;
  CpuState* state_ = nullptr;
  bool watching_ = false;
  std::array<Watch, 4> watches_;
  u32 watch_hits_ = 0;
  Privilege privilege_ = Privilege::kSmap;
  x86::Fault fault_;
  // The generation lives in the low 12 bits, which page addresses leave free; 0 is never used, so that
  // zeroed entries never match.
  u64 generation_ = 1;
  u64 epoch_ = 1;
  std::array<std::bitset<kLargePageSlots>, kLargePageShifts.size()> large_pages_;
  std::array<std::array<std::array<Entry, kSize>, kPrivileges>, kKinds> tlb_;
};

/// Serialises locked accesses that no single host atomic can do (across pages that are not neighbours, or on
/// MMIO). One for the process: they are rare, and a hostile guest can only slow down its own kind.
[[nodiscard]] std::mutex& split_lock_mutex();

}  // namespace vert::cpu
