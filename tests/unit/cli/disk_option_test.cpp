#include "cli/disk_option.hpp"

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

using storage::CacheMode;
using storage::Format;

std::string error_of(const std::string& text) {
  const auto disk = parse_disk_option(text);
  return disk ? "no error" : disk.error().message;
}

TEST(DiskOption, APathAloneIsADiskToWrite) {
  const auto disk = parse_disk_option("debian.img");
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->path, "debian.img");
  EXPECT_FALSE(disk->image.read_only);
  EXPECT_FALSE(disk->image.format);
  EXPECT_EQ(disk->image.cache, CacheMode::kWriteback);
}

TEST(DiskOption, TakesAllOptions) {
  const auto disk = parse_disk_option("a.img,readonly,format=raw,serial=S=1,cache=none");
  ASSERT_TRUE(disk) << disk.error().message;
  EXPECT_TRUE(disk->image.read_only);
  EXPECT_EQ(disk->image.format, Format::kRaw);
  EXPECT_EQ(disk->serial, "S=1");
  EXPECT_EQ(disk->image.cache, CacheMode::kNone);
  EXPECT_FALSE(parse_disk_option("a.img,readonly=off")->image.read_only);
}

TEST(DiskOption, ADoubledCommaIsOneOfTheName) {
  const auto disk = parse_disk_option("a,,b,,,readonly");
  ASSERT_TRUE(disk) << disk.error().message;
  EXPECT_EQ(disk->path, "a,b,");
  EXPECT_TRUE(disk->image.read_only);
}

TEST(DiskOption, SaysWhatIsWrong) {
  EXPECT_EQ(error_of(",readonly"), "--disk ,readonly: name a file first, as in --disk disk.img,readonly");
  EXPECT_NE(error_of("a.img,format=vdi").find("raw"), std::string::npos) << error_of("a.img,format=vdi");
  EXPECT_NE(error_of("a.img,cache=fast").find("writeback"), std::string::npos);
  EXPECT_NE(error_of("a.img,reodonly").find("readonly"), std::string::npos);
  EXPECT_NE(error_of("a.img,serial=123456789012345678901").find("1 to 20 bytes"), std::string::npos);
}

}  // namespace
}  // namespace vert::cli
