#include "machine/disks.hpp"

#include <unistd.h>

#include <fstream>

#include <gtest/gtest.h>

namespace vert::machine {
namespace {

class IsDisk : public testing::Test {
 protected:
  ~IsDisk() override { ::unlink(path_.c_str()); }
  /// Of a file of `size` bytes with `mark` at `at`.
  bool with(std::size_t at, const std::string& mark, std::size_t size = 4096) {
    std::string bytes(size, '\0');
    bytes.replace(at, mark.size(), mark);
    std::ofstream(path_, std::ios::binary) << bytes;
    return is_disk(path_);
  }
  const std::string path_ = testing::TempDir() + "vert-is-disk-" + std::to_string(::getpid());
};

TEST_F(IsDisk, AnImageFormat) { EXPECT_TRUE(with(0, "QFI\xFB")); }
TEST_F(IsDisk, APartitionTable) { EXPECT_TRUE(with(510, "\x55\xAA")); }
TEST_F(IsDisk, AFileSystem) { EXPECT_TRUE(with(1080, "\x53\xEF")); }
TEST_F(IsDisk, NoLinuxKernel) {
  std::string mark = "\x55\xAA";
  mark += std::string(2, '\0') + "HdrS";
  EXPECT_FALSE(with(510, mark.replace(2, 2, "\xEB\x66")));
}
TEST_F(IsDisk, NothingElse) {
  EXPECT_FALSE(with(0,
                    "\x7F"
                    "ELF"));
  EXPECT_FALSE(with(0, "QF", 2));
  EXPECT_FALSE(is_disk("/nowhere"));
}

}  // namespace
}  // namespace vert::machine
