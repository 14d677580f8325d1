// Executes one instruction directly on the host processor, with a given state, and says what became of it.
//
// Independent of the code under test: it loads everything with XRSTOR and plain moves, runs the unchanged
// bytes, and stores everything back.
#pragma once

#include <array>
#include <span>

#include "cpu/cpu_state.hpp"
#include "x86/cpu_model.hpp"

namespace vert::test {

/// Whether what the guest has of a pointer or an opcode may be what the host had. AMD's processors lose them
/// when the kernel saves and restores the state meanwhile, unless an exception is pending; and of what their
/// XSAVE does not show, only the lower half is known.
[[nodiscard]] inline bool same_pointer(u64 native, u64 guest) {
  static const bool kAmd = x86::host_vendor() == x86::Vendor::kAmd;
  if (kAmd && (native == 0 || native == (guest & 0xFFFF'FFFF))) return true;
  return native == guest;
}

struct NativeOutcome {
  int signal = 0;  // 0: completed
  int code = 0;    // si_code
  u64 address = 0;
};

class NativeOracle {
 public:
  static NativeOracle& instance();

  /// Takes and gives back GPRs, arithmetic flags and FpuState of `state`. After a signal: the state then.
  NativeOutcome run(std::span<const u8> instruction, cpu::CpuState& state);
  /// Where the instruction lies: what FIP holds afterwards.
  [[nodiscard]] u64 instruction_address() const;

  /// A page that may be accessed, with one behind it that may not.
  [[nodiscard]] u8* page() const { return page_; }

 private:
  NativeOracle();
  u8* code_ = nullptr;
  u8* page_ = nullptr;
};

}  // namespace vert::test
