// How a guest's memory operand becomes a host's: checks against the soft TLB, alone or for a group.
#include "engine/bt/emitter.hpp"
#include "engine/bt/host_registers.hpp"

namespace vert::bt {

using namespace x86;

#define VERT_FIELD(name) field(offsetof(Context, name))

namespace {

constexpr u8 kIndexRotation = kPageShift - 4;  // an entry has 16 bytes
constexpr i32 kIndexMask = static_cast<i32>((kTlbSize - 1) * sizeof(TlbEntry));
static_assert(sizeof(TlbEntry) == 16);

std::size_t bank_offset(const Mode& mode, bool write) {
  return offsetof(Context, tlb) + static_cast<std::size_t>(mode.privilege) * sizeof(TlbBank) +
         (write ? offsetof(TlbBank, write) : offsetof(TlbBank, read));
}

bool fits_immediate(u64 value) {
  return value == static_cast<u64>(static_cast<i64>(static_cast<i32>(value)));
}

}  // namespace

HostMem Emitter::slot(u8 guest) { return field(offsetof(Context, gpr) + guest * sizeof(u64)); }

u8 Emitter::value_of(u8 guest, u8 scratch) {
  if (!in_memory(guest)) return kHostRegister[guest];
  assembler_.load(scratch, slot(guest));
  return scratch;
}

/// The address that instruction i's memory operand names, with or without its segment's base.
void Emitter::linear_address(unsigned i, u8 to, bool segment) {
  const GuestInsn& guest = insn(i);
  const MemoryOperand& mem = guest.insn.mem;
  const bool wide_address = guest.insn.address_size == 8;
  const bool based = segment && (mem.segment == kFs || mem.segment == kGs);
  if (const auto constant = guest.constant_address()) {
    if (based && fits_immediate(*constant)) {
      load_segment_base(mem.segment, to);
      return assembler_.lea(to, {.base = to, .displacement = static_cast<i32>(*constant)}, wide());
    }
    assembler_.mov_imm(to, *constant);
  } else {
    HostMem host{.displacement = mem.displacement};
    if (mem.base != MemoryOperand::kNoRegister) host.base = value_of(mem.base, kAddress);
    if (mem.index != MemoryOperand::kNoRegister) {
      host.index = value_of(mem.index, kScratch);
      host.scale = mem.scale;
    }
    const bool bare = host.base != kNone && host.index == kNone && host.displacement == 0 && wide_address;
    if (!bare)
      assembler_.lea(to, host, wide_address);
    else if (host.base != to)
      assembler_.mov(to, host.base);
  }
  if (!based) return;
  load_segment_base(mem.segment, kScratch);
  assembler_.lea(to, {.base = to, .index = kScratch}, wide());
}

void Emitter::load_segment_base(u8 segment, u8 to) {
  assembler_.load(to, segment == kFs ? VERT_FIELD(fs_base) : VERT_FIELD(gs_base));
}

/// Looks kAddress up: afterwards kScratch is the entry's offset, and kAddress the offset in the page.
void Emitter::probe(u32 size, bool write, Label miss) {
  assembler_.rorx(kScratch, kAddress, kIndexRotation);
  assembler_.and_imm32(kScratch, kIndexMask);
  assembler_.xor_load(kAddress,
                      indexed_field(bank_offset(request_->mode, write) + offsetof(TlbEntry, tag), kScratch));
  assembler_.cmp_imm(kAddress, static_cast<i32>(kPageSize - size), true);
  assembler_.jcc(Cond::kA, miss);
}

bool Emitter::is_operand(unsigned i, const Access& access) const {
  return insn(i).has_memory() && &access == &request_->plan.accesses[i][0];
}

void Emitter::access_address(unsigned i, const Access& access, u8 to) {
  if (insn(i).form == Form::kBitString) return bit_address(i);
  if (is_operand(i, access)) return linear_address(i, to, true);
  // The stack's top, or where it will be.
  const i32 displacement = access.write ? -static_cast<i32>(word()) : 0;
  assembler_.lea(to, {.base = kHostRegister[access.reg], .displacement = displacement}, wide());
}

/// The operand as [register + index + displacement] if its address is a register in the host's plus a
/// constant.
std::optional<HostMem> Emitter::direct(unsigned i, const Access& access, u8 index) {
  if (!access.family.known() || access.family.index != 0 || access.family.base == Family::kConstant)
    return std::nullopt;
  const i32 displacement = is_operand(i, access) ? insn(i).insn.mem.displacement
                           : access.write        ? -static_cast<i32>(word())
                                                 : 0;
  if (in_memory(access.reg) || !wide()) return std::nullopt;
  return HostMem{.base = kHostRegister[access.reg], .index = index, .displacement = displacement};
}

HostMem Emitter::reach(unsigned i, unsigned k) {
  const Access& access = request_->plan.accesses[i][k];
  if (access.group < 0 || access.group != group_) return reach_alone(i, access);
  if (group_pointed_)
    return {.base = kDelta,
            .displacement = access.offset - request_->plan.groups[static_cast<unsigned>(group_)].offset};
  if (const auto host = direct(i, access, kDelta)) return *host;
  if (access.family.base == Family::kConstant) return constant_operand(*constant_address(i, access), kDelta);
  access_address(i, access, kAddress);
  return {.base = kAddress, .index = kDelta};
}

/// The address of instruction i's operand if it is a constant.
std::optional<u64> Emitter::constant_address(unsigned i, const Access& access) const {
  if (!is_operand(i, access) || insn(i).form == Form::kBitString) return std::nullopt;
  const u8 segment = insn(i).insn.mem.segment;
  if (segment == kFs || segment == kGs) return std::nullopt;
  return insn(i).constant_address();
}

void Emitter::probe_constant(u64 page, std::size_t entry, Label miss) {
  const HostMem tag = field(entry + offsetof(TlbEntry, tag));
  if (fits_immediate(page)) {
    assembler_.cmp_mem_imm(tag, static_cast<i32>(page));
  } else {
    assembler_.mov_imm(kAddress, page);
    assembler_.cmp_load(kAddress, tag);
  }
  assembler_.jcc(Cond::kNe, miss);
}

/// A constant address has a constant place in the TLB. Whether it leaves its page is known, too.
HostMem Emitter::reach_constant(unsigned i, const Access& access, u64 address) {
  const u64 page = address & ~kPageOffsetMask;
  const std::size_t entry = bank_offset(request_->mode, access.write) + tlb_index(address) * sizeof(TlbEntry);
  const Label miss = assembler_.make_label();
  free_flags(i);
  const Label retry = assembler_.here();
  probe_constant(page, entry, miss);
  const Label interpret = interpret_label(i);
  assembler_.use_cold();
  assembler_.bind(miss);
  assembler_.mov_imm(kAddress, address);
  ask_to_fill(access.size, access.write, retry);
  assembler_.jmp(interpret);
  assembler_.use_hot();
  assembler_.load(kScratch, field(entry + offsetof(TlbEntry, addend)));
  return constant_operand(address, kScratch);
}

/// Cold: has the TLB filled for kAddress, and tries again at `retry`; goes on here if it cannot.
void Emitter::ask_to_fill(u32 size, bool write, Label retry) {
  assembler_.mov_imm(kScratch, fill_request(size, write, request_->mode.privilege));
  assembler_.call_out(thunks_.fill);
  assembler_.cmp_imm(kScratch, static_cast<i32>(FillResult::kFilled), false);
  assembler_.jcc(Cond::kE, retry);
}

/// A constant address plus a difference in a register.
HostMem Emitter::constant_operand(u64 address, u8 difference) {
  if (fits_immediate(address)) return {.base = difference, .displacement = static_cast<i32>(address)};
  assembler_.mov_imm(kAddress, address);
  return {.base = kAddress, .index = difference};
}

/// The host instruction written next may fault in instruction i's stead.
void Emitter::mark(unsigned i) {
  marks_.push_back({.hot_offset = assembler_.position(),
                    .insn = static_cast<u16>(i),
                    .flags_saved = flags_ == Flags::kSaved,
                    .x87 = unnoted_x87()});
}

// Guest accesses: the host's processor faults on them where they go through windows.
void Emitter::load_guest(unsigned i, u8 to, const HostMem& from, unsigned size) {
  if (request_->mode.windows) mark(i);
  assembler_.load(to, from, size);
}
void Emitter::store_guest(unsigned i, const HostMem& to, u8 from, unsigned size) {
  if (request_->mode.windows) mark(i);
  assembler_.store(to, from, size);
}
void Emitter::store_guest_imm(unsigned i, const HostMem& to, i32 value, unsigned size) {
  if (request_->mode.windows) mark(i);
  assembler_.store_imm(to, value, size);
}

/// Host minus guest address of the window that the address in a register lies in. No flags are touched.
/// SAFETY: the index has 16 bits, so the look-up stays in the table, of which only entries that lead to
/// windows are there; what lies within 4 GiB of a window is reserved (windows.cpp), so that a displacement
/// more does no harm. The address's upper 9 bits are added to an address of the host's lower half: unless
/// they are 0, the sum is not canonical.
void Emitter::find_window(unsigned i, u8 to, u8 address) {
  assembler_.rorx(to, address, kWindowShift);
  assembler_.movzx16(to, to);
  load_guest(i, to, indexed_field(kWindowTable, to, 8));
}

HostMem Emitter::reach_window(unsigned i, const Access& access) {
  if (const auto address = constant_address(i, access)) {
    if (window_index(*address) < kWindowIndexes) {
      assembler_.load(kScratch, field(kWindowTable + window_index(*address) * sizeof(u64)));
      return constant_operand(*address, kScratch);
    }
  }
  if (const auto host = direct(i, access, kScratch)) {
    find_window(i, kScratch, host->base);
    return *host;
  }
  if (insn(i).form == Form::kBitString) free_flags(i);
  access_address(i, access, kAddress);
  find_window(i, kScratch, kAddress);
  return {.base = kAddress, .index = kScratch};
}

HostMem Emitter::reach_alone(unsigned i, const Access& access) {
  if (request_->mode.windows) return reach_window(i, access);
  if (const auto address = constant_address(i, access);
      address && (*address & kPageOffsetMask) + access.size <= kPageSize)
    return reach_constant(i, access, *address);
  if (const auto offset = offset_from_gs(i, access)) return reach_from_gs(i, access, *offset);
  const std::size_t bank = bank_offset(request_->mode, access.write);
  free_flags(i);
  check_alone(i, access);
  const HostMem addend = indexed_field(bank + offsetof(TlbEntry, addend), kScratch);
  if (const auto host = direct(i, access, kScratch)) {
    assembler_.load(kScratch, addend);
    return *host;
  }
  if (one_lea(i, access)) {
    assembler_.load(kScratch, addend);
    access_address(i, access, kAddress);
  } else {
    assembler_.xor_load(kAddress, indexed_field(bank + offsetof(TlbEntry, tag), kScratch));
    assembler_.load(kScratch, addend);
  }
  return {.base = kAddress, .index = kScratch};
}

/// Whether access_address() is one instruction that changes nothing but its target.
bool Emitter::one_lea(unsigned i, const Access& access) const {
  if (!is_operand(i, access)) return !in_memory(access.reg);
  if (insn(i).constant_address()) return false;
  const MemoryOperand& mem = insn(i).insn.mem;
  const auto at_hand = [](u8 reg) { return reg == MemoryOperand::kNoRegister || !in_memory(reg); };
  return insn(i).form != Form::kBitString && mem.segment != kFs && mem.segment != kGs && at_hand(mem.base) &&
         at_hand(mem.index);
}

/// The probe for one access, as probe() leaves the registers, with what happens on a miss in cold code.
void Emitter::check_alone(unsigned i, const Access& access) {
  const Label miss = assembler_.make_label();
  const Label interpret = interpret_label(i);
  const Label retry = assembler_.here();
  access_address(i, access, kAddress);
  probe(access.size, access.write, miss);
  const bool was_cold = assembler_.in_cold();
  assembler_.use_cold();
  const Label over = assembler_.make_label();
  if (was_cold) assembler_.jmp(over);
  assembler_.bind(miss);
  access_address(i, access, kAddress);
  ask_to_fill(access.size, access.write, retry);
  assembler_.jmp(interpret);
  assembler_.bind(over);
  if (!was_cold) assembler_.use_hot();
}

/// What instruction i's operand adds to the base of GS, if that is a constant and stays in a page where the
/// base is a page's.
std::optional<i32> Emitter::offset_from_gs(unsigned i, const Access& access) const {
  if (!is_operand(i, access) || insn(i).form == Form::kBitString || insn(i).insn.mem.segment != kGs ||
      !wide() || insn(i).insn.address_size != 8)
    return std::nullopt;
  const auto offset = insn(i).constant_address();
  if (!offset || !fits_immediate(*offset) || (*offset & kPageOffsetMask) + access.size > kPageSize)
    return std::nullopt;
  return static_cast<i32>(*offset);
}

/// Kernels keep a processor's own data at constant distances from the base of GS, which hardly ever changes:
/// so the place in the TLB is known, if the base is what it was at translation. If it is not, the tag tells.
HostMem Emitter::reach_from_gs(unsigned i, const Access& access, i32 offset) {
  const i32 in_page = offset & static_cast<i32>(kPageOffsetMask);
  const u64 likely = gs_.base + static_cast<u64>(static_cast<i64>(offset - in_page));
  const std::size_t bank = bank_offset(request_->mode, access.write);
  const std::size_t entry = bank + tlb_index(likely) * sizeof(TlbEntry);
  const Label elsewhere = assembler_.make_label();
  const Label done = assembler_.make_label();
  const auto page_address = [&] {
    load_segment_base(kGs, kAddress);
    assembler_.lea(kAddress, {.base = kAddress, .displacement = offset - in_page});
  };
  free_flags(i);
  page_address();
  assembler_.cmp_load(kAddress, field(entry + offsetof(TlbEntry, tag)));
  assembler_.jcc(Cond::kNe, elsewhere);
  assembler_.load(kScratch, field(entry + offsetof(TlbEntry, addend)));
  assembler_.bind(done);
  static_cast<void>(interpret_label(i));  // now, that it does not stand in what follows
  assembler_.use_cold();
  assembler_.bind(elsewhere);
  check_alone(i, access);
  assembler_.load(kScratch, indexed_field(bank + offsetof(TlbEntry, addend), kScratch));
  page_address();
  assembler_.jmp(done);
  assembler_.use_hot();
  return {.base = kAddress, .index = kScratch, .displacement = in_page};
}

/// The first address of a group, into kAddress.
void Emitter::group_address(const Group& group) {
  if (group.constant) return assembler_.mov_imm(kAddress, group.page + static_cast<u64>(group.low));
  HostMem at{.displacement = group.low};
  if (group.base != Group::kNoRegister) at.base = value_of(group.base, kAddress);
  if (group.index != Group::kNoRegister) {
    at.index = value_of(group.index, kScratch);
    at.scale = group.scale;
  }
  assembler_.lea(kAddress, at, wide());
}

/// group_check() where accesses go through windows: there is nothing to check. Where members would have to
/// add registers up, kDelta gets the host address itself.
void Emitter::find_group_window(const Group& group, unsigned i) {
  group_pointed_ = false;
  if (group.constant && window_index(group.page) < kWindowIndexes)
    return assembler_.load(kDelta, field(kWindowTable + window_index(group.page) * sizeof(u64)));
  // Margins make up for what the group's constants add (block_plan.cpp keeps them small).
  const bool bare = !group.constant && group.base != Group::kNoRegister && group.index == Group::kNoRegister;
  if (bare && !in_memory(group.base)) return find_window(i, kDelta, kHostRegister[group.base]);
  group_address(group);
  find_window(i, kDelta, kAddress);
  if (group.constant) return;
  assembler_.lea(kDelta, {.base = kDelta, .index = kAddress});
  group_pointed_ = true;
}

/// One check for a group: leaves host minus guest address in kDelta. Where its stretch crosses a page's end,
/// goes on in code that shares nothing.
void Emitter::group_check(const Group& group, unsigned i) {
  if (request_->mode.windows) return find_group_window(group, i);
  const std::size_t bank = bank_offset(request_->mode, group.write);
  const Label miss = assembler_.make_label();
  const std::size_t entry = bank + tlb_index(group.page) * sizeof(TlbEntry);
  free_flags(i);
  const Label retry = assembler_.here();
  if (group.constant) {
    probe_constant(group.page, entry, miss);
    assembler_.load(kDelta, field(entry + offsetof(TlbEntry, addend)));
  } else {
    group_address(group);
    probe(group.span, group.write, miss);
    assembler_.load(kDelta, indexed_field(bank + offsetof(TlbEntry, addend), kScratch));
  }
  const Label declined = assembler_.make_label();
  assembler_.use_cold();
  assembler_.bind(miss);
  group_address(group);
  ask_to_fill(group.span, group.write, retry);
  assembler_.jcc(Cond::kB, declined);
  const bool saved = flags_ == Flags::kSaved;
  if (saved) restore_flags();
  if (x87_origin_ != 0) note_x87();
  const Label stub = assembler_.make_label();
  assembler_.jmp(stub);
  link({.kind = ExitKind::kLink, .unshared = true, .insn = static_cast<u16>(i), .rip = insn(i).rip}, stub);
  if (saved) flags_ = Flags::kSaved;
  assembler_.bind(declined);
  if (saved) {
    restore_flags();
    flags_ = Flags::kSaved;
  }
  // The check stands before the access that it is for: the interpreter goes on until it has done that.
  leave(add_exit({.kind = ExitKind::kInterpret,
                  .steps = static_cast<u8>(group.first - i + 1),
                  .insn = static_cast<u16>(i),
                  .rip = insn(i).rip}));
  assembler_.use_hot();
}

}  // namespace vert::bt
