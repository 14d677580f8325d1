// Errors, descriptors and mappings, files, the log's limits, the fake clock, the TSC's frequency.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "base/error.hpp"
#include "base/fake_time.hpp"
#include "base/fd.hpp"
#include "base/host_tsc.hpp"
#include "base/log.hpp"

namespace vert::test {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return make_error("{} is odd", value);
  return value / 2;
}
Result<int> quarter(int value) {
  VERT_ASSIGN(const int once, half(value));
  return half(once);
}
Status is_even(int value) {
  VERT_TRY(half(value));
  return {};
}

TEST(Error, TravelsThroughTheMacros) {
  EXPECT_EQ(quarter(12).value(), 3);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ(quarter(5).error().message, "5 is odd");
  EXPECT_TRUE(is_even(4).has_value());
  EXPECT_EQ(is_even(7).error().message, "7 is odd");
}

TEST(Error, SystemErrorsSayWhatAndWhy) {
  EXPECT_EQ(make_system_error(ENOENT, "cannot open x").error().message,
            "cannot open x: No such file or directory");
}

TEST(ErrorDeathTest, FailedCheckAborts) {
  EXPECT_DEATH(VERT_CHECK(1 + 1 == 3), "internal error at .*1 \\+ 1 == 3");
}

TEST(Fd, ClosesOnceAndMoves) {
  int raw = -1;
  {
    base::Fd first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    raw = first.get();
    ASSERT_TRUE(first.valid());
    base::Fd second(std::move(first));
    EXPECT_FALSE(first.valid());  // NOLINT: the moved-from state is what is tested
    EXPECT_EQ(second.get(), raw);
    base::Fd third;
    third = std::move(second);
    EXPECT_NE(::fcntl(raw, F_GETFD), -1);
  }
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
}

TEST(Mapping, MapsMovesAndReportsErrors) {
  auto mapping = base::Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_TRUE(mapping.has_value());
  mapping->data()[0] = 7;
  base::Mapping other(std::move(*mapping));
  EXPECT_EQ(mapping->data(), nullptr);
  EXPECT_EQ(other.data()[0], 7);
  EXPECT_EQ(other.size(), kPageSize);
  other.reset();
  EXPECT_EQ(other.data(), nullptr);
  EXPECT_FALSE(base::Mapping::map(0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS).has_value());
}

TEST(Mapping, MapsSharedMemoryAgain) {
  const auto first = base::Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  ASSERT_TRUE(first.has_value());
  const auto second = first->map_again(PROT_READ);
  ASSERT_TRUE(second.has_value());
  EXPECT_NE(first->data(), second->data());
  first->data()[5] = 42;
  EXPECT_EQ(second->data()[5], 42);
}

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string pattern = ::testing::TempDir() + "vert_base_XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~FileTest() override {
    ::unlink(path("file").c_str());
    ::rmdir(folder_.c_str());
  }
  [[nodiscard]] std::string path(const char* name) const { return folder_ + "/" + name; }

  std::string folder_;
};

TEST_F(FileTest, ReadsTheWholeFile) {
  std::ofstream(path("file")) << "hello";
  EXPECT_EQ(base::read_file(path("file")).value(), (std::vector<u8>{'h', 'e', 'l', 'l', 'o'}));
  std::ofstream(path("file"), std::ios::trunc).flush();
  EXPECT_TRUE(base::read_file(path("file")).value().empty());
}

TEST_F(FileTest, RefusesWhatIsNoFile) {
  const auto missing = base::read_file(path("file"));
  ASSERT_FALSE(missing.has_value());
  EXPECT_NE(missing.error().message.find(path("file")), std::string::npos);
  EXPECT_FALSE(base::read_file(folder_).has_value());
  EXPECT_FALSE(base::read_file("/dev/zero").has_value());
  ASSERT_EQ(::mkfifo(path("file").c_str(), 0600), 0);
  EXPECT_FALSE(base::read_file(path("file")).has_value());  // and does not wait for a writer
}

TEST_F(FileTest, RefusesAFileTooLargeToHold) {
  std::ofstream(path("file")).flush();
  ASSERT_EQ(::truncate(path("file").c_str(), off_t{1} << 40), 0);
  EXPECT_FALSE(base::read_file(path("file")).has_value());
}

TEST(LogLimit, LetsOnlySoManyThrough) {
  base::LogLimit limit(2);
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 5; ++i) limit.log(base::LogLevel::kWarning, "line {}", i);
  limit.log(base::LogLevel::kDebug, "not shown");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "vert: warning: line 0\nvert: warning: line 1\n");
}

TEST(LogLimit, HiddenLinesDoNotCount) {
  base::LogLimit limit(1);
  ::testing::internal::CaptureStderr();
  limit.log(base::LogLevel::kDebug, "hidden");
  limit.log(base::LogLevel::kError, "shown");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "vert: error: shown\n");
}

TEST(FakeTime, FiresInOrderOfDeadline) {
  base::FakeTime time;
  std::vector<std::pair<char, u64>> fired;
  auto a = time.make_timer([&] { fired.emplace_back('a', time.now_ns()); });
  auto b = time.make_timer([&] { fired.emplace_back('b', time.now_ns()); });
  a->arm(50);
  b->arm(20);
  time.advance(10);
  EXPECT_TRUE(fired.empty());
  time.advance(100);
  EXPECT_EQ(fired, (std::vector<std::pair<char, u64>>{{'b', 20}, {'a', 50}}));
  EXPECT_EQ(time.now_ns(), 110U);
}

TEST(FakeTime, CancelReplaceRearmAndDestroy) {
  base::FakeTime time;
  int count = 0;
  std::unique_ptr<base::Timer> periodic;
  periodic = time.make_timer([&] {
    if (++count < 3) periodic->arm(time.now_ns() + 10);
  });
  auto cancelled = time.make_timer([&] { count += 100; });
  auto destroyed = time.make_timer([&] { count += 1000; });
  periodic->arm(500);
  periodic->arm(10);
  cancelled->arm(15);
  cancelled->cancel();
  destroyed->arm(15);
  destroyed.reset();
  time.advance_to(1000);
  EXPECT_EQ(count, 3);
  periodic->arm(5);  // passed already: due at once
  time.advance(0);
  EXPECT_EQ(count, 4);
}

TEST(HostTsc, FrequencyIsPlausibleAndConstant) {
  const u64 frequency = base::host_tsc_frequency();
  EXPECT_GT(frequency, 100'000'000U);
  EXPECT_LT(frequency, 20'000'000'000U);
  EXPECT_EQ(base::host_tsc_frequency(), frequency);
}

}  // namespace
}  // namespace vert::test
