#include "cli/bench_runner.hpp"

#include <gtest/gtest.h>

#include "cli/bench_peer.hpp"

namespace vert::cli {
namespace {

class BenchReferenceTest : public testing::Test {
 protected:
  BenchTask task_ = {bench_programs().data(), 100};
  BenchReference reference_;
};

TEST_F(BenchReferenceTest, TakesTheSameResultAgainAndNoOther) {
  EXPECT_FALSE(reference_.knows(task_));
  EXPECT_TRUE(reference_.learn(task_, "aa"));
  EXPECT_TRUE(reference_.knows(task_));
  EXPECT_TRUE(reference_.learn(task_, "aa"));
  EXPECT_FALSE(reference_.learn(task_, "ab"));
  EXPECT_EQ(reference_.difference(task_, "aa"), "");
}

TEST_F(BenchReferenceTest, SaysWhatAGuestComputedWrongly) {
  EXPECT_TRUE(reference_.learn(task_, "aa"));
  EXPECT_EQ(reference_.difference(task_, "ab"), "sum 100 computes ab, on bare metal aa");
}

TEST_F(BenchReferenceTest, AnotherCountIsAnotherTask) {
  EXPECT_TRUE(reference_.learn(task_, "aa"));
  BenchTask other = task_;
  other.count = 101;
  EXPECT_FALSE(reference_.knows(other));
  EXPECT_TRUE(reference_.learn(other, "bb"));
  EXPECT_EQ(reference_.difference(task_, "aa"), "");
}

TEST(BenchPeerTest, ReadsTheVersion) {
  EXPECT_EQ(parse_qemu_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), "10.0.2");
  EXPECT_EQ(parse_qemu_version("QEMU emulator version 9.2.50"), "9.2.50");
  EXPECT_EQ(parse_qemu_version("QEMU emulator version "), std::nullopt);
  EXPECT_EQ(parse_qemu_version("qemu: bad option"), std::nullopt);
}

TEST(BenchPeerTest, ACurrentOneIsPreferred) {
  const BenchPeer old = {"/usr/local/bin/qemu-system-x86_64", "7.2.22"};
  const BenchPeer current = {"/usr/bin/qemu-system-x86_64", "10.0.2"};
  const BenchPeer mute = {"/bin/qemu-system-x86_64", "unknown"};
  EXPECT_EQ(choose_peer({old, current, mute})->path, current.path);
  EXPECT_EQ(choose_peer({old, mute})->path, old.path);
  EXPECT_EQ(choose_peer({}), std::nullopt);
  EXPECT_FALSE(is_current(mute));
}

}  // namespace
}  // namespace vert::cli
