// What g++'s -fsanitize-coverage=trace-pc reports, as counters that libFuzzer reads. libFuzzer itself knows
// only clang's ways, but Debian 12's clang cannot compile vert. Its function of that name is replaced with
// the linker's --wrap.
#include <array>

#include "base/types.hpp"

namespace {

constexpr unsigned kCounterBits = 16;

// Threads count without locks: a lost count does no harm.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
[[gnu::section("__libfuzzer_extra_counters")]] std::array<vert::u8, 1U << kCounterBits> counters;

}  // namespace

/// Called in each basic block.
// NOLINTNEXTLINE(bugprone-reserved-identifier)
extern "C" [[gnu::no_sanitize_coverage]] void __wrap___sanitizer_cov_trace_pc() {
  const auto at = reinterpret_cast<vert::u64>(__builtin_return_address(0));
  ++*(counters.data() + (at * 0x9E37'79B9'7F4A'7C15 >> (64 - kCounterBits)));
}

// g++ tells of comparisons of floats, too; libFuzzer has no use for them.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" [[gnu::no_sanitize_coverage]] void __sanitizer_cov_trace_cmpf(float /*a*/, float /*b*/) {}
extern "C" [[gnu::no_sanitize_coverage]] void __sanitizer_cov_trace_cmpd(double /*a*/, double /*b*/) {}
// NOLINTEND(bugprone-reserved-identifier)
