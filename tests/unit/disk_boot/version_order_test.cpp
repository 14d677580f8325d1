#include "machine/disk_boot/version_order.hpp"

#include <array>

#include <gtest/gtest.h>

namespace vert::machine::disk_boot {
namespace {

TEST(VersionOrder, EachIsLowerThanTheNext) {
  constexpr std::array kAscending = {"",
                                     "5.9",
                                     "5.10.0-9-amd64",
                                     "5.10.0-28-amd64",
                                     "6.1~rc1",
                                     "6.1",
                                     "6.1.0-9-cloud-amd64",
                                     "6.1.0-13-cloud-amd64",
                                     "6.5.6-200.fc38.x86_64",
                                     "6.5.6-300.fc39.x86_64",
                                     "6.10.0"};
  for (std::size_t i = 0; i < kAscending.size(); ++i)
    for (std::size_t j = 0; j < kAscending.size(); ++j)
      EXPECT_EQ(compare_versions(kAscending[i], kAscending[j]), i <=> j)
          << kAscending[i] << " " << kAscending[j];
}

TEST(VersionOrder, LeadingZerosAndOtherSeparatorsDoNotCount) {
  EXPECT_EQ(compare_versions("6.01_2", "6.1+2"), std::strong_ordering::equal);
}

TEST(VersionOrder, RescueKernelIsLowest) {
  EXPECT_EQ(compare_versions("0-rescue-5f2e", "4.18.0"), std::strong_ordering::less);
  EXPECT_EQ(compare_versions("virt", "6.1"), std::strong_ordering::less);
}

}  // namespace
}  // namespace vert::machine::disk_boot
