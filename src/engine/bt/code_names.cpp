#include "engine/bt/code_names.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace vert::bt {

namespace {

struct Field {
  std::size_t offset;
  std::size_t size;
  std::string_view name;
};

#define VERT_NAMED(name) \
  Field { offsetof(Context, name), sizeof(Context::name), #name }

/// Plain fields. Arrays of u64 and u32 that generated code indexes by a constant are named by element below.
constexpr std::array kFields = {
    VERT_NAMED(rip),
    VERT_NAMED(rflags_arithmetic),
    VERT_NAMED(host_rsp),
    VERT_NAMED(return_rsp),
    VERT_NAMED(exit),
    VERT_NAMED(save_rax),
    VERT_NAMED(save_rcx),
    VERT_NAMED(save_flags),
    VERT_NAMED(call_target),
    VERT_NAMED(last_return),
    VERT_NAMED(rflags_rest),
    VERT_NAMED(salt),
    VERT_NAMED(privilege),
    VERT_NAMED(host_mxcsr),
    VERT_NAMED(self),  // NOLINT(bugprone-sizeof-expression): of the pointer
    VERT_NAMED(fs_base),
    VERT_NAMED(gs_base),
    VERT_NAMED(kernel_gs_base),
    VERT_NAMED(tsc_offset),
    VERT_NAMED(tsc_aux),
    VERT_NAMED(interrupt_flag),
    VERT_NAMED(direction_flag),
    VERT_NAMED(attention),
    VERT_NAMED(fpu_loaded),
    VERT_NAMED(fpu_in_image),
    VERT_NAMED(held),
    VERT_NAMED(shadow_rip),
    VERT_NAMED(x87_code),
    VERT_NAMED(x87_data),
    VERT_NAMED(x87_data_pointer),
    VERT_NAMED(jump_mask),
    VERT_NAMED(budget),
    VERT_NAMED(pauses_left),
    VERT_NAMED(state),  // NOLINT(bugprone-sizeof-expression): of the pointer
    VERT_NAMED(jump_keys),
    VERT_NAMED(jump_code),
    VERT_NAMED(xsave),
};

constexpr std::array<std::string_view, kPrivileges> kPrivilegeNames = {"user", "supervisor", "smap"};

bool within(u32 offset, std::size_t from, std::size_t size) { return offset >= from && offset - from < size; }

std::string tlb_name(std::size_t offset) {
  const std::size_t privilege = offset / sizeof(TlbBank);
  const std::size_t in_bank = offset % sizeof(TlbBank);
  const bool write = in_bank >= offsetof(TlbBank, write);
  const std::size_t in_table = in_bank - (write ? offsetof(TlbBank, write) : 0);
  const std::size_t index = in_table / sizeof(TlbEntry);
  const bool tag = in_table % sizeof(TlbEntry) < offsetof(TlbEntry, addend);
  return fmt::format("ctx.tlb.{}.{}{}.{}", kPrivilegeNames[privilege], write ? "write" : "read",
                     index == 0 ? "" : fmt::format("[{}]", index), tag ? "tag" : "addend");
}

}  // namespace

std::vector<NamedThunk> named_thunks(const Thunks& thunks) {
  std::vector<NamedThunk> named = {
      {thunks.enter, "enter"},
      {thunks.exit, "exit"},
      {thunks.exit_saved, "exit_saved"},
      {thunks.fill, "fill"},
      {thunks.load_fpu, "load_fpu"},
      {thunks.return_miss, "return_miss"},
      {thunks.return_empty, "return_empty"},
      {thunks.string, "string"},
      {thunks.state, "extended_state"},
      {thunks.transfer, "transfer"},
  };
  std::ranges::sort(named, {}, &NamedThunk::offset);
  return named;
}

std::string context_name(u32 offset) {
  if (within(offset, offsetof(Context, gpr), sizeof(Context::gpr))) {
    const auto index = static_cast<int>((offset - offsetof(Context, gpr)) / sizeof(u64));
    return fmt::format("ctx.gpr.{}",
                       ZydisRegisterGetString(static_cast<ZydisRegister>(ZYDIS_REGISTER_RAX + index)));
  }
  if (within(offset, offsetof(Context, tlb), sizeof(Context::tlb)))
    return tlb_name(offset - offsetof(Context, tlb));
  if (within(offset, offsetof(Context, code_tokens), sizeof(Context::code_tokens))) {
    const std::size_t index = (offset - offsetof(Context, code_tokens)) / sizeof(u32);
    return fmt::format("ctx.code_tokens.{}[{}]", index < kTokenSlots ? "supervisor" : "user",
                       index % kTokenSlots);
  }
  const auto found = std::ranges::find_if(
      kFields, [offset](const Field& field) { return within(offset, field.offset, field.size); });
  if (found == kFields.end()) return fmt::format("ctx+{:#x}", offset);
  const std::size_t inside = offset - found->offset;
  return fmt::format("ctx.{}{}", found->name, inside == 0 ? "" : fmt::format("+{:#x}", inside));
}

std::string block_name(u64 rip, const Mode& mode) {
  return fmt::format("guest-{}{}:{:x}", mode.user() ? "user" : "kernel", mode.code32 ? "32" : "", rip) +
         (mode.windows ? "+windows" : "") + (mode.unshared ? "+unshared" : "");
}

std::string exit_name(const CodeExit& exit) {
  switch (exit.kind) {
    case ExitKind::kLink:
      return fmt::format("goes to {:x}{} once that is translated", exit.rip,
                         exit.unshared ? " (checks unshared)" : "");
    case ExitKind::kInterpret:
      return fmt::format("leaves for the fallback engine: {} at {:x}{}", name_of(exit.insn_class), exit.rip,
                         exit.declined ? ", declined here" : "");
    case ExitKind::kAttention: return fmt::format("leaves for an event, at {:x}", exit.rip);
    case ExitKind::kLookup: return fmt::format("leaves to look {:x} up", exit.rip);
    case ExitKind::kIndirect: return fmt::format("leaves to look up where {:x} leads", exit.rip);
    case ExitKind::kLoadCr3: return fmt::format("leaves to load CR3, at {:x}", exit.rip);
    case ExitKind::kPause: return fmt::format("leaves for a loop of PAUSEs, before {:x}", exit.rip);
    case ExitKind::kBudget: return fmt::format("leaves for the budget's end, at {:x}", exit.rip);
  }
  return "leaves";
}

}  // namespace vert::bt
