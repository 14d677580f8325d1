// `vert run --debug WHAT`: what is wanted, and how an engine's counters look on paper.
//
// Pure but for write_report(); main thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "cpu/engine_report.hpp"

namespace vert::cli {

/// A report that is wanted when the machine ends.
struct DebugReport {
  bool wanted = false;
  std::string file;  // empty: standard error
};

struct DebugOptions {
  DebugReport counters;  // engine[=FILE]
  DebugReport samples;   // hot-blocks[=FILE]
  bool perf_map = false;
};

/// Each of `words` is "engine" or "hot-blocks", maybe with "=FILE" behind, or "perf-map".
[[nodiscard]] Result<DebugOptions> parse_debug_options(std::span<const std::string> words);

/// A table for each vCPU: counter, value, and its share where the counters are parts of one whole.
[[nodiscard]] std::string counter_tables(std::span<const std::vector<cpu::CounterGroup>> vcpus);
/// Likewise, with the listings behind.
[[nodiscard]] std::string sample_tables(std::span<const cpu::SampleReport> vcpus);

/// To where it is wanted.
[[nodiscard]] Status write_report(const DebugReport& report, std::string_view text);

}  // namespace vert::cli
