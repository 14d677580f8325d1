// Results of a vendor's processor, written down so that hosts of the other check them, too.
//
// recorded_cases.S has the pieces of code. `diff_runner --record FILE` runs them on this host and writes what
// they leave; tests/diff/recorded runs them on the engines, with a CPU model of that vendor.
#pragma once

#include <map>
#include <span>
#include <string>

#include "base/error.hpp"
#include "diff/harness/case.hpp"
#include "x86/cpu_model.hpp"

namespace vert::diff {

struct RecordedCase {
  const char* name;
  const u8* begin;
  const u8* end;
  u32 needs;  // as recorded_cases.S has them: bits of RecordedNeeds
  u32 rflags;
};
namespace needs {
inline constexpr u32 kHostUnit = 1;  // bt runs it on the host's unit
inline constexpr u32 kInterp = 2;    // bt is known to differ
inline constexpr u32 kLayout = 4;    // of XSAVE's standard format
inline constexpr u32 kMxcsrMask = 8;
inline constexpr u32 kAvx2 = 16;
inline constexpr u32 kAvx512 = 32;
inline constexpr u32 kF16c = 64;
inline constexpr u32 kSha = 128;
}  // namespace needs

[[nodiscard]] std::span<const RecordedCase> recorded_cases();
[[nodiscard]] Input input_of(const RecordedCase& recorded);
/// Whether a processor of this model has the instructions.
[[nodiscard]] bool has_needs(const RecordedCase& recorded, const x86::CpuModel& model);
/// What it left, as text: all that changed, but flags that the manual leaves undefined.
[[nodiscard]] std::string result_of(const RecordedCase& recorded, const Output& output);

/// A file of results.
struct Recording {
  x86::Vendor vendor = x86::Vendor::kIntel;
  std::string features;  // modifiers of model "host" that make it that processor's
  u32 mxcsr_mask = 0;
  std::string layout;  // of XSAVE's standard format
  std::map<std::string, std::string> results;
};
[[nodiscard]] std::string layout_text(const x86::CpuModel& model);
/// Of this host.
[[nodiscard]] Result<Recording> record();
[[nodiscard]] std::string write(const Recording& recording);
[[nodiscard]] Result<Recording> read(const std::string& text);

}  // namespace vert::diff
