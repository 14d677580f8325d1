// VcpuEvents' attention word.
#include <gtest/gtest.h>
#include <thread>

#include "cpu/engine.hpp"

namespace vert::test {
namespace {

using cpu::VcpuEvents;

TEST(VcpuEvents, RequestsSetTheAttentionWord) {
  VcpuEvents events;
  std::atomic<u8> word = 0;
  events.request(VcpuEvents::kNmi);
  events.set_attention(word);
  EXPECT_EQ(word, 0);
  events.request(VcpuEvents::kKick);
  EXPECT_EQ(word, 1);
  word = 0;
  events.clear_attention(word);
  events.request(VcpuEvents::kKick);
  EXPECT_EQ(word, 0);
}

TEST(VcpuEvents, AWordMayGoWhileOthersRequest) {
  VcpuEvents events;
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) events.request(VcpuEvents::kInterrupt);
  });
  for (int i = 0; i < 100; ++i) {
    auto word = std::make_unique<std::atomic<u8>>(u8{0});
    events.set_attention(*word);
    while (word->load() == 0) std::this_thread::yield();
    events.clear_attention(*word);
    word->store(0);
    ASSERT_EQ(word->load(), 0);
  }
  stop = true;
  other.join();
}

}  // namespace
}  // namespace vert::test
