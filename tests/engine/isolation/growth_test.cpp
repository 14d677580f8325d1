// What a guest can make the host spend on it follows from the RAM that it was given.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

#include "support/assembler.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "x86/paging.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

using namespace x86;

/// KiB of page tables that the host has for this process.
u64 host_page_tables() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "VmPTE:") continue;
    u64 size = 0;
    status >> size;
    return size;
  }
  return 0;
}

class Growth : public testing::TestWithParam<std::string> {};

/// Three pages of tables map one page at each 2 MiB of 2 TiB.
TEST_P(Growth, SparseSharedPageTablesCostTheHostLittle) {
  constexpr u64 kCode = 0x40'0000;
  constexpr u64 kFirst = u64{1} << 39;  // what the first of the top-level entries maps
  constexpr u64 kStep = u64{2} << 20;
  constexpr u32 kTouches = 8000;
  GuestRig rig(GetParam());
  u8* code = rig.map(kCode, 1, {true, false, true});
  const auto table_of = [&](Gpa what, unsigned entries) {
    const Gpa table = rig.allocate_page();
    const u64 entry = what.value() | pte::P | pte::RW | pte::US | pte::A | pte::D;
    for (u64 i = 0; i < entries; ++i)
      std::memcpy(rig.host(table + i * sizeof entry, 8), &entry, sizeof entry);
    return table;
  };
  const Gpa pointers = table_of(table_of(table_of(rig.allocate_page(), 1), 512), 512);
  for (u64 i = 1; i < 5; ++i) {
    const u64 entry = pointers.value() | pte::P | pte::RW | pte::US | pte::A;
    std::memcpy(rig.host(rig.page_table_root() + i * sizeof entry, 8), &entry, sizeof entry);
  }
  Assembler a(kCode);
  a.load(kRbx, kFirst).load(kRdx, kStep).load(kRcx, kTouches);
  a.label("loop").bytes({0x8B, 0x03, 0x48, 0x01, 0xD3, 0xFF, 0xC9});  // mov eax, [rbx]; add rbx, rdx; dec ecx
  a.branch({0x0F, 0x85}, "loop").bytes({0xCC});
  rig.write_host(code, a.finish());
  rig.set_state(rig.initial_state(kCode, 0, 3));
  const u64 before = host_page_tables();
  (void)rig.run(cpu::kNoBudget);
  EXPECT_EQ(rig.state().gpr[kRbx], kFirst + kTouches * kStep);
  const u64 grown = std::max(host_page_tables(), before) - before;
  EXPECT_LT(grown * 1024, GuestRig::kRamSize / 8);
}

INSTANTIATE_TEST_SUITE_P(Engines, Growth, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test
