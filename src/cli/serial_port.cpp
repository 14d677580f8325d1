// Opens the serial console's two ends; see serial_port.hpp.
#include "cli/serial_port.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "cli/text.hpp"

namespace vert::cli {
namespace {

Result<SerialPort> open_stdio() {
  SerialPort port;
  VERT_ASSIGN(port.output, SerialOutput::duplicate_for_output(STDOUT_FILENO));
  port.input = base::Fd(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  if (!port.input.valid()) return make_system_error(errno, "the serial console's input");
  port.is_terminal = isatty(STDIN_FILENO) != 0;
  return port;
}

Result<SerialPort> open_file(const std::string& path) {
  SerialPort port;
  if (path.empty()) return make_error("--serial file= needs a file name, such as --serial file=console.log");
  port.output =
      base::Fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666));
  if (!port.output.valid()) return make_system_error(errno, fmt::format("--serial file={}", path));
  return port;
}

Result<SerialPort> open_pty() {
  SerialPort port;
  port.input = base::Fd(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  const int master = port.input.get();
  std::array<char, 128> name{};
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 ||
      ptsname_r(master, name.data(), name.size()) != 0) {
    return make_system_error(errno, "--serial pty: cannot open a pseudo-terminal");
  }
  port.keep_open = base::Fd(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios mode = {};
  // Raw from the start: an echo would come back to the guest as typed input.
  if (tcgetattr(port.keep_open.get(), &mode) == 0) {
    cfmakeraw(&mode);
    tcsetattr(port.keep_open.get(), TCSANOW, &mode);
  }
  port.output = base::Fd(fcntl(master, F_DUPFD_CLOEXEC, 3));
  port.notice = fmt::format("serial console on {}", name.data());
  return port;
}

}  // namespace

Result<SerialPort> open_serial_port(const std::string& spec) {
  if (spec == "stdio") return open_stdio();
  if (spec == "pty") return open_pty();
  if (spec == "none") return SerialPort{};
  if (spec.starts_with("file=")) return open_file(spec.substr(5));
  static const std::array<std::string, 4> kKinds = {"stdio", "file=F", "pty", "none"};
  return make_error("unknown serial console '{}'; choose {}", spec, join_alternatives(kKinds));
}

}  // namespace vert::cli
