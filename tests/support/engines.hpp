// The engines that tests run on, by the name that `vert run --engine` knows them by; and bt_windows, which is
// bt with windows for all user code from its first instruction on, as it has for code that has run for a
// while. With the suffix _no_looks, generated code does not look for events by itself.
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
