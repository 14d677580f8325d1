// `vert image create` and `vert image resize`.
#include <unistd.h>

#include <cerrno>

#include "cli/disk_choice.hpp"
#include "cli/image_commands.hpp"
#include "cli/image_options.hpp"
#include "cli/text.hpp"

namespace vert::cli {
namespace {

constexpr const char* kCreateExamples = R"(Examples:
  vert image create disk.qcow2 20G
  vert image create -f raw disk.img 20G
  vert image create -b debian.qcow2 web.qcow2            as large as debian.qcow2, which stays as it is
  vert image create -o cluster_size=2M,preallocation=metadata disk.qcow2 100G
)";

constexpr const char* kResizeExamples = R"(Examples:
  vert image resize disk.qcow2 40G
  vert image resize disk.qcow2 +10G
  vert image resize --shrink disk.qcow2 5G    what lies behind 5G is lost

Grow the partition and the file system from within the guest afterwards; before a shrink, make them smaller.
'vert disk resize' grows the disk of a running VM.)";

class CreateCommand final : public Command {
 public:
  explicit CreateCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("create", "Make an empty disk image")),
        footer_(std::string(kCreateExamples) + "\n" + kCreationHelp) {
    app_.add_option("FILE", path_, "The new image")->required();
    app_.add_option("SIZE", size_, "As 512M, 20G or 1.5T; with -b, the size of the backing file if left out");
    app_.add_option("-f,--format", format_, "raw or qcow2 (default: raw for *.raw and *.img, else qcow2)");
    app_.add_option("-o,--options", options_, "Options of the format, see below")
        ->type_name("NAME=VALUE,...");
    app_.add_option("-b,--backing", backing_.name,
                    "What the disk starts as; relative to the new image's folder")
        ->type_name("FILE");
    app_.add_option("-F,--backing-format", backing_.format, "Its format (default: found out)");
    app_.add_flag("--force", force_, "Overwrite FILE if it exists");
    app_.footer(footer_);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto format, new_format(format_, path_));
    VERT_ASSIGN(auto options, parse_creation_options(options_, format));
    if (!size_.empty()) {
      VERT_ASSIGN(options.size, parse_image_size(size_));
    }
    VERT_TRY(check_new(path_, force_));
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    if (backing_.name.empty()) backing_.name = options.image.qcow2.backing_file.value_or("");
    if (backing_.format.empty()) backing_.format = options.image.qcow2.backing_format.value_or("");
    if (!backing_.name.empty()) {
      VERT_ASSIGN(const auto base, open_backing(*context, backing_, path_, options.image));
      if (!options.size) options.size = base->size();
    }
    if (!options.size) return make_error("how large? as in 'vert image create {} 20G'", path_);
    options.image.size = (*options.size + 511) / 512 * 512;
    const bool was_there = ::access(path_.c_str(), F_OK) == 0;
    const auto made = context->complete(create_image(*context, path_, options.image));
    if (!made) {
      if (!was_there) ::unlink(path_.c_str());
      return std::unexpected(made.error());
    }
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string footer_;
  std::string path_;
  std::string size_;
  std::string format_;
  std::string options_;
  Backing backing_;
  bool force_ = false;
};

class ResizeCommand final : public Command {
 public:
  explicit ResizeCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("resize", "Make a disk larger or smaller")) {
    app_.add_option("FILE", path_, "The image")->required();
    app_.add_option("SIZE", size_, "The new size, or +SIZE or -SIZE")->required();
    app_.add_option("-f,--format", format_, "raw or qcow2 (default: found out)");
    app_.add_flag("--shrink", shrink_, "Allow a smaller size; what is behind it is lost");
    app_.footer(kResizeExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    storage::ImageOptions options;
    if (!format_.empty()) {
      VERT_ASSIGN(options.format, parse_format(format_));
    }
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    VERT_ASSIGN(const auto image, open(*context, options));
    VERT_ASSIGN(const u64 size, parse_new_size(size_, image->size()));
    if (size < image->size() && !shrink_)
      return make_error(
          "{} is less than '{}' has ({}); what is behind it would be lost: use --shrink for that",
          format_size(size), path_, format_size(image->size()));
    VERT_TRY(context->complete(image->resize(size)));
    VERT_TRY(context->complete(image->close()));
    return kExitOk;
  }

 private:
  Result<std::unique_ptr<storage::Image>> open(storage::IoContext& context,
                                               const storage::ImageOptions& options) {
    auto image = context.complete(open_image(context, path_, options));
    if (image || image.error().system_error != EBUSY) return image;
    const auto user = find_disk_of(path_);
    if (!user) return image;
    return make_error("'{}' is the disk {} of the running VM '{}'; use 'vert disk resize {} {} {}'", path_,
                      user->disk, user->machine, user->machine, user->disk, size_);
  }

  CLI::App& app_;
  std::string path_;
  std::string size_;
  std::string format_;
  bool shrink_ = false;
};

}  // namespace

std::unique_ptr<Command> make_image_create_command(CLI::App& parent) {
  return std::make_unique<CreateCommand>(parent);
}
std::unique_ptr<Command> make_image_resize_command(CLI::App& parent) {
  return std::make_unique<ResizeCommand>(parent);
}

}  // namespace vert::cli
