// `vert image convert`: copies an image into another format.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/image_commands.hpp"
#include "cli/image_options.hpp"
#include "cli/text.hpp"
#include "storage/convert.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  vert image convert disk.qcow2 disk.raw
  vert image convert -O qcow2 disk.img disk.qcow2
  vert image convert -c disk.qcow2 small.qcow2              compressed
  vert image convert web.qcow2 alone.qcow2                  with all that its backing files have
  vert image convert -B debian.qcow2 web.qcow2 web2.qcow2   only what differs from debian.qcow2
  vert image convert -l fresh disk.qcow2 old.qcow2          what a snapshot has

What reads as zeroes takes no space in the new image. Of SOURCE nothing changes.
)";

class ConvertCommand final : public Command {
 public:
  explicit ConvertCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("convert", "Copy an image into another format")),
        footer_(std::string(kExamples) + "\n" + kCreationHelp) {
    app_.add_option("SOURCE", source_, "The image to read")->required();
    app_.add_option("TARGET", target_, "The new image")->required();
    app_.add_option("-f,--format", source_format_, "SOURCE's format: raw or qcow2 (default: found out)");
    app_.add_option("-O,--output-format", target_format_,
                    "TARGET's format: raw or qcow2 (default: raw for *.raw and *.img, else qcow2)");
    app_.add_option("-o,--options", options_, "Options of TARGET's format, see below")
        ->type_name("NAME=VALUE,...");
    app_.add_flag("-c,--compress", compress_, "Compress the data (qcow2)");
    app_.add_option("-B,--backing", backing_.name, "Let TARGET store only what differs from this image")
        ->type_name("FILE");
    app_.add_option("-F,--backing-format", backing_.format, "Its format (default: found out)");
    app_.add_option("-l,--snapshot", snapshot_, "Read this snapshot of SOURCE")->type_name("NAME");
    app_.add_flag("-p,--progress", ignored_, "Accepted as by qemu-img; a terminal shows progress anyway");
    app_.add_flag("--force", force_, "Overwrite TARGET if it exists");
    app_.add_flag("--json", json_, "Print what was copied as JSON");
    app_.footer(footer_);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto format, new_format(target_format_, target_));
    if (compress_ && format == storage::Format::kRaw)
      return make_error("raw images cannot be compressed; use -O qcow2");
    VERT_ASSIGN(auto options, parse_creation_options(options_, format));
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    VERT_ASSIGN(const auto source, open_source(*context));
    VERT_TRY(check_new(target_, force_));
    std::unique_ptr<storage::Image> base;
    if (!backing_.name.empty()) {
      VERT_ASSIGN(base, open_backing(*context, backing_, target_, options.image));
    }
    options.image.size = std::max(options.size.value_or(0), source->size());
    const bool was_there = ::access(target_.c_str(), F_OK) == 0;
    auto copied = copy(*context, *source, base.get(), options.image);
    if (!copied) {
      if (!was_there) ::unlink(target_.c_str());
      return std::unexpected(std::move(copied).error());
    }
    if (json_)
      print_out(nlohmann::json({{"source", source_},
                                {"target", target_},
                                {"format", format_name(format)},
                                {"virtual-size", options.image.size},
                                {"data-bytes", copied->data},
                                {"skipped-bytes", copied->zeroes}})
                    .dump(2) +
                "\n");
    return kExitOk;
  }

 private:
  Result<std::unique_ptr<storage::Image>> open_source(storage::IoContext& context) {
    storage::qcow2::OpenOptions options;
    options.image.read_only = true;
    options.snapshot = snapshot_;
    if (!snapshot_.empty()) {
      VERT_ASSIGN(auto image, open_qcow2(context, source_, options, source_format_, "snapshots"));
      return std::unique_ptr<storage::Image>(std::move(image));
    }
    if (!source_format_.empty()) {
      VERT_ASSIGN(options.image.format, parse_format(source_format_));
    }
    return context.complete(open_image(context, source_, options.image));
  }

  Result<storage::ConvertResult> copy(storage::IoContext& context, storage::Image& source,
                                      storage::Image* base, const storage::NewImage& made) {
    VERT_TRY(context.complete(create_image(context, target_, made)));
    storage::ImageOptions options;
    options.format = made.format;
    VERT_ASSIGN(const auto target, context.complete(open_image(context, target_, options)));
    ImageProgress progress;
    storage::ConvertOptions convert_options;
    convert_options.compress = compress_;
    convert_options.backing = base;
    convert_options.progress = [&](u64 done, u64 total) { return progress.show(done, total); };
    VERT_ASSIGN(const auto result, context.complete(convert(source, *target, convert_options)));
    VERT_TRY(context.complete(target->close()));
    return result;
  }

  CLI::App& app_;
  std::string footer_;
  std::string source_;
  std::string target_;
  std::string source_format_;
  std::string target_format_;
  std::string options_;
  std::string snapshot_;
  Backing backing_;
  bool compress_ = false;
  bool force_ = false;
  bool json_ = false;
  bool ignored_ = false;
};

}  // namespace

std::unique_ptr<Command> make_image_convert_command(CLI::App& parent) {
  return std::make_unique<ConvertCommand>(parent);
}

}  // namespace vert::cli
