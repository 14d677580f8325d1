// Segment loads, LLDT, LTR, LAR and friends, segment addresses (SDM 2A/2B; SDM 3A, chapter 5).
#include "unit/cpu_protection/guest.hpp"

namespace vert::cpu::test {
namespace {

using x86::Fault;
using x86::Segment;

class Segmentation : public Guest {
 protected:
  MaybeFault load(x86::SegmentRegister reg, u16 selector) {
    return load_segment(state, mmu(), reg, selector);
  }
  std::optional<u32> query(DescriptorQuery what, u16 selector) {
    std::optional<u32> value;
    EXPECT_OK(query_descriptor(state, mmu(), what, selector, value));
    return value;
  }
};

TEST_F(Segmentation, RealModeKeepsLimitAndAttributes) {
  real_mode();
  seg(x86::kFs).limit = 0xFFFFFFFF;
  ASSERT_FALSE(load(x86::kFs, 0xF000).has_value());
  EXPECT_EQ(seg(x86::kFs), (Segment{0xF000, 0x93, 0xFFFFFFFF, 0xF0000, false}));
}

TEST_F(Segmentation, V86LoadsFixedAttributes) {
  v86_mode(0);
  seg(x86::kDs).limit = 5;
  EXPECT_OK(load(x86::kDs, 0x1234));
  EXPECT_EQ(seg(x86::kDs), (Segment{0x1234, 0xF3, 0xFFFF, 0x12340, false}));
}

TEST_F(Segmentation, LoadsDataAndSetsAccessed) {
  protected_mode(0);
  EXPECT_EQ(type_byte(kReadOnly) & 1, 0);
  EXPECT_OK(load(x86::kEs, kReadOnly));
  EXPECT_EQ(seg(x86::kEs).limit, 0xFFFFFFFF);
  EXPECT_EQ(seg(x86::kEs).attributes, 0x91 | kFlat);
  EXPECT_EQ(type_byte(kReadOnly) & 1, 1);
}

TEST_F(Segmentation, DataSegmentFaults) {
  protected_mode(0);
  expect_fault(Fault::gp(kBeyond), [&] { return load(x86::kDs, kBeyond); });
  expect_fault(Fault::gp(kExecuteOnly), [&] { return load(x86::kDs, kExecuteOnly); });
  expect_fault(Fault::gp(kTaskA), [&] { return load(x86::kDs, kTaskA); });
  expect_fault(Fault::np(kAbsentData), [&] { return load(x86::kDs, kAbsentData); });
  expect_fault(Fault::gp(kData0), [&] { return load(x86::kDs, kData0 | 3); });
  expect_fault(Fault::gp(kData0 | 4), [&] { return load(x86::kDs, kData0 | 4); });  // no LDT
  protected_mode(3);
  expect_fault(Fault::gp(kData0), [&] { return load(x86::kGs, kData0); });
  EXPECT_OK(load(x86::kGs, kConforming | 3));  // conforming and readable: open to all
}

TEST_F(Segmentation, NullDataSegmentIsUnusableAndClearsBase) {
  long_mode(3);
  seg(x86::kGs).base = 0x7777'0000'0000;
  EXPECT_OK(load(x86::kGs, 3));
  EXPECT_TRUE(seg(x86::kGs).unusable);
  EXPECT_EQ(seg(x86::kGs).selector, 3);
  EXPECT_EQ(seg(x86::kGs).base, 0U);
}

TEST_F(Segmentation, StackSegmentFaults) {
  protected_mode(0);
  expect_fault(Fault::gp(0), [&] { return load(x86::kSs, 0); });
  expect_fault(Fault::gp(kReadOnly), [&] { return load(x86::kSs, kReadOnly); });
  expect_fault(Fault::gp(kCode0), [&] { return load(x86::kSs, kCode0); });
  expect_fault(Fault::gp(kData3 & ~3), [&] { return load(x86::kSs, kData3); });
  expect_fault(Fault::gp(kData3 & ~3), [&] { return load(x86::kSs, kData3 & ~3); });
  expect_fault(Fault::ss(kAbsentData), [&] { return load(x86::kSs, kAbsentData); });
  EXPECT_OK(load(x86::kSs, kData16));
  EXPECT_EQ(stack_width(state), 2U);
}

TEST_F(Segmentation, NullStackSegmentIn64BitModeOnly) {
  long_mode(0);
  EXPECT_OK(load(x86::kSs, 0));
  EXPECT_TRUE(seg(x86::kSs).unusable);
  expect_fault(Fault::gp(0), [&] { return load(x86::kSs, 1); });  // RPL is not CPL
  long_mode(3);
  expect_fault(Fault::gp(0), [&] { return load(x86::kSs, 3); });
  compat_mode(0);
  expect_fault(Fault::gp(0), [&] { return load(x86::kSs, 0); });
}

TEST_F(Segmentation, DescriptorReadsFaultInPaging) {
  protected_mode(3);
  enable_pae();
  state.gdtr.base = kUnmapped;
  mmu().flush();
  // An implicit supervisor access: U is clear although CPL is 3.
  expect_fault(Fault::page(0, kUnmapped + (kData3 & ~7)), [&] { return load(x86::kDs, kData3); });
}

TEST_F(Segmentation, Lldt) {
  protected_mode(0);
  put(kLdtBase + 8, descriptor(0x5000, 0xFF, kDataType), 8);
  EXPECT_OK(load_ldt(state, mmu(), kLdtSelector));
  EXPECT_EQ(state.ldtr.base, kLdtBase);
  EXPECT_EQ(state.ldtr.limit, 0xFU);
  EXPECT_OK(load(x86::kDs, 0x0C));
  EXPECT_EQ(seg(x86::kDs).base, 0x5000U);
  expect_fault(Fault::gp(0x14), [&] { return load(x86::kDs, 0x14); });
  expect_fault(Fault::gp(kTaskB), [&] { return load_ldt(state, mmu(), kTaskB); });
  expect_fault(Fault::gp(kLdtSelector | 4), [&] { return load_ldt(state, mmu(), kLdtSelector | 4); });
  EXPECT_OK(load_ldt(state, mmu(), 0));
  EXPECT_TRUE(state.ldtr.unusable);
  set_gdt(kLdtSelector, descriptor(kLdtBase, 0xF, x86::kLdt));
  expect_fault(Fault::np(kLdtSelector), [&] { return load_ldt(state, mmu(), kLdtSelector); });
}

TEST_F(Segmentation, LldtIn64BitModeReads16Bytes) {
  long_mode(0);
  put(kGdt + kLdtSelector + 8, 0xFFFF8000, 8);
  EXPECT_OK(load_ldt(state, mmu(), kLdtSelector));
  EXPECT_EQ(state.ldtr.base, 0xFFFF8000'00003000U);
  put(kGdt + kLdtSelector + 8, 0x00008000, 8);
  expect_fault(Fault::gp(kLdtSelector), [&] { return load_ldt(state, mmu(), kLdtSelector); });
  put(kGdt + kLdtSelector + 8, u64{1} << 40, 8);  // type bits of the second half
  expect_fault(Fault::gp(kLdtSelector), [&] { return load_ldt(state, mmu(), kLdtSelector); });
}

TEST_F(Segmentation, Ltr) {
  protected_mode(0);
  expect_fault(Fault::gp(0), [&] { return load_task_register(state, mmu(), 0); });
  expect_fault(Fault::gp(kTaskA), [&] { return load_task_register(state, mmu(), kTaskA); });  // busy
  expect_fault(Fault::gp(kLdtSelector), [&] { return load_task_register(state, mmu(), kLdtSelector); });
  EXPECT_OK(load_task_register(state, mmu(), kTaskB));
  EXPECT_EQ(type_byte(kTaskB), 0x8B);
  EXPECT_EQ(state.tr, (Segment{kTaskB, 0x8B, 0x67, kTssB, false}));
  protected_mode(3);
  expect_fault(Fault::gp(0), [&] { return load_task_register(state, mmu(), kTaskB); });
}

TEST_F(Segmentation, LtrRefuses16BitTssInLongMode) {
  long_mode(0);
  set_gdt(kTaskB, descriptor(kTssB, 0x67, Segment::kP | x86::kTss16Available));
  expect_fault(Fault::gp(kTaskB), [&] { return load_task_register(state, mmu(), kTaskB); });
}

TEST_F(Segmentation, Queries) {
  protected_mode(3);
  EXPECT_EQ(query(DescriptorQuery::kAccessRights, kData3), 0x00C0F200U);
  EXPECT_EQ(query(DescriptorQuery::kLimit, kData3), 0xFFFFFFFFU);
  EXPECT_FALSE(query(DescriptorQuery::kAccessRights, kData0));  // DPL 0
  EXPECT_FALSE(query(DescriptorQuery::kAccessRights, 0));
  EXPECT_FALSE(query(DescriptorQuery::kAccessRights, kBeyond));
  EXPECT_TRUE(query(DescriptorQuery::kAccessRights, kConforming));
  EXPECT_TRUE(query(DescriptorQuery::kReadable, kCode3));
  EXPECT_FALSE(query(DescriptorQuery::kWritable, kCode3));
  EXPECT_TRUE(query(DescriptorQuery::kWritable, kData3));
  protected_mode(0);
  EXPECT_FALSE(query(DescriptorQuery::kReadable, kExecuteOnly));
  EXPECT_FALSE(query(DescriptorQuery::kWritable, kReadOnly));
  EXPECT_FALSE(query(DescriptorQuery::kAccessRights, kData0 | 3));  // RPL 3
  EXPECT_EQ(query(DescriptorQuery::kLimit, kTaskA), 0x67U);
  set_gdt(kGate, gate(x86::kCallGate, 0, kCode0, 0));
  EXPECT_TRUE(query(DescriptorQuery::kAccessRights, kGate));
  EXPECT_FALSE(query(DescriptorQuery::kLimit, kGate));
  EXPECT_FALSE(query(DescriptorQuery::kReadable, kGate));
  set_gdt(kGate, gate(x86::kInterruptGate, 0, kCode0, 0));
  EXPECT_FALSE(query(DescriptorQuery::kAccessRights, kGate));
  set_gdt(kGate, descriptor(0, 0x2B, Segment::kP | x86::kTss16Busy));
  EXPECT_TRUE(query(DescriptorQuery::kLimit, kGate));
  long_mode(0);
  EXPECT_FALSE(query(DescriptorQuery::kLimit, kGate));
}

TEST_F(Segmentation, AddressesCheckLimits) {
  protected_mode(0);
  Gla linear;
  const auto address = [&](x86::SegmentRegister reg, u64 offset, u64 size, AccessKind kind) {
    return segment_address(state, reg, offset, size, kind, linear);
  };
  seg(x86::kDs) = {kData0, 0x93, 0xFFF, 0xFFFFF000, false};
  EXPECT_OK(address(x86::kDs, 0xFFC, 4, AccessKind::kRead));
  EXPECT_EQ(linear, Gla(0xFFFFFFFC));
  expect_fault(Fault::gp(), [&] { return address(x86::kDs, 0xFFD, 4, AccessKind::kRead); });
  expect_fault(Fault::gp(), [&] { return address(x86::kDs, 0xFFFFFFFF, 2, AccessKind::kRead); });
  seg(x86::kDs) = {kData0, 0x93, 0xFFFFFFFF, 0x1000, false};
  EXPECT_OK(address(x86::kDs, 0xFFFFF000, 4, AccessKind::kRead));
  EXPECT_EQ(linear, Gla(0));
  seg(x86::kSs).limit = 0xFF;
  expect_fault(Fault::ss(), [&] { return address(x86::kSs, 0x100, 1, AccessKind::kWrite); });

  seg(x86::kEs) = {kExpandDown, 0x97 | Segment::kDb, 0xFFF, 0, false};
  expect_fault(Fault::gp(), [&] { return address(x86::kEs, 0xFFF, 1, AccessKind::kRead); });
  EXPECT_OK(address(x86::kEs, 0x1000, 4, AccessKind::kRead));
  EXPECT_OK(address(x86::kEs, 0xFFFFFFFC, 4, AccessKind::kWrite));
  seg(x86::kEs).attributes = 0x97;
  EXPECT_OK(address(x86::kEs, 0xFFFF, 1, AccessKind::kRead));
  expect_fault(Fault::gp(), [&] { return address(x86::kEs, 0x10000, 1, AccessKind::kRead); });
}

TEST_F(Segmentation, AddressesCheckTypes) {
  protected_mode(0);
  Gla linear;
  const auto address = [&](x86::SegmentRegister reg, AccessKind kind) {
    return segment_address(state, reg, 0, 4, kind, linear);
  };
  expect_fault(Fault::gp(), [&] { return address(x86::kCs, AccessKind::kWrite); });
  EXPECT_OK(address(x86::kCs, AccessKind::kRead));
  EXPECT_OK(address(x86::kCs, AccessKind::kExecute));
  EXPECT_OK(load(x86::kDs, kReadOnly));
  expect_fault(Fault::gp(), [&] { return address(x86::kDs, AccessKind::kWrite); });
  EXPECT_OK(load(x86::kDs, 0));
  expect_fault(Fault::gp(), [&] { return address(x86::kDs, AccessKind::kRead); });
  real_mode();
  seg(x86::kCs).attributes = 0x9B;
  EXPECT_OK(address(x86::kCs, AccessKind::kWrite));
}

TEST_F(Segmentation, AddressesIn64BitMode) {
  long_mode(3);
  Gla linear;
  const auto address = [&](x86::SegmentRegister reg, u64 offset) {
    return segment_address(state, reg, offset, 8, AccessKind::kWrite, linear);
  };
  seg(x86::kDs) = {};
  seg(x86::kDs).base = 0x1000;  // ignored, as limit and type
  EXPECT_OK(address(x86::kDs, 0x5000));
  EXPECT_EQ(linear, Gla(0x5000));
  seg(x86::kGs).base = 0xFFFF8000'00000000;
  EXPECT_OK(address(x86::kGs, 0x10));
  EXPECT_EQ(linear, Gla(0xFFFF8000'00000010));
  expect_fault(Fault::gp(), [&] { return address(x86::kDs, kNotCanonical); });
  expect_fault(Fault::gp(), [&] { return address(x86::kDs, kNotCanonical - 4); });
  expect_fault(Fault::ss(), [&] { return address(x86::kSs, kNotCanonical); });
}

}  // namespace
}  // namespace vert::cpu::test
