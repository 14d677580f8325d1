// What follows --cpu: MODEL[,+FEATURE][,-FEATURE]... Pure.
#pragma once

#include <string>

#include "base/error.hpp"

namespace vert::cli {

/// An error, in one line, names what is unknown and what comes near it. Whether this host can run the model
/// is for x86::CpuModel::make().
[[nodiscard]] Status check_cpu_option(const std::string& text);

}  // namespace vert::cli
