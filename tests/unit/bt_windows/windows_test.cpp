// Windows by themselves: what is shown, what is hidden again, and when an address space has any.
//
// "Generated code" here is a look-up in the table, and fault() where it would have faulted; what can be
// reached then is asked of the kernel (process_vm_readv and mincore leave no signals), through write(2) to a
// pipe.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "engine/bt/tlb.hpp"
#include "engine/bt/windows.hpp"
#include "unit/cpu_mmu/paging_rig.hpp"
#include "x86/cpu_model.hpp"

namespace vert::test {
namespace {

using bt::Windows;
namespace pte = x86::pte;

constexpr u64 kPage = 0x7F12'3456'7000;
constexpr u64 kFlags = kPteOpen | pte::A | pte::D;
constexpr u64 kReadOnly = pte::P | pte::US | pte::A | pte::D;
constexpr u64 kForEver = u64{1} << 47;  // ns

class WindowsTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(pipe2(pipe_.data(), O_NONBLOCK | O_CLOEXEC), 0);
    vcpu_.memory = paging_.memory.get();
    vcpu_.model = &model_;
    context_->state = &paging_.state;
    bt::init(*context_, vcpu_);
    paging_.state.cr4 |= x86::cr4::PCIDE;
  }
  void TearDown() override {
    for (const int end : pipe_) close(end);
  }

  void make(const Windows::Policy& policy) {
    windows_ = std::make_unique<Windows>(context_, *paging_.memory, policy);
    windows_->flush_all(PagingRig::kTables);
  }
  void make() { make({.open_after = 0, .allowance = kForEver, .pages = 4096, .tables = 4096, .windows = 8}); }

  [[nodiscard]] u64 host(u64 address) { return address + context_.windows()[bt::window_index(address)]; }
  /// Whether generated code could read there.
  [[nodiscard]] bool readable(u64 address) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel tells whether it can be read.
    const bool read = write(pipe_[1], reinterpret_cast<const void*>(host(address)), 1) == 1;
    u8 byte = 0;
    if (read) {
      EXPECT_EQ(::read(pipe_[0], &byte, 1), 1);
    }
    return read;
  }
  /// Whether it could write: the kernel reads a byte from the pipe to there.
  [[nodiscard]] bool writable(u64 address) {
    constexpr u8 kByte = 0x5A;
    EXPECT_EQ(write(pipe_[1], &kByte, 1), 1);
    // NOLINTNEXTLINE(performance-no-int-to-ptr): as above.
    const bool written = ::read(pipe_[0], reinterpret_cast<void*>(host(address)), 1) == 1;
    u8 byte = 0;
    if (!written) {
      EXPECT_EQ(::read(pipe_[0], &byte, 1), 1);
    }
    return written;
  }
  [[nodiscard]] Windows::Fault fault(u64 address, bool write) {
    return windows_->fault(host(address), write);
  }
  void show(u64 address, bool write) { ASSERT_EQ(fault(address, write), Windows::Fault::kFilled); }

  PagingRig paging_{Mode::k4Level};
  x86::CpuModel model_ = x86::CpuModel::make("host").value();
  cpu::VcpuContext vcpu_;
  bt::ContextMemory context_ = bt::ContextMemory::create().value();
  std::unique_ptr<Windows> windows_;
  std::array<int, 2> pipe_{-1, -1};
};

TEST_F(WindowsTest, ShowsAPageOnceItIsNeeded) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make();
  ASSERT_TRUE(windows_->open());
  EXPECT_FALSE(readable(kPage));
  show(kPage + 5, true);
  EXPECT_TRUE(readable(kPage));
  EXPECT_TRUE(writable(kPage + 7));
  EXPECT_EQ(paging_.memory->load<u8>(Gpa(PagingRig::kPage + 7)), 0x5A);
  EXPECT_FALSE(readable(kPage + kPageSize));
  EXPECT_FALSE(readable(kPage - 1));
}

TEST_F(WindowsTest, RightsAreThoseOfCpl3) {
  make();
  paging_.map(kPage, PagingRig::kPage, kReadOnly);
  windows_->flush_all(PagingRig::kTables);
  EXPECT_EQ(fault(kPage, true), Windows::Fault::kDeclined);
  show(kPage, false);
  EXPECT_TRUE(readable(kPage));
  EXPECT_FALSE(writable(kPage));
  const u64 refused[] = {kFlags & ~pte::US, kFlags & ~pte::P, kFlags & ~pte::A};
  for (const u64 flags : refused) {
    paging_.map(kPage, PagingRig::kPage, flags);
    windows_->flush_page(kPage);
    EXPECT_NE(fault(kPage, false), Windows::Fault::kFilled) << flags;
    EXPECT_FALSE(readable(kPage));
  }
}

TEST_F(WindowsTest, WhatIsNotRamIsNotShown) {
  paging_.map(kPage, PagingRig::kRamSize, kFlags);
  make();
  EXPECT_EQ(fault(kPage, false), Windows::Fault::kDeclined);
}

TEST_F(WindowsTest, OnlyFaultsInWindowsAreTheirs) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make();
  EXPECT_EQ(windows_->fault(reinterpret_cast<u64>(this), false), Windows::Fault::kForeign);
  EXPECT_EQ(windows_->fault(0, false), Windows::Fault::kForeign);
  // Where no window is, and behind the table.
  EXPECT_EQ(fault(0x1234'5678, false), Windows::Fault::kDeclined);
  const u64 behind = reinterpret_cast<u64>(&context_.windows()[bt::kWindowTableEntries - 1]) + kPageSize;
  EXPECT_EQ(windows_->fault(behind, false), Windows::Fault::kDeclined);
}

TEST_F(WindowsTest, AllThatCanBeLookedUpLeadsNowhereOrToAWindow) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make();
  show(kPage, true);
  for (u64 index = 0; index < bt::kWindowTableEntries; ++index) {
    for (const i64 offset : {-(i64{1} << 31), i64{0}, i64{1} << 38, (i64{1} << 39) + (i64{1} << 31) - 64}) {
      const u64 address = (index << bt::kWindowShift) + static_cast<u64>(offset);
      const u64 at = address + context_.windows()[index];
      u8 byte = 0;
      // NOLINTNEXTLINE(performance-no-int-to-ptr): as above.
      ASSERT_NE(write(pipe_[1], reinterpret_cast<const void*>(at), 1), 1) << index << " " << offset;
      ASSERT_NE(::read(pipe_[0], &byte, 1), 1);
    }
  }
}

TEST_F(WindowsTest, InvlpgHidesThePage) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make();
  show(kPage, true);
  windows_->flush_page(kPage + 123);
  EXPECT_FALSE(readable(kPage));
}

TEST_F(WindowsTest, LargePagesAreShownWhole) {
  constexpr u64 kLarge = kPage & ~u64{0x1F'FFFF};
  paging_.map(kLarge, 0x20'0000, kFlags | pte::PS, 3);
  make();
  show(kLarge + 0x1234, true);
  EXPECT_TRUE(writable(kLarge + 0x1F'FFFF));
  windows_->flush_page(kLarge + 0x10'0000);
  EXPECT_FALSE(readable(kLarge));
}

TEST_F(WindowsTest, PagesWithMarksAreReadOnly) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make();
  show(kPage, true);
  const memory::Frame frame = PagingRig::kPage >> kPageShift;
  paging_.memory->watch_code(frame);
  windows_->drop_writable(frame);
  EXPECT_TRUE(readable(kPage));
  EXPECT_FALSE(writable(kPage));
  EXPECT_EQ(fault(kPage, true), Windows::Fault::kDeclined);
}

TEST_F(WindowsTest, OtherAddressSpacesSeeNothing) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make();
  show(kPage, true);
  const auto space = windows_->space();
  constexpr u64 kOther = 0x5'0000 | 2;  // its own tables, all empty; another PCID
  windows_->load_cr3(kOther, true);
  EXPECT_FALSE(readable(kPage));
  // With the no-flush bit it all stays; without, the PCID's is forgotten.
  windows_->load_cr3(PagingRig::kTables, true);
  EXPECT_EQ(windows_->space(), space);
  EXPECT_TRUE(readable(kPage));
  windows_->load_cr3(kOther, true);
  windows_->load_cr3(PagingRig::kTables, false);
  EXPECT_NE(windows_->space(), space);
  EXPECT_EQ(windows_->take_ended(), std::vector<bt::CodeSpace>{space});
  EXPECT_FALSE(readable(kPage));
}

TEST_F(WindowsTest, OpenAfterATimeAndCloseWhenTheyCostTooMuch) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make({.open_after = 1'000'000, .allowance = 0, .pages = 4096, .tables = 4096, .windows = 8});
  EXPECT_FALSE(windows_->open());
  windows_->look();
  EXPECT_FALSE(windows_->open());
  usleep(2000);
  windows_->look();
  ASSERT_TRUE(windows_->open());
  for (int i = 0; i < 1000 && windows_->open(); ++i) {
    show(kPage, true);
    windows_->flush_page(kPage);
    windows_->look();
  }
  EXPECT_FALSE(windows_->open());
  EXPECT_EQ(windows_->counts().closed, 1U);
  // What nobody was running for does not count.
  windows_->pause();
  usleep(9000);
  windows_->look();
  EXPECT_FALSE(windows_->open());
}

TEST_F(WindowsTest, TimeForTranslatingDoesNotOpenThem) {
  constexpr unsigned kMillisecond = 1'000'000;  // ns
  paging_.map(kPage, PagingRig::kPage, kFlags);
  make({.open_after = 150 * kMillisecond, .allowance = 0, .pages = 4096, .tables = 4096, .windows = 8});
  windows_->look();
  {
    const Windows::Uncounted uncounted(*windows_);
    usleep(160'000);
  }
  windows_->look();
  EXPECT_FALSE(windows_->open());
  usleep(160'000);
  windows_->look();
  EXPECT_TRUE(windows_->open());
}

TEST_F(WindowsTest, CloseWhenFaultsThatTheyCannotSettleCostTooMuch) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  struct Case {
    const char* what;
    std::function<u64()> host_address;
  };
  const std::vector<Case> cases = {
      {"the table's part for the upper half",
       [this] {
         return reinterpret_cast<u64>(&context_.windows()[bt::kWindowTableEntries - 1]) + kPageSize;
       }},
      {"an address that has no window", [this] { return host(0x1234'5678); }},
      {"a page that is not mapped", [this] { return host(kPage + kPageSize); }},
      {"a sum that is not canonical", [] { return u64{0}; }},
  };
  for (const Case& each : cases) {
    make({.open_after = 0, .allowance = 0, .pages = 4096, .tables = 4096, .windows = 8});
    ASSERT_TRUE(windows_->open());
    for (int i = 0; i < 1000 && windows_->open(); ++i) {
      EXPECT_NE(windows_->fault(each.host_address(), false), Windows::Fault::kFilled);
      windows_->look();
    }
    EXPECT_FALSE(windows_->open()) << each.what;
  }
}

TEST_F(WindowsTest, NoMoreWindowsThanThePolicyHas) {
  paging_.map(kPage, PagingRig::kPage, kFlags);
  constexpr u64 kElsewhere = 0x1234'5000;  // below another top-level entry
  paging_.map(kElsewhere, PagingRig::kPage, kFlags);
  make({.open_after = 0, .allowance = kForEver, .pages = 4096, .tables = 4096, .windows = 1});
  ASSERT_TRUE(windows_->open());
  EXPECT_EQ(fault(kElsewhere, false), Windows::Fault::kFilled);  // the lower of the two got it
  EXPECT_EQ(fault(kPage, false), Windows::Fault::kDeclined);
  // A process that goes gives its window back.
  windows_->load_cr3(PagingRig::kTables | 1, true);
  EXPECT_FALSE(windows_->open());
  windows_->load_cr3(PagingRig::kTables | 2, false);
  windows_->load_cr3(PagingRig::kTables, false);
  EXPECT_TRUE(windows_->open());
  make({.open_after = 0, .allowance = kForEver, .pages = 4096, .tables = 4096, .windows = 0});
  EXPECT_FALSE(windows_->open());
}

TEST_F(WindowsTest, FewPagesAtATime) {
  constexpr u64 kBegin = kPage & ~u64{0x1F'FFFF};
  constexpr unsigned kPages = 100;
  for (u64 i = 0; i < 512; ++i) paging_.map(kBegin + i * kPageSize, PagingRig::kPage + i * kPageSize, kFlags);
  make({.open_after = 0, .allowance = kForEver, .pages = kPages, .tables = 4096, .windows = 8});
  for (u64 i = 0; i < 512; ++i) {
    if (!readable(kBegin + i * kPageSize)) show(kBegin + i * kPageSize, true);
  }
  unsigned shown = 0;
  for (u64 i = 0; i < 512; ++i) shown += readable(kBegin + i * kPageSize) ? 1 : 0;
  EXPECT_LE(shown, kPages);
  EXPECT_GT(shown, 0U);
}

}  // namespace
}  // namespace vert::test
