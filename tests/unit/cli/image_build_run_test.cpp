// `vert image build` without packages: mmdebstrap and chroot are scripts here, mke2fs and sfdisk are real.
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include <gtest/gtest.h>

#include "cli/image_build.hpp"
#include "support/image_rig.hpp"

namespace vert::cli {
namespace {

/// Makes a small system, and runs the hooks that customize it as mmdebstrap does.
constexpr const char* kMmdebstrap = R"(#!/bin/sh
set -e
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/dev" "$root/proc" "$root/sys" "$root/var/cache/apt/archives"
mkdir -p "$root/etc/systemd/network" "$root/etc/systemd/system" "$root/etc/profile.d" "$root/var/lib/dpkg" "$root/tmp"
echo 'Package: base' >"$root/var/lib/dpkg/status"
echo old >"$root/etc/issue"
touch -d @1600000000 "$root/etc/issue" "$root/var/lib/dpkg/status"
echo new >"$root/etc/made-today"
chown 1000:1000 "$root/var/cache/apt/archives"
chmod 700 "$root/var/cache/apt/archives"
mkdir -p "$root/etc/apt/apt.conf.d"
echo 'APT::Architecture "amd64";' >"$root/tmp/apt.conf"
echo 'APT::Install-Recommends "false";' >"$root/etc/apt/apt.conf.d/00mmdebstrap"
for word in "$@"; do
  case $word in
    --customize-hook=sh*) hook=${word#--customize-hook=} ;;
  esac
done
sh -c "$hook" exec "$root"
test -e "$root/tmp/apt.conf" && test -e "$root/etc/apt/apt.conf.d/00mmdebstrap"
)";

class ImageBuildRun : public testing::Test {
 protected:
  ImageBuildRun() : path_before_(::getenv("PATH")) {
    std::filesystem::create_directories(folder_ / "bin");
    program("mmdebstrap", kMmdebstrap);
    program("chroot", "#!/bin/sh\n");
    program("chown",
            "#!/bin/sh\n/bin/chown \"$@\" 2>/dev/null || true\n");  // the tests' user may not be root
    ::setenv("PATH", ((folder_ / "bin") + ":" + path_before_).c_str(), 1);
    ::setenv("TMPDIR", (folder_ / "").c_str(), 1);
    ::unsetenv("SOURCE_DATE_EPOCH");
  }
  ~ImageBuildRun() override {
    ::setenv("PATH", path_before_.c_str(), 1);
    ::unsetenv("TMPDIR");
    ::unsetenv("SOURCE_DATE_EPOCH");
  }
  ImageBuildRun(const ImageBuildRun&) = delete;
  ImageBuildRun& operator=(const ImageBuildRun&) = delete;

  void program(const std::string& name, const std::string& text) const {
    const std::string path = folder_ / "bin/" + name;
    std::ofstream(path) << text;
    ::chmod(path.c_str(), 0755);
  }
  [[nodiscard]] std::string build(const std::string& name,
                                  storage::Format format = storage::Format::kQcow2) const {
    const Status built = build_image({.size = u64{1} << 30,
                                      .root_password = "secret",
                                      .output = folder_ / name,
                                      .format = format,
                                      .cache = folder_ / "cache"},
                                     [](const BuildStep&) {});
    return built ? "" : built.error().message;
  }
  /// What debugfs prints for that command.
  [[nodiscard]] std::string inspect(const std::string& name, const std::string& command) const {
    const std::string line = "PATH=$PATH:/usr/sbin:/sbin debugfs -R '" + command + "' '" + (folder_ / name) +
                             "?offset=1048576' >'" + (folder_ / "out") + "' 2>/dev/null";
    EXPECT_EQ(std::system(line.c_str()), 0) << line;  // NOLINT: a test's own words
    const auto bytes = vert::test::file_bytes(folder_ / "out");
    return {bytes.begin(), bytes.end()};
  }
  [[nodiscard]] std::string read(const std::string& name) const {
    const auto bytes = vert::test::file_bytes(folder_ / name);
    return {bytes.begin(), bytes.end()};
  }

  vert::test::TemporaryFolder folder_;
  const std::string path_before_;
};

TEST_F(ImageBuildRun, TwoBuildsAtDifferentTimesGiveTheSameBytes) {
  ASSERT_EQ(build("first.qcow2"), "");
  ::sleep(2);  // ext4 has whole seconds of a file's times, as mke2fs copies them
  ASSERT_EQ(build("second.qcow2"), "");
  EXPECT_TRUE(read("first.qcow2") == read("second.qcow2"));
}

TEST_F(ImageBuildRun, TheImageIsAsOldAsTheNewestFileInItsPackages) {
  ASSERT_EQ(build("disk.raw", storage::Format::kRaw), "");
  const std::string made = inspect("disk.raw", "stat /etc/made-today");
  for (const char* time :
       {"ctime: 0x5f5e1000", "atime: 0x5f5e1000", "mtime: 0x5f5e1000", "crtime: 0x5f5e1000"})
    EXPECT_NE(made.find(time), std::string::npos) << made;
}

TEST_F(ImageBuildRun, SourceDateEpochIsTheTimeOfTheImageAndNotOfOlderFiles) {
  ::setenv("SOURCE_DATE_EPOCH", "1700000000", 1);
  ASSERT_EQ(build("disk.raw", storage::Format::kRaw), "");
  EXPECT_NE(inspect("disk.raw", "stat /etc/made-today").find("mtime: 0x6553f100"), std::string::npos);
  EXPECT_NE(inspect("disk.raw", "stat /etc/issue").find("mtime: 0x5f5e1000"), std::string::npos);
}

TEST_F(ImageBuildRun, RefusesATimeThatIsNone) {
  ::setenv("SOURCE_DATE_EPOCH", "yesterday", 1);
  EXPECT_EQ(build("disk.qcow2"), "SOURCE_DATE_EPOCH=yesterday: not a number of seconds since 1970");
}

TEST_F(ImageBuildRun, OtherPackagesGiveOtherPartitions) {
  ASSERT_EQ(build("first.raw", storage::Format::kRaw), "");
  std::string other = kMmdebstrap;
  other.replace(other.find("Package: base"), 13, "Package: more");
  program("mmdebstrap", other);
  ASSERT_EQ(build("second.raw", storage::Format::kRaw), "");
  const std::string first = inspect("first.raw", "cat /etc/fstab");
  EXPECT_TRUE(first.starts_with("PARTUUID=")) << first;
  EXPECT_EQ(first[9 + 14], '8') << "a UUID's version";
  EXPECT_NE(first, inspect("second.raw", "cat /etc/fstab"));
}

TEST_F(ImageBuildRun, WhatMmdebstrapConfiguresAptByIsNotInTheImage) {
  ASSERT_EQ(build("disk.raw", storage::Format::kRaw), "");
  EXPECT_EQ(inspect("disk.raw", "ls /tmp").find("apt.conf"), std::string::npos);
  const std::string options = inspect("disk.raw", "ls /etc/apt/apt.conf.d");
  EXPECT_NE(options.find(".."), std::string::npos) << options;
  EXPECT_EQ(options.find("00mmdebstrap"), std::string::npos) << options;
}

TEST_F(ImageBuildRun, LinksThatFakechrootLedIntoItsFolderLeadIntoTheImage) {
  std::string text = kMmdebstrap;
  text.replace(text.find("sh -c \"$hook\""), 0,
               "ln -s \"$root/etc/issue\" \"$root/etc/link\"\nexport MMDEBSTRAP_MODE=fakechroot\n");
  program("mmdebstrap", text);
  ASSERT_EQ(build("disk.raw", storage::Format::kRaw), "");
  const std::string link = inspect("disk.raw", "stat /etc/link");
  EXPECT_NE(link.find("link dest: \"/etc/issue\""), std::string::npos) << link;
}

TEST_F(ImageBuildRun, TheOwnerOfTheCacheIsNotInTheImage) {
  ASSERT_EQ(build("disk.raw", storage::Format::kRaw), "");
  const std::string listed = inspect("disk.raw", "ls -l /var/cache/apt");
  const auto line = listed.substr(listed.rfind('\n', listed.find("archives")));
  EXPECT_NE(line.find("40755"), std::string::npos) << listed;
  if (::geteuid() == 0) {
    EXPECT_EQ(line.find("1000"), std::string::npos) << listed;
  }
}

TEST_F(ImageBuildRun, NobodyElseCanEnterTheFolderOfTheUnfinishedImage) {
  std::string text = kMmdebstrap;
  text += "stat -L -c %a \"$TMPDIR\"/vert-build.* >'" + (folder_ / "mode") + "'\n";
  program("mmdebstrap", text);
  ASSERT_EQ(build("disk.qcow2"), "");
  EXPECT_EQ(read("mode"), "700\n");
}

TEST_F(ImageBuildRun, AFailureLeavesNothingAndTellsWhatItWas) {
  program("mmdebstrap", "#!/bin/sh\necho 'I: installing' >&2\necho 'E: no such package' >&2\nexit 1\n");
  EXPECT_EQ(build("disk.qcow2").substr(0, 28), "mmdebstrap: no such package\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "disk.qcow2"));
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / ""))
    EXPECT_FALSE(entry.path().filename().string().starts_with("vert-build")) << entry.path();
}

TEST_F(ImageBuildRun, ASignalEndsWhatMmdebstrapRunsAndLeavesNothing) {
  const std::string tidied = folder_ / "tidied";
  program("mmdebstrap", "#!/bin/sh\ntrap \"echo >'" + tidied +
                            "'; exit 1\" INT\nkill -INT $PPID\nwhile :; do sleep 0.1; done\n");
  EXPECT_EQ(build("disk.qcow2"), "interrupted");
  EXPECT_TRUE(std::filesystem::exists(tidied));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "disk.qcow2"));
}

TEST_F(ImageBuildRun, SaysHowToTakeListsWhoseDateHasPassed) {
  program("mmdebstrap",
          "#!/bin/sh\necho 'E: Release file for http://x is expired (invalid since 2d).' >&2\nexit 1\n");
  EXPECT_NE(build("disk.qcow2").find("(invalid since 2d).; --allow-expired accepts it\n"), std::string::npos);
}

TEST_F(ImageBuildRun, SaysWhatToDoWhereUserNamespacesAreRefused) {
  program(
      "mmdebstrap",
      "#!/bin/sh\necho 'E: unable to pick chroot mode automatically (use --mode for manual selection)' >&2\n"
      "exit 1\n");
  const std::string message = build("disk.qcow2");
  EXPECT_NE(message.find("apt install uidmap"), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

}  // namespace
}  // namespace vert::cli
