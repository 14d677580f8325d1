// `vert image`: makes, converts, checks and changes disk images.
#include "cli/image_commands.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  vert image build debian -o debian.qcow2    a Debian, made from its packages; then: vert run debian.qcow2
  vert image create disk.qcow2 20G           an empty disk that grows as it is written
  vert image create -b base.qcow2 vm1.qcow2  a disk that starts as base.qcow2 and stores what differs
  vert image info disk.qcow2                 size, format, snapshots
  vert image convert disk.qcow2 disk.raw     another format
  vert image check disk.qcow2                look for damage
  vert image resize disk.qcow2 +10G          make it larger
  vert image snapshot -c fresh disk.qcow2    remember what is on it

Commands, options and sizes are spelled as for qemu-img.)";

class ImageCommand final : public Command {
 public:
  explicit ImageCommand(CLI::App& parent) : app_(*parent.add_subcommand("image", "Work on disk images")) {
    app_.footer(kExamples);
    for (const auto make : {make_image_build_command, make_image_create_command, make_image_info_command,
                            make_image_convert_command, make_image_check_command, make_image_resize_command,
                            make_image_snapshot_command})
      commands_.push_back(make(app_));
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    for (const auto& command : commands_)
      if (command->app().parsed()) return command->run();
    print_out(app_.help("vert"));
    return kExitFailure;
  }

 private:
  CLI::App& app_;
  std::vector<std::unique_ptr<Command>> commands_;
};

}  // namespace

std::unique_ptr<Command> make_image_command(CLI::App& parent) {
  return std::make_unique<ImageCommand>(parent);
}

}  // namespace vert::cli
