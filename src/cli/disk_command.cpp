// `vert disk`: changes the disks of a running VM.
#include "cli/disk_command.hpp"

#include <string>
#include <vector>

#include "cli/disk_choice.hpp"
#include "cli/image_options.hpp"
#include "cli/machine_choice.hpp"
#include "cli/text.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

using nlohmann::json;

constexpr const char* kExamples = R"(Examples:
  vert disk resize web vda 40G      give the first disk of the VM 'web' 40 GiB
  vert disk resize web vda +10G     10 GiB more than it has)";

constexpr const char* kResizeExamples = R"(Examples:
  vert disk resize web vda 40G      the first disk of the VM 'web' has 40 GiB now
  vert disk resize web vda +10G     10 GiB more than it had
  vert disk resize web data.qcow2 1T

The guest sees the new size at once; grow the partition and the file system from within it. Disks of running VMs do not
shrink; 'vert image resize --shrink' makes an image smaller that no VM uses.)";

std::string known_disks(const json& info) {
  std::vector<std::string> ids;
  for (std::size_t i = 0; info.contains(json::json_pointer(fmt::format("/config/disks/{}", i))); ++i)
    ids.push_back(fmt::format("{} ({})", text_at(info, fmt::format("/config/disks/{}/id", i)),
                              text_at(info, fmt::format("/config/disks/{}/path", i))));
  return ids.empty() ? "it has none" : fmt::format("there are: {}", fmt::join(ids, ", "));
}

u64 size_of(const json& info, const std::string& id) {
  for (std::size_t i = 0; info.contains(json::json_pointer(fmt::format("/vert/disks/{}", i))); ++i)
    if (text_at(info, fmt::format("/vert/disks/{}/id", i)) == id)
      return number_at(info, fmt::format("/vert/disks/{}/size", i));
  return 0;
}

class ResizeCommand final : public Command {
 public:
  explicit ResizeCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("resize", "Make a running VM's disk larger")) {
    app_.add_option("NAME", name_, "VM name or an unambiguous prefix")->required()->type_name("");
    app_.add_option("DISK", disk_, "The disk: vda, vdb, ..., its serial number or its image")
        ->required()
        ->type_name("");
    app_.add_option("SIZE", size_, "The new size, or +SIZE")->required()->type_name("");
    app_.footer(kResizeExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto machine, find_machine(name_));
    VERT_ASSIGN(const json info, control::call(machine.socket_path(), "GET", "vm.info"));
    const auto id = find_disk_id(info, disk_);
    if (!id) return make_error("{} has no disk '{}'; {}", machine.name, disk_, known_disks(info));
    VERT_ASSIGN(const u64 size, parse_new_size(size_, size_of(info, *id)));
    const auto done =
        control::call(machine.socket_path(), "PUT", "vm.resize-disk", {{"id", *id}, {"desired_size", size}});
    if (!done) return make_error("{}: {}", machine.name, done.error().message);
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string name_;
  std::string disk_;
  std::string size_;
};

class DiskCommand final : public Command {
 public:
  explicit DiskCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("disk", "Change the disks of a running VM")), resize_(app_) {
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    if (resize_.app().parsed()) return resize_.run();
    print_out(app_.help("vert"));
    return kExitFailure;
  }

 private:
  CLI::App& app_;
  ResizeCommand resize_;
};

}  // namespace

std::unique_ptr<Command> make_disk_command(CLI::App& parent) { return std::make_unique<DiskCommand>(parent); }

}  // namespace vert::cli
