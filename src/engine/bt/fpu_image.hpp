// The FPU's state between CpuState and the XSAVE area that generated code's registers are loaded from. Pure.
#pragma once

#include <span>

#include "cpu/cpu_state.hpp"
#include "engine/bt/context.hpp"
#include "x86/cpu_model.hpp"

namespace vert::bt {

/// State components that vert moves (SDM 1, 13.1), those that this host has.
[[nodiscard]] u32 host_components();

/// XSAVE stores FOP, FIP and FDP as zeroes unless an exception is pending (APM 2, 11.5.8).
[[nodiscard]] bool host_hides_x87_pointers();
/// What FNSTENV (SDM 1, figure 8-9) says of them, if `fpu`, from an image, has none.
void complete_pointers(std::span<const u32, 7> environment, cpu::FpuState& fpu);

/// What leaf_state() has to know for guests of this model.
[[nodiscard]] StateLayout state_layout(const x86::CpuModel& model);

void to_image(const cpu::FpuState& fpu, std::span<u8, kXsaveSize> image);
void from_image(std::span<const u8, kXsaveSize> image, cpu::FpuState& fpu);

}  // namespace vert::bt
