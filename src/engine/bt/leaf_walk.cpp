// leaf_fill_tlb: page walks (SDM 3A, chapter 4) that only look, for the soft TLB.
//
// Other vCPUs change page tables meanwhile: each entry is read once.
#include "engine/bt/leaf.hpp"
#include "x86/paging.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

namespace {

namespace pte = x86::pte;

constexpr u64 bits(unsigned high, unsigned low) { return (~u64{0} >> (63 - high)) & (~u64{0} << low); }

/// What a walk found.
struct Mapping {
  u64 rights = ~u64{0};  // the AND of all entries
  u64 last = pte::D;     // the entry that maps the page
  u64 page = 0;          // guest-physical, of 4 KiB
  unsigned shift = kPageShift;
  bool keys = false;  // 4- and 5-level paging: protection keys count
};

u8* ram_at(const Context& context, u64 gpa) {
  for (const Context::Ram& ram : context.ram) {
    const u64 offset = gpa - ram.base;
    if (offset < ram.size) return ram.host + offset;
  }
  return nullptr;
}

// SAFETY (both): page-table entries are naturally aligned and regions of RAM are whole pages, so an entry
// whose first byte is RAM is all RAM; every vCPU accesses it atomically at its own size.
bool load_wide(const Context& context, u64 gpa, u64& entry) {
  const u8* host = ram_at(context, gpa);
  if (host == nullptr) return false;
  entry = __atomic_load_n(reinterpret_cast<const u64*>(host), __ATOMIC_ACQUIRE);
  return true;
}
bool load_narrow(const Context& context, u64 gpa, u64& entry) {
  const u8* host = ram_at(context, gpa);
  if (host == nullptr) return false;
  entry = __atomic_load_n(reinterpret_cast<const u32*>(host), __ATOMIC_ACQUIRE);
  return true;
}

constexpr u64 kUsable = pte::P | pte::A;

/// Tables of 8-byte entries, from the one that address bits `shift` and up index.
bool walk_wide(const Context& context, u64 linear, u64 table, unsigned shift, u64 reserved,
               Mapping& mapping) {
  for (;; shift -= 9) {
    u64 entry = 0;
    if (!load_wide(context, table + ((linear >> shift) & 0x1FF) * sizeof entry, entry)) return false;
    if ((entry & kUsable) != kUsable || (entry & reserved) != 0) return false;
    mapping.rights &= entry;
    const bool large = shift != kPageShift && (entry & pte::PS) != 0;
    if (large && (shift >= context.page_shift_end || (entry & bits(shift - 1, 13)) != 0)) return false;
    table = entry & pte::kAddressMask;
    if (!large && shift != kPageShift) continue;
    const u64 offset = bits(shift - 1, 0) & ~kPageOffsetMask;
    mapping.last = entry;
    mapping.shift = shift;
    mapping.page = shift == kPageShift ? table : (table & ~bits(shift - 1, 0)) | (linear & offset);
    return true;
  }
}

/// 32-bit paging (SDM 3A, 4.3).
bool walk_narrow(const Context& context, u64 linear, Mapping& mapping) {
  u64 entry = 0;
  const u64 directory = context.state->cr3 & 0xFFFFF000;
  if (!load_narrow(context, directory + (linear >> 22) * sizeof(u32), entry)) return false;
  if ((entry & kUsable) != kUsable) return false;
  mapping.rights &= entry;
  mapping.last = entry;
  if ((entry & pte::PS) != 0 && (context.state->cr4 & x86::cr4::PSE) != 0) {
    // PSE-36 keeps physical bits 39..32 in entry bits 20..13; bit 21 is reserved.
    const u64 high = (entry & bits(21, 13)) << 19;
    if ((high & ~context.physical_mask) != 0 || (high >> 40) != 0) return false;
    mapping.shift = 22;
    mapping.page = high | (entry & bits(31, 22)) | (linear & bits(21, 12));
    return true;
  }
  if (!load_narrow(context, (entry & 0xFFFFF000) + ((linear >> kPageShift) & 0x3FF) * sizeof(u32), entry))
    return false;
  if ((entry & kUsable) != kUsable) return false;
  mapping.rights &= entry;
  mapping.last = entry;
  mapping.page = entry & 0xFFFFF000;
  return true;
}

bool walk(const Context& context, u64 linear, Mapping& mapping) {
  const cpu::CpuState& state = *context.state;
  const u64 xd = (state.efer & x86::efer::NXE) != 0 ? 0 : pte::XD;
  if ((state.efer & x86::efer::LMA) != 0) {
    const bool la57 = (state.cr4 & x86::cr4::LA57) != 0;
    if (!x86::is_canonical(linear, la57 ? 57 : 48)) return false;
    mapping.keys = true;
    const u64 reserved = (pte::kAddressMask & ~context.physical_mask) | xd;
    return walk_wide(context, linear, state.cr3 & pte::kAddressMask, la57 ? 48 : 39, reserved, mapping);
  }
  if ((linear >> 32) != 0) return false;
  if ((state.cr0 & x86::cr0::PG) == 0) {
    mapping.page = linear & ~kPageOffsetMask;
    return true;
  }
  if ((state.cr4 & x86::cr4::PAE) == 0) return walk_narrow(context, linear, mapping);
  const u64 pdpte = state.pdpte[linear >> 30];
  if ((pdpte & pte::P) == 0) return false;
  const u64 reserved = (bits(62, kPageShift) & ~context.physical_mask) | xd;
  return walk_wide(context, linear, pdpte & pte::kAddressMask, 21, reserved, mapping);
}

/// SDM 3A, 4.6.1 and 4.6.2. Keys other than 0 are rare enough for the interpreter.
bool readable(const cpu::CpuState& state, const Mapping& mapping, cpu::Privilege privilege) {
  if ((state.cr0 & x86::cr0::PG) == 0) return true;
  const bool user = (mapping.rights & pte::US) != 0;
  if (!user) return privilege != cpu::Privilege::kUser;
  if (privilege == cpu::Privilege::kSmap && (state.cr4 & x86::cr4::SMAP) != 0) return false;
  if (!mapping.keys || (state.cr4 & x86::cr4::PKE) == 0) return true;
  return ((mapping.last >> pte::kProtectionKeyShift) & 0xF) == 0 && (state.fpu.pkru & 3) == 0;
}
/// D is set at the first write.
bool may_be_written(const cpu::CpuState& state, const Mapping& mapping, cpu::Privilege privilege) {
  if ((mapping.rights & pte::RW) != 0) return true;
  return privilege != cpu::Privilege::kUser && (state.cr0 & x86::cr0::WP) == 0;
}
bool writable(const cpu::CpuState& state, const Mapping& mapping, cpu::Privilege privilege) {
  return (mapping.last & pte::D) != 0 && may_be_written(state, mapping, privilege);
}

u8 marks_of(const Context& context, memory::Frame frame) {
  return __atomic_load_n(reinterpret_cast<const u8*>(context.marks) + frame, __ATOMIC_ACQUIRE);
}

/// Another thread that marks a page asks afterwards that its write entries be dropped. Either it finds this
/// one, or the second look here finds the mark.
bool fill_write(Context& context, TlbEntry& entry, const TlbEntry& filled, const u8* page) {
  const auto frame = static_cast<memory::Frame>(static_cast<u64>(page - context.ram_host) >> kPageShift);
  if (marks_of(context, frame) != 0) return false;
  const unsigned bit = write_filter_bit(frame);
  context.write_filter[bit / 64] |= u64{1} << (bit % 64);
  entry.addend = filled.addend;
  __atomic_store_n(&entry.tag, filled.tag, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (marks_of(context, frame) == 0) return true;
  __atomic_store_n(&entry.tag, invalid_tag(tlb_index(filled.tag)), __ATOMIC_RELEASE);
  return false;
}

void note_fill(Context& context, const Mapping& mapping, u64 address, unsigned bank) {
  if (mapping.shift != kPageShift) {
    const LargePagePlace place = large_page_place(address, mapping.shift > 22);
    context.large_pages[place.set][place.slot / 64] |= u64{1} << (place.slot % 64);
  }
  // Kernels live in the upper half; pages below never count as global, so that a new address space starts
  // with no large pages there.
  const bool kernel = bank != static_cast<unsigned>(cpu::Privilege::kUser) && address >> 63 != 0;
  const bool global = (mapping.last & pte::G) != 0 && (context.state->cr4 & x86::cr4::PGE) != 0;
  if (kernel && global) return;
  if (context.fill_count < Context::kFills)
    context.fills[context.fill_count] = static_cast<u16>(tlb_index(address) | bank << kTlbIndexBits);
  if (context.fill_count <= Context::kFills) ++context.fill_count;
}

}  // namespace

extern "C" bool leaf_look_up(const Context* context, u64 address, u32 privilege, PageView* view) {
  const auto as = static_cast<cpu::Privilege>(privilege);
  Mapping mapping;
  if (!walk(*context, address, mapping)) return false;
  view->page = mapping.page;
  view->shift = mapping.shift;
  view->host = ram_at(*context, mapping.page);
  view->readable = readable(*context->state, mapping, as);
  view->writable = view->readable && writable(*context->state, mapping, as);
  view->may_be_written = may_be_written(*context->state, mapping, as);
  return true;
}

extern "C" bool leaf_fill_tlb(Context* context, u64 address, u32 write, u32 privilege) {
  const cpu::CpuState& state = *context->state;
  const auto as = static_cast<cpu::Privilege>(privilege);
  Mapping mapping;
  if (!walk(*context, address, mapping) || !readable(state, mapping, as)) return false;
  const bool may_write = writable(state, mapping, as);
  if (write != 0 && !may_write) return false;
  const u8* page = ram_at(*context, mapping.page);
  if (page == nullptr) return false;

  note_fill(*context, mapping, address, privilege);
  const u64 base = address & ~kPageOffsetMask;
  const TlbEntry filled{base, reinterpret_cast<u64>(page) - base};
  TlbBank& bank = context->tlb[privilege];
  const unsigned index = tlb_index(address);
  bank.read[index] = filled;
  if (may_write && fill_write(*context, bank.write[index], filled, page)) return true;
  return write == 0;
}

}  // namespace vert::bt
