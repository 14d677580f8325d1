// How guest registers lie in the host's while generated code runs.
//
// Most have the same number on both sides. The host's RSP points to the return stack, R15 is the guest's RSP,
// and R10, R11 and R14 are the translator's: the guest's R10, R11, R14 and R15 live in Context::gpr.
#pragma once

#include <array>

#include "base/types.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

inline constexpr u8 kAddress = 10;  // T0: guest-linear address
inline constexpr u8 kScratch = 11;  // T1
inline constexpr u8 kDelta = 14;    // T2: host minus guest address of a page that several accesses share
inline constexpr u8 kHostRsp = 15;  // the guest's RSP
inline constexpr u8 kInMemory = 0xFF;

/// The host register of each guest register.
inline constexpr std::array<u8, 16> kHostRegister = {
    0, 1, 2, 3, kHostRsp, 5, 6, 7, 8, 9, kInMemory, kInMemory, 12, 13, kInMemory, kInMemory};

[[nodiscard]] constexpr bool in_memory(u8 guest) { return kHostRegister[guest] == kInMemory; }

}  // namespace vert::bt
