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

/// As mode_of() has it; all but the privilege stays as it was.
void follow_privilege(Context& context) {
  const cpu::CpuState& state = *context.state;
  cpu::Privilege privilege = cpu::Privilege::kSupervisor;
  if (state.cpl == 3)
    privilege = cpu::Privilege::kUser;
  else if ((state.cr4 & x86::cr4::SMAP) != 0 && (context.rflags_rest & x86::rflags::AC) == 0)
    privilege = cpu::Privilege::kSmap;
  context.privilege = static_cast<u32>(privilege);
  context.salt = context.salts[context.privilege];
  context.return_unbias = context.return_unbiases[context.privilege];
  context.fpu_wanted = context.fpu_wants[context.privilege];
  const bool user = privilege == cpu::Privilege::kUser;
  if (user == (context.user_stack != 0)) return;
  context.user_stack = user ? 1 : 0;
  if (user) {
    context.return_rsp = context.other_return_rsp;
  } else {
    context.other_return_rsp = context.return_rsp;
    context.return_rsp = context.supervisor_stack;
  }
}

}  // namespace

/// Where to go on in generated code, or null: then generated code is left by Context::exit, which is
/// kTransferredExit if the change was made.
extern "C" const u8* leaf_transfer(Context* context, u64 next_rip, u32 transfer) {
  if (!change(*context, next_rip, static_cast<Transfer>(transfer))) return nullptr;
  follow_privilege(*context);
  context->exit = kTransferredExit;
  const bool alignment_checks = context->state->cpl == 3 && (context->rflags_rest & x86::rflags::AC) != 0;
  if (alignment_checks || must_leave(*context)) return nullptr;
  const unsigned index = transfer_index(context->rip, context->salt);
  if (context->transfer_keys[index] + context->rip + context->salt != 0) return nullptr;
  return context->transfer_code[index];
}

}  // namespace vert::bt
