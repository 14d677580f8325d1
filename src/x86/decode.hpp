// decode() of insn.hpp, for either vendor's processors: they take a few encodings for different instructions.
#pragma once

#include "x86/cpu_identity.hpp"
#include "x86/insn.hpp"

namespace vert::x86 {

/// decode() is that of Intel's.
[[nodiscard]] DecodeStatus decode_as(Vendor vendor, std::span<const u8> bytes, CodeSize size, Insn& insn);
[[nodiscard]] DecodeStatus decode_as(Vendor vendor, std::span<const u8> bytes, CodeSize size, Insn& insn,
                                     InsnDetails& details);

}  // namespace vert::x86
