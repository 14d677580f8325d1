// The guests' system is made once and kept: a Debian with fio, as qcow2 and raw. Each guest boots an overlay
// of it, and has two more disks: the one under test, and a script, which a root shell on the console runs.
#include "cli/disk_bench_runner.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/fd.hpp"
#include "cli/bench_peer.hpp"
#include "cli/commands.hpp"
#include "cli/host.hpp"
#include "cli/image_build.hpp"
#include "cli/temporary_folder.hpp"
#include "machine/boot_files.hpp"
#include "storage/convert.hpp"
#include "storage/new_image.hpp"

namespace vert::cli {
namespace {

using storage::Format;

constexpr std::chrono::seconds kPatience{900};  // the reference interpreter boots for minutes
constexpr std::string_view kSystemSerial = "vert-system";
constexpr std::string_view kDataSerial = "vert-data";
constexpr std::string_view kScriptSerial = "vert-script";
constexpr const char* kRunPrefix = "run.";
constexpr std::array kFormats = {Format::kRaw, Format::kQcow2};

const char* format_name(Format format) { return format == Format::kRaw ? "raw" : "qcow2"; }

std::string bench_folder() { return cache_folder() + "/bench"; }

/// The guests' system, in the cache.
std::string system_image(Format format) {
  return fmt::format("{}/debian-fio.{}", bench_folder(), format_name(format));
}

Status copy_image(const std::string& source, const std::string& target, Format format) {
  VERT_ASSIGN(const auto context, storage::IoContext::create());
  VERT_ASSIGN(const auto from, context->complete(storage::open_image(*context, source, {.read_only = true})));
  VERT_TRY(
      context->complete(storage::create_image(*context, target, {.format = format, .size = from->size()})));
  VERT_ASSIGN(const auto to, context->complete(storage::open_image(*context, target, {.format = format})));
  VERT_TRY(context->complete(storage::convert(*from, *to, {})));
  return context->complete(to->close());
}

/// Makes it as a file beside, so that what is there is whole.
Status make_once(const std::string& path, const std::function<Status(const std::string& beside)>& make) {
  if (::access(path.c_str(), R_OK) == 0) return {};
  const std::string beside = fmt::format("{}.{}", path, ::getpid());
  Status made = make(beside);
  if (made && ::rename(beside.c_str(), path.c_str()) != 0) made = make_system_error(errno, path);
  if (!made) ::unlink(beside.c_str());
  return made;
}

Status build_system(const std::string& path, BenchProgress& progress) {
  ImageBuild build;
  build.packages = {"fio"};
  build.output = path;
  build.format = Format::kQcow2;
  build.cache = cache_folder() + "/packages/" + build.suite;
  progress.start("image", build_steps().size());
  Status built = build_image(build, [&](const BuildStep& step) { progress.step(step.name); });
  progress.finish(built.has_value());
  return built;
}

Status make_system(BenchProgress& progress) {
  VERT_TRY(make_once(system_image(Format::kQcow2),
                     [&](const std::string& path) { return build_system(path, progress); }));
  return make_once(system_image(Format::kRaw), [](const std::string& path) {
    return copy_image(system_image(Format::kQcow2), path, Format::kRaw);
  });
}

/// `file` in an option of QEMU's or vert's, where commas separate.
std::string with_doubled_commas(const std::string& file) {
  std::string text;
  for (const char c : file) text += c == ',' ? std::string(",,") : std::string(1, c);
  return text;
}

struct GuestDisk {
  std::string file;
  Format format;
  std::string_view serial;
};

/// All files of a run, in a folder of their own.
class Bench {
 public:
  static Result<Bench> prepare(const std::vector<DiskJob>& jobs) {
    VERT_ASSIGN(auto folder, TemporaryFolder::create(bench_folder(), kRunPrefix));
    Bench bench(std::move(folder));
    VERT_TRY(bench.write_boot_files());
    VERT_TRY(bench.write_data());
    VERT_TRY(write_file(bench.bare_script(), disk_script(jobs, bench.data(Format::kRaw), false)));
    std::string script = disk_script(jobs, fmt::format("/dev/disk/by-id/virtio-{}", kDataSerial), true);
    script.append(kSectorSize - script.size() % kSectorSize, '\n');
    VERT_TRY(write_file(bench.in_folder("guest.sh"), script));
    return bench;
  }

  [[nodiscard]] std::string bare_script() const { return in_folder("bare.sh"); }

  /// The words to start a guest with, from a fresh overlay of its system.
  [[nodiscard]] Result<std::vector<std::string>> command(const DiskResult& setup,
                                                         const std::optional<BenchPeer>& peer) const {
    VERT_TRY(make_overlay(*setup.format));
    const std::array disks = {
        GuestDisk{in_folder("system.qcow2"), Format::kQcow2, kSystemSerial},
        GuestDisk{data(*setup.format), *setup.format, kDataSerial},
        GuestDisk{in_folder("guest.sh"), Format::kRaw, kScriptSerial},
    };
    std::vector<std::string> words =
        peer ? peer_command(*peer, kBenchMemory)
             : std::vector<std::string>{program_path(), "run", "--engine", setup.engine,
                                        "--cpus",       "1",   "--memory", std::string(kBenchMemory),
                                        "--no-reboot"};
    const std::string dash = peer ? "-" : "--";
    words.insert(words.end(), {dash + "kernel", in_folder("kernel"), dash + "initrd", in_folder("initrd"),
                               dash + "append", append_});
    for (const GuestDisk& disk : disks) add_disk(words, disk, peer.has_value());
    return words;
  }

  /// What one guest has left in the page cache must not burden the next.
  [[nodiscard]] Status settle() const {
    for (const Format format : kFormats) {
      const base::Fd file(::open(data(format).c_str(), O_RDONLY | O_CLOEXEC));
      if (!file.valid() || ::fdatasync(file.get()) != 0) return make_system_error(errno, data(format));
    }
    return {};
  }

 private:
  static constexpr std::size_t kSectorSize = 512;

  explicit Bench(TemporaryFolder folder) : folder_(std::move(folder)) {}

  [[nodiscard]] std::string in_folder(const std::string& name) const { return folder_.path() + "/" + name; }
  [[nodiscard]] std::string data(Format format) const {
    return in_folder(fmt::format("data.{}", format_name(format)));
  }

  /// The kernel that the system's disk boots, as files: QEMU does not look into disks.
  [[nodiscard]] Status write_boot_files() {
    machine::MachineConfig config;
    config.disks.push_back({.path = system_image(Format::kQcow2)});
    VERT_ASSIGN(const auto files, machine::read_boot_files(config, false));
    const auto text = [](const std::vector<u8>& bytes) {
      return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    if (files->modules.empty()) return make_error("{} has no initial RAM disk", config.disks.front().path);
    VERT_TRY(write_file(in_folder("kernel"), text(files->kernel)));
    VERT_TRY(write_file(in_folder("initrd"), text(files->modules.front())));
    append_ = fmt::format("{} {}", files->source.command_line, kDiskBenchAppend);
    return {};
  }

  /// Content that no file system finds zeroes in; qcow2 has a place for all of it.
  [[nodiscard]] Status write_data() const {
    std::mt19937_64 random(1);  // NOLINT(bugprone-random-generator-seed): the same each time
    std::string piece(1 << 20, 0);
    for (std::size_t at = 0; at < piece.size(); at += sizeof(u64)) {
      const u64 value = random();
      std::memcpy(piece.data() + at, &value, sizeof value);
    }
    const std::string raw = data(Format::kRaw);
    const base::Fd file(::open(raw.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (!file.valid()) return make_system_error(errno, raw);
    for (u64 done = 0; done < kDiskDataSize;) {
      const ssize_t count = ::write(file.get(), piece.data(), piece.size());
      if (count < 0) return make_system_error(errno, raw);
      done += static_cast<u64>(count);
    }
    return copy_image(raw, data(Format::kQcow2), Format::kQcow2);
  }

  [[nodiscard]] Status make_overlay(Format format) const {
    VERT_ASSIGN(const auto context, storage::IoContext::create());
    const std::string backing = system_image(format);
    VERT_ASSIGN(const auto image, context->complete(storage::open_image(
                                      *context, backing, {.format = format, .read_only = true})));
    storage::NewImage overlay{.format = Format::kQcow2, .size = image->size()};
    overlay.qcow2.backing_file = backing;
    overlay.qcow2.backing_format = format_name(format);
    return context->complete(storage::create_image(*context, in_folder("system.qcow2"), overlay));
  }

  static void add_disk(std::vector<std::string>& words, const GuestDisk& disk, bool for_peer) {
    const std::string file = with_doubled_commas(disk.file);
    if (!for_peer) {
      words.insert(words.end(), {"--disk", fmt::format("{},format={},serial={},cache=writeback", file,
                                                       format_name(disk.format), disk.serial)});
      return;
    }
    words.insert(words.end(),
                 {"-drive",
                  fmt::format("file={},format={},if=none,id={},cache=writeback,aio=io_uring,discard=unmap",
                              file, format_name(disk.format), disk.serial),
                  "-device", fmt::format("virtio-blk-pci,drive={0},serial={0}", disk.serial)});
  }

  TemporaryFolder folder_;
  std::string append_;
};

/// Takes the results of a script as its lines come.
Status take_results(ChildProcess& child, const DiskResult& setup, const std::vector<DiskJob>& jobs,
                    std::vector<double>& rates, BenchProgress& progress) {
  return follow_guest(child, kPatience, [&](const ChildProcess::Line& line) -> Result<bool> {
    const auto said = parse_bench_event(line.text);
    if (!said) return true;
    const auto& [event, job, value] = *said;
    if (event == "failed") return make_error("{}: {}", job, value);
    if (event == "begin") progress.step(fmt::format("{}: {}", setup.name(), job));
    if (event == "end") {
      if (rates.size() == jobs.size() || job != jobs[rates.size()].name())
        return make_error("{} came out of turn", job);
      VERT_ASSIGN(const double rate, parse_disk_output(value));
      rates.push_back(rate);
    }
    return event != "done";
  });
}

Status measure_bare(const Bench& bench, DiskResult& setup, const std::vector<DiskJob>& jobs,
                    BenchProgress& progress) {
  const std::vector<std::string> command = {"sh", bench.bare_script()};
  setup.command = fmt::format("{}", fmt::join(command, " "));
  VERT_ASSIGN(ChildProcess child, ChildProcess::start(command));
  std::vector<double> rates;
  VERT_TRY(take_results(child, setup, jobs, rates, progress));
  setup.rates.push_back(std::move(rates));
  return {};
}

/// Boots, logs in, and has the shell run the script.
Status measure_guest(const Bench& bench, DiskResult& setup, const std::vector<DiskJob>& jobs,
                     const std::optional<BenchPeer>& peer, BenchProgress& progress) {
  VERT_ASSIGN(const auto command, bench.command(setup, peer));
  setup.command = fmt::format("{}", fmt::join(command, " "));
  progress.step(fmt::format("{}: booting", setup.name()));
  const auto begin = ChildProcess::Clock::now();
  VERT_ASSIGN(ChildProcess child, ChildProcess::start(command, {.typed = true}));
  VERT_ASSIGN(const auto prompt, child.wait_for(" login: ", kPatience));
  VERT_TRY(child.type("root\n"));
  VERT_TRY(child.wait_for(":~# ", kPatience));
  VERT_TRY(child.type(fmt::format("sh /dev/disk/by-id/virtio-{}\n", kScriptSerial)));
  std::vector<double> rates;
  VERT_TRY(take_results(child, setup, jobs, rates, progress));
  // Nothing of the guest is needed any more, so nobody waits for its services to stop.
  VERT_TRY(child.type("poweroff -ff\n"));
  const auto end = follow_guest(child, kPatience, [](const auto&) -> Result<bool> { return true; });
  static_cast<void>(end);
  setup.boot_seconds.push_back(std::chrono::duration<double>(prompt - begin).count());
  setup.rates.push_back(std::move(rates));
  return {};
}

/// Makes the folder this one's: two at a time would disturb each other. What one that was killed left goes.
Result<base::Fd> take_turn(const std::string& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) return make_error("cannot make the folder '{}': {}", folder, failed.message());
  const std::string path = folder + "/lock";
  base::Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return make_system_error(errno, path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return make_error("another 'vert bench --disk' is running");
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed))
    if (entry.path().filename().string().starts_with(kRunPrefix))
      std::filesystem::remove_all(entry.path(), failed);
  return lock;
}

/// Why a setup cannot be measured here; empty if it can.
std::string obstacle(const DiskResult& setup, const std::optional<BenchPeer>& peer) {
  if (setup.engine == "bare" && find_programs("fio").empty())
    return "fio is not installed ('apt install fio')";
  if (setup.engine == "qemu" && !peer) return kNoPeer;
  return {};
}

}  // namespace

Result<std::vector<DiskResult>> run_disk_bench(std::vector<DiskResult> setups,
                                               const std::vector<DiskJob>& jobs, unsigned rounds,
                                               BenchProgress& progress) {
  VERT_ASSIGN(const base::Fd turn, take_turn(bench_folder()));
  VERT_TRY(make_system(progress));
  const auto peer = find_peer();
  std::size_t guests = 0;
  for (DiskResult& setup : setups) {
    setup.failure = obstacle(setup, peer);
    setup.skipped = !setup.measured();
    if (setup.engine == "qemu" && peer) setup.version = peer->version;
    if (setup.format && setup.measured()) ++guests;
  }
  const auto measured = static_cast<std::size_t>(std::ranges::count_if(setups, &DiskResult::measured));
  VERT_ASSIGN(const Bench bench, Bench::prepare(jobs));
  progress.start("disk", rounds * (measured * jobs.size() + guests));
  for (unsigned round = 0; round < rounds; ++round) {
    for (DiskResult& setup : setups) {
      if (!setup.measured()) continue;
      VERT_TRY(bench.settle());
      const Status status =
          setup.format
              ? measure_guest(bench, setup, jobs, setup.engine == "qemu" ? peer : std::nullopt, progress)
              : measure_bare(bench, setup, jobs, progress);
      if (!status) setup.failure = status.error().message;
    }
  }
  progress.finish(std::ranges::any_of(setups, &DiskResult::measured));
  return setups;
}

}  // namespace vert::cli
