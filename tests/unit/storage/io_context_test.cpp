#include "storage/io_context.hpp"

#include <fcntl.h>

#include <array>
#include <thread>

#include "base/fd.hpp"
#include "temporary_file.hpp"

namespace vert::storage {
namespace {

class IoContextTest : public testing::TestWithParam<IoContext::Kind> {
 protected:
  void SetUp() override {
    auto made = IoContext::create(GetParam());
    if (!made && GetParam() == IoContext::Kind::kUring) GTEST_SKIP() << made.error().message;
    ASSERT_TRUE(made) << made.error().message;
    context_ = std::move(*made);
    file_ = base::Fd(::open(disk_.path().c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(file_.valid());
  }

  Task<i64> write(std::span<const u8> bytes, u64 offset) {
    const iovec piece = buffer_of(bytes);
    co_return co_await context_->write(file_.get(), Buffers(&piece, 1), offset);
  }
  Task<i64> read(std::span<u8> bytes, u64 offset) {
    const iovec piece = buffer_of(bytes);
    co_return co_await context_->read(file_.get(), Buffers(&piece, 1), offset);
  }

  TemporaryFile disk_;
  base::Fd file_;
  std::unique_ptr<IoContext> context_;
};

TEST_P(IoContextTest, ReadsWhatWasWritten) {
  const std::vector<u8> bytes = {1, 2, 3, 4};
  EXPECT_EQ(context_->complete(write(bytes, 4096)), 4);
  std::vector<u8> back(4);
  EXPECT_EQ(context_->complete(read(back, 4096)), 4);
  EXPECT_EQ(back, bytes);
}

TEST_P(IoContextTest, TellsWhyAnOperationFailed) {
  const auto sync = [](IoContext& context) -> Task<i64> { co_return co_await context.data_sync(-1); };
  EXPECT_EQ(context_->complete(sync(*context_)), -EBADF);
}

TEST_P(IoContextTest, ManyOperationsAreUnderWayAtOnce) {
  constexpr u64 kCount = 1000;  // more than a ring has entries
  std::vector<std::vector<u8>> pieces;
  for (u64 i = 0; i < kCount; ++i) pieces.emplace_back(16, static_cast<u8>(i));
  std::vector<Task<i64>> tasks;
  for (u64 i = 0; i < kCount; ++i) tasks.push_back(write(pieces[i], i * 16));
  for (auto& task : tasks) EXPECT_EQ(context_->complete(std::move(task)), 16);
  const auto bytes = disk_.bytes();
  ASSERT_EQ(bytes.size(), kCount * 16);
  for (u64 i = 0; i < kCount; ++i) ASSERT_EQ(bytes[i * 16 + 15], static_cast<u8>(i)) << i;
}

TEST_P(IoContextTest, AnotherThreadWakesIt) {
  for (int i = 0; i < 100; ++i) {
    std::thread waker([this] { context_->wake(); });
    context_->run_once(IoContext::Wait::kWait);  // hangs if the wake-up is lost
    waker.join();
  }
}

TEST_P(IoContextTest, AWakeUpBeforeTheWaitCounts) {
  context_->wake();
  context_->run_once(IoContext::Wait::kWait);
  context_->wake();
  context_->run_once(IoContext::Wait::kWait);
}

TEST_P(IoContextTest, AllocatesAndPunchesHoles) {
  const std::vector<u8> bytes(8192, 7);
  EXPECT_EQ(context_->complete(write(bytes, 0)), 8192);
  const auto punch = [this]() -> Task<i64> {
    co_return co_await context_->allocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
  };
  const i64 result = context_->complete(punch());
  if (result == -EOPNOTSUPP) GTEST_SKIP() << "the file system for temporary files has no holes";
  EXPECT_EQ(result, 0);
  EXPECT_EQ(disk_.bytes()[0], 0);
  EXPECT_EQ(disk_.bytes()[4096], 7);
}

std::string name_of(const testing::TestParamInfo<IoContext::Kind>& tested) {
  constexpr std::array kNames = {"Any", "Uring", "Pool"};
  return kNames.at(static_cast<std::size_t>(tested.param));
}

INSTANTIATE_TEST_SUITE_P(Kinds, IoContextTest,
                         testing::Values(IoContext::Kind::kUring, IoContext::Kind::kPool), name_of);

}  // namespace
}  // namespace vert::storage
