// Fixed-width integers and guest addresses as types of their own.
//
// A guest-physical address cannot be passed where a linear one is meant: both are explicit wrappers,
// and only memory::GuestMemory turns a Gpa into host bytes.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace vert {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
__extension__ using u128 = unsigned __int128;
__extension__ using i128 = __int128;

inline constexpr u64 kPageSize = 4096;
inline constexpr u64 kPageShift = 12;
inline constexpr u64 kPageOffsetMask = kPageSize - 1;

/// An address in one of the guest's address spaces. Addition wraps, as the processor's does.
template <typename Space>
class Address {
 public:
  constexpr Address() = default;
  constexpr explicit Address(u64 value) : value_(value) {}

  [[nodiscard]] constexpr u64 value() const { return value_; }
  [[nodiscard]] constexpr u64 page_offset() const { return value_ & kPageOffsetMask; }
  [[nodiscard]] constexpr Address page_base() const { return Address(value_ & ~kPageOffsetMask); }
  [[nodiscard]] constexpr u64 page_number() const { return value_ >> kPageShift; }

  friend constexpr Address operator+(Address a, u64 bytes) { return Address(a.value_ + bytes); }
  friend constexpr Address operator-(Address a, u64 bytes) { return Address(a.value_ - bytes); }
  friend constexpr u64 operator-(Address a, Address b) { return a.value_ - b.value_; }
  friend constexpr auto operator<=>(Address, Address) = default;

 private:
  u64 value_ = 0;
};

/// Guest-physical address: what the guest's page tables hold, and what devices use for DMA.
using Gpa = Address<struct GuestPhysicalSpace>;
/// Guest-linear address: after segmentation, before paging (SDM 3A, 3.1).
using Gla = Address<struct GuestLinearSpace>;

}  // namespace vert
