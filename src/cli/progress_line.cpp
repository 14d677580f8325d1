#include "cli/progress_line.hpp"

#include <unistd.h>

#include "cli/commands.hpp"

namespace vert::cli {

ProgressLine::ProgressLine() : shown_(::isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() {
  if (shown_ && drawn_) print_error("\r\x1b[K");
}

void ProgressLine::show(const std::string& text) {
  if (!shown_ || text == before_) return;
  before_ = text;
  drawn_ = true;
  print_error("\r\x1b[K" + text);
}

}  // namespace vert::cli
