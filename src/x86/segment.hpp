// Segment registers with their hidden parts, and descriptors as they lie in memory.
#pragma once

#include "base/types.hpp"

namespace vert::x86 {

/// Descriptor types, system (S = 0) ones (SDM 3A, table 3-2).
enum SystemType : u8 {
  kTss16Available = 1,
  kLdt = 2,
  kTss16Busy = 3,
  kCallGate16 = 4,
  kTaskGate = 5,
  kInterruptGate16 = 6,
  kTrapGate16 = 7,
  kTssAvailable = 9,
  kTssBusy = 11,
  kCallGate = 12,
  kInterruptGate = 14,
  kTrapGate = 15,
};

/// A segment register's hidden part (SDM 3A, 3.4.3). `attributes` holds the descriptor's bits 40..47 in its
/// low byte and bits 52..55 in its bits 12..15, as VMX and KVM lay access rights out (SDM 3C, 24.4.1).
struct Segment {
  static constexpr u16 kAccessed = 1U << 0;
  static constexpr u16 kWritable = 1U << 1;    // data
  static constexpr u16 kReadable = 1U << 1;    // code
  static constexpr u16 kExpandDown = 1U << 2;  // data
  static constexpr u16 kConforming = 1U << 2;  // code
  static constexpr u16 kCode = 1U << 3;
  static constexpr u16 kTypeMask = 0xF;
  static constexpr u16 kS = 1U << 4;  // code or data, not system
  static constexpr u16 kDplShift = 5;
  static constexpr u16 kP = 1U << 7;
  static constexpr u16 kAvl = 1U << 12;
  static constexpr u16 kL = 1U << 13;
  static constexpr u16 kDb = 1U << 14;
  static constexpr u16 kG = 1U << 15;

  u16 selector = 0;
  u16 attributes = 0;
  u32 limit = 0;  // in bytes, the last valid offset
  u64 base = 0;
  /// Loaded with a null selector (or never): not to be used outside 64-bit mode.
  bool unusable = false;

  [[nodiscard]] constexpr u8 type() const { return attributes & kTypeMask; }
  [[nodiscard]] constexpr u8 dpl() const { return (attributes >> kDplShift) & 3; }
  [[nodiscard]] constexpr u8 rpl() const { return selector & 3; }
  [[nodiscard]] constexpr bool present() const { return (attributes & kP) != 0; }
  [[nodiscard]] constexpr bool is_code() const { return (attributes & (kS | kCode)) == (kS | kCode); }
  [[nodiscard]] constexpr bool is_data() const { return (attributes & (kS | kCode)) == kS; }
  [[nodiscard]] constexpr bool is_long() const { return (attributes & kL) != 0; }
  [[nodiscard]] constexpr bool is_big() const { return (attributes & kDb) != 0; }

  /// Names another descriptor of that privilege; all else stays as it was loaded.
  constexpr void select(u16 new_selector, u8 new_dpl) {
    selector = new_selector;
    attributes = static_cast<u16>((attributes & ~(3U << kDplShift)) | unsigned{new_dpl} << kDplShift);
  }

  template <typename Archive>
  void fields(Archive& a) {
    a("selector", selector);
    a("attributes", attributes);
    a("limit", limit);
    a("base", base);
    a("unusable", unusable);
  }
  bool operator==(const Segment&) const = default;
};

/// GDTR and IDTR.
struct DescriptorTable {
  u64 base = 0;
  u16 limit = 0;

  template <typename Archive>
  void fields(Archive& a) {
    a("base", base);
    a("limit", limit);
  }
  bool operator==(const DescriptorTable&) const = default;
};

/// An 8-byte descriptor as it lies in the GDT, LDT or IDT (SDM 3A, 3.4.5).
struct Descriptor {
  u64 raw = 0;

  [[nodiscard]] constexpr u32 base() const {
    return static_cast<u32>((raw >> 16) & 0xFFFFFF) | static_cast<u32>((raw >> 56) << 24);
  }
  /// In bytes: granularity applied.
  [[nodiscard]] constexpr u32 limit() const {
    const u32 limit = static_cast<u32>(raw & 0xFFFF) | static_cast<u32>((raw >> 32) & 0xF0000);
    return (attributes() & Segment::kG) != 0 ? (limit << 12) | 0xFFF : limit;
  }
  [[nodiscard]] constexpr u16 attributes() const { return static_cast<u16>((raw >> 40) & 0xF0FF); }
  [[nodiscard]] constexpr u8 type() const { return attributes() & Segment::kTypeMask; }
  [[nodiscard]] constexpr u8 dpl() const { return (attributes() >> Segment::kDplShift) & 3; }
  [[nodiscard]] constexpr bool present() const { return (attributes() & Segment::kP) != 0; }
  [[nodiscard]] constexpr bool is_system() const { return (attributes() & Segment::kS) == 0; }
  [[nodiscard]] constexpr bool is_code() const {
    return (attributes() & (Segment::kS | Segment::kCode)) == (Segment::kS | Segment::kCode);
  }

  // Gates (SDM 3A, figures 5-8 and 6-2). Offset bits 32..63 of 64-bit gates lie in the next quadword.
  [[nodiscard]] constexpr u16 gate_selector() const { return static_cast<u16>(raw >> 16); }
  [[nodiscard]] constexpr u32 gate_offset() const {
    return static_cast<u32>(raw & 0xFFFF) | static_cast<u32>((raw >> 32) & 0xFFFF0000);
  }
  [[nodiscard]] constexpr u8 gate_parameter_count() const { return (raw >> 32) & 0x1F; }
  [[nodiscard]] constexpr u8 gate_ist() const { return (raw >> 32) & 7; }

  [[nodiscard]] constexpr Segment to_segment(u16 selector) const {
    return {selector, attributes(), limit(), base(), false};
  }
};

}  // namespace vert::x86
