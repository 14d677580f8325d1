// Host-side failures as values. Guest faults are something else: see x86/exception.hpp.
//
// An Error is one line for people: what is wrong and, where we know, how to mend it. Only cli/ prints it.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace vert {

struct Error {
  std::string message;
  int system_error = 0;  // the errno value behind it, if there is one
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

/// The one place where errors are made (and the one place for a breakpoint).
template <typename... Args>
[[nodiscard]] std::unexpected<Error> make_error(fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{.message = fmt::format(format, std::forward<Args>(args)...)});
}

/// As make_error, with the meaning of `error_number` (an errno value) appended: "...: No such file".
[[nodiscard]] std::unexpected<Error> make_system_error(int error_number, std::string_view what);

/// A bug in vert, never reachable from guest or user input: says where, and aborts.
[[noreturn]] void check_failed(const char* expression, const char* file, int line);

}  // namespace vert

/// Evaluates an expression of type Result<T> or Status; returns its error from this function.
#define VERT_TRY(expression)                                               \
  do {                                                                     \
    if (auto vert_try_result = (expression); !vert_try_result.has_value()) \
      return std::unexpected(std::move(vert_try_result).error());          \
  } while (false)

/// `VERT_ASSIGN(auto file, open(path));` declares or assigns the value, or returns the error.
#define VERT_ASSIGN(target, expression) VERT_ASSIGN_(target, expression, VERT_CONCAT_(vert_tmp_, __LINE__))
#define VERT_CONCAT_(a, b) VERT_CONCAT2_(a, b)
#define VERT_CONCAT2_(a, b) a##b
#define VERT_ASSIGN_(target, expression, tmp)                           \
  auto tmp = (expression);                                              \
  if (!tmp.has_value()) return std::unexpected(std::move(tmp).error()); \
  target = std::move(tmp).value()

#define VERT_CHECK(expression) \
  ((expression) ? static_cast<void>(0) : ::vert::check_failed(#expression, __FILE__, __LINE__))

#ifdef VERT_DCHECKS
#define VERT_DCHECK(expression) VERT_CHECK(expression)
#else
#define VERT_DCHECK(expression) static_cast<void>(sizeof(expression))
#endif
