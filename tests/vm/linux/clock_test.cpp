// The guest's clock keeps the host's pace.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

struct Sample {
  double guest;
  double host;
};

/// How far the host was ahead at the sample that was delayed least, with that sample.
Sample least_delayed(const std::vector<Sample>& samples, std::size_t from, std::size_t to) {
  return *std::min_element(
      samples.begin() + static_cast<std::ptrdiff_t>(from), samples.begin() + static_cast<std::ptrdiff_t>(to),
      [](const Sample& a, const Sample& b) { return a.host - a.guest < b.host - b.guest; });
}

TEST(Clock, GuestAndHostAgreeWithinATenthOfAPercent) {
  auto started = LinuxGuest::start({});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  const int seconds = long_tests() ? 60 : 20;
  guest.process().send("clock_ticks " + std::to_string(seconds) + "\r");
  std::vector<Sample> samples;
  for (;;) {
    const auto line = guest.process().next_line(60s);
    ASSERT_TRUE(line.has_value()) << guest.process().output();
    const std::chrono::duration<double> now = VertProcess::Clock::now().time_since_epoch();
    if (line->ends_with("ticks over")) break;
    const auto tick = line->find("tick ");
    if (tick == std::string::npos) continue;
    samples.push_back({std::strtod(line->c_str() + tick + 5, nullptr) * 1e-9, now.count()});
  }
  ASSERT_GT(samples.size(), 20U);
  const std::size_t edge = samples.size() / 5;
  const Sample first = least_delayed(samples, 0, edge);
  const Sample last = least_delayed(samples, samples.size() - edge, samples.size());
  const double rate = (last.guest - first.guest) / (last.host - first.host);
  EXPECT_NEAR(rate, 1.0, 0.001) << "over " << last.host - first.host << " s";
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
}

}  // namespace
}  // namespace vert::vm_test
