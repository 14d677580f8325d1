#include "machine/firmware/real_mode.hpp"

#include <array>

#include "base/error.hpp"
#include "machine/firmware/memory_map.hpp"

extern "C" {
// real_mode_code.S
extern const vert::u8 vert_real_mode_code[];
extern const vert::u8 vert_real_mode_code_end[];
}

namespace vert::machine {

namespace {

// Offsets in segment F000h: the first two are where IBM's BIOS had them.
constexpr u16 kTimerHandler = 0xFEA5;
constexpr u16 kReturn = 0xFF53;
constexpr u16 kMasterHandler = 0xFE00;
constexpr u16 kSlaveHandler = 0xFE10;

constexpr u32 far_pointer(u16 offset) { return 0xF000'0000U | offset; }

/// Interrupts as Board::set_up_as_firmware() tells the 8259s.
std::array<u32, 256> vectors() {
  constexpr unsigned kMasterBase = 0x08;
  constexpr unsigned kSlaveBase = 0x70;
  std::array<u32, 256> table;
  table.fill(far_pointer(kReturn));
  for (unsigned input = 0; input < 8; ++input) {
    table[kMasterBase + input] = far_pointer(kMasterHandler);
    table[kSlaveBase + input] = far_pointer(kSlaveHandler);
  }
  table[kMasterBase] = far_pointer(kTimerHandler);
  return table;
}

template <typename T>
void put(memory::GuestMemory& memory, u64 address, const T& value) {
  VERT_CHECK(memory.write(Gpa(address), {reinterpret_cast<const u8*>(&value), sizeof value}));
}

}  // namespace

void put_real_mode_firmware(memory::GuestMemory& memory) {
  constexpr u64 kEbdaSegmentAt = 0x40E;
  constexpr u64 kBaseMemoryKibAt = 0x413;
  put(memory, 0, vectors());
  put(memory, kEbdaSegmentAt, static_cast<u16>(kEbdaBase >> 4));
  put(memory, kBaseMemoryKibAt, static_cast<u16>(kEbdaBase >> 10));
  put(memory, kEbdaBase, u8{1});  // its size in KiB
  VERT_CHECK(vert_real_mode_code_end - vert_real_mode_code == static_cast<i64>(kOneMiB - kBiosCodeBase));
  VERT_CHECK(memory.write(Gpa(kBiosCodeBase), {vert_real_mode_code, vert_real_mode_code_end}));
}

}  // namespace vert::machine
