// Changes of address translation, and what they do to code that is jumped to without a look (CodeSpace).
#include "engine/bt/runtime.hpp"
#include "engine/bt/tlb.hpp"
#include "x86/cpu_model.hpp"

namespace vert::bt {

using namespace x86;

namespace {

constexpr u64 kCr3NoFlush = u64{1} << 63;  // no translation is forgotten (SDM 3A, 4.10.4.1)

}  // namespace

/// MOV to CR3 in 64-bit mode (SDM 2B, MOV: Move to/from Control Registers). False, with nothing done, if it
/// faults.
bool Runtime::load_cr3(u64 value) {
  const bool pcids = (state_->cr4 & cr4::PCIDE) != 0;
  const bool kept = pcids && (value & kCr3NoFlush) != 0;
  if (pcids) value &= ~kCr3NoFlush;
  if (state_->cpl != 0 || !state_->long_mode() || (value >> vcpu_.model->physical_bits()) != 0) return false;
  state_->cr3 = value;
  fallback_->forget_translations();
  epoch_ = fallback_->translation_epoch();
  const bool kernel_stays = flush_address_space(*context_) && (state_->cr4 & cr4::PGE) != 0;
  windows_.load_cr3(value, kept);
  if (!kernel_stays) verify(kKernelSpace);
  follow_spaces();
  return true;
}

/// INVLPG. It is for the present address space, and for global pages in all.
void Runtime::flush_page(u64 address) {
  const bool only_page = bt::flush_page(*context_, address);
  if (!only_page) return flush_shared();
  windows_.flush_page(address);
  const u64 linear = address & ~kPageOffsetMask;
  for (const bool user : {false, true})
    if (const auto page = store_.page_at(kKernelSpace, linear, user)) verify_page(*page);
  for (const CodeSpace space : windows_.spaces()) {
    const auto page = store_.page_at(space, linear, true);
    if (!page) continue;
    if (space == windows_.space())
      verify_page(*page);
    else
      forget_page(*page);
  }
}

/// All translations were forgotten.
void Runtime::flush_shared() {
  windows_.flush_all(state_->cr3);
  verify(kKernelSpace);
  follow_spaces();
}

/// Settles what has become of the spaces of address spaces with windows.
void Runtime::follow_spaces() {
  const auto ended = windows_.take_ended();
  for (const CodeSpace space : ended) store_.end_space(space);
  const CodeSpace now = windows_.space();
  // Calls of one space may not be returned to in another.
  const bool other = std::exchange(return_space_, now) != now;
  if (!ended.empty()) {
    forget_jumps();
    for (auto& token : context_->code_tokens[1]) token.store(0, std::memory_order_relaxed);
  }
  if (other || !ended.empty()) empty_return_stacks();
  if (windows_.take_flushed()) verify(now);
}

/// Forgets code of a space that is not where it was.
void Runtime::verify(CodeSpace space) {
  for (const u32 page : store_.pages_in(space)) verify_page(page);
}

void Runtime::verify_page(u32 index) {
  const CodePage& page = store_.page(index);
  const cpu::Privilege privilege = page.user ? cpu::Privilege::kUser : cpu::Privilege::kSupervisor;
  cpu::Translation translation;
  Fault fault;
  bool there = cpu::walk(*state_, *vcpu_.memory, vcpu_.model->paging_limits(), Gla(page.linear),
                         cpu::AccessKind::kExecute, privilege, translation, fault);
  there = there && vcpu_.memory->host(translation.page, kPageSize) == page.host &&
          page.writable == code_writable(page.linear, page.user);
  if (there) note_large_page(*context_, page.linear, translation.page_size);
  if (there &&
      space_of(page.linear, page.frame, translation, page.user ? windows_.space() : kNoSpace) == page.space)
    return;
  forget_page(index);
}

/// The space that code belongs to; `user` is the present address space's if the code is CPL 3's.
CodeSpace Runtime::space_of(u64 linear, memory::Frame frame, const cpu::Translation& translation,
                            CodeSpace user) {
  // A page that is written again and again is looked at instead: so that another thread's writes, once they
  // are known of, are seen without a serialising instruction, as on a processor.
  constexpr u8 kWritesToDistrust = 3;
  if (code_writes_[frame] >= kWritesToDistrust) return kNoSpace;
  if (linear >> 63 == 0) return translation.page_size == kPageSize ? user : kNoSpace;
  if (!translation.global) return kNoSpace;
  return kKernelSpace;
}

/// Makes a page's blocks unreachable.
void Runtime::forget_page(u32 index) {
  const CodePage& page = store_.page(index);
  ++statistics_.pages_forgotten;
  auto& token = context_->code_tokens[page.user ? 1 : 0][token_slot(page.linear)];
  if (token.load(std::memory_order_relaxed) >> 32 == page.token) token.store(0, std::memory_order_relaxed);
  bool returns = false;
  store_.forget(index, [&](const Block& block) {
    if (page.space == kNoSpace) return;
    cut(block);
    returns = true;
  });
  if (returns) empty_return_stacks();
}

/// Whoever comes to the block leaves generated code. Nobody is in it: this is the thread that runs it.
void Runtime::cut(const Block& block) {
  lead_on(block.inner_entry, block.stale_exit);
  if (block.fpu_entry != block.inner_entry) lead_on(block.fpu_entry, block.stale_exit);
}

}  // namespace vert::bt
