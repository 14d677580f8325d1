// Reads and writes of ring structures in guest memory.
#pragma once

#include <atomic>
#include <cstring>

#include "memory/guest_memory.hpp"

namespace vert::device::virtio {

inline constexpr u16 kDescriptorNext = 1;
inline constexpr u16 kDescriptorWrite = 2;
inline constexpr u16 kDescriptorIndirect = 4;
inline constexpr u32 kDescriptorSize = 16;

/// The guest may change the bytes at any moment: whatever is done with the value, they are read once.
template <typename T>
[[nodiscard]] T copy_once(const u8* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return value;
}

// SAFETY (both): `at` lies in RAM and is aligned, which the queue's creation has checked.
[[nodiscard]] inline u16 load_u16(const u8* at, std::memory_order order) {
  return std::atomic_ref<u16>(*reinterpret_cast<u16*>(const_cast<u8*>(at))).load(order);
}
inline void store_u16(memory::GuestMemory& memory, u8* at, u16 value, std::memory_order order) {
  std::atomic_ref<u16>(*reinterpret_cast<u16*>(at)).store(value, order);
  memory.written(at, sizeof value);
}

/// A part of a ring: null unless it lies in RAM and is aligned.
[[nodiscard]] inline u8* ring_part(const memory::GuestMemory& memory, u64 address, u64 size, u64 alignment) {
  return address % alignment == 0 ? memory.host(Gpa(address), size) : nullptr;
}

}  // namespace vert::device::virtio
