// Engines by name: the one place that knows which there are.
#pragma once

#include <memory>
#include <string_view>

#include "base/error.hpp"
#include "cpu/engine.hpp"

namespace vert::machine {

using EngineMaker = Result<std::unique_ptr<cpu::Engine>> (*)(const cpu::VcpuContext& context);

/// What makes engines of that name; "auto" is the best available. The error lists the names there are.
[[nodiscard]] Result<EngineMaker> find_engine(std::string_view name);

}  // namespace vert::machine
