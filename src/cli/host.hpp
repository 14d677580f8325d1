// What the host has: processor, kernel limits. Read from /proc and /sys; any thread.
#pragma once

#include <optional>
#include <string>

#include "base/types.hpp"

namespace vert::cli {

/// The value of a "key : value" line of /proc/cpuinfo or /proc/meminfo, of its first occurrence.
[[nodiscard]] std::optional<std::string> proc_field(const std::string& file, const std::string& key);
/// The first line of a file in /proc or /sys, if there is one.
[[nodiscard]] std::optional<std::string> first_line(const std::string& path);
/// The folder that this program lies in.
[[nodiscard]] std::string program_folder();
/// The path of this program.
[[nodiscard]] std::string program_path();
/// Where ./dev keeps kernels: ${XDG_CACHE_HOME:-~/.cache}/vert.
[[nodiscard]] std::string cache_folder();

}  // namespace vert::cli
