// `--serial stdio|file=F|pty|none`: where the console's bytes go, and where its input comes from.
#pragma once

#include <string>

#include "base/fd.hpp"
#include "cli/console.hpp"

namespace vert::cli {

/// An opened end of the serial line. All descriptors are its own.
struct SerialPort {
  base::Fd output;     // not valid: output is dropped
  base::Fd input;      // not valid: nobody types
  base::Fd keep_open;  // a pseudo-terminal's other side, so that it never hangs up
  bool is_terminal = false;
  std::string notice;  // one line for the user, or empty
};

[[nodiscard]] Result<SerialPort> open_serial_port(const std::string& spec);

}  // namespace vert::cli
