// Every combination of rights, controls and accesses in every paging mode, against an oracle that follows the
// wording of SDM 3A, 4.6 and 4.7.
#include <optional>

#include "paging_rig.hpp"

namespace vert::test {
namespace {

using cpu::AccessKind;
using cpu::Privilege;
namespace pte = x86::pte;
namespace pf = x86::pf;

struct Case {
  bool present, writable, user, no_execute, reserved;  // of the last entry
  bool upper_writable, upper_user, upper_no_execute;   // of the entries above
  bool wp, smep, smap, nxe, pke, access_disable, write_disable;
  AccessKind kind;
  Privilege privilege;
};

/// The error code, or nothing if the access is allowed.
std::optional<u32> expected(const Case& c, Mode mode) {
  const bool user_access = c.privilege == Privilege::kUser;
  const bool read = c.kind == AccessKind::kRead;
  const bool write = c.kind == AccessKind::kWrite;
  const bool fetch = c.kind == AccessKind::kExecute;
  const bool wide = mode != Mode::k32;  // entries have XD
  const bool keys = (mode == Mode::k4Level || mode == Mode::k5Level) && c.pke;

  u32 code = 0;
  if (write) code |= 2;
  if (user_access) code |= 4;
  if (fetch && (c.smep || (wide && c.nxe))) code |= 16;
  const bool xd_reserved = wide && !c.nxe;
  if (xd_reserved && c.upper_no_execute) return code | 8 | 1;  // met before the last entry
  if (!c.present) return code;
  if (c.reserved || (xd_reserved && c.no_execute)) return code | 8 | 1;

  const bool user_address = c.user && c.upper_user;
  const bool may_write = c.writable && c.upper_writable;
  const bool xd = wide && c.nxe && (c.no_execute || c.upper_no_execute);
  const bool key_blocks = keys && user_address && !fetch &&
                          (c.access_disable || (write && c.write_disable && (user_access || c.wp)));
  bool allowed = true;
  if (!user_access && !user_address) {
    if (read) allowed = true;
    if (write) allowed = !c.wp || may_write;
    if (fetch) allowed = !xd;
  } else if (!user_access) {
    const bool smap_blocks = c.smap && c.privilege == Privilege::kSmap;
    if (read) allowed = !smap_blocks;
    if (write) allowed = !smap_blocks && (!c.wp || may_write);
    if (fetch) allowed = !c.smep && !xd;
  } else if (!user_address) {
    allowed = false;
  } else {
    if (write) allowed = may_write;
    if (fetch) allowed = !xd;
  }
  if (allowed && !key_blocks) return std::nullopt;
  return code | 1 | (key_blocks ? 32 : 0);
}

class WalkSweep : public ::testing::TestWithParam<Mode> {
 protected:
  /// Runs the cases whose booleans are the bits of 0 .. 2^15 - 1, times kinds and privileges.
  void sweep() {
    for (u32 bits = 0; bits < 1U << 15; ++bits) {
      const auto bit = [bits](unsigned i) { return (bits >> i & 1) != 0; };
      if (GetParam() == Mode::k32 && (bit(3) || bit(7) || bit(11) || bit(4))) continue;  // no XD, no NXE
      if (!rig_.is_long() && (bit(12) || bit(13) || bit(14))) continue;                  // no keys
      for (const AccessKind kind : {AccessKind::kRead, AccessKind::kWrite, AccessKind::kExecute}) {
        for (const Privilege privilege : {Privilege::kUser, Privilege::kSupervisor, Privilege::kSmap}) {
          check({bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7), bit(8), bit(9), bit(10),
                 bit(11), bit(12), bit(13), bit(14), kind, privilege});
          if (HasFailure()) FAIL() << "bits " << bits << " kind " << int(kind) << " as " << int(privilege);
        }
      }
    }
  }

 private:
  static constexpr u64 kLinear = 0x8000'5678;
  static constexpr u64 kKey = 5;

  static u64 flag(bool on, u64 value) { return on ? value : 0; }

  void check(const Case& c) {
    set_up(c);
    const bool done = rig_.walk(kLinear, c.kind, c.privilege);
    const auto code = expected(c, GetParam());
    ASSERT_EQ(done, !code.has_value());
    if (code) {
      EXPECT_EQ(rig_.fault, x86::Fault::page(*code, kLinear));
      return;
    }
    EXPECT_EQ(rig_.translation.page, Gpa(PagingRig::kPage));
    Case as_write = c;
    as_write.kind = AccessKind::kWrite;
    // Writing needs no further walk only where D is set already and the rights allow it.
    EXPECT_EQ(rig_.translation.writable, c.kind == AccessKind::kWrite && !expected(as_write, GetParam()));
  }

  void set_up(const Case& c) {
    auto& state = rig_.state;
    state.cr0 = x86::cr0::PE | x86::cr0::PG | flag(c.wp, x86::cr0::WP);
    constexpr u64 kControls = x86::cr4::SMEP | x86::cr4::SMAP | x86::cr4::PKE;
    state.cr4 = (state.cr4 & ~kControls) | flag(c.smep, x86::cr4::SMEP) | flag(c.smap, x86::cr4::SMAP) |
                flag(c.pke, x86::cr4::PKE);
    state.efer = (state.efer & ~x86::efer::NXE) | flag(c.nxe, x86::efer::NXE);
    state.fpu.pkru = static_cast<u32>((flag(c.access_disable, 1) | flag(c.write_disable, 2)) << (kKey * 2));
    const unsigned last = rig_.levels() - 1;
    const u64 upper = pte::P | flag(c.upper_writable, pte::RW) | flag(c.upper_user, pte::US) |
                      flag(c.upper_no_execute, pte::XD);
    for (unsigned level = 0; level < last; ++level) {
      const bool pdpte = GetParam() == Mode::kPae && level == 0;
      rig_.set_entry(level, kLinear,
                     (PagingRig::kTables + (level + 1) * kPageSize) | (pdpte ? kPtePresent : upper));
    }
    rig_.set_entry(last, kLinear,
                   PagingRig::kPage | flag(c.present, pte::P) | flag(c.writable, pte::RW) |
                       flag(c.user, pte::US) | flag(c.no_execute, pte::XD) |
                       flag(c.reserved, u64{1} << kPhysicalBits) |
                       flag(rig_.is_long(), kKey << pte::kProtectionKeyShift));
    if (GetParam() == Mode::kPae) {
      ASSERT_TRUE(cpu::load_pdptes(state, *rig_.memory, kLimits));
    }
  }

  PagingRig rig_{GetParam()};
};

TEST_P(WalkSweep, AgreesWithTheManual) { sweep(); }

INSTANTIATE_TEST_SUITE_P(Modes, WalkSweep,
                         ::testing::Values(Mode::k32, Mode::kPae, Mode::k4Level, Mode::k5Level));

}  // namespace
}  // namespace vert::test
