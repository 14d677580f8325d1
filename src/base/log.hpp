// Diagnostics for people, one line each, on standard error. Any thread.
//
// Guest input may reach a log line only through LogLimit: a hostile guest must not be able to fill a disk.
#pragma once

#include <atomic>
#include <string_view>

#include <fmt/format.h>

namespace vert::base {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

/// Lines above this level are dropped. The default is kWarning.
void set_log_level(LogLevel level);
[[nodiscard]] bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view text);

template <typename... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) log_line(level, fmt::format(format, std::forward<Args>(args)...));
}

/// Lets at most `limit` lines through in its life: one static object per guest-triggerable call site.
class LogLimit {
 public:
  explicit LogLimit(unsigned limit) : left_(limit) {}

  template <typename... Args>
  void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
    if (!log_enabled(level) || left_.load(std::memory_order_relaxed) == 0) return;
    if (take()) log_line(level, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  bool take();

  std::atomic<unsigned> left_;
};

}  // namespace vert::base
