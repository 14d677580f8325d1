// `vert image` as it is typed: what it makes, what it says, and its exit status.
#include <sys/stat.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/commands.hpp"
#include "cli/image_options.hpp"
#include "support/image_rig.hpp"

namespace vert::cli {
namespace {

struct Outcome {
  int status = 0;
  std::string out;
  std::string error;
};

Outcome run(std::vector<std::string> words) {
  words.insert(words.begin(), {"vert", "image"});
  std::vector<const char*> arguments;
  for (const std::string& word : words) arguments.push_back(word.c_str());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.status = run_program(static_cast<int>(arguments.size()), arguments.data());
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.error = testing::internal::GetCapturedStderr();
  return outcome;
}

class ImageCommandTest : public testing::Test {
 protected:
  nlohmann::json info(const std::string& path) {
    return nlohmann::json::parse(run({"info", "--json", path}).out);
  }
  test::TemporaryFolder folder_;
  const std::string disk_ = folder_ / "disk.qcow2";
};

TEST_F(ImageCommandTest, CreatesWhatItsOptionsSay) {
  ASSERT_EQ(run({"create", "-o", "cluster_size=4k,refcount_bits=8,lazy_refcounts=on", disk_, "10M"}).error,
            "");
  const auto made = info(disk_);
  EXPECT_EQ(made["format"], "qcow2");
  EXPECT_EQ(made["virtual-size"], 10 << 20);
  EXPECT_EQ(made["cluster-size"], 4096);
  EXPECT_EQ(made["format-specific"]["data"]["refcount-bits"], 8);
  EXPECT_EQ(made["format-specific"]["data"]["lazy-refcounts"], true);
}

TEST_F(ImageCommandTest, TheNameTellsTheFormatWhereNoOptionDoes) {
  ASSERT_EQ(run({"create", folder_ / "disk.img", "1M"}).status, 0);
  EXPECT_EQ(info(folder_ / "disk.img")["format"], "raw");
  ASSERT_EQ(run({"create", "-f", "qcow2", folder_ / "other.img", "1M"}).status, 0);
  EXPECT_EQ(info(folder_ / "other.img")["format"], "qcow2");
}

TEST_F(ImageCommandTest, OverwritesOnlyWithForce) {
  ASSERT_EQ(run({"create", disk_, "1M"}).status, 0);
  const auto refused = run({"create", disk_, "2M"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_EQ(refused.error,
            "vert: '" + disk_ + "' exists; choose another name, or overwrite it with --force\n");
  EXPECT_EQ(run({"create", "--force", disk_, "2M"}).status, 0);
  EXPECT_EQ(info(disk_)["virtual-size"], 2 << 20);
}

TEST_F(ImageCommandTest, AnOverlayIsAsLargeAsWhatIsBehindIt) {
  ASSERT_EQ(run({"create", disk_, "3M"}).status, 0);
  const std::string overlay = folder_ / "overlay.qcow2";
  ASSERT_EQ(run({"create", "-b", "disk.qcow2", overlay}).error, "");
  EXPECT_EQ(info(overlay)["virtual-size"], 3 << 20);
  EXPECT_EQ(info(overlay)["backing-filename-format"], "qcow2");
  EXPECT_EQ(run({"create", "-b", "nowhere.qcow2", folder_ / "x.qcow2"}).status, 1);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x.qcow2"));
}

TEST_F(ImageCommandTest, ConvertsThereAndBack) {
  std::vector<u8> content(1 << 20);
  for (std::size_t i = 0; i < content.size(); i += 3) content[i] = static_cast<u8>(i / 100'000);
  test::write_file(folder_ / "a.raw", content);
  ASSERT_EQ(run({"convert", "-c", folder_ / "a.raw", disk_}).error, "");
  EXPECT_LT(std::filesystem::file_size(disk_), content.size() / 2);
  ASSERT_EQ(run({"convert", disk_, folder_ / "b.raw"}).error, "");
  EXPECT_TRUE(test::file_bytes(folder_ / "b.raw") == content);
  EXPECT_EQ(run({"check", disk_}).status, 0);
}

TEST_F(ImageCommandTest, WhatDiffersFromABackingFileIsAllThatItCopies) {
  test::write_file(folder_ / "base.raw", std::vector<u8>(1 << 20, 7));
  std::vector<u8> changed(1 << 20, 7);
  changed[500'000] = 8;
  std::fill_n(changed.begin() + 131072, 65536, u8{0});
  test::write_file(folder_ / "changed.raw", changed);
  const auto made = run({"convert", "--json", "-B", "base.raw", folder_ / "changed.raw", disk_});
  ASSERT_EQ(made.status, 0) << made.error;
  EXPECT_EQ(nlohmann::json::parse(made.out)["data-bytes"], 2 * 65536);
  ASSERT_EQ(run({"convert", disk_, folder_ / "again.raw"}).status, 0);
  EXPECT_TRUE(test::file_bytes(folder_ / "again.raw") == changed);
}

TEST_F(ImageCommandTest, ResizesAndShrinksOnlyWhenToldTo) {
  ASSERT_EQ(run({"create", disk_, "4M"}).status, 0);
  ASSERT_EQ(run({"resize", disk_, "+4M"}).error, "");
  EXPECT_EQ(info(disk_)["virtual-size"], 8 << 20);
  EXPECT_EQ(run({"resize", disk_, "1M"}).status, 1);
  EXPECT_EQ(run({"resize", "--shrink", disk_, "1M"}).status, 0);
  EXPECT_EQ(info(disk_)["virtual-size"], 1 << 20);
}

TEST_F(ImageCommandTest, SnapshotsAreTakenListedAndDeleted) {
  ASSERT_EQ(run({"create", disk_, "1M"}).status, 0);
  ASSERT_EQ(run({"snapshot", "-c", "one", disk_}).error, "");
  EXPECT_EQ(run({"snapshot", "-c", "one", disk_}).status, 1);
  const auto list = nlohmann::json::parse(run({"snapshot", "--json", disk_}).out);
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0]["name"], "one");
  EXPECT_EQ(run({"snapshot", "-a", "one", disk_}).status, 0);
  EXPECT_EQ(run({"snapshot", "-d", "one", disk_}).status, 0);
  EXPECT_EQ(run({"snapshot", "-d", "one", disk_}).error, "vert: '" + disk_ + "' has no snapshot 'one'\n");
}

TEST_F(ImageCommandTest, TheStatusOfACheckTellsLeaksFromDamage) {
  ASSERT_EQ(run({"create", disk_, "1M"}).status, 0);
  test::patch_be<u16>(disk_, 2 * 65536 + 3 * 2, 2);
  EXPECT_EQ(run({"check", disk_}).status, 3);
  EXPECT_EQ(run({"check", "--repair", "leaks", disk_}).status, 0);
  test::patch_be<u16>(disk_, 2 * 65536, 0);
  EXPECT_EQ(run({"check", disk_}).status, 2);
  EXPECT_EQ(run({"check", "-r", "all", disk_}).status, 0);
  EXPECT_EQ(run({"check", disk_}).status, 0);
  EXPECT_EQ(run({"check", folder_ / "nowhere"}).status, 1);
}

TEST_F(ImageCommandTest, AnImageInUseIsRefusedButCanBeLookedAt) {
  ASSERT_EQ(run({"create", disk_, "1M"}).status, 0);
  const auto context = storage::IoContext::create();
  ASSERT_TRUE(context);
  const auto user = (*context)->complete(storage::open_image(**context, disk_, {}));
  ASSERT_TRUE(user);
  for (const auto& words : {std::vector<std::string>{"check", disk_},
                            {"resize", disk_, "2M"},
                            {"create", "--force", disk_, "1M"}}) {
    const auto refused = run(words);
    EXPECT_EQ(refused.status, 1);
    EXPECT_NE(refused.error.find("is in use by another process"), std::string::npos) << refused.error;
  }
  EXPECT_EQ(run({"info", disk_}).status, 0);
}

TEST(ImageSize, IsSpelledAsForQemuImg) {
  EXPECT_EQ(parse_image_size("10G"), u64{10} << 30);
  EXPECT_EQ(parse_image_size("1.5T"), u64{3} << 39);
  EXPECT_EQ(parse_image_size("512k"), u64{512} << 10);
  EXPECT_EQ(parse_image_size("4096"), 4096U);
  EXPECT_EQ(parse_image_size("64KiB"), 65536U);
  for (const char* wrong : {"", "G", "-1", "10Q", "1e3", "nan", "8E0", "99999999E"})
    EXPECT_FALSE(parse_image_size(wrong)) << wrong;
}

TEST(ImageOptions, AreRefusedByName) {
  const auto refusal = [](const char* text) {
    const auto parsed = parse_creation_options(text, storage::Format::kQcow2);
    return parsed ? "" : parsed.error().message;
  };
  EXPECT_EQ(refusal("cluster_size=2M,compat=0.10"), "");
  EXPECT_EQ(refusal("lazy"), "-o wants NAME=VALUE, and got 'lazy'");
  EXPECT_EQ(refusal("lazy_refcounts=yes"), "lazy_refcounts is on or off, not 'yes'");
  EXPECT_EQ(refusal("preallocation=full"), "preallocation is off or metadata, not 'full'");
  EXPECT_NE(refusal("clustersize=2M").find("cluster_size"), std::string::npos);
}

}  // namespace
}  // namespace vert::cli
