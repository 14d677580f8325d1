// Engines by name: the one place that knows which there are.
#pragma once

#include <memory>
#include <string_view>

#include "base/error.hpp"
#include "cpu/engine.hpp"

namespace vert::machine {

using EngineMaker = Result<std::unique_ptr<cpu::Engine>> (*)(const cpu::VcpuContext& context);

struct EngineChoice {
  std::string_view name;
  EngineMaker make = nullptr;
};

/// The engine of that name; "auto" is the best available. The error lists the names there are.
[[nodiscard]] Result<EngineChoice> find_engine(std::string_view name);

}  // namespace vert::machine
