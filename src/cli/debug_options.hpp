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

struct DebugOptions {
  bool counters = false;      // engine[=FILE]
  std::string counters_file;  // empty: standard error
};

/// Each of `words` is "engine" or "engine=FILE".
[[nodiscard]] Result<DebugOptions> parse_debug_options(std::span<const std::string> words);

/// A table for each vCPU: counter, value, and its share where the counters are parts of one whole.
[[nodiscard]] std::string counter_tables(std::span<const std::vector<cpu::CounterGroup>> vcpus);

/// To `file`, or to standard error if that is empty.
[[nodiscard]] Status write_report(const std::string& file, std::string_view text);

}  // namespace vert::cli
