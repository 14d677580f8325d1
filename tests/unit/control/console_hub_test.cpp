#include "control/console_hub.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <thread>

namespace vert::control {
namespace {

using namespace std::chrono_literals;

constexpr ConsoleHub::Limits kSmall = {.replayed = 8, .ring = 16, .patience = 5ms};

std::span<const u8> bytes_of(std::string_view text) {
  return {reinterpret_cast<const u8*>(text.data()), text.size()};
}

class Local final : public machine::SerialBackend {
 public:
  void write(std::span<const u8> bytes) override { text.append(bytes.begin(), bytes.end()); }
  std::string text;
};

std::string take(ConsoleHub::Watcher& watcher, std::size_t most = 1000) {
  std::string text(most, '\0');
  const std::size_t count = watcher.peek({reinterpret_cast<u8*>(text.data()), text.size()});
  watcher.consume(count);
  text.resize(count);
  return text;
}

TEST(ConsoleHub, LocalEndAndAllWatchersGetEverything) {
  Local local;
  ConsoleHub hub(&local);
  const auto first = hub.watch([] {});
  const auto second = hub.watch([] {});
  hub.write(bytes_of("login: "));
  EXPECT_EQ(local.text, "login: ");
  EXPECT_EQ(take(*first), "login: ");
  EXPECT_EQ(take(*first), "");
  EXPECT_EQ(take(*second, 3), "log");
  EXPECT_EQ(take(*second), "in: ");
}

TEST(ConsoleHub, WhoComesLaterGetsTheLastOfIt) {
  ConsoleHub hub(nullptr, kSmall);
  hub.write(bytes_of("0123456789abcdefghij"));
  EXPECT_EQ(take(*hub.watch([] {})), "cdefghij");
}

TEST(ConsoleHub, WhatWasPeekedAtButNotConsumedComesAgain) {
  ConsoleHub hub(nullptr, kSmall);
  const auto watcher = hub.watch([] {});
  hub.write(bytes_of("abc"));
  std::array<u8, 8> out{};
  EXPECT_EQ(watcher->peek(out), 3U);
  EXPECT_EQ(take(*watcher), "abc");
}

TEST(ConsoleHub, TellsAWatcherOnceUntilItHasReadAll) {
  int calls = 0;
  ConsoleHub hub(nullptr);
  const auto watcher = hub.watch([&] { ++calls; });
  hub.write(bytes_of("a"));
  hub.write(bytes_of("b"));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(take(*watcher), "ab");
  hub.write(bytes_of("c"));
  EXPECT_EQ(calls, 2);
}

TEST(ConsoleHub, WatcherThatTakesNothingLosesTheOldestAndIsTold) {
  ConsoleHub hub(nullptr, kSmall);
  const auto watcher = hub.watch([] {});
  hub.write(bytes_of("0123456789abcdef"));
  hub.write(bytes_of("ghij"));  // waits for `patience` first
  std::string text;
  for (std::string piece = take(*watcher, 7); !piece.empty(); piece = take(*watcher, 7)) text += piece;
  EXPECT_EQ(text, "\r\n[vert: 4 bytes of the guest's output were lost here]\r\n456789abcdefghij");
}

TEST(ConsoleHub, WhatIsOverwrittenOnItsWayOutIsNotCountedAsLost) {
  ConsoleHub hub(nullptr, kSmall);
  const auto watcher = hub.watch([] {});
  hub.write(bytes_of("0123456789abcdef"));
  std::array<u8, 6> out{};
  ASSERT_EQ(watcher->peek(out), 6U);
  hub.write(bytes_of("ghijklmn"));  // overwrites 0 to 7; 0 to 5 have been copied
  watcher->consume(6);
  std::string text;
  for (std::string piece = take(*watcher); !piece.empty(); piece = take(*watcher)) text += piece;
  EXPECT_EQ(text, "\r\n[vert: 2 bytes of the guest's output were lost here]\r\n89abcdefghijklmn");
}

TEST(ConsoleHub, SlowWatcherSlowsTheGuestDownAndLosesNothing) {
  ConsoleHub hub(nullptr, {.replayed = 8, .ring = 16, .patience = 60s});
  const auto watcher = hub.watch([] {});
  std::string written;
  for (int i = 0; i < 500; ++i) written += static_cast<char>('a' + i % 26);
  std::thread guest([&] { hub.write(bytes_of(written)); });
  std::string text;
  while (text.size() < written.size()) text += take(*watcher, 5);
  guest.join();
  EXPECT_EQ(text, written);
}

TEST(ConsoleHub, InAHurryNobodyWaitsAndHalfARingIsNotLost) {
  ConsoleHub hub(nullptr, {.replayed = 8, .ring = 16, .patience = 60s});
  const auto watcher = hub.watch([] {});
  hub.write(bytes_of("01234567"));
  {
    const ConsoleHub::Hurry hurry(hub);
    hub.write(bytes_of("89abcdef"));
    EXPECT_EQ(take(*watcher, 3), "012");
  }
  std::thread guest([&] { hub.write(bytes_of("ghi")); });  // waits until there is half a ring
  std::string text;
  while (text.size() < 16) text += take(*watcher, 2);
  guest.join();
  EXPECT_EQ(text, "3456789abcdefghi");
}

TEST(ConsoleHub, HurryFreesAWriterThatWaits) {
  ConsoleHub hub(nullptr, {.replayed = 8, .ring = 16, .patience = 60s});
  const auto watcher = hub.watch([] {});
  std::thread guest([&] { hub.write(bytes_of("0123456789abcdef")); });
  {
    const ConsoleHub::Hurry hurry(hub);
    guest.join();
  }
  EXPECT_EQ(take(*watcher), "0123456789abcdef");
}

TEST(ConsoleHub, WatcherThatLeavesNoLongerHoldsTheGuestUp) {
  ConsoleHub hub(nullptr, {.replayed = 8, .ring = 16, .patience = 60s});
  auto watcher = hub.watch([] {});
  std::thread guest([&] { hub.write(bytes_of("0123456789abcdefghijklmnop")); });
  watcher.reset();
  guest.join();
}

TEST(ConsoleHub, DrainWaitsForWatchersThatTakeAndNotForOthers) {
  ConsoleHub hub(nullptr);
  hub.drain(60s);  // nobody is there
  const auto watcher = hub.watch([] {});
  hub.write(bytes_of("abc"));
  std::thread reader([&] {
    for (int i = 0; i < 3; ++i) take(*watcher, 1);
  });
  hub.drain(60s);
  EXPECT_EQ(take(*watcher), "");
  reader.join();
  hub.write(bytes_of("d"));
  hub.drain(5ms);
  EXPECT_EQ(take(*watcher), "d");
}

}  // namespace
}  // namespace vert::control
