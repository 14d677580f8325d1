#include "engine/bt/emitter.hpp"

#include <algorithm>

#include "engine/bt/host_registers.hpp"

namespace vert::bt {

using namespace x86;

#define VERT_FIELD(name) field(offsetof(Context, name))

void Emitter::emit(const Request& request, std::vector<CodeExit>& exits, X87Notes& x87) {
  request_ = &request;
  exits_ = &exits;
  x87_ = &x87;
  x87_origin_ = 0;
  assembler_.reset();
  sites_.clear();
  marks_.clear();
  boundaries_.clear();
  interpret_.assign(request.plan.count, {});
  flags_ = Flags::kHost;
  group_ = -1;
  group_pointed_ = false;
  tail_.reset();
  gs_ = request.gs;
  fpu_checked_ = request.mode.windows;
  entry();
  fpu_entry_ = inner_;
  for (unsigned i = 0; i < request.plan.count; ++i) {
    mark_boundary();
    if (!sets_x87_pointers(insn(i))) end_x87_run();
    checks_before(i);
    instruction(i);
    after_x87(i);
  }
  end_x87_run();
  mark_boundary();
  const GuestInsn& last = insn(request.plan.count - 1);
  if (!last.ends_block())
    end(request.mode.code32 ? last.next_rip() & 0xFFFFFFFF : last.next_rip(), request.mode);
  mark_boundary();
}

void Emitter::mark_boundary() {
  const u32 hot = assembler_.hot_size();
  boundaries_.push_back({hot, static_cast<u32>(assembler_.size()) - hot});
}

/// Takes the room that it needs, which must be there.
Emitter::Placed Emitter::place(CodeCache& cache, std::vector<CodeExit>& exits, std::vector<Mark>& marks) {
  VERT_CHECK(size() <= cache.room());
  const Assembler::Place at{cache.position(), cache.cold_position() - assembler_.cold_size()};
  assembler_.place(at, cache.write_at(at.hot), cache.write_at(at.cold));
  cache.take(assembler_.hot_size(), assembler_.cold_size());
  for (const Pending& pending : sites_) exits[pending.exit].site = Assembler::placed(at, pending.site);
  for (const PendingMark& mark : marks_) {
    const auto rip_offset = static_cast<u16>(insn(mark.insn).rip - request_->rip);
    marks.push_back({at.hot + mark.hot_offset, request_->block, mark.insn, rip_offset, mark.flags_saved,
                     mark.pushed, mark.indirect, mark.x87});
  }
  return {.hot = at.hot,
          .hot_end = at.hot + assembler_.hot_size(),
          .cold = at.cold,
          .cold_end = at.cold + assembler_.cold_size(),
          .checked_entry = assembler_.placed(at, checked_),
          .inner_entry = assembler_.placed(at, inner_),
          .fpu_entry = assembler_.placed(at, fpu_entry_),
          .stale_exit = assembler_.placed(at, stale_),
          .tail = tail_};
}

/// Leaves the flags alone: whatever code this leads to on a mismatch may need them.
void Emitter::check_token(u64 linear, u32 wanted, Label stale) {
  const Label current = assembler_.make_label();
  assembler_.mov(kScratch, kRcx);
  assembler_.load(kRcx, field(token_offset(linear) + sizeof(u32)), 4);
  assembler_.lea(kRcx, {.base = kRcx, .displacement = -static_cast<i32>(wanted)});
  assembler_.jrcxz(current);
  assembler_.mov(kRcx, kScratch);
  assembler_.jmp(stale);
  assembler_.bind(current);
  assembler_.mov(kRcx, kScratch);
}

std::size_t Emitter::token_offset(u64 linear) const {
  return offsetof(Context, code_tokens) + (request_->mode.user() ? sizeof(Context::code_tokens[0]) : 0) +
         token_slot(linear) * sizeof(u64);
}

/// Compares the page's token, and in counted mode the budget; both leave all state as it is.
void Emitter::entry() {
  stale_ = assembler_.make_label();
  inner_ = assembler_.here();
  assembler_.use_cold();
  checked_ = assembler_.here();
  check_token(request_->rip, request_->token, stale_);
  assembler_.jmp(inner_);
  assembler_.bind(stale_);
  leave(add_exit({.kind = ExitKind::kLookup, .rip = request_->rip}));
  assembler_.use_hot();
  if (request_->second_token != 0) check_token(request_->rip + kPageSize, request_->second_token, stale_);
  if (!request_->mode.counted) return;
  const Label short_of = assembler_.make_label();
  const auto count = static_cast<i32>(request_->plan.count);
  assembler_.pushfq();
  assembler_.cmp_mem_imm(VERT_FIELD(budget), count);
  assembler_.jcc(Cond::kB, short_of);
  assembler_.sub_imm(VERT_FIELD(budget), count);
  assembler_.popfq();
  assembler_.use_cold();
  assembler_.bind(short_of);
  assembler_.popfq();
  leave(add_exit({.kind = ExitKind::kBudget, .rip = request_->rip}));
  assembler_.use_hot();
}

void Emitter::checks_before(unsigned i) {
  const BlockPlan& plan = request_->plan;
  if (plan.fpu != 0 && plan.fpu_check == i && !request_->mode.windows) {
    load_fpu(i);
    fpu_checked_ = true;
    // Whoever enters here has not passed what stands before.
    const bool nothing_before = i == 0 && !request_->mode.counted && request_->second_token == 0;
    if (nothing_before && flags_ == Flags::kHost) fpu_entry_ = assembler_.here();
  }
  if (plan.attention_check == static_cast<int>(i)) {
    attention(i);
  }
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    if (plan.groups[g].check != i) continue;
    group_check(plan.groups[g], i);
    group_ = static_cast<int>(g);
  }
}

/// Looks whether another thread wants something. Keeps flags that matter.
void Emitter::attention(unsigned i) {
  const Label wanted = assembler_.make_label();
  if (flags_ == Flags::kSaved || request_->plan.live_before[i] == 0) {
    assembler_.cmp_imm8(field(look_at_), 0);
    assembler_.jcc(Cond::kNe, wanted);
  } else {
    const Label calm = assembler_.make_label();
    assembler_.mov(kScratch, kRcx);
    assembler_.load(kRcx, field(look_at_), 1);
    assembler_.jrcxz(calm);
    assembler_.mov(kRcx, kScratch);
    assembler_.jmp(wanted);
    assembler_.bind(calm);
    assembler_.mov(kRcx, kScratch);
  }
  assembler_.use_cold();
  assembler_.bind(wanted);
  if (flags_ == Flags::kSaved) {
    restore_flags();
    flags_ = Flags::kSaved;
  }
  leave(add_exit({.kind = ExitKind::kAttention, .insn = static_cast<u16>(i), .rip = insn(i).rip}));
  assembler_.use_hot();
}

void Emitter::load_fpu(unsigned i) {
  free_flags(i);
  const Label load = assembler_.make_label();
  assembler_.cmp_imm8(VERT_FIELD(fpu_loaded), 0);
  assembler_.jcc(Cond::kE, load);
  const Label loaded = assembler_.here();
  assembler_.use_cold();
  assembler_.bind(load);
  assembler_.call_out(thunks_.load_fpu);
  assembler_.jmp(loaded);
  assembler_.use_hot();
}

void Emitter::save_flags() {
  constexpr std::array<u8, 4> kLahfSetoAl = {0x9F, 0x0F, 0x90, 0xC0};
  assembler_.mov(kScratch, kRax);
  assembler_.raw(kLahfSetoAl);
  assembler_.store(VERT_FIELD(save_flags), kRax);
  assembler_.mov(kRax, kScratch);
  flags_ = Flags::kSaved;
}

/// Keeps all registers, kAddress and kScratch too.
void Emitter::restore_flags() {
  constexpr std::array<u8, 3> kAddAl7FSahf = {0x04, 0x7F, 0x9E};
  assembler_.store(VERT_FIELD(save_rax), kRax);
  assembler_.load(kRax, VERT_FIELD(save_flags));
  assembler_.raw(kAddAl7FSahf);
  assembler_.load(kRax, VERT_FIELD(save_rax));
  flags_ = Flags::kHost;
}

void Emitter::free_flags(unsigned i) {
  if (flags_ == Flags::kHost && request_->plan.live_before[i] != 0) save_flags();
}

void Emitter::flags_for(unsigned i) {
  if (flags_ != Flags::kSaved) return;
  const GuestInsn& guest = insn(i);
  if (guest.flags_read == 0 && guest.flags_killed == 0) return;
  if (guest.flags_read == 0 && guest.flags_killed == kArithmeticFlags)
    flags_ = Flags::kHost;
  else
    restore_flags();
}

u32 Emitter::add_exit(CodeExit exit) {
  exit.block = request_->block;
  exit.x87 = unnoted_x87();
  const bool decoded = exit.kind == ExitKind::kInterpret && insn(exit.insn).insn.length != 0;
  if (decoded) exit.insn_class = class_of(insn(exit.insn).insn);
  exits_->push_back(exit);
  return static_cast<u32>(exits_->size() - 1);
}

void Emitter::leave(u32 exit) {
  assembler_.store_imm(VERT_FIELD(exit), static_cast<i32>(exit));
  assembler_.jmp_out(thunks_.exit);
}

/// Cold code that leaves before instruction i, for misses that must go there.
Label Emitter::interpret_label(unsigned i) {
  const bool saved = flags_ == Flags::kSaved;
  Out& out = interpret_[i];
  if (out.label.valid() && out.flags_saved == saved) return out.label;
  const bool was_cold = assembler_.in_cold();
  assembler_.use_cold();
  // Callers come here by jumps; whatever stands before must not fall in.
  out = {assembler_.here(), saved};
  if (saved) {
    restore_flags();
    flags_ = Flags::kSaved;
  }
  leave(add_exit(
      {.kind = ExitKind::kInterpret, .declined = true, .insn = static_cast<u16>(i), .rip = insn(i).rip}));
  if (!was_cold) assembler_.use_hot();
  return out.label;
}

void Emitter::leave_to_interpreter(unsigned i) {
  if (flags_ == Flags::kSaved) restore_flags();
  leave(add_exit({.kind = ExitKind::kInterpret, .insn = static_cast<u16>(i), .rip = insn(i).rip}));
}

/// `stub` is where the jump that was just written goes until it is patched.
u32 Emitter::link(CodeExit exit, Label stub) {
  const Assembler::Site site = assembler_.last_displacement();
  exit.fpu_loaded = fpu_checked_;
  const u32 index = add_exit(exit);
  sites_.push_back({index, site});
  const bool was_cold = assembler_.in_cold();
  if (!was_cold) assembler_.use_cold();
  assembler_.bind(stub);
  leave(index);
  if (!was_cold) assembler_.use_hot();
  return index;
}

/// The jump at the block's end.
void Emitter::go_on(const CodeExit& exit, const Mode& mode) {
  const Label stub = assembler_.make_label();
  assembler_.jmp(stub);
  tail_ = {link(exit, stub), mode};
  tail_->mode.unshared = false;
}

/// Goes on at `next_rip`, behind the block's last instruction or where it jumps to.
void Emitter::end(u64 next_rip, const Mode& mode) {
  const bool matters = request_->plan.live_before[request_->plan.count] != 0;
  if (flags_ == Flags::kSaved && matters) restore_flags();
  go_on({.kind = ExitKind::kLink, .insn = static_cast<u16>(request_->plan.count), .rip = next_rip}, mode);
}

}  // namespace vert::bt
