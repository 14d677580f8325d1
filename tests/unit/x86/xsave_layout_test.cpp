// Layouts of XSAVE areas, against what processors of both vendors tell by CPUID.
#include "x86/xsave_layout.hpp"

#include <cpuid.h>

#include <gtest/gtest.h>

#include "x86/cpu_model.hpp"

namespace vert::test {
namespace {

using x86::CpuModel;
using x86::XsaveLayout;

TEST(XsaveLayout, CommonIsThatOfIntelsProcessorsWithAvx512) {
  constexpr XsaveLayout kLayout = XsaveLayout::common();
  EXPECT_EQ(kLayout[2].offset, 576U);
  EXPECT_EQ(kLayout[9].offset, 2688U);
  EXPECT_EQ(kLayout[3].size, 0U);
  EXPECT_EQ(kLayout[200].size, 0U);
  EXPECT_EQ(kLayout.standard_size(3), 576U);
  EXPECT_EQ(kLayout.standard_size(7), 832U);
  EXPECT_EQ(kLayout.standard_size(0xE7), 2688U);
  EXPECT_EQ(kLayout.standard_size(0x2E7), 2696U);
}

TEST(XsaveLayout, CompactedAreasLeaveNoHoles) {
  constexpr XsaveLayout kLayout = XsaveLayout::common();
  EXPECT_EQ(kLayout.compacted_size(0xE7), 576U + 256 + 64 + 512 + 1024);
  EXPECT_EQ(kLayout.compacted_size(0x204), 576U + 256 + 8);
  EXPECT_EQ(kLayout.compacted_offset(0x204, 9), 576U + 256);
  EXPECT_EQ(kLayout.compacted_offset(XsaveLayout::kCompacted | 0x80, 7), 576U);
}

TEST(XsaveLayout, OfHostIsWhatCpuidTells) {
  const XsaveLayout layout = XsaveLayout::of_host();
  for (unsigned i = 2; i < XsaveLayout::kComponents; ++i) {
    u32 size = 0, offset = 0, c = 0, d = 0;
    __cpuid_count(0xD, i, size, offset, c, d);
    if (size == 0 || XsaveLayout::common()[i].size == 0) continue;
    EXPECT_EQ(layout[i].offset, offset) << i;
    EXPECT_EQ(layout[i].size, size) << i;
    EXPECT_EQ(layout[i].aligned, (c & 2) != 0) << i;
  }
}

TEST(XsaveLayout, NothingOverlaps) {
  for (const XsaveLayout& layout : {XsaveLayout::common(), XsaveLayout::of_host()})
    for (unsigned i = 2; i < XsaveLayout::kComponents; ++i)
      for (unsigned j = i + 1; j < XsaveLayout::kComponents; ++j) {
        if (layout[i].size == 0 || layout[j].size == 0) continue;
        EXPECT_TRUE(layout[i].offset + layout[i].size <= layout[j].offset ||
                    layout[j].offset + layout[j].size <= layout[i].offset)
            << i << " and " << j;
      }
}

/// So that a guest of a named model can move between hosts of both vendors.
TEST(XsaveLayout, NamedModelsHaveTheCommonOne) {
  EXPECT_EQ(CpuModel::make("x86-64-v2").value().xsave_layout(), XsaveLayout::common());
  EXPECT_EQ(CpuModel::make("host").value().xsave_layout(), XsaveLayout::of_host());
}

/// CPUID.(0DH,i) and where XSAVE puts things are one.
TEST(XsaveLayout, CpuidTellsTheModelsLayout) {
  const CpuModel model = CpuModel::make("host").value();
  for (u32 i = 2; i < XsaveLayout::kComponents; ++i) {
    if ((model.xcr0_allowed() >> i & 1) == 0) continue;
    const auto result = model.cpuid({.leaf = 0xD, .subleaf = i});
    EXPECT_EQ(result.eax, model.xsave_layout()[i].size);
    EXPECT_EQ(result.ebx, model.xsave_layout()[i].offset);
  }
}

}  // namespace
}  // namespace vert::test
