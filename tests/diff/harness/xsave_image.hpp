// FpuState to and from the XSAVE area of this host, standard format (SDM 1, 13.4).
#pragma once

#include <array>

#include "base/types.hpp"
#include "cpu/cpu_state.hpp"

namespace vert::diff {

/// Large enough for every component that FpuState holds.
struct alignas(64) XsaveImage {
  static constexpr std::size_t kSize = 4096;
  std::array<u8, kSize> bytes{};
};

/// The components of FpuState that the operating system has enabled in XCR0 here.
[[nodiscard]] u64 host_components();

void pack(const cpu::FpuState& state, XsaveImage& image);
/// `area` is as XSAVE wrote it; components that XSTATE_BV says are in their initial state become that.
[[nodiscard]] cpu::FpuState unpack(const u8* area);

}  // namespace vert::diff
