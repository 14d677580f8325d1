// The value of --disk.
#pragma once

#include <string>

#include "base/error.hpp"
#include "machine/disks.hpp"

namespace vert::cli {

/// "PATH[,readonly][,format=raw|qcow2][,serial=S][,cache=MODE]"; a comma in PATH or S is written twice.
[[nodiscard]] Result<machine::DiskConfig> parse_disk_option(const std::string& text);

}  // namespace vert::cli
