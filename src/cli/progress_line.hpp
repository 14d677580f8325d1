// A line on the terminal, written over again and again while something takes time. Main thread.
#pragma once

#include <string>

namespace vert::cli {

/// Silent where standard error is not a terminal. Gone when it goes.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  void show(const std::string& text);

 private:
  bool shown_;
  bool drawn_ = false;
  std::string before_;
};

}  // namespace vert::cli
