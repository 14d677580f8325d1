// What a translator tells of itself: counters, samples, names for perf.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "engine/bt/perf_map.hpp"
#include "engine/bt/translator.hpp"
#include "engine/interp/interpreter.hpp"
#include "support/assembler.hpp"
#include "support/guest_rig.hpp"

namespace vert::test {
namespace {

constexpr Gpa kCode{0x18'0000};

std::string contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class AidsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const Status usable = bt::Translator::usable(); !usable) GTEST_SKIP() << usable.error().message;
  }

  void make(cpu::EngineAids aids) {
    cpu::VcpuContext context = rig_.context();
    context.aids = aids;
    engine_ = bt::Translator::create(context, std::make_unique<interp::Interpreter>(context)).value();
  }
  /// CLI; MOV ECX, turns; loop: DEC ECX; JNZ loop; HLT.
  void run_loop(u32 turns) {
    Assembler a(code());
    a.bytes({0xFA, 0xB9}).value(turns).label("loop").bytes({0xFF, 0xC9}).branch({0x0F, 0x85}, "loop").hlt();
    rig_.write(kCode, a.finish());
    state_ = rig_.initial_state(code(), GuestRig::kernel_stack_top(), 0);
    engine_->state_changed();
    ASSERT_EQ(engine_->run(state_, cpu::kNoBudget).reason, cpu::Exit::kHalt);
  }
  [[nodiscard]] static u64 code() { return GuestRig::direct(kCode); }
  [[nodiscard]] static std::string loop_name() { return fmt::format("guest-kernel:{:x}", code() + 6); }

  static u64 counter(const std::vector<cpu::CounterGroup>& groups, const std::string& group,
                     const std::string& name) {
    for (const cpu::CounterGroup& candidate : groups)
      for (const cpu::Counter& found : candidate.counters)
        if (candidate.name == group && found.name == name) return found.value;
    return 0;
  }

  GuestRig rig_{"interp"};
  cpu::CpuState state_;
  std::unique_ptr<cpu::Engine> engine_;
};

TEST_F(AidsTest, CountsBlocksAndWhatHasNoTranslation) {
  make({});
  run_loop(1000);
  const auto groups = engine_->counters();
  EXPECT_GE(counter(groups, "translation", "blocks translated"), 2U);
  EXPECT_GT(counter(groups, "translation", "bytes of code made"), 0U);
  EXPECT_EQ(counter(groups, "instructions without translation", "hlt"), 1U);
  EXPECT_EQ(counter(groups, "exits from generated code", "instruction for the fallback engine"), 1U);
  EXPECT_TRUE(engine_->samples(cpu::kUsualHottest).groups.empty());
}

TEST_F(AidsTest, SamplesFindTheHotLoopAndExplainIt) {
  make({.samples = true});
  cpu::SampleReport report;
  for (unsigned tries = 0; tries < 50 && report.groups.size() < 2; ++tries) {
    run_loop(30'000'000);
    report = engine_->samples(cpu::kUsualHottest);
  }
  ASSERT_EQ(report.groups.size(), 2U);
  EXPECT_GT(counter(report.groups, "samples, by place", "translated guest code"), 0U);
  EXPECT_EQ(report.groups[1].counters[0].name, loop_name());
  EXPECT_NE(report.listing.find("dec ecx"), std::string::npos);
}

TEST_F(AidsTest, SamplingBegunLaterKnowsWhatWasTranslatedBefore) {
  make({});
  run_loop(1000);
  ASSERT_TRUE(engine_->start_sampling());
  cpu::SampleReport report;
  for (unsigned tries = 0; tries < 50 && report.groups.size() < 2; ++tries) {
    run_loop(30'000'000);
    report = engine_->samples(1);
  }
  ASSERT_EQ(report.groups.size(), 2U);
  EXPECT_EQ(report.groups[1].counters[0].name, loop_name());
  engine_->stop_sampling();
  EXPECT_TRUE(engine_->samples(1).groups.empty());
  run_loop(1000);
}

TEST_F(AidsTest, PerfMapNamesThunksAndBlocks) {
  make({.perf_map = true});
  run_loop(10);
  const std::string path = fmt::format("/tmp/perf-{}.map", ::getpid());
  const std::string map = contents(path);
  ::unlink(path.c_str());
  EXPECT_NE(map.find(" vert-thunk:enter\n"), std::string::npos);
  EXPECT_NE(map.find(" " + loop_name() + "\n"), std::string::npos);
}

class PerfMapTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(folder_.data()), nullptr); }
  void TearDown() override {
    ::unlink(path().c_str());
    ::rmdir(folder_.c_str());
  }
  [[nodiscard]] std::string path() const { return folder_ + "/map"; }

  std::string folder_ = "/tmp/vert-perf-map-XXXXXX";
};

TEST_F(PerfMapTest, WritesAddressSizeAndNameInHexadecimal) {
  auto map = bt::PerfMap::open(path(), true);
  ASSERT_TRUE(map);
  map->add(reinterpret_cast<const u8*>(0x7f0012345670), 0x1F, "guest-user:401000");
  EXPECT_EQ(contents(path()), "7f0012345670 1f guest-user:401000\n");
}

TEST_F(PerfMapTest, AppendsUnlessItIsToBeEmptied) {
  std::ofstream(path()) << "old\n";
  ASSERT_TRUE(bt::PerfMap::open(path(), false));
  EXPECT_EQ(contents(path()), "old\n");
  ASSERT_TRUE(bt::PerfMap::open(path(), true));
  EXPECT_EQ(contents(path()), "");
}

TEST_F(PerfMapTest, FollowsNoLink) {
  ASSERT_EQ(::symlink("/dev/null", path().c_str()), 0);
  EXPECT_FALSE(bt::PerfMap::open(path(), true));
}

}  // namespace
}  // namespace vert::test
