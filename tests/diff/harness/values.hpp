// Values that find bugs: boundaries of integers, special floating-point numbers, pointers into the arena.
#pragma once

#include "diff/harness/case.hpp"
#include "support/random.hpp"

namespace vert::diff {

/// A 64-bit integer, often near a boundary of some width.
[[nodiscard]] u64 interesting_integer(test::Random& random);

/// Fills memory or registers with integers, single, double and extended numbers, zeroes and noise.
void fill_interesting(std::span<u8> to, test::Random& random);

/// A linear address for an operand of `size` bytes: mostly mapped, some across pages, some missing.
[[nodiscard]] u64 interesting_address(unsigned size, test::Random& random);

/// General registers, flags and the whole FPU state.
void fill_registers(Registers& registers, test::Random& random);

/// Vector registers that hold small numbers, for use as indices of gathers and scatters.
[[nodiscard]] constexpr bool is_index_vector(unsigned reg) { return (reg & 12) == 12; }

}  // namespace vert::diff
