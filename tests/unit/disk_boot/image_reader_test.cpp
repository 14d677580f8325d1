// The search on an image that the storage layer has open.
#include "machine/disk_boot/image_reader.hpp"

#include "machine/disk_boot/disk_boot.hpp"
#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

class Images : public testing::TestWithParam<storage::IoContext::Kind> {};

TEST_P(Images, KernelIsFoundInAnOpenImage) {
  test::DiskImage file(8 * test::kMiB);
  file.format(0, 8 * test::kMiB, {{"/boot/vmlinuz-1", std::string(100'000, 'k')}});
  auto context = storage::IoContext::create(GetParam());
  if (!context) GTEST_SKIP() << context.error().message;
  auto image = (*context)->complete(storage::open_image(**context, file.path(), {.read_only = true}));
  ASSERT_TRUE(image) << image.error().message;
  ImageReader reader(**context, **image);
  const auto found = find_disk_boot(reader, "d.img");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->kernel, std::vector<u8>(100'000, 'k'));
  EXPECT_TRUE((*context)->complete((*image)->close()));
}

INSTANTIATE_TEST_SUITE_P(Contexts, Images,
                         testing::Values(storage::IoContext::Kind::kUring, storage::IoContext::Kind::kPool));

}  // namespace
}  // namespace vert::machine::disk_boot
