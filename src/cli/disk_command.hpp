// `vert disk`.
#pragma once

#include "cli/commands.hpp"

namespace vert::cli {

[[nodiscard]] std::unique_ptr<Command> make_disk_command(CLI::App& parent);

}  // namespace vert::cli
