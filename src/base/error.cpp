#include "base/error.hpp"

#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace vert {

std::unexpected<Error> make_system_error(int error_number, std::string_view what) {
  return std::unexpected(
      Error{.message = fmt::format("{}: {}", what, std::generic_category().message(error_number)),
            .system_error = error_number});
}

void check_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "vert: internal error at %s:%d: %s\n", file, line, expression);
  std::abort();
}

}  // namespace vert
