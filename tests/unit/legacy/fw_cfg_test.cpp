// fw_cfg by its ports and by its transfers to memory.
#include "device/legacy/fw_cfg.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <numeric>

#include "device_test.hpp"

namespace vert::device {
namespace {

constexpr u64 kRam = 0x20000;
constexpr u64 kDescriptor = 0x1000;
constexpr u64 kBuffer = 0x2000;
constexpr u16 kItem = 0x11;

constexpr u32 kError = 1;
constexpr u32 kRead = 2;
constexpr u32 kSkip = 4;
constexpr u32 kSelect = 8;
constexpr u32 kWrite = 16;

struct FwCfgTest : testing::Test, PortTest {
  FwCfgTest() {
    item.resize(300);
    std::iota(item.begin(), item.end(), u8{1});
    device.add_view(kItem, item);
    device.add_integer(fw_cfg_key::kCpus, u16{0x0304});
    EXPECT_TRUE(device.map(ports));
  }
  void select(u16 key) { ports.write(0x510, 2, key); }
  std::string data(std::size_t size) {
    std::string bytes;
    while (bytes.size() < size) bytes.push_back(static_cast<char>(in(0x511)));
    return bytes;
  }
  /// The control field after a transfer.
  u32 transfer(u32 control, u32 length, u64 address, u64 descriptor = kDescriptor) {
    const u32 words[] = {std::byteswap(control), std::byteswap(length)};
    const u64 target = std::byteswap(address);
    put(descriptor, words);
    put(descriptor + 8, target);
    ports.write(0x514, 4, std::byteswap(static_cast<u32>(descriptor >> 32)));
    ports.write(0x518, 4, std::byteswap(static_cast<u32>(descriptor)));
    return std::byteswap(memory->load<u32>(Gpa(descriptor)).value_or(0));
  }
  template <typename T>
  void put(u64 address, const T& value) {
    static_cast<void>(memory->write(Gpa(address), {reinterpret_cast<const u8*>(&value), sizeof value}));
  }
  std::vector<u8> ram(u64 address, u64 size) const {
    std::vector<u8> bytes(size);
    EXPECT_TRUE(memory->read(Gpa(address), bytes));
    return bytes;
  }

  std::unique_ptr<memory::GuestMemory> memory = memory::GuestMemory::create({{Gpa(0), kRam}}).value();
  std::vector<u8> item;
  FwCfg device{*memory};
};

TEST_F(FwCfgTest, ShowsItsSignature) {
  EXPECT_EQ(data(4), "QEMU") << "selected after reset";
  select(fw_cfg_key::kId);
  EXPECT_EQ(data(4), std::string("\3\0\0\0", 4));
  EXPECT_EQ(ports.read(0x514, 4), 0x554D4551U);  // QEMU
  EXPECT_EQ(ports.read(0x518, 4), 0x47464320U);  // " CFG"
}

TEST_F(FwCfgTest, IntegersAreLittleEndian) {
  select(fw_cfg_key::kCpus);
  EXPECT_EQ(data(2), "\x04\x03");
}

TEST_F(FwCfgTest, SelectingStartsAnewAndPastTheEndAreZeroes) {
  select(kItem);
  EXPECT_EQ(data(2), "\1\2");
  select(kItem);
  EXPECT_EQ(data(1), "\1");
  EXPECT_EQ(data(303).substr(299), std::string(4, '\0'));
  select(0x3FFF);
  EXPECT_EQ(data(2), std::string(2, '\0')) << "there is no such item";
}

TEST_F(FwCfgTest, WritesToDataAreIgnored) {
  select(kItem);
  out(0x511, 0x77);
  out(0x510, 0x05);
  EXPECT_EQ(data(1), "\1");
}

TEST_F(FwCfgTest, DirectoryListsFiles) {
  device.add_file("etc/a", {1, 2, 3});
  device.add_file("etc/b", std::vector<u8>(0x102));
  select(fw_cfg_key::kFileDirectory);
  EXPECT_EQ(data(4), std::string("\0\0\0\2", 4));
  EXPECT_EQ(data(8), std::string("\0\0\0\3\0\x20\0\0", 8));
  EXPECT_EQ(data(56), "etc/a" + std::string(51, '\0'));
  EXPECT_EQ(data(8), std::string("\0\0\1\2\0\x21\0\0", 8));
  select(0x20);
  EXPECT_EQ(data(3), "\1\2\3");
}

TEST_F(FwCfgTest, TransferReadsAndGoesOnWhereItStopped) {
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 100, kBuffer), 0U);
  EXPECT_EQ(ram(kBuffer, 100), std::vector<u8>(item.begin(), item.begin() + 100));
  EXPECT_EQ(transfer(kSkip, 10, 0), 0U);
  EXPECT_EQ(transfer(kRead, 50, kBuffer), 0U);
  EXPECT_EQ(ram(kBuffer, 50), std::vector<u8>(item.begin() + 110, item.begin() + 160));
  EXPECT_EQ(data(1)[0], static_cast<char>(item[160])) << "ports and transfers share the offset";
}

TEST_F(FwCfgTest, TransferPastTheEndGetsZeroes) {
  put(kBuffer + 300, u64{~u64{0}});
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 304, kBuffer), 0U);
  EXPECT_EQ(ram(kBuffer + 299, 5), (std::vector<u8>{item[299], 0, 0, 0, 0}));
  EXPECT_EQ(ram(kBuffer + 304, 1), (std::vector<u8>{0xFF}));
}

TEST_F(FwCfgTest, TransferMayEndWhereMemoryDoes) {
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 300, kRam - 300), 0U);
  EXPECT_EQ(ram(kRam - 1, 1), (std::vector<u8>{item[299]}));
}

TEST_F(FwCfgTest, TransfersOutOfMemoryFail) {
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 300, kRam - 299), kError);
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 300, ~u64{0} - 10), kError);
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 1, u64{1} << 40), kError);
  // A descriptor that is not all in memory is none: it stays as it is.
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 1, kBuffer, kRam - 15), kSelect | kRead | kItem << 16);
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 1, kBuffer, ~u64{0} - 3), 0U);
  EXPECT_EQ(ram(kBuffer, 1), (std::vector<u8>{0}));
}

TEST_F(FwCfgTest, TransfersFarPastTheEndFail) {
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 300 + 0x10000, 0x2000), 0U);
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 301 + 0x10000, 0x2000), kError);
  EXPECT_EQ(transfer(kSelect | kRead | kItem << 16, 0xFFFFFFFF, 0), kError);
}

TEST_F(FwCfgTest, ItemsCannotBeWritten) {
  EXPECT_EQ(transfer(kSelect | kWrite | kItem << 16, 4, kBuffer), kError);
  EXPECT_EQ(item[0], 1);
}

TEST_F(FwCfgTest, AddressesAboveFourGiBTakeBothHalves) {
  ports.write(0x514, 4, std::byteswap(u32{1}));
  put(kDescriptor, u64{0});
  put(kDescriptor, std::byteswap(kSelect | kRead));
  ports.write(0x518, 4, std::byteswap(static_cast<u32>(kDescriptor)));
  EXPECT_EQ(memory->load<u32>(Gpa(kDescriptor)), std::byteswap(kSelect | kRead)) << "that was 0x100001000";
  ports.write(0x514, 8, std::byteswap(kDescriptor));
  EXPECT_EQ(memory->load<u32>(Gpa(kDescriptor)), 0U);
}

TEST_F(FwCfgTest, SavesAndRestores) {
  select(kItem);
  static_cast<void>(data(7));
  ports.write(0x514, 4, 0x01000000);
  const base::Document saved = device.save();
  FwCfg other(*memory);
  other.add_view(kItem, item);
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  for (const auto& [field, value] : {std::pair<const char*, u64>{"offset", 301}, {"dma_address", 1}}) {
    base::Document bad = saved;
    bad["state"][field] = value;
    EXPECT_FALSE(other.restore(bad)) << field;
    EXPECT_EQ(other.save(), saved) << field;
  }
}

TEST_F(FwCfgTest, ResetSelectsTheSignature) {
  select(kItem);
  device.reset();
  EXPECT_EQ(data(4), "QEMU");
}

TEST_F(FwCfgTest, BearsAnything) {
  fuzz_range(ports, time, 0x510, 12, 9, [&](std::mt19937_64& random) {
    if (random() % 4 != 0) return;
    const u32 key = static_cast<u32>(random() % 0x24) << 16;
    static_cast<void>(transfer(static_cast<u32>(random() % 32) | key, static_cast<u32>(random()),
                               random() % (2 * kRam), random() % kRam));
  });
}

}  // namespace
}  // namespace vert::device
