// Context: what generated code reaches, at fixed offsets from the host's GS base.
//
// One for each translator (so for each vCPU), on its thread; `attention` and `code_tokens` alone are also
// written by other threads. While generated code runs, guest registers live in the host's
// (host_registers.hpp), the arithmetic flags in the host's, vector and x87 registers in the host's if
// `fpu_loaded`; everything else is here or in CpuState.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>

#include "base/types.hpp"
#include "cpu/acceptance.hpp"
#include "cpu/cpu_state.hpp"
#include "cpu/mmu.hpp"
#include "cpu/pause_loop.hpp"
#include "x86/cpu_identity.hpp"
#include "x86/xsave_layout.hpp"

namespace vert::bt {

/// An entry of the soft TLB. `tag` is the guest-linear address of a page; a guest address in it plus `addend`
/// is the host's. An access of `size` bytes at `address` hits iff (address ^ tag) <= kPageSize - size, which
/// also tells that it does not leave the page. Only RAM is here, and for writing only pages without marks
/// (GuestMemory).
struct TlbEntry {
  u64 tag;
  u64 addend;
};

inline constexpr unsigned kTlbIndexBits = 12;
inline constexpr unsigned kTlbSize = 1U << kTlbIndexBits;
inline constexpr unsigned kPrivileges = 3;  // of cpu::Privilege

[[nodiscard]] constexpr unsigned tlb_index(u64 address) {
  return static_cast<unsigned>(address >> kPageShift) % kTlbSize;
}
/// A tag that no address with this index can hit, canonical or not, and no canonical address with any index:
/// some code looks at the entry for one address with another (Emitter::reach_from_gs).
[[nodiscard]] constexpr u64 invalid_tag(unsigned index) {
  return u64{1} << 62 | u64{index ^ 1U} << kPageShift;
}

/// Both halves of a privilege's translations.
struct TlbBank {
  std::array<TlbEntry, kTlbSize> read;
  std::array<TlbEntry, kTlbSize> write;
};

/// Pages that code was fetched from. Generated code on a page checks that the page's slot holds its own
/// token: a number that stands for (linear page, host page, user or supervisor), in the upper half. 0 is
/// nobody's.
inline constexpr unsigned kTokenSlots = 2048;
[[nodiscard]] constexpr unsigned token_slot(u64 linear) {
  const u64 page = linear >> kPageShift;
  return static_cast<unsigned>(page ^ (page >> 11)) % kTokenSlots;
}

/// Where Context::large_pages remembers a large page: kernel and user halves apart, since INVLPG of user
/// pages is frequent and kernels map all of RAM with large pages. Stretches of 4 MiB, and of 1 GiB for larger
/// pages than that.
inline constexpr unsigned kLargePageSlots = 2048;
struct LargePagePlace {
  unsigned set;
  unsigned slot;
};
[[nodiscard]] constexpr LargePagePlace large_page_place(u64 address, bool giant) {
  const u64 stretch = address >> (giant ? 30 : 22);
  const unsigned set = static_cast<unsigned>(address >> 63) * 2 + (giant ? 1 : 0);
  return {set, static_cast<unsigned>(stretch ^ (stretch >> 11)) % kLargePageSlots};
}

inline constexpr unsigned kWriteFilterBits = 1U << 15;
[[nodiscard]] constexpr unsigned write_filter_bit(memory::Frame frame) { return frame % kWriteFilterBits; }

/// Where an indirect branch goes: a direct-mapped table. `key` is minus (RIP plus the mode's salt), so that
/// adding finds a match without touching the flags.
inline constexpr unsigned kJumpBits = 12;
inline constexpr unsigned kJumps = 1U << kJumpBits;
inline constexpr u64 kJumpMask = u64{kJumps - 1} << 2;
[[nodiscard]] constexpr unsigned jump_index(u64 rip) { return static_cast<unsigned>((rip & kJumpMask) >> 2); }

/// Windows: stretches of host addresses that show what lies below one top-level page-table entry (512 GiB) of
/// the guest's (windows.hpp). A guest address plus the entry that its 16 bits from kWindowShift on index is
/// the host's. Only the first page of the table is there: addresses beyond the lower half's fault at the
/// look-up, or, if their bits from 55 on make them so, at the access: what they lead to is not canonical
/// either.
inline constexpr unsigned kWindowShift = 39;
inline constexpr unsigned kWindowIndexBits = 16;
inline constexpr std::size_t kWindowTableSize = sizeof(u64) << kWindowIndexBits;
inline constexpr unsigned kWindowIndexes = 256;  // of the lower half, with 48-bit addresses
inline constexpr unsigned kWindowTableEntries = kPageSize / sizeof(u64);  // of the page that is there
[[nodiscard]] constexpr unsigned window_index(u64 address) {
  return static_cast<unsigned>(address >> kWindowShift);
}

/// Where changes of privilege lead: as above, but with a place for each mode, since processes that take turns
/// run the same code at the same addresses.
inline constexpr unsigned kTransfers = 256;
[[nodiscard]] constexpr unsigned transfer_index(u64 rip, u64 salt) {
  return static_cast<unsigned>(rip ^ rip >> 8 ^ salt >> 9) % kTransfers;
}
/// Both parts are compared: a sum of the two would let the guest choose a RIP that stands for another mode.
struct TransferEntry {
  u64 rip;
  u64 salt;
  const u8* code;
};

/// What generated code and leaf functions need to know of a mode (Mode).
struct ModeWords {
  u64 salt = 0;
  u64 return_owner = 0;
  u32 privilege = 0;  // cpu::Privilege
  u8 fpu_wanted = 0;  // its code takes for granted that the vector registers are loaded
};

/// The standard-format XSAVE area: x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM (SDM 1, 13.4).
inline constexpr std::size_t kXsaveSize = 2816;

/// The x87 instruction that ran last, by its place in X87Notes::origins, and the last one's with a memory
/// operand. 0: CpuState has its pointers. Generated code writes each as a whole, from an immediate.
struct X87Code {
  u32 origin = 0;
  u8 control_loaded = 0;  // FLDCW came after it: an exception that is pending may not be its own
  u8 selector_noted = 0;  // CS has changed since; this is what it was:
  u16 selector = 0;
};
struct X87Data {
  u8 segment = 0;
  u8 present = 0;
  u16 reserved = 0;
  u16 selector_noted = 0;
  u16 selector = 0;
};
static_assert(sizeof(X87Code) == sizeof(u64) && sizeof(X87Data) == sizeof(u64));
[[nodiscard]] constexpr i32 x87_data_word(u8 segment) { return 1 << 8 | segment; }

/// What leaf_state() has to know of the guest's XSAVE areas, and how far the host's own instructions make
/// them.
struct StateLayout {
  bool usable =
      false;  // the host has XSAVEC, XGETBV tells what is in use, and compacted areas are the guest's
  bool standard = false;                                 // areas in the standard format are the guest's, too
  u64 components = 0;                                    // that the host's registers hold for the guest
  u32 mxcsr_mask = 0;                                    // the guest's
  bool x87_pointers_hidden = false;                      // cpu::X87PointerRules::hidden
  x86::XsaveLayout layout = x86::XsaveLayout::common();  // the guest's
};

inline constexpr u64 kNoShadow = u64{1} << 63;  // no instruction lies at addresses that are not canonical

struct alignas(64) Context {
  std::array<u64, 16> gpr{};  // the guest's, while no generated code runs; the slots of those that have no
                              // host register always
  u64 rip = 0;                // valid when generated code was left
  u64 rflags_arithmetic = 0;  // CF PF AF ZF SF OF when generated code was left
  u64 host_rsp = 0;           // the C++ stack
  u64 return_rsp = 0;         // the pointer of this privilege's return stack, while generated code is left
  u64 exit = 0;               // why generated code was left: translator.hpp
  u64 save_rax = 0;           // short-lived homes within one guest instruction
  u64 save_rcx = 0;
  u64 save_flags = 0;
  u64 call_target = 0;
  u64 last_return = 0;                         // the exit that stands for the RET that was executed last
  u64 rflags_rest = 0;                         // RFLAGS without the arithmetic flags, IF and DF
  u64 salt = 0;                                // Mode::salt() of the code that runs
  u32 privilege = 0;                           // cpu::Privilege of the code that runs
  std::array<ModeWords, kPrivileges> modes{};  // of 64-bit code of each privilege, all else as it is
  // Return stacks, one for each privilege: the pointers of those that are not in use, what these are when
  // empty, and Mode::return_owner() of the code whose calls they hold.
  std::array<u64, kPrivileges> return_rsps{};
  std::array<u64, kPrivileges> empty_returns{};
  std::array<u64, kPrivileges> return_owners{};
  u32 host_mxcsr = 0x1F80;
  Context* self = this;

  // Parts of CpuState that generated code uses, copied in and out.
  u64 fs_base = 0;
  u64 gs_base = 0;
  u64 kernel_gs_base = 0;
  u64 tsc_offset = 0;
  u32 tsc_aux = 0;
  u8 interrupt_flag = 0;  // RFLAGS.IF
  u8 direction_flag = 0;  // RFLAGS.DF
  u8 fpu_loaded = 0;      // the host's vector and x87 registers are the guest's
  u8 fpu_wanted = 0;      // code of this mode takes that for granted
  u8 fpu_in_image = 0;    // `xsave` is newer than CpuState's
  u8 held = 0;            // of VcpuEvents: what was pending at the last look, and could not be acted on
  std::atomic<u8> attention = 0;  // 1: leave generated code at the next look
  u8 never = 0;  // in its place, for generated code that is not to look (EngineAids::no_looks)
  // Set by the look timer's signal while a leaf function runs: go on step by step behind it.
  std::atomic<u8> step_on = 0;
  x86::Vendor vendor = x86::Vendor::kIntel;  // of the guest's processor
  alignas(32) X87Code x87_code;              // three that are written at once, in one cache line
  X87Data x87_data;
  u64 x87_data_pointer = 0;
  u64 jump_mask = kJumpMask;
  u64 budget = 0;              // instructions left, in counted mode
  u64 shadow_rip = kNoShadow;  // behind the STI that was executed last: no event is taken there
  u64 pauses_left = cpu::PauseLoop::kWindow;

  cpu::CpuState* state = nullptr;
  memory::GuestMemory* memory = nullptr;
  void* owner = nullptr;
  // The host's addresses of guest RAM, flat: for the leaf functions (leaf.hpp).
  struct Ram {
    u64 base = 0;
    u64 size = 0;
    u8* host = nullptr;
  };
  std::array<Ram, 4> ram{};
  const std::atomic<u8>* marks = nullptr;  // GuestMemory's, by frame
  u8* ram_host = nullptr;                  // of frame 0
  u64 code_begin = 0;                      // the code cache
  u64 code_size = 0;
  u64 physical_mask = 0;        // bits that an address in a page-table entry may have
  unsigned page_shift_end = 0;  // the largest pages have fewer address bits than that

  std::array<std::atomic<u64>, kTokenSlots> code_tokens[2] = {};  // supervisor, user
  std::array<u64, kJumps> jump_keys{};
  std::array<const u8*, kJumps> jump_code{};
  std::array<TransferEntry, kTransfers> transfers{};
  std::array<TlbBank, kPrivileges> tlb;

  // Which slots of the user's bank, and in the others of pages that are not global or lie in the lower half,
  // were filled since the last flush (the slot's index, and its bank above kTlbIndexBits): so that a change
  // of address space costs what the last one used. Likewise the slots of code_tokens. Overflow, a count of
  // one more than fits: flush all.
  static constexpr unsigned kFills = 1024;
  std::array<u16, kFills> fills;
  u32 fill_count = 0;
  static constexpr unsigned kTokenFills = 512;
  std::array<u16, kTokenFills> token_fills;  // token_slot(), plus kTokenSlots for the user's
  u32 token_fill_count = 0;

  // Which stretches of address space hold large pages of which a part is in the TLB (large_page_place), and
  // which frames write entries may exist for (write_filter_bit): bit sets that say yes too often, never too
  // seldom.
  std::array<std::array<u64, kLargePageSlots / 64>, 4> large_pages{};
  std::array<u64, kWriteFilterBits / 64> write_filter{};

  // How leaf_fill() was answered, for people: reads and writes, by FillResult.
  std::array<std::array<u64, 3>, 2> fill_results{};

  alignas(64) std::array<u8, kXsaveSize> xsave{};
  StateLayout state_layout;
  alignas(64) std::array<u8, kPageSize> state_buffer{};
};

/// Before CS and SS change.
inline void note_x87_selectors(Context& context) {
  X87Code& code = context.x87_code;
  X87Data& data = context.x87_data;
  if (code.origin == 0) [[likely]]
    return;
  if (code.selector_noted == 0) code.selector = context.state->seg(x86::kCs).selector;
  if (data.present != 0 && data.selector_noted == 0)
    data.selector = context.state->segment[data.segment].selector;
  code.selector_noted = 1;
  data.selector_noted = 1;
}

/// As cpu::acceptance_of() has it, while the Context is ahead of CpuState.
[[nodiscard]] inline cpu::Acceptance acceptance_of(const Context& context) {
  return {.interrupts = context.interrupt_flag != 0,
          .nmis = !context.state->nmi_blocked,
          .shadow = context.rip == context.shadow_rip};
}

/// Whether what had to wait at the last look has to wait no longer. Behind a shadow is soon enough, for the
/// owner steps over it.
[[nodiscard]] inline bool held_is_deliverable(const Context& context) {
  if (context.held == 0) [[likely]]
    return false;
  cpu::Acceptance now = acceptance_of(context);
  now.shadow = false;
  return cpu::deliverable(context.held, now) != 0;
}

/// Whether generated code must not go on: another thread wants something, or what was held is deliverable.
/// Looked at before each entry.
[[nodiscard]] inline bool must_leave(const Context& context) {
  return context.attention.load(std::memory_order_seq_cst) != 0 || held_is_deliverable(context);
}

/// Where the table of windows lies, from the Context's address on.
inline constexpr std::size_t kWindowTable = (sizeof(Context) + kPageOffsetMask) & ~kPageOffsetMask;

}  // namespace vert::bt
