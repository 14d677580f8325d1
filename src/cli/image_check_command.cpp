// `vert image check`: looks for damage in an image, and repairs it.
#include <nlohmann/json.hpp>

#include "cli/image_commands.hpp"
#include "cli/image_options.hpp"
#include "cli/text.hpp"
#include "storage/qcow2/check.hpp"

namespace vert::cli {
namespace {

using nlohmann::json;
using storage::qcow2::CheckResult;
using storage::qcow2::Repair;

// As qemu-img's.
constexpr int kExitCorrupt = 2;
constexpr int kExitLeaks = 3;

constexpr const char* kExamples = R"(Examples:
  vert image check disk.qcow2
  vert image check --repair leaks disk.qcow2    free clusters that nothing uses, which is always safe
  vert image check --repair all disk.qcow2      also mend the tables; copy the image first

Exit status: 0 if all is well (or is now), 1 if the image cannot be checked, 2 if it is damaged, 3 if it only has
clusters that are in use for nothing (a crash leaves those). No VM may use the image meanwhile.)";

json to_json(const std::string& path, const CheckResult& result, const CheckResult& after) {
  return {{"filename", path},
          {"format", "qcow2"},
          {"check-errors", 0},
          {"corruptions", after.corruptions},
          {"leaks", after.leaks},
          {"corruptions-fixed", result.corruptions_fixed},
          {"leaks-fixed", result.leaks_fixed},
          {"total-clusters", after.total_clusters},
          {"allocated-clusters", after.allocated_clusters},
          {"compressed-clusters", after.compressed_clusters},
          {"fragmented-clusters", after.fragmented_clusters},
          {"image-end-offset", after.image_end}};
}

std::string describe(const std::string& path, const CheckResult& result, const CheckResult& after) {
  std::string text;
  for (const std::string& problem : result.problems) text += problem + "\n";
  const u64 more = result.corruptions + result.leaks - result.problems.size();
  if (more != 0) text += fmt::format("... and {} more\n", more);
  if (result.corruptions_fixed != 0) text += fmt::format("Repaired {} errors.\n", result.corruptions_fixed);
  if (result.leaks_fixed != 0) text += fmt::format("Freed {} leaked clusters.\n", result.leaks_fixed);
  if (after.corruptions != 0)
    text +=
        fmt::format("'{}' has {} errors: what is read from it may be wrong. Try --repair all on a copy.\n",
                    path, after.corruptions);
  if (after.leaks != 0)
    text += fmt::format(
        "'{}' has {} leaked clusters, which take space and do no harm; --repair leaks frees them.\n", path,
        after.leaks);
  if (after.corruptions == 0 && after.leaks == 0) text += fmt::format("'{}' is in order.\n", path);
  if (after.total_clusters != 0)
    text += fmt::format(
        "{} of {} clusters in use ({:.1f} %), {} compressed, {} fragmented.\n", after.allocated_clusters,
        after.total_clusters,
        100.0 * static_cast<double>(after.allocated_clusters) / static_cast<double>(after.total_clusters),
        after.compressed_clusters, after.fragmented_clusters);
  return text;
}

class CheckCommand final : public Command {
 public:
  explicit CheckCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("check", "Look for damage in an image")) {
    app_.add_option("FILE", path_, "The image")->required();
    app_.add_option("-f,--format", format_, "The format; only qcow2 images can be checked");
    app_.add_option("-r,--repair", repair_, "What to repair: leaks or all")->type_name("leaks|all");
    app_.add_flag("--json", json_, "Print JSON");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    Repair repair = Repair::kNone;
    if (!repair_.empty()) {
      static const std::vector<std::string> kKinds = {"leaks", "all"};
      VERT_TRY(check_name("kind of repair", repair_, kKinds));
      repair = repair_ == "all" ? Repair::kAll : Repair::kLeaks;
    }
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    storage::qcow2::OpenOptions options;
    options.image.read_only = repair == Repair::kNone;
    options.repair = true;
    VERT_ASSIGN(const auto image, open_qcow2(*context, path_, options, format_, "tables to check"));
    VERT_ASSIGN(const auto result, context->complete(check(*image, repair)));
    CheckResult after = result;
    if (repair != Repair::kNone) {
      VERT_ASSIGN(after, context->complete(check(*image, Repair::kNone)));
      VERT_TRY(context->complete(image->close()));
    }
    print_out(json_ ? to_json(path_, result, after).dump(2) + "\n" : describe(path_, result, after));
    if (after.corruptions != 0) return kExitCorrupt;
    return after.leaks != 0 ? kExitLeaks : kExitOk;
  }

 private:
  CLI::App& app_;
  std::string path_;
  std::string format_;
  std::string repair_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_image_check_command(CLI::App& parent) {
  return std::make_unique<CheckCommand>(parent);
}

}  // namespace vert::cli
