#include "engine/bt/block_plan.hpp"

#include <algorithm>

namespace vert::bt {

using namespace x86;

namespace {

constexpr i32 kMaxSpan = 1024;
constexpr i32 kMaxWindowSpan = 1 << 28;
/// What a look-up in the soft TLB or of a window takes; in comparisons with a load.
constexpr unsigned kLookUpCost = 3;

/// A register's value as an unknown plus a constant.
struct Symbol {
  u16 base = 0;
  i32 offset = 0;
};
using Symbols = std::array<Symbol, kGprCount>;

/// EIP wraps around in 32-bit code.
u64 next_address(const GuestInsn& guest, const Mode& mode) {
  return mode.code32 ? guest.next_rip() & 0xFFFFFFFF : guest.next_rip();
}

bool backward(const GuestInsn& guest, const Mode& mode) {
  return (guest.form == Form::kJump || guest.form == Form::kBranch) &&
         branch_target(guest, mode.code32) <= guest.rip;
}

void decode_run(const CodeBytes& code, u64 rip, const Mode& mode, const CpuModel& model, BlockPlan& plan,
                unsigned most) {
  const std::span<const u8> bytes = code.from(rip);
  unsigned branches = 0;
  u64 at = 0;
  while (plan.count < most && at < bytes.size()) {
    if (plan.insns.size() == plan.count) plan.insns.emplace_back();
    GuestInsn& guest = plan.insns[plan.count];
    u64 address = rip + at;
    if (mode.code32) address &= 0xFFFFFFFF;
    decode_guest(bytes.subspan(at), address, mode, model, guest);
    // Cut off by the page's end, or undecodable: another block, of its own.
    if (guest.insn.length == 0 && plan.count > 0) break;
    ++plan.count;
    at += guest.insn.length;
    if (guest.ends_block()) break;
    if (guest.form != Form::kBranch) continue;
    if (backward(guest, mode) || mode.counted || ++branches == BlockPlan::kMaxBranches) break;
  }
  plan.length = static_cast<unsigned>(at);
}

/// Finds out which flags matter where.
class FlagsReader {
 public:
  FlagsReader(const CodeBytes& code, const Mode& mode, const CpuModel& model)
      : code_(code), mode_(mode), model_(model) {}
  void run(BlockPlan& plan);

 private:
  static constexpr unsigned kLookAhead = 6;
  [[nodiscard]] u16 live_at(u64 rip);
  [[nodiscard]] u16 live_after(const BlockPlan& plan);

  const CodeBytes& code_;
  const Mode& mode_;
  const CpuModel& model_;
  GuestInsn ahead_;
};

/// Flags that code at `rip` may read before it overwrites them: all, if it is of another page, since what is
/// there may change without notice. In counted mode runs end anywhere, and all flags must be right then.
u16 FlagsReader::live_at(u64 rip) {
  if (mode_.counted || code_.writable) return kArithmeticFlags;
  u16 open = kArithmeticFlags;
  u16 live = 0;
  for (unsigned i = 0; i < kLookAhead && open != 0 && code_.contains(rip); ++i) {
    decode_guest(code_.from(rip), rip, mode_, model_, ahead_);
    if (ahead_.insn.length == 0) break;
    live |= open & ahead_.flags_read;
    if (ahead_.form == Form::kBranch || (ahead_.ends_block() && ahead_.form != Form::kJump)) break;
    open = static_cast<u16>(open & ~(ahead_.flags_killed | ahead_.flags_read));
    rip = ahead_.form == Form::kJump ? branch_target(ahead_, mode_.code32) : ahead_.next_rip();
  }
  return live | open;
}

/// Flags that matter where the block goes on after its last instruction.
u16 FlagsReader::live_after(const BlockPlan& plan) {
  const GuestInsn& last = plan.insn(plan.count - 1);
  if (last.form == Form::kJump) return live_at(branch_target(last, mode_.code32));
  return last.ends_block() ? kArithmeticFlags : live_at(last.next_rip());
}

void FlagsReader::run(BlockPlan& plan) {
  if (code_.writable) {
    plan.live_before.fill(kArithmeticFlags);
    return;
  }
  u16 live = live_after(plan);
  plan.live_before[plan.count] = live;
  for (unsigned i = plan.count; i-- > 0;) {
    const GuestInsn& guest = plan.insn(i);
    if (guest.form == Form::kBranch)
      live = static_cast<u16>(live | guest.flags_read | live_at(branch_target(guest, mode_.code32)));
    else if (guest.form == Form::kInterpret)
      live = kArithmeticFlags;
    else
      live = static_cast<u16>((live & ~guest.flags_killed) | guest.flags_read);
    plan.live_before[i] = live;
  }
}

/// Follows values of registers through the block.
class Tracker {
 public:
  explicit Tracker(unsigned word) : word_(word) {
    for (unsigned i = 0; i < kGprCount; ++i) symbols_[i] = fresh();
  }
  [[nodiscard]] const Symbols& symbols() const { return symbols_; }
  void step(const GuestInsn& guest);

 private:
  Symbol fresh() { return {next_++, 0}; }
  bool step_known(const GuestInsn& guest);
  void add(u8 to, Symbol from, i64 offset) {
    const i64 sum = from.offset + offset;
    symbols_[to] = std::abs(sum) < (1 << 28) ? Symbol{from.base, static_cast<i32>(sum)} : fresh();
  }

  Symbols symbols_;
  u16 next_ = 1;
  unsigned word_;
};

void Tracker::step(const GuestInsn& guest) {
  if (step_known(guest)) return;
  for (unsigned reg = 0; reg < kGprCount; ++reg)
    if ((guest.gprs_written >> reg & 1) != 0) symbols_[reg] = fresh();
}

bool Tracker::step_known(const GuestInsn& guest) {
  const Insn& insn = guest.insn;
  const Operand& to = insn.operands[0];
  const Operand& from = insn.operands[1];
  const i64 word = word_;
  switch (guest.form) {
    case Form::kPush:
    case Form::kPushFlags: add(kRsp, symbols_[kRsp], -word); return true;
    case Form::kPop:
      add(kRsp, symbols_[kRsp], word);
      symbols_[to.reg] = fresh();
      return true;
    case Form::kLeave:
      add(kRsp, symbols_[kRbp], word);
      symbols_[kRbp] = fresh();
      return true;
    case Form::kLea:
      if (to.size != word_ || insn.address_size != word_ || insn.mem.index != MemoryOperand::kNoRegister ||
          insn.mem.base >= kGprCount || insn.mem.absolute64)
        return false;
      add(to.reg, symbols_[insn.mem.base], insn.mem.displacement);
      return true;
    case Form::kCopy: break;
    default: return false;
  }
  if (to.kind != OperandKind::kGpr || to.size != word_) return false;
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
      if (from.kind != OperandKind::kGpr) return false;
      symbols_[to.reg] = symbols_[from.reg];
      return true;
    case ZYDIS_MNEMONIC_ADD:
      if (from.kind != OperandKind::kImmediate) return false;
      add(to.reg, symbols_[to.reg], insn.imm);
      return true;
    case ZYDIS_MNEMONIC_SUB:
      if (from.kind != OperandKind::kImmediate) return false;
      add(to.reg, symbols_[to.reg], -insn.imm);
      return true;
    default: return false;
  }
}

Access stack_access(unsigned i, const Symbols& symbols, u8 reg, i32 offset, unsigned word, bool write) {
  return {.insn = static_cast<u16>(i),
          .family = {.base = symbols[reg].base, .index = 0, .scale = 1},
          .write = write,
          .size = static_cast<u8>(word),
          .offset = symbols[reg].offset + offset,
          .reg = reg};
}

/// Pages at constant addresses, numbered from 1.
class ConstantPages {
 public:
  explicit ConstantPages(std::vector<u64>& pages) : pages_(pages) {}
  [[nodiscard]] u16 number(u64 page) {
    const auto found = std::ranges::find(pages_, page);
    if (found != pages_.end()) return static_cast<u16>(found - pages_.begin() + 1);
    pages_.push_back(page);
    return static_cast<u16>(pages_.size());
  }

 private:
  std::vector<u64>& pages_;
};

Access operand_access(unsigned i, const GuestInsn& guest, const Symbols& symbols, unsigned word,
                      ConstantPages pages) {
  const MemoryOperand& mem = guest.insn.mem;
  Access access;
  access.insn = static_cast<u16>(i);
  access.write = guest.writes_memory;
  access.size = static_cast<u8>(guest.memory_size());
  if (guest.form == Form::kBitString || mem.segment == kFs || mem.segment == kGs ||
      guest.insn.address_size != word)
    return access;
  if (const auto address = guest.constant_address()) {
    const auto offset = static_cast<i32>(*address & kPageOffsetMask);
    if (offset + access.size > static_cast<i32>(kPageSize)) return access;
    access.family = {
        .base = Family::kConstant, .index = pages.number(*address & ~kPageOffsetMask), .scale = 1};
    access.offset = offset;
    return access;
  }
  i64 offset = mem.displacement;
  Family family;
  if (mem.base != MemoryOperand::kNoRegister) {
    family.base = symbols[mem.base].base;
    offset += symbols[mem.base].offset;
    access.reg = mem.base;
  }
  if (mem.index != MemoryOperand::kNoRegister) {
    family.index = symbols[mem.index].base;
    family.scale = mem.scale;
    offset += i64{symbols[mem.index].offset} * mem.scale;
  }
  if (std::abs(offset) >= (1 << 30)) return access;
  access.family = family;
  access.offset = static_cast<i32>(offset);
  return access;
}

void add_accesses(unsigned i, const Symbols& symbols, unsigned word, BlockPlan& plan) {
  const GuestInsn& guest = plan.insn(i);
  const auto add = [&](const Access& access) { plan.accesses[i][plan.access_count[i]++] = access; };
  plan.access_count[i] = 0;
  if (guest.has_memory() && guest.form != Form::kLea && guest.form != Form::kNothing &&
      guest.form != Form::kInterpret && guest.form != Form::kString && guest.form != Form::kSaveState &&
      guest.form != Form::kLoadState)
    add(operand_access(i, guest, symbols, word, ConstantPages(plan.constant_pages)));
  const auto size = static_cast<i32>(word);
  switch (guest.form) {
    case Form::kPush:
    case Form::kPushFlags:
    case Form::kCall:
    case Form::kCallIndirect: add(stack_access(i, symbols, kRsp, -size, word, true)); break;
    case Form::kPop:
    case Form::kReturn: add(stack_access(i, symbols, kRsp, 0, word, false)); break;
    case Form::kLeave: add(stack_access(i, symbols, kRbp, 0, word, false)); break;
    default: break;
  }
}

/// Forms groups: the most used bases first, in stretches of the block that no other group has yet (the one
/// register for it belongs to one group at a time).
class Grouper {
 public:
  Grouper(BlockPlan& plan, const std::vector<Symbols>& symbols, bool windows)
      : plan_(plan), symbols_(symbols), windows_(windows) {}
  void run();

 private:
  struct Candidate {
    Family family;
    unsigned saved;  // host instructions, roughly
  };
  [[nodiscard]] bool free(unsigned first, unsigned last) const;
  void form(const Family& family);
  void add_group(std::span<Access*> members);
  [[nodiscard]] u8 holder(unsigned i, u16 symbol) const;
  [[nodiscard]] unsigned check_place(unsigned first, const Family& family) const;

  BlockPlan& plan_;
  const std::vector<Symbols>& symbols_;
  const bool windows_;  // one look-up serves reads and writes of a whole window, and needs no flags
};

bool Grouper::free(unsigned first, unsigned last) const {
  return std::ranges::none_of(plan_.groups,
                              [&](const Group& group) { return first <= group.last && group.check <= last; });
}

void Grouper::run() {
  std::vector<Candidate> candidates;
  for (unsigned i = 0; i < plan_.count; ++i) {
    for (unsigned k = 0; k < plan_.access_count[i]; ++k) {
      const Access& access = plan_.accesses[i][k];
      if (!access.family.known()) continue;
      const auto found = std::ranges::find(candidates, access.family, &Candidate::family);
      // A constant address's window is one load away.
      const unsigned cost = windows_ && access.family.base == Family::kConstant ? 1 : kLookUpCost;
      if (found == candidates.end())
        candidates.push_back({access.family, 0});
      else
        found->saved += cost;
    }
  }
  std::ranges::stable_sort(candidates, std::ranges::greater{}, &Candidate::saved);
  for (const Candidate& candidate : candidates)
    if (candidate.saved != 0) form(candidate.family);
}

void Grouper::form(const Family& family) {
  std::vector<Access*> members;
  for (unsigned i = 0; i < plan_.count; ++i)
    for (unsigned k = 0; k < plan_.access_count[i]; ++k)
      if (plan_.accesses[i][k].family == family) members.push_back(&plan_.accesses[i][k]);
  // The longest runs that fit one check, from the front.
  for (std::size_t first = 0; first < members.size();) {
    i32 low = members[first]->offset;
    i32 high = low + members[first]->size;
    const bool writes_first = members[first]->write;
    std::size_t end = first + 1;
    bool branch_between = false;
    for (; end < members.size(); ++end) {
      const Access& access = *members[end];
      for (unsigned i = members[end - 1]->insn; i < access.insn; ++i)
        branch_between = branch_between || plan_.insn(i).form == Form::kBranch;
      // A write that a branch may skip must not make reads before it need a writable page.
      if (access.write && !writes_first && branch_between && !windows_) break;
      const i32 new_low = std::min(low, access.offset);
      const i32 new_high = std::max(high, access.offset + access.size);
      if (new_high - new_low > (windows_ ? kMaxWindowSpan : kMaxSpan)) break;
      if (!free(members[first]->insn, access.insn)) break;
      low = new_low;
      high = new_high;
    }
    if (end - first >= 2 && free(members[first]->insn, members[end - 1]->insn))
      add_group(std::span(members).subspan(first, end - first));
    first = end;
  }
}

/// A register that has `symbol`, but for a constant, before instruction i.
u8 Grouper::holder(unsigned i, u16 symbol) const {
  const auto found = std::ranges::find(symbols_[i], symbol, &Symbol::base);
  return found == symbols_[i].end() ? Group::kNoRegister : static_cast<u8>(found - symbols_[i].begin());
}

/// Where to check: as late as possible, at a place where no flag matters and registers still have the values.
unsigned Grouper::check_place(unsigned first, const Family& family) const {
  if (windows_) return first;
  for (unsigned i = first;; --i) {
    const bool held = family.base == Family::kConstant ||
                      ((family.base == 0 || holder(i, family.base) != Group::kNoRegister) &&
                       (family.index == 0 || holder(i, family.index) != Group::kNoRegister));
    if (!held || (i < first && !free(i, first))) break;
    if (plan_.live_before[i] == 0) return i;
    if (i == 0) break;
  }
  return first;
}

void Grouper::add_group(std::span<Access*> members) {
  const Family& family = members.front()->family;
  Group group;
  group.first = members.front()->insn;
  group.last = members.back()->insn;
  group.check = static_cast<u16>(check_place(group.first, family));
  i64 held = 0;
  if (family.base == Family::kConstant) {
    group.page = plan_.constant_pages[family.index - 1U];
    group.constant = true;
  } else if (family.base != 0) {
    group.base = holder(group.check, family.base);
    held += symbols_[group.check][group.base].offset;
  }
  if (!group.constant && family.index != 0) {
    group.index = holder(group.check, family.index);
    group.scale = family.scale;
    held += i64{symbols_[group.check][group.index].offset} * family.scale;
  }
  i32 high = members.front()->offset;
  group.low = high;
  for (const Access* access : members) {
    group.low = std::min(group.low, access->offset);
    high = std::max(high, access->offset + access->size);
    group.write = group.write || access->write;
  }
  group.offset = group.low;
  group.span = static_cast<u32>(high - group.low);
  if (std::abs(group.low - held) >= (1 << 30)) return;
  group.low = static_cast<i32>(group.low - held);
  for (Access* access : members) access->group = static_cast<i16>(plan_.groups.size());
  plan_.groups.push_back(group);
}

void place_checks(BlockPlan& plan, const Mode& mode) {
  unsigned first_fpu = 0;
  for (unsigned i = plan.count; i-- > 0;) {
    plan.fpu |= plan.insn(i).fpu;
    if (plan.insn(i).fpu != 0) first_fpu = i;
  }
  plan.fpu_check = plan.quiet_before(first_fpu);
  const GuestInsn& last = plan.insn(plan.count - 1);
  // A loop has a step that does not lead to a higher address: a jump, or going on over the top of the address
  // space. Calls look where they return to (Emitter::landing), or, if they never do, where they run over the
  // return stack (Runtime::recover).
  const bool over_the_top = !last.ends_block() && next_address(last, mode) <= last.rip;
  const bool loops = backward(last, mode) || over_the_top || last.form == Form::kJumpIndirect;
  if (loops) plan.attention_check = static_cast<int>(plan.quiet_before(plan.count - 1));
}

}  // namespace

unsigned BlockPlan::quiet_before(unsigned limit, unsigned first) const {
  for (unsigned i = limit + 1; i-- > first;)
    if (live_before[i] == 0) return i;
  return limit;
}

void plan_block(const CodeBytes& code, u64 rip, const Mode& mode, const CpuModel& model, BlockPlan& plan,
                unsigned most) {
  plan.count = 0;
  plan.groups.clear();
  plan.constant_pages.clear();
  decode_run(code, rip, mode, model, plan, most);
  plan.fpu = 0;
  plan.attention_check = -1;
  if (plan.insn(0).insn.length == 0) {
    plan.live_before.fill(kArithmeticFlags);
    plan.access_count[0] = 0;
    return;
  }
  FlagsReader(code, mode, model).run(plan);
  const unsigned word = mode.code32 ? 4 : 8;
  Tracker tracker(word);
  std::vector<Symbols> symbols;
  symbols.reserve(plan.count);
  for (unsigned i = 0; i < plan.count; ++i) {
    symbols.push_back(tracker.symbols());
    add_accesses(i, tracker.symbols(), word, plan);
    tracker.step(plan.insn(i));
  }
  if (!mode.unshared) Grouper(plan, symbols, mode.windows).run();
  place_checks(plan, mode);
}

}  // namespace vert::bt
