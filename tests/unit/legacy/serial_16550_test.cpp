#include "device/legacy/serial_16550.hpp"

#include <gtest/gtest.h>

#include "device_test.hpp"

namespace vert::device {
namespace {

struct Serial : testing::Test, PortTest {
  Serial() {
    EXPECT_TRUE(serial.map(ports, kCom1Base));
    serial.set_ready_callback([this] { ++ready; });
  }
  u8 get(u64 offset) { return in(kCom1Base + offset); }
  void put(u64 offset, unsigned value) { out(kCom1Base + offset, value); }
  std::size_t type(std::string_view text) {
    return serial.receive({reinterpret_cast<const u8*>(text.data()), text.size()});
  }

  FakeLine line;
  std::string sent;
  int ready = 0;
  Serial16550 serial{time, line,
                     [this](std::span<const u8> bytes) { sent.append(bytes.begin(), bytes.end()); }};
};

TEST_F(Serial, SendsAtOnceAndStaysEmpty) {
  for (const char c : std::string_view("hello")) put(0, static_cast<u8>(c));
  EXPECT_EQ(sent, "hello");
  EXPECT_EQ(get(5), 0x60);
}

TEST_F(Serial, DivisorIsBehindDlab) {
  put(3, 0x83);
  put(0, 0x34);
  put(1, 0x12);
  EXPECT_EQ(get(0), 0x34);
  EXPECT_EQ(get(1), 0x12);
  put(3, 0x03);
  put(1, 0xff);
  EXPECT_EQ(get(1), 0x0f);
  EXPECT_TRUE(sent.empty());
}

TEST_F(Serial, ScratchAndFifoDetection) {
  put(7, 0xa5);
  EXPECT_EQ(get(7), 0xa5);
  EXPECT_EQ(get(2), 0x01);
  put(2, 0x01);
  EXPECT_EQ(get(2), 0xc1);
}

TEST_F(Serial, TransmitInterruptNeedsOut2AndEndsWithIir) {
  put(1, 0x02);
  EXPECT_FALSE(line.level);
  put(4, 0x08);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(2), 0x02);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(get(2), 0x01);
  put(0, 'x');
  EXPECT_TRUE(line.level);
  put(0, 'y');
  EXPECT_EQ(line.rises, 3u) << "each byte that leaves is an edge";
}

TEST_F(Serial, ReadingIirKeepsWhatItDidNotReport) {
  put(4, 0x08);
  put(1, 0x03);
  EXPECT_EQ(type("a"), 1u);
  EXPECT_EQ(get(2), 0x04) << "received data goes before transmitter empty";
  EXPECT_EQ(get(2), 0x04);
  EXPECT_EQ(get(0), 'a');
  EXPECT_EQ(get(2), 0x02);
  EXPECT_EQ(get(2), 0x01);
}

TEST_F(Serial, TriggerLevels) {
  constexpr std::array<std::size_t, 4> kLevels{1, 4, 8, 14};
  for (unsigned i = 0; i < 4; ++i) {
    put(2, 0x03 | i << 6);
    put(4, 0x08);
    put(1, 0x01);
    EXPECT_EQ(type(std::string(kLevels[i] - 1, 'x')), kLevels[i] - 1);
    EXPECT_FALSE(line.level) << i;
    EXPECT_EQ(type("x"), 1u);
    EXPECT_TRUE(line.level) << i;
    EXPECT_EQ(get(2), 0xc4);
    static_cast<void>(get(0));
    EXPECT_FALSE(line.level) << i;
  }
}

TEST_F(Serial, CharacterTimeoutFiresBelowTheTriggerAndEndsWithARead) {
  put(3, 0x83);
  put(0, 1);  // 115200 baud
  put(1, 0);
  put(3, 0x03);
  put(2, 0xc1);
  put(4, 0x08);
  put(1, 0x01);
  EXPECT_EQ(type("ab"), 2u);
  EXPECT_FALSE(line.level);
  time.advance(1'000'000);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(2), 0xcc);
  EXPECT_EQ(get(0), 'a');
  EXPECT_FALSE(line.level);
  time.advance(1'000'000);
  EXPECT_TRUE(line.level) << "for the byte that is left";
  EXPECT_EQ(get(0), 'b');
  time.advance(1'000'000);
  EXPECT_FALSE(line.level);
}

TEST_F(Serial, InputIsHeldBackUntilDrained) {
  EXPECT_EQ(type("ab"), 1u);
  EXPECT_EQ(get(0), 'a');
  EXPECT_EQ(ready, 1);
  put(2, 0x01);
  EXPECT_EQ(type(std::string(20, 'x')), 16u);
  for (int i = 0; i < 15; ++i) static_cast<void>(get(0));
  EXPECT_EQ(ready, 1);
  static_cast<void>(get(0));
  EXPECT_EQ(ready, 2);
  EXPECT_EQ(get(5), 0x60);
  EXPECT_EQ(ready, 2) << "once a refusal";
}

TEST_F(Serial, ClearingTheReceiverMakesRoom) {
  put(2, 0x01);
  EXPECT_EQ(type(std::string(20, 'x')), 16u);
  put(2, 0x03);
  EXPECT_EQ(ready, 1);
  EXPECT_EQ(get(5) & 1, 0);
}

TEST_F(Serial, LoopbackOfDataAndModemLines) {
  EXPECT_EQ(get(6), 0xb0);
  put(4, 0x1a);  // as Linux probes: loopback, OUT2, RTS
  EXPECT_EQ(get(6) & 0xf0, 0x90);
  put(0, 0x5a);
  EXPECT_EQ(get(5), 0x61);
  EXPECT_EQ(get(0), 0x5a);
  EXPECT_TRUE(sent.empty());
  EXPECT_EQ(type("x"), 0u) << "the receiver is not on the line";
  put(4, 0x08);
  EXPECT_EQ(ready, 1);
}

TEST_F(Serial, ModemStatusInterruptAndTrailingRing) {
  put(4, 0x18);
  static_cast<void>(get(6));
  put(1, 0x08);
  EXPECT_FALSE(line.level);
  put(4, 0x1c);  // RI on: no event
  EXPECT_FALSE(line.level);
  put(4, 0x18);  // RI off: TERI
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(2), 0x00);
  EXPECT_EQ(get(6), 0x84);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(get(6), 0x80);
}

TEST_F(Serial, LoopbackOverrunIsALineStatusInterruptOfTheHighestPriority) {
  put(1, 0x07);
  put(4, 0x18);
  put(0, 'a');
  EXPECT_EQ(get(2), 0x04);
  put(0, 'b');
  EXPECT_EQ(get(2), 0x06);
  EXPECT_EQ(get(5), 0x63);
  EXPECT_EQ(get(5), 0x61) << "reading clears it";
  EXPECT_EQ(get(0), 'b') << "without FIFO the newer byte stays";
}

TEST_F(Serial, LoopbackBreakTravelsWithItsByte) {
  put(2, 0x01);
  put(4, 0x10);
  put(0, 'a');
  put(3, 0x43);
  put(3, 0x03);
  EXPECT_EQ(get(5), 0xe1) << "an error is in the FIFO, but not on top";
  EXPECT_EQ(get(0), 'a');
  EXPECT_EQ(get(5), 0xf1);
  EXPECT_EQ(get(5), 0x61);
  EXPECT_EQ(get(0), 0);
}

TEST_F(Serial, SavesAndRestores) {
  put(2, 0xc1);
  put(4, 0x08);
  put(1, 0x01);
  EXPECT_EQ(type("abc"), 3u);
  const base::Document saved = serial.save();
  FakeLine other_line;
  Serial16550 other(time, other_line, [](std::span<const u8>) {});
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  time.advance(20'000'000);
  EXPECT_TRUE(other_line.level) << "the timeout came over";
  EXPECT_EQ(other.read(0), 'a');
}

TEST_F(Serial, RefusesStatesOutOfRange) {
  for (const auto& [field, value] :
       {std::pair{"fifo_count", 17}, {"ier", 0x10}, {"mcr", 0x20}, {"fcr", 0x02}}) {
    base::Document bad = serial.save();
    bad["state"][field] = value;
    EXPECT_FALSE(serial.restore(bad)) << field;
  }
  base::Document bad = serial.save();
  bad["state"]["fifo_count"] = 2;
  EXPECT_FALSE(serial.restore(bad)) << "two bytes without a FIFO";
}

TEST_F(Serial, BearsAnything) {
  fuzz_range(ports, time, kCom1Base, 8, 1, [this](std::mt19937_64& random) {
    if (random() % 16 == 0) static_cast<void>(type(std::string(random() % 40, 'z')));
    sent.clear();
  });
  EXPECT_TRUE(serial.restore(serial.save()));
}

}  // namespace
}  // namespace vert::device
