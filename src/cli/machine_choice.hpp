// The machine that a command is about, by name, and what all such commands share.
//
// Main thread.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "cli/commands.hpp"
#include "control/registry.hpp"

namespace vert::cli {

/// The machine of that name, or whose name begins so; with an empty word, the only one there is. The error
/// names those that there are.
[[nodiscard]] Result<control::LivingMachine> find_machine(const std::string& word);

/// Adds the argument NAME to a command.
void add_machine_name(CLI::App& app, std::string& name);

/// What `path` leads to in a machine's answer, as text; "?" where there is nothing. As "/config/cpus".
[[nodiscard]] std::string text_at(const nlohmann::json& json, const std::string& path);
/// Likewise a number; 0 where there is none.
[[nodiscard]] u64 number_at(const nlohmann::json& json, const std::string& path);

/// "2026-01-31 14:05:09", in local time.
[[nodiscard]] std::string format_time(u64 seconds_since_1970);
/// "42 s", "3 min", "5 h 12 min", "3 d 4 h".
[[nodiscard]] std::string format_duration(u64 seconds);

}  // namespace vert::cli
