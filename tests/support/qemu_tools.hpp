// QEMU's own tools for images, as a judge of vert's.
#pragma once

#include <stdio.h>

#include <array>
#include <cstdlib>
#include <string>

namespace vert::test {

struct ToolResult {
  int status = -1;
  std::string output;  // both streams
};

inline ToolResult run_tool(const std::string& command) {
  ToolResult result;
  FILE* const pipe = ::popen((command + " 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer{};
  for (std::size_t got = 0; (got = ::fread(buffer.data(), 1, buffer.size(), pipe)) != 0;)
    result.output.append(buffer.data(), got);
  const int status = ::pclose(pipe);
  result.status = status >= 0 && (status & 0x7F) == 0 ? status >> 8 : -1;
  return result;
}

inline bool have_qemu_tools() {
  return run_tool("qemu-img --version").status == 0 && run_tool("qemu-io --version").status == 0;
}

/// What `qemu-img check` has to say against an image: "" if nothing. It may have leaks with `may_leak`.
inline std::string qemu_problems(const std::string& path, bool may_leak = false) {
  const auto result = run_tool("qemu-img check " + path);
  const bool is_fine = result.status == 0 || (may_leak && result.status == 3);
  return is_fine ? "" : result.output + "(status " + std::to_string(result.status) + ")";
}

}  // namespace vert::test
