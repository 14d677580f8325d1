#include "diff/harness/guest.hpp"

#include <cstring>

#include "support/guest_rig.hpp"
#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr u64 kBudget = 100'000;  // instructions; a sequence has some fifty, and short loops

}  // namespace

struct GuestExecutor::Impl {
  explicit Impl(const std::string& engine) : rig(engine) {
    code = rig.map(kCodeBase, kCodeSize / kPageSize, {true, false, true});
    rig.write_host(rig.map(kReadOnlyBase, 1, {true, false, false}), read_only_page());
    for (std::size_t i = 0; i < kWritablePages.size(); ++i)
      pages[i] = rig.map(kWritablePages[i], 1, {true, true, false});
    blank = rig.initial_state(0, 0, 3);
  }

  test::GuestRig rig;
  u8* code = nullptr;
  std::array<u8*, kWritablePages.size()> pages{};
  cpu::CpuState blank;
  Input input;
  Output output;
};

GuestExecutor::GuestExecutor(const std::string& engine) : impl_(std::make_unique<Impl>(engine)) {}
GuestExecutor::~GuestExecutor() = default;

std::size_t GuestExecutor::capacity() const { return 1; }
Input& GuestExecutor::input(std::size_t) { return impl_->input; }
const Output& GuestExecutor::output(std::size_t) const { return impl_->output; }
void GuestExecutor::submit(std::size_t) { run(impl_->input, impl_->output); }

void GuestExecutor::run(const Input& input, Output& output) {
  test::GuestRig& rig = impl_->rig;
  rig.write_host(impl_->code, input.code);
  for (std::size_t i = 0; i < kWritablePages.size(); ++i) rig.write_host(impl_->pages[i], input.data[i]);
  cpu::CpuState state = impl_->blank;
  state.gpr = input.registers.gpr;
  state.rip = input.registers.rip;
  state.rflags = input.registers.rflags | x86::rflags::IF;
  state.seg(x86::kFs).base = input.registers.fs_base;
  state.seg(x86::kGs).base = input.registers.gs_base;
  state.fpu = input.registers.fpu;
  rig.set_state(state);
  const cpu::ExitInfo exit = rig.run(kBudget);

  const cpu::CpuState& end = rig.state();
  const auto caught = rig.caught();
  output.ending =
      caught ? Ending::kException : (exit.reason == cpu::Exit::kBudget ? Ending::kTimeout : Ending::kCrash);
  output.registers.gpr = end.gpr;
  output.registers.rip = end.rip;
  output.registers.rflags = end.rflags;
  if (caught) {
    output.vector = caught->vector;
    output.error_code = caught->error_code.value_or(0);
    output.cr2 = caught->vector == x86::kPF ? caught->cr2 : 0;
    output.cs = caught->cs;
    output.registers.gpr[x86::kRsp] = caught->rsp;
    output.registers.rip = caught->rip;
    output.registers.rflags = caught->rflags;
  }
  output.registers.fs_base = end.seg(x86::kFs).base;
  output.registers.gs_base = end.seg(x86::kGs).base;
  output.registers.fpu = end.fpu;
  for (std::size_t i = 0; i < kWritablePages.size(); ++i)
    std::memcpy(output.data[i].data(), impl_->pages[i], kPageSize);
}

}  // namespace vert::diff
