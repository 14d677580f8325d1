// A host whose disk is full, or fails: requests fail with its errno, can be sent again, and the image stays
// right.
#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "support/random.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

using test::Random;

struct Shape {
  const char* name;
  u64 cluster_size;
  bool lazy;
};

class Qcow2FaultTest : public testing::TestWithParam<Shape> {
 protected:
  static constexpr u64 kSize = 2 << 20;

  void SetUp() override {
    NewImage made;
    made.size = kSize;
    made.qcow2.cluster_size = GetParam().cluster_size;
    made.qcow2.lazy_refcounts = GetParam().lazy;
    ASSERT_TRUE(context_.complete(create_image(context_, path_, made)));
  }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
  test::ScriptedContext context_{3};
  Random random_{5};
};

TEST_P(Qcow2FaultTest, OnAFullDiskRequestsFailUntilThereIsRoom) {
  auto image = test::open_qcow2(context_, path_);
  ASSERT_TRUE(image);
  std::vector<u8> model(kSize);
  std::filesystem::path file(path_);
  context_.room = std::filesystem::file_size(file);
  u64 failures = 0;
  for (int i = 0; i < 200; ++i) {
    const u64 offset = random_.below(kSize / 512 - 32) * 512;
    std::vector<u8> bytes((1 + random_.below(32)) * 512, static_cast<u8>(1 + random_.below(255)));
    auto status = image->write(offset, bytes);
    for (int tries = 0; !status; ++tries) {
      ASSERT_LT(tries, 200);
      ASSERT_EQ(status.error().system_error, ENOSPC) << status.error().message;
      ++failures;
      // What was there before is either as it was or already new.
      context_.room += random_.below(3) * GetParam().cluster_size / 2 + 256;
      status = image->write(offset, bytes);
    }
    std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(offset));
    if (i % 10 == 0)
      for (int tries = 0; !image->flush(); ++tries) {
        ASSERT_LT(tries, 200);
        context_.room += GetParam().cluster_size;
      }
  }
  EXPECT_GT(failures, 0U);
  context_.room = ~u64{0};
  ASSERT_TRUE(image->content() == model);
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
}

TEST_P(Qcow2FaultTest, AfterAnyFailedOperationTheImageIsInOrder) {
  // The same writes again and again; each time another operation fails.
  u64 operations = 0;
  bool failed = true;
  for (u64 victim = 0; failed; ++victim) {
    failed = false;
    SetUp();
    auto image = test::open_qcow2(context_, path_);
    ASSERT_TRUE(image);
    operations = 0;
    context_.fault = [&](const IoOperation& operation) {
      if (operation.kind == IoOperation::Kind::kAllocate || operations++ != victim) return 0;
      failed = true;
      return EIO;
    };
    const std::vector<u8> bytes(48 << 10, 0x5A);
    for (u64 offset : {u64{0}, u64{600} << 10, u64{1} << 20, u64{16} << 10, u64{8} << 10}) {
      const auto status = image->write(offset + 512, bytes);
      if (!status) {
        ASSERT_EQ(status.error().system_error, EIO);
        ASSERT_TRUE(image->write(offset + 512, bytes)) << "again, operation " << victim;
      }
      const bool zeroed =
          image->write_zeroes(offset + 4096, 8192) || image->write_zeroes(offset + 4096, 8192);
      ASSERT_TRUE(zeroed) << "operation " << victim;
      ASSERT_TRUE(image->flush() || image->flush()) << "operation " << victim;
    }
    context_.fault = nullptr;
    std::vector<u8> seen(512);
    ASSERT_TRUE(image->read(512, seen));
    ASSERT_EQ(seen, std::vector<u8>(512, 0x5A));
    ASSERT_TRUE(image->close());
    // Leaks are all that may be left.
    const auto checked =
        test::open_qcow2(context_, path_, {.image = {.read_only = true}, .snapshot = {}, .repair = true});
    ASSERT_TRUE(checked);
    const auto result = checked->check();
    ASSERT_TRUE(result);
    ASSERT_EQ(result->corruptions, 0U) << "operation " << victim << ": " << result->problems[0];
  }
  EXPECT_GT(operations, 20U);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Qcow2FaultTest,
                         testing::Values(Shape{"Usual", 65536, false}, Shape{"Small", 512, false},
                                         Shape{"Lazy", 4096, true}),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace vert::storage::qcow2
