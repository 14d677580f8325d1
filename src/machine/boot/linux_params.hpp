// Linux's boot_params, the "zero page" (Documentation/arch/x86/boot.rst and zero-page.rst).
#pragma once

#include <span>

#include "machine/boot/kernel_image.hpp"
#include "machine/boot/placement.hpp"

namespace vert::machine {

/// Offsets of the setup header's fields, the same in a bzImage and in boot_params.
namespace setup_header {
inline constexpr u64 kStart = 0x1F1;
inline constexpr u64 kSetupSectors = 0x1F1;
inline constexpr u64 kSystemSize = 0x1F4;
inline constexpr u64 kVideoMode = 0x1FA;
inline constexpr u64 kBootFlag = 0x1FE;
inline constexpr u64 kJumpOffset = 0x201;
inline constexpr u64 kMagic = 0x202;
inline constexpr u64 kVersion = 0x206;
inline constexpr u64 kLoader = 0x210;
inline constexpr u64 kLoadFlags = 0x211;
inline constexpr u64 kCode32Start = 0x214;
inline constexpr u64 kRamdiskImage = 0x218;
inline constexpr u64 kRamdiskSize = 0x21C;
inline constexpr u64 kCommandLine = 0x228;
inline constexpr u64 kInitrdMax = 0x22C;
inline constexpr u64 kAlignment = 0x230;
inline constexpr u64 kRelocatable = 0x234;
inline constexpr u64 kXLoadFlags = 0x236;
inline constexpr u64 kCommandLineSize = 0x238;
inline constexpr u64 kSetupData = 0x250;
inline constexpr u64 kPreferredAddress = 0x258;
inline constexpr u64 kInitSize = 0x260;
inline constexpr u64 kEnd = 0x264;      // of protocol 2.12
inline constexpr u64 kRoomEnd = 0x290;  // what boot_params has room for

inline constexpr u16 kBootFlagValue = 0xAA55;
inline constexpr u32 kMagicValue = 0x53726448;  // "HdrS"
inline constexpr u8 kUnknownLoader = 0xFF;
inline constexpr u8 kLoadedHigh = 1;
}  // namespace setup_header

struct LinuxBoot {
  std::span<const u8> header;  // what goes to setup_header::kStart; at most kRoomEnd - kStart bytes
  u64 initrd_limit = 0;        // first address past what the kernel can use for it
  u64 command_line_limit = 0;  // without the NUL
};

/// Places initrd, command line and boot_params, the kernel being placed already, and points RSI at
/// boot_params.
[[nodiscard]] Status put_linux_params(const BootSource& source, const MemoryMap& map, const LinuxBoot& boot,
                                      Placement& placement, cpu::CpuState& state);

}  // namespace vert::machine
