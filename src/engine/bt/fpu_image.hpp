// The FPU's state between CpuState and the XSAVE area that generated code's registers are loaded from. Pure.
#pragma once

#include <span>

#include "cpu/cpu_state.hpp"
#include "engine/bt/context.hpp"
#include "x86/cpu_model.hpp"

namespace vert::bt {

/// State components that vert moves (SDM 1, 13.1), those that this host has.
[[nodiscard]] u32 host_components();

/// What leaf_state() has to know for guests of this model.
[[nodiscard]] StateLayout state_layout(const x86::CpuModel& model);

/// All but FIP, FOP and FDP.
void to_image(const cpu::FpuState& fpu, std::span<u8, kXsaveSize> image);
void from_image(std::span<const u8, kXsaveSize> image, cpu::FpuState& fpu);

}  // namespace vert::bt
