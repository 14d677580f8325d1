// Headers that are wrong, or that ask for what vert does not have: one line each.
#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

class Qcow2HeaderTest : public testing::Test {
 protected:
  void SetUp() override { create({}); }

  void create(CreateOptions options) {
    NewImage made;
    made.size = 64 << 20;
    made.qcow2 = std::move(options);
    const auto status = context_.complete(create_image(context_, path_, made));
    ASSERT_TRUE(status) << status.error().message;
  }
  /// Why it cannot be opened, without the part that all messages have.
  std::string refusal(bool read_only = true) {
    const auto image = test::open_qcow2(context_, path_,
                                        {.image = {.read_only = read_only}, .snapshot = {}, .repair = false});
    if (image) return "";
    const std::string start = "cannot use '" + path_ + "' as qcow2: ";
    const std::string& message = image.error().message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message.starts_with(start) ? message.substr(start.size()) : message;
  }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
  test::ScriptedContext context_{1};
};

TEST_F(Qcow2HeaderTest, ANewImageIsAccepted) { EXPECT_EQ(refusal(false), ""); }

TEST_F(Qcow2HeaderTest, OtherVersionsAreRefused) {
  test::patch_be<u32>(path_, 4, 4);
  EXPECT_EQ(refusal(), "it is of version 4; vert knows qcow2 of versions 2 and 3");
}

TEST_F(Qcow2HeaderTest, ClusterSizesAreBounded) {
  for (const u32 bits : {0U, 8U, 22U, 63U, 64U, ~0U}) {
    test::patch_be<u32>(path_, 20, bits);
    EXPECT_EQ(refusal(), fmt::format("its clusters cannot have 2^{} bytes", bits));
  }
}

TEST_F(Qcow2HeaderTest, EncryptionIsRefusedByName) {
  test::patch_be<u32>(path_, 32, 1);
  EXPECT_EQ(refusal(), "it is encrypted (AES), which vert does not support");
  test::patch_be<u32>(path_, 32, 2);
  EXPECT_EQ(refusal(), "it is encrypted (LUKS), which vert does not support");
}

TEST_F(Qcow2HeaderTest, AnExternalDataFileIsRefusedByName) {
  test::patch_be<u64>(path_, 72, kIncompatibleDataFile);
  EXPECT_EQ(refusal(), "it keeps its data in an external data file, which vert does not support");
}

TEST_F(Qcow2HeaderTest, UnknownFeaturesAreRefusedByTheNamesThatTheImageHas) {
  test::patch_be<u64>(path_, 72, u64{1} << 17 | u64{1} << 40);
  EXPECT_EQ(
      refusal(),
      "it needs features that vert does not have: bit 17, bit 40; 'qemu-img convert' makes an image without");
  // The first name of the table becomes one for bit 17.
  test::patch_be<u16>(path_, 112 + 8, 17);
  EXPECT_EQ(refusal(),
            "it needs features that vert does not have: dirty bit (bit 17), bit 40; 'qemu-img convert' makes "
            "an image without");
}

TEST_F(Qcow2HeaderTest, TablesLieWithinTheFile) {
  test::patch_be<u64>(path_, 40, u64{1} << 40);
  EXPECT_EQ(refusal(), "its L1 table lies behind the file's end: the file was cut short; copy it again");
  test::patch_be<u64>(path_, 40, 513);
  EXPECT_EQ(refusal(), "its L1 table does not start at a cluster (offset 0x201)");
}

TEST_F(Qcow2HeaderTest, TablesAreBounded) {
  test::patch_be<u32>(path_, 36, ~u32{0});
  EXPECT_EQ(refusal(), "its L1 table has 4294967295 entries, too many");
  test::patch_be<u32>(path_, 36, 0);
  EXPECT_EQ(refusal(), "its L1 table has 0 entries, too few for 67108864 bytes");
  test::patch_be<u32>(path_, 36, 1);
  test::patch_be<u32>(path_, 56, ~u32{0});
  EXPECT_EQ(refusal(), "its refcount table has 4294967295 clusters, too many");
  test::patch_be<u32>(path_, 56, 0);
  EXPECT_EQ(refusal(), "it has no refcount table");
}

TEST_F(Qcow2HeaderTest, SizesAreBounded) {
  test::patch_be<u64>(path_, 24, ~u64{0});
  EXPECT_NE(refusal().find("too few for"), std::string::npos);
}

TEST_F(Qcow2HeaderTest, SnapshotsAreBounded) {
  test::patch_be<u32>(path_, 60, ~u32{0});
  EXPECT_EQ(refusal(), "it has 4294967295 snapshots, too many");
  test::patch_be<u32>(path_, 60, 1);
  test::patch_be<u64>(path_, 64, u64{1} << 50);
  EXPECT_EQ(refusal(),
            "its snapshot table lies behind the file's end: the file was cut short; copy it again");
}

TEST_F(Qcow2HeaderTest, RefcountWidthsAreBounded) {
  test::patch_be<u32>(path_, 96, 7);
  EXPECT_EQ(refusal(), "its refcounts cannot be 2^7 bits wide");
}

TEST_F(Qcow2HeaderTest, HeaderLengthsAndExtensionsAreBounded) {
  test::patch_be<u32>(path_, 100, ~u32{0});
  EXPECT_EQ(refusal(), "its header cannot be 4294967295 bytes long");
  test::patch_be<u32>(path_, 100, 112);
  test::patch_be<u32>(path_, 116, 0x7FFFFFFF);
  EXPECT_EQ(refusal(), "its header extension 0x6803f857 is longer than the header");
}

TEST_F(Qcow2HeaderTest, BackingNamesLieInTheHeader) {
  test::patch_be<u64>(path_, 8, 1 << 20);
  test::patch_be<u32>(path_, 16, 8);
  EXPECT_EQ(refusal(), "its backing file's name does not lie in its header");
  test::patch_be<u32>(path_, 16, 1024);
  EXPECT_EQ(refusal(), "its backing file's name cannot be 1024 bytes long");
}

TEST_F(Qcow2HeaderTest, ShortFilesAreRefused) {
  std::filesystem::resize_file(path_, 2000);
  EXPECT_NE(refusal().find("cut short"), std::string::npos);
  std::filesystem::resize_file(path_, 60);
  EXPECT_EQ(refusal(), "the file is cut short in its header");
}

TEST_F(Qcow2HeaderTest, AMissingBackingFileIsNamed) {
  CreateOptions options;
  options.backing_file = "nowhere.qcow2";
  options.backing_format = "qcow2";
  create(options);
  EXPECT_EQ(refusal(), "cannot open '" + (folder_ / "nowhere.qcow2") +
                           "': No such file or directory (the backing file of '" + path_ +
                           "'; 'qemu-img rebase -u -b FILE' tells it a new place)");
}

TEST_F(Qcow2HeaderTest, BackingFilesThatLoopAreRefused) {
  CreateOptions options;
  options.backing_file = "disk.qcow2";
  options.backing_format = "qcow2";
  create(options);
  EXPECT_EQ(refusal(), "the backing files loop: '" + path_ +
                           "' is behind itself; give one of them another with 'qemu-img rebase -u'");
}

TEST_F(Qcow2HeaderTest, BackingFilesOverTheNetworkAreRefused) {
  CreateOptions options;
  options.backing_file = "nbd:localhost:10809";
  options.backing_format = "raw";
  create(options);
  EXPECT_EQ(refusal(),
            "'" + path_ + "' has the backing file 'nbd:localhost:10809', and vert can only use files");
}

TEST_F(Qcow2HeaderTest, NamesFromAnImageDoNotBreakTheLine) {
  CreateOptions options;
  options.backing_file = "a:\n\x1b[2J" + std::string(900, 'b');
  options.backing_format = "raw";
  create(options);
  EXPECT_LT(refusal().size(), 500U);
}

TEST_F(Qcow2HeaderTest, AnImageThatIsMarkedAsCorruptCanOnlyBeRead) {
  test::patch_be<u64>(path_, 72, kIncompatibleCorrupt);
  EXPECT_EQ(refusal(true), "");
  EXPECT_EQ(refusal(false),
            "'" + path_ + "' is marked as corrupt; try 'vert image check --repair all " + path_ + "'");
}

TEST_F(Qcow2HeaderTest, ExtendedEntriesCanOnlyBeRead) {
  test::patch_be<u64>(path_, 72, kIncompatibleExtendedL2);
  EXPECT_EQ(refusal(true), "");
  EXPECT_EQ(refusal(false),
            "'" + path_ + "' has extended L2 entries, which vert can only read; open it with readonly");
}

TEST_F(Qcow2HeaderTest, AutoclearFeaturesAreClearedByAWriterOnly) {
  test::patch_be<u64>(path_, 88, u64{1} << 20);
  EXPECT_EQ(refusal(true), "");
  EXPECT_EQ(test::read_be<u64>(path_, 88), u64{1} << 20);
  EXPECT_EQ(refusal(false), "");
  EXPECT_EQ(test::read_be<u64>(path_, 88), 0U);
}

TEST_F(Qcow2HeaderTest, AfterACrashLazyRefcountsAreRepaired) {
  CreateOptions options;
  options.lazy_refcounts = true;
  create(options);
  {
    auto image = test::open_qcow2(context_, path_);
    ASSERT_TRUE(image);
    ASSERT_TRUE(image->write(0, std::vector<u8>(200 << 10, 7)));
    ASSERT_TRUE(image->flush());
    // Never closed: as a crash leaves it.
  }
  EXPECT_EQ(test::read_be<u64>(path_, 72) & kIncompatibleDirty, kIncompatibleDirty);
  EXPECT_NE(test::problems(context_, path_), "");
  {
    auto image = test::open_qcow2(context_, path_);
    ASSERT_TRUE(image) << image.error().message;
    EXPECT_EQ(image->content()[200 * 1024 - 1], 7);
    ASSERT_TRUE(image->close());
  }
  EXPECT_EQ(test::problems(context_, path_), "");
  EXPECT_EQ(test::read_be<u64>(path_, 72), 0U);
}

}  // namespace
}  // namespace vert::storage::qcow2
