// What the system tests share: code pieces in a rig, as kernel or as user, and what they end with.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "x86/exception.hpp"
#include "x86/paging.hpp"

// snippets.S
extern "C" {
#define DECLARE(name)                     \
  extern const vert::u8 snippet_##name[]; \
  extern const vert::u8 snippet_##name##_end[];
DECLARE(popf)
DECLARE(cli)
DECLARE(syscall)
DECLARE(sysret)
DECLARE(sysenter)
DECLARE(sysexit)
DECLARE(syscall32)
DECLARE(sysret32)
DECLARE(sysretl)
DECLARE(iret)
DECLARE(iretd)
DECLARE(retf)
DECLARE(pop_fs)
DECLARE(masked_store)
DECLARE(int80)
DECLARE(int80_handler)
DECLARE(read)
DECLARE(write)
DECLARE(modify)
DECLARE(jump)
DECLARE(nops)
DECLARE(rep_stos)
DECLARE(popf_trap)
DECLARE(icebp)
DECLARE(mov_ss_icebp)
DECLARE(write_dr)
DECLARE(undefined)
DECLARE(divide)
DECLARE(signed_divide)
DECLARE(remap)
DECLARE(remap_cr3)
DECLARE(real_mode)
DECLARE(real_handler)
DECLARE(enter_protected)
#undef DECLARE
}

/// The bytes of a piece of snippets.S.
#define SNIPPET(name) std::span<const vert::u8>(snippet_##name, snippet_##name##_end)

namespace vert::test {

class SystemTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr u64 kUserCode = 0x40'0000;
  static constexpr u64 kUserStack = 0x60'0000;  // grows down from here
  static constexpr u64 kPage = 0x80'0000;       // what tests map as they need it
  static constexpr Gpa kKernelCode{0x18'0000};
  static constexpr Gpa kHandlerCode{0x18'1000};
  static constexpr u64 kBudget = 10'000;

  void SetUp() override { set_up(x86::CpuModel::make("host").value()); }
  void set_up(const x86::CpuModel& model) {
    rig_ = std::make_unique<GuestRig>(GetParam(), model);
    user_code_ = rig_->map(kUserCode, 1, {true, false, true});
    rig_->map(kUserStack - kPageSize, 1, {true, true, false});
  }

  [[nodiscard]] GuestRig& rig() { return *rig_; }
  [[nodiscard]] static u64 kernel_code() { return GuestRig::direct(kKernelCode); }
  [[nodiscard]] static u64 handler_code() { return GuestRig::direct(kHandlerCode); }
  void load_user(std::span<const u8> code) { rig_->write_host(user_code_, code); }
  void load_kernel(std::span<const u8> code) { rig_->write(kKernelCode, code); }
  void load_handler(std::span<const u8> code) { rig_->write(kHandlerCode, code); }

  [[nodiscard]] cpu::CpuState user_state() const {
    return rig_->initial_state(kUserCode, kUserStack - 64, 3);
  }
  [[nodiscard]] cpu::CpuState kernel_state() const {
    return rig_->initial_state(kernel_code(), GuestRig::kernel_stack_top() - 0x1000, 0);
  }

  /// Runs to the HLT, of the code itself or of an IDT stub.
  cpu::CpuState& run(const cpu::CpuState& state) {
    rig_->set_state(state);
    EXPECT_EQ(rig_->run(kBudget).reason, cpu::Exit::kHalt);
    return rig_->state();
  }
  /// As run(); what came through the IDT.
  Caught run_to_exception(const cpu::CpuState& state) {
    run(state);
    const auto caught = rig_->caught();
    EXPECT_TRUE(caught.has_value()) << "no exception";
    return caught.value_or(Caught{});
  }
  void expect_fault(const cpu::CpuState& state, u8 vector, std::optional<u64> error_code) {
    const Caught caught = run_to_exception(state);
    EXPECT_EQ(caught.vector, vector);
    EXPECT_EQ(caught.error_code, error_code);
    EXPECT_EQ(caught.rip, state.rip);
  }

 private:
  std::unique_ptr<GuestRig> rig_;
  u8* user_code_ = nullptr;
};

}  // namespace vert::test
