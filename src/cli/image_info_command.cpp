// `vert image info` and `vert image snapshot`.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "cli/image_commands.hpp"
#include "cli/image_options.hpp"
#include "cli/machine_choice.hpp"
#include "cli/text.hpp"
#include "storage/qcow2/snapshots.hpp"

namespace vert::cli {
namespace {

using nlohmann::json;
using storage::qcow2::OpenOptions;
using storage::qcow2::Qcow2Image;
using storage::qcow2::Snapshot;

constexpr const char* kInfoExamples = R"(Examples:
  vert image info disk.qcow2
  vert image info --json disk.qcow2       with the names that qemu-img uses

It also works while a VM uses the image.)";

constexpr const char* kSnapshotExamples = R"(Examples:
  vert image snapshot disk.qcow2             list the snapshots
  vert image snapshot -c fresh disk.qcow2    remember what is on the disk
  vert image snapshot -a fresh disk.qcow2    go back to that; what has changed since is lost
  vert image snapshot -d fresh disk.qcow2    delete it

Only qcow2 images have snapshots, and no VM may use the image meanwhile.)";

/// A snapshot's name is whatever the image holds.
std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < ' ' || c == 0x7F; }, '?');
  return text;
}
std::string dump(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

json snapshots_json(const Qcow2Image& image) {
  json list = json::array();
  for (const Snapshot& snapshot : image.store().snapshots)
    list.push_back({{"id", snapshot.id},
                    {"name", snapshot.name},
                    {"date-sec", snapshot.seconds},
                    {"date-nsec", snapshot.nanoseconds},
                    {"vm-clock-sec", snapshot.vm_clock / 1'000'000'000},
                    {"vm-clock-nsec", snapshot.vm_clock % 1'000'000'000},
                    {"vm-state-size", snapshot.vm_state_size},
                    {"disk-size", snapshot.disk_size}});
  return list;
}

std::string snapshot_table(const Qcow2Image& image) {
  std::vector<std::vector<std::string>> rows = {{"ID", "NAME", "DISK", "TAKEN"}};
  for (const Snapshot& snapshot : image.store().snapshots)
    rows.push_back({printable(snapshot.id), printable(snapshot.name), format_size(snapshot.disk_size),
                    format_time(snapshot.seconds)});
  return format_table(rows);
}

json qcow2_json(const Qcow2Image& image) {
  const auto& header = image.store().header;
  json data = {
      {"compat", header.geometry.version == 2 ? "0.10" : "1.1"},
      {"refcount-bits", header.geometry.refcount_bits()},
      {"compression-type", header.compression == storage::qcow2::CompressionType::kZstd ? "zstd" : "zlib"}};
  if (header.geometry.version >= 3) {
    data["lazy-refcounts"] = image.store().has_lazy_refcounts();
    data["corrupt"] = (header.incompatible & storage::qcow2::kIncompatibleCorrupt) != 0;
    data["extended-l2"] = header.geometry.extended_l2;
  }
  json info = {{"cluster-size", header.geometry.cluster_size()},
               {"dirty-flag", (header.incompatible & storage::qcow2::kIncompatibleDirty) != 0},
               {"format-specific", {{"type", "qcow2"}, {"data", data}}}};
  if (header.backing_file) info["backing-filename"] = *header.backing_file;
  if (header.backing_format) info["backing-filename-format"] = *header.backing_format;
  if (!image.store().snapshots.empty()) info["snapshots"] = snapshots_json(image);
  return info;
}

std::string row(std::string_view what, std::string_view value) {
  return fmt::format("  {:<18}{}\n", what, value);
}

std::string describe(const json& info) {
  const auto size = [&](const char* key) { return info[key].get<u64>(); };
  std::string text =
      info["filename"].get<std::string>() + "\n" + row("format", info["format"].get<std::string>()) +
      row("disk size",
          fmt::format("{} ({} bytes)", format_size(size("virtual-size")), size("virtual-size"))) +
      row("space taken", format_size(size("actual-size")));
  if (!info.contains("cluster-size")) return text;
  const json& data = info["format-specific"]["data"];
  text += row("cluster size", format_size(size("cluster-size")));
  text += row("compatibility", data["compat"].get<std::string>());
  text += row("compression", data["compression-type"].get<std::string>());
  text += row("refcounts", fmt::format("{} bits{}", data["refcount-bits"].get<u64>(),
                                       data.value("lazy-refcounts", false) ? ", lazy" : ""));
  if (info.contains("backing-filename"))
    text += row("backing file",
                fmt::format("{}{}", printable(info["backing-filename"].get<std::string>()),
                            info.contains("backing-filename-format")
                                ? " (" + printable(info["backing-filename-format"].get<std::string>()) + ")"
                                : ""));
  if (data.value("extended-l2", false)) text += row("extended L2", "yes; vert can only read it");
  if (info.value("dirty-flag", false))
    text += row("state", "not closed properly; repaired when it is used next");
  if (data.value("corrupt", false)) text += row("state", "corrupt; see 'vert image check'");
  return text;
}

class InfoCommand final : public Command {
 public:
  explicit InfoCommand(CLI::App& parent) : app_(*parent.add_subcommand("info", "Show what an image is")) {
    app_.add_option("FILE", path_, "The image")->required();
    app_.add_option("-f,--format", format_, "raw or qcow2 (default: found out)");
    app_.add_flag("--json", json_, "Print JSON");
    app_.footer(kInfoExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    storage::FileOptions options;
    options.read_only = true;
    options.lock = false;
    VERT_ASSIGN(auto file, storage::ImageFile::open(*context, path_, options));
    VERT_ASSIGN(auto format, context->complete(storage::file_format(*file)));
    if (!format_.empty()) {
      VERT_ASSIGN(format, parse_format(format_));
    }
    VERT_ASSIGN(const u64 file_size, file->size());
    json info = {{"filename", path_},
                 {"format", format_name(format)},
                 {"virtual-size", file_size},
                 {"actual-size", file->allocated_size()}};
    std::string snapshots;
    if (format == storage::Format::kQcow2) {
      OpenOptions open;
      open.image.read_only = true;
      open.repair = true;  // without what lies behind it, and whatever its state
      VERT_ASSIGN(const auto image, context->complete(Qcow2Image::open(*context, std::move(file), open)));
      info["virtual-size"] = image->size();
      info.update(qcow2_json(*image));
      if (!image->store().snapshots.empty()) snapshots = "\nSnapshots\n" + snapshot_table(*image);
    }
    print_out(json_ ? dump(info) : describe(info) + snapshots);
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string path_;
  std::string format_;
  bool json_ = false;
};

class SnapshotCommand final : public Command {
 public:
  explicit SnapshotCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("snapshot", "List, take, go back to or delete snapshots")) {
    app_.add_option("FILE", path_, "The image")->required();
    app_.add_flag("-l,--list", list_, "List the snapshots, which is what happens without an option");
    app_.add_option("-c,--create", create_, "Take a snapshot")->type_name("NAME");
    app_.add_option("-a,--apply", apply_, "Go back to a snapshot")->type_name("NAME");
    app_.add_option("-d,--delete", delete_, "Delete a snapshot")->type_name("NAME");
    app_.add_flag("--json", json_, "Print the list as JSON");
    app_.footer(kSnapshotExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    const auto given =
        (list_ ? 1 : 0) + std::ranges::count_if(std::array{&create_, &apply_, &delete_},
                                                [](const auto* name) { return !name->empty(); });
    if (given > 1) return make_error("one of -l, -c, -a and -d at a time");
    const bool changes = given == 1 && !list_;
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    OpenOptions options;
    options.image.read_only = !changes;
    VERT_ASSIGN(const auto image, open_qcow2(*context, path_, options, "", "snapshots"));
    if (!create_.empty()) VERT_TRY(context->complete(storage::qcow2::create_snapshot(*image, create_)));
    if (!apply_.empty()) VERT_TRY(context->complete(storage::qcow2::apply_snapshot(*image, apply_)));
    if (!delete_.empty()) VERT_TRY(context->complete(storage::qcow2::delete_snapshot(*image, delete_)));
    if (changes) {
      VERT_TRY(context->complete(image->close()));
    } else {
      print_out(json_ ? dump(snapshots_json(*image)) : snapshot_table(*image));
    }
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string path_;
  std::string create_;
  std::string apply_;
  std::string delete_;
  bool list_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_image_info_command(CLI::App& parent) {
  return std::make_unique<InfoCommand>(parent);
}
std::unique_ptr<Command> make_image_snapshot_command(CLI::App& parent) {
  return std::make_unique<SnapshotCommand>(parent);
}

}  // namespace vert::cli
