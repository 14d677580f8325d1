// The engines that tests run on, by the name that `vert run --engine` knows them by.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/engine.hpp"

namespace vert::test {

/// Those that this host can run, the reference first.
[[nodiscard]] std::vector<std::string> engine_names();

/// Null if there is no engine of that name.
[[nodiscard]] std::unique_ptr<cpu::Engine> make_engine(std::string_view name,
                                                       const cpu::VcpuContext& context);

}  // namespace vert::test
