// What tests of guests that aim at another mode's or address space's translations share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/assembler.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "x86/exception.hpp"
#include "x86/paging.hpp"

namespace vert::test {

class ConfusionTest : public testing::TestWithParam<std::string> {
 protected:
  // User pages, of one each but for the code, in one stretch of 1 GiB.
  static constexpr u64 kCode = 0x6000'0000;
  static constexpr u64 kCodePages = 2;
  static constexpr u64 kData = 0x6010'0000;
  static constexpr u64 kStack = 0x6020'0000;
  static constexpr Gpa kKernel{0x18'0000};  // code, below what the rig hands out
  static constexpr u8 kSystemCall = 0x80;

  GuestRig& make_rig() {
    rig_ = std::make_unique<GuestRig>(GetParam());
    return *rig_;
  }
  [[nodiscard]] GuestRig& rig() { return *rig_; }

  /// Maps user code, data and a stack. Returns the host's address of the code.
  u8* map_user(Assembler& code) {
    u8* host = rig().map(kCode, kCodePages, {true, false, true});
    rig().map(kData, 1, {true, true, false});
    rig().map(kStack, 1, {true, true, false});
    rig().write_host(host, code.finish());
    return host;
  }
  void start_user(Assembler& code) {
    map_user(code);
    rig().set_state(rig().initial_state(kCode, kStack + kPageSize / 2, 3));
  }

  /// IRETQ to 64-bit user code.
  static void return_to_user(Assembler& kernel, u64 rip) {
    constexpr u32 kFlags = 2;
    kernel.bytes({0x6A, kUserDs, 0x68}).value(static_cast<u32>(kStack + kPageSize / 2));  // push SS, RSP
    kernel.bytes({0x6A, kFlags, 0x6A, kUserCs, 0x68}).value(static_cast<u32>(rip)).bytes({0x48, 0xCF});
  }

  /// The root of another address space, with the kernel and, of the user's, only these pages.
  [[nodiscard]] Gpa address_space(std::span<const u64> pages) {
    const Gpa root = rig().allocate_page();
    std::memcpy(rig().host(root, kPageSize), rig().host(rig().page_table_root(), kPageSize), kPageSize);
    set(root, 0, 0);
    for (const u64 page : pages) {
      Gpa table = root;
      for (const unsigned shift : {39U, 30U, 21U}) table = next_table(table, page >> shift & 511);
      set(table, page >> kPageShift & 511, *rig().page_entry(page));
    }
    return root;
  }
  void set(Gpa table, u64 index, u64 entry) {
    std::memcpy(rig().host(table + index * sizeof entry, sizeof entry), &entry, sizeof entry);
  }

 private:
  [[nodiscard]] Gpa next_table(Gpa table, u64 index) {
    using namespace x86::pte;
    u64 entry = 0;
    std::memcpy(&entry, rig().host(table + index * sizeof entry, sizeof entry), sizeof entry);
    if (entry == 0) set(table, index, entry = rig().allocate_page().value() | P | RW | US | A);
    return Gpa(entry & kAddressMask);
  }

  std::unique_ptr<GuestRig> rig_;
};

}  // namespace vert::test
