#include "base/log.hpp"

#include <array>
#include <cstdio>

namespace vert::base {

namespace {
std::atomic<LogLevel> g_level = LogLevel::kWarning;
}

void set_log_level(LogLevel level) { g_level.store(level, std::memory_order_relaxed); }

bool log_enabled(LogLevel level) { return level <= g_level.load(std::memory_order_relaxed); }

void log_line(LogLevel level, std::string_view text) {
  static constexpr std::array kNames = {"error", "warning", "info", "debug"};
  // One write for one line, so that lines of several threads do not mix.
  const std::string line = fmt::format("vert: {}: {}\n", kNames[static_cast<std::size_t>(level)], text);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

bool LogLimit::take() {
  unsigned left = left_.load(std::memory_order_relaxed);
  while (left != 0) {
    if (left_.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return true;
  }
  return false;
}

}  // namespace vert::base
