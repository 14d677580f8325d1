// The commands of `vert image`.
#pragma once

#include "cli/commands.hpp"

namespace vert::cli {

[[nodiscard]] std::unique_ptr<Command> make_image_build_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_create_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_info_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_convert_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_check_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_resize_command(CLI::App& parent);
[[nodiscard]] std::unique_ptr<Command> make_image_snapshot_command(CLI::App& parent);

}  // namespace vert::cli
