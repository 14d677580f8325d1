// What tests share that stop loops: a rig with pages for code, data and a stack, and a run that must end
// soon.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "support/assembler.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "x86/paging.hpp"

namespace vert::test {

/// All engines, and the translator with nothing but the look timer to stop it.
[[nodiscard]] inline std::vector<std::string> engines_to_stop() {
  std::vector<std::string> names = engine_names();
  if (names.size() > 1) names.insert(names.end(), {"bt_no_looks", "bt_windows_no_looks"});
  return names;
}

class StopTest : public testing::TestWithParam<std::string> {
 protected:
  using Clock = std::chrono::steady_clock;

  static constexpr u64 kCode = 0x40'0000;
  static constexpr u64 kCodePages = 4;
  static constexpr u64 kData = 0x100'0000;
  /// As far from kData as makes their pages share a place in the soft TLB.
  static constexpr u64 kRival = kData + (u64{1} << 24);
  static constexpr u64 kStackTop = 0x7000'0000;
  static constexpr auto kGoal = std::chrono::milliseconds(100);  // on a host that is otherwise idle
  static constexpr auto kBound = std::chrono::seconds(5);

  /// A rig whose code, at kCode, runs at that privilege, with RBP and RSP at the stack, and RBX, R12 and R13
  /// at data.
  void make_rig(u8 cpl, bool wide = true) {
    rig_ = std::make_unique<GuestRig>(GetParam());
    const bool user = cpl == 3;
    code_ = rig_->map(kCode, kCodePages, {.user = user, .write = true, .execute = true});
    for (const u64 data : {kData, kRival}) rig_->map(data, 2, {.user = user, .write = true});
    rig_->map(kStackTop - 4 * kPageSize, 8, {.user = user, .write = true});
    state_ = rig_->initial_state(kCode, kStackTop, cpl);
    if (!wide) {
      state_.seg(x86::kCs) = x86::Descriptor{0x00CF'FB00'0000'FFFF}.to_segment(kUserCs32);
      for (const x86::SegmentRegister reg : {x86::kEs, x86::kDs})
        state_.seg(reg) = x86::Descriptor{0x00CF'F300'0000'FFFF}.to_segment(kUserDs);
    }
    state_.gpr[x86::kRbp] = kStackTop;
    state_.gpr[x86::kRbx] = state_.gpr[x86::kR12] = kData;
    state_.gpr[x86::kR13] = kRival;
  }
  void load(Assembler& assembler) {
    const std::vector<u8> bytes = assembler.finish();
    ASSERT_LE(bytes.size(), kCodePages * kPageSize);
    rig_->write_host(code_, bytes);
    rig_->set_state(state_);
  }
  /// The page of data there.
  [[nodiscard]] std::vector<u8> bytes_at(u64 linear) {
    const u8* host = rig_->host(Gpa(*rig_->page_entry(linear) & x86::pte::kAddressMask), kPageSize);
    return {host, host + kPageSize};
  }
  [[nodiscard]] GuestRig& rig() { return *rig_; }
  [[nodiscard]] cpu::CpuState& start_state() { return state_; }

  /// Runs, and asks for an end once the guest is at it: how long it takes to come.
  [[nodiscard]] Clock::duration time_to_stop() {
    auto run = std::async(std::launch::async, [this] { return rig_->run(cpu::kNoBudget).reason; });
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const auto asked = Clock::now();
    rig_->events().request(cpu::VcpuEvents::kKick);
    if (run.wait_for(kBound * 4) != std::future_status::ready) {
      // The thread cannot be ended: no test after this one can run.
      fmt::print(stderr, "{} does not stop\n", testing::UnitTest::GetInstance()->current_test_info()->name());
      std::abort();
    }
    const auto taken = Clock::now() - asked;
    EXPECT_EQ(run.get(), cpu::Exit::kKick);
    EXPECT_EQ(rig_->events().take(cpu::VcpuEvents::kKick), cpu::VcpuEvents::kKick);
    const Status valid = cpu::check(rig_->state(), rig_->model());
    EXPECT_TRUE(valid) << valid.error().message;
    return taken;
  }
  void expect_to_stop(unsigned times = 3) {
    for (unsigned turn = 0; turn < times; ++turn) {
      const auto taken = time_to_stop();
      EXPECT_LT(taken, kBound);
      if (taken > kGoal) ++late_;
    }
  }
  /// Generated code looked by itself, if it was to: nobody had to step out of it.
  void expect_looks() {
    if (GetParam().ends_with("_no_looks")) return;
    for (const cpu::CounterGroup& group : rig_->engine().counters())
      for (const cpu::Counter& counter : group.counters)
        if (counter.name == "steps out of code that did not look") {
          EXPECT_EQ(counter.value, 0U);
        }
  }
  /// How many stops took longer than they should on an idle host.
  [[nodiscard]] unsigned late() const { return late_; }

 private:
  std::unique_ptr<GuestRig> rig_;
  u8* code_ = nullptr;
  cpu::CpuState state_;
  unsigned late_ = 0;
};

}  // namespace vert::test
