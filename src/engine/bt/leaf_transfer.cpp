// Changes of privilege without leaving generated code: what leaf_privilege.cpp does to the guest, and then
// where to go on.
#include "engine/bt/emitter_requests.hpp"
#include "engine/bt/leaf.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

namespace {

bool change(Context& context, u64 next_rip, Transfer transfer) {
  switch (transfer) {
    case Transfer::kSystemCall: return leaf_syscall(&context, next_rip);
    case Transfer::kSystemReturn: return leaf_sysret(&context);
    case Transfer::kInterruptReturn: return leaf_iretq(&context, context.privilege);
  }
  return false;
}

/// As privilege_of() has it; all but the privilege stays as it was.
void follow_privilege(Context& context) {
  const cpu::CpuState& state = *context.state;
  cpu::Privilege privilege = cpu::Privilege::kSupervisor;
  if (state.cpl == 3)
    privilege = cpu::Privilege::kUser;
  else if ((state.cr4 & x86::cr4::SMAP) != 0 && (context.rflags_rest & x86::rflags::AC) == 0)
    privilege = cpu::Privilege::kSmap;
  leaf_follow_mode(&context, &context.modes[static_cast<u32>(privilege)]);
}

void empty_returns(Context& context, u32 privilege, u64 owner) {
  context.return_rsps[privilege] = context.empty_returns[privilege];
  context.return_owners[privilege] = owner;
}

}  // namespace

extern "C" void leaf_follow_mode(Context* context, const ModeWords* mode) {
  constexpr auto kUser = static_cast<u32>(cpu::Privilege::kUser);
  const u32 before = context->privilege;
  context->return_rsps[before] = context->return_rsp;
  const bool other_owner = context->return_owners[mode->privilege] != mode->return_owner;
  if (mode->privilege == kUser) {
    if (other_owner) empty_returns(*context, kUser, mode->return_owner);
  } else if (other_owner || before == kUser) {
    // A kernel begins anew each time. STAC and CLAC go from one of the two stacks to the other.
    empty_returns(*context, static_cast<u32>(cpu::Privilege::kSupervisor), mode->return_owner);
    empty_returns(*context, static_cast<u32>(cpu::Privilege::kSmap), mode->return_owner);
  }
  context->privilege = mode->privilege;
  context->salt = mode->salt;
  context->fpu_wanted = mode->fpu_wanted;
  context->return_rsp = context->return_rsps[mode->privilege];
}

/// Where to go on in generated code, or null: then generated code is left by Context::exit, which is
/// kTransferredExit if the change was made.
extern "C" const u8* leaf_transfer(Context* context, u64 next_rip, u32 transfer) {
  note_x87_selectors(*context);
  if (!change(*context, next_rip, static_cast<Transfer>(transfer))) return nullptr;
  follow_privilege(*context);
  context->exit = kTransferredExit;
  const bool alignment_checks = context->state->cpl == 3 && (context->rflags_rest & x86::rflags::AC) != 0;
  if (alignment_checks || must_leave(*context)) return nullptr;
  const TransferEntry& entry = context->transfers[transfer_index(context->rip, context->salt)];
  return entry.rip == context->rip && entry.salt == context->salt ? entry.code : nullptr;
}

}  // namespace vert::bt
