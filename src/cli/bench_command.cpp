// `vert bench`: compares the speed of guests with bare metal and QEMU.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "cli/bench_report.hpp"
#include "cli/bench_runner.hpp"
#include "cli/commands.hpp"
#include "cli/disk_bench_report.hpp"
#include "cli/disk_bench_runner.hpp"
#include "cli/host.hpp"
#include "cli/text.hpp"
#include "machine/machine.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  All available engines, and QEMU if it is installed; takes a few minutes:
    vert bench
  The original iteration counts, with results as JSON and as a chart:
    vert bench --full --json bench.json --svg bench.svg
  One engine, one run:
    vert bench --engines bare,interp --runs 1
  The full suite, with geometric means; or only two of its programs:
    vert bench --suite --json suite.json --svg suite.svg
    vert bench --only qsort,sha256
  Disks, beside bare metal and QEMU, in some ten minutes; makes a Debian with fio the first time:
    vert bench --disk --svg disk.svg

Programs: sum (an adding loop), getppid (the cheapest system call), gettimeofday (reads the clock) and forkwait
(creates processes and waits for them); --list shows the suite. Slow engines run fewer iterations unless --full is
given; ratios compare the time per iteration. Times are measured in the guest; 'clock' compares them with the host's
clock. A guest whose result differs from bare metal's fails the benchmark.

Exit status: 0 if everything was measured (QEMU may be missing), else 1.)";

constexpr unsigned kMaxRuns = 100;

class BenchCommand final : public Command {
 public:
  explicit BenchCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("bench", "Compare guests with bare metal and QEMU")) {
    app_.add_option("--engines", engines_,
                    "What to measure, such as bare,bt,interp,qemu (default: all available)")
        ->type_name("LIST");
    app_.add_flag("--full", full_, "Use the original iteration counts on every engine; slow");
    app_.add_flag("--suite", suite_, "Run the whole suite; report the best runs and geometric means");
    app_.add_flag("--disk", disk_, "Measure a virtio disk with fio, and the boot of a Debian, instead");
    app_.add_option("--only", only_,
                    "Run only these programs of the suite, such as qsort,sha256, or, with --disk, these jobs")
        ->type_name("LIST");
    app_.add_flag("--list", list_, "List the programs, or with --disk the jobs, and exit");
    app_.add_option("--runs", runs_, "Runs of each program (default 5), or rounds with --disk (default 3)")
        ->type_name("N");
    app_.add_option("--kernel", options_.kernel,
                    "Linux kernel for the guests (default: Debian's, from './dev fetch')")
        ->type_name("FILE");
    app_.add_option("--json", json_, "Write all results to this file")->type_name("FILE");
    app_.add_option("--svg", svg_, "Write a bar chart to this file")->type_name("FILE");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    if (disk_) return run_disk();
    if (list_) {
      print_out(bench_list());
      return kExitOk;
    }
    VERT_ASSIGN(const std::vector<std::string> engines, chosen_engines());
    VERT_TRY(choose_work());
    VERT_TRY(choose_runs("5"));
    VERT_TRY(check_files(engines));
    BenchReference reference;
    BenchProgress progress;
    std::vector<BenchResult> results;
    int status = kExitOk;
    for (const std::string& engine : engines) {
      results.push_back(run_bench(engine, options_, reference, progress));
      const BenchResult& result = results.back();
      if (result.measured()) {
        if (!is_suite()) print_out(bench_rows(result) + "\n");
      } else {
        print_failure(engine, result.skipped, result.failure);
        if (!result.skipped) status = kExitFailure;
      }
      std::fflush(stdout);
    }
    VERT_TRY(report(results));
    return status;
  }

 private:
  Result<std::vector<std::string>> chosen_engines() const {
    std::vector<std::string> known = {"bare"};
    std::vector<std::string> usable = {"bare"};
    for (const machine::EngineInfo& engine : machine::engines()) {
      known.emplace_back(engine.name);
      if (engine.available) usable.emplace_back(engine.name);
    }
    known.emplace_back("qemu");
    usable.emplace_back("qemu");
    if (engines_.empty()) return usable;
    std::vector<std::string> chosen;
    for (const std::string& name : CLI::detail::split(engines_, ',')) {
      if (std::ranges::find(known, name) == known.end()) {
        return make_error("unknown engine '{}'; choose {}", name, join_alternatives(known));
      }
      if (std::ranges::find(chosen, name) == chosen.end()) chosen.push_back(name);
    }
    return chosen;
  }

  [[nodiscard]] bool is_suite() const { return options_.scale == BenchScale::suite; }

  Status choose_work() {
    const bool suite = suite_ || !only_.empty();
    if (full_ && suite) return make_error("--full cannot be combined with --suite or --only");
    options_.scale = suite ? BenchScale::suite : full_ ? BenchScale::lecture_full : BenchScale::lecture;
    VERT_ASSIGN(options_.programs, choose_programs(options_.scale, only_));
    return {};
  }

  Status choose_runs(const char* usual) {
    if (runs_.empty()) runs_ = usual;
    char* end = nullptr;
    const unsigned long runs = std::strtoul(runs_.c_str(), &end, 10);
    if (*end != '\0' || runs < 1 || runs > kMaxRuns) {
      return make_error("--runs {}: must be a number from 1 to {}", runs_, kMaxRuns);
    }
    options_.runs = static_cast<unsigned>(runs);
    return {};
  }

  Status check_files(const std::vector<std::string>& engines) {
    const std::string programs = program_folder() + "/bench/guest";
    if (access((programs + "/init").c_str(), R_OK) != 0) {
      return make_error("the benchmark's programs are not in {}; build them with './dev build'", programs);
    }
    if (engines == std::vector<std::string>{"bare"}) return {};
    if (options_.kernel.empty()) options_.kernel = cache_folder() + "/boot/vmlinuz-6.1-cloud";
    if (access(options_.kernel.c_str(), R_OK) == 0) return {};
    return make_system_error(
        errno, fmt::format("no kernel for the guests (get one with './dev fetch', or give --kernel): {}",
                           options_.kernel));
  }

  Result<int> run_disk() {
    if (suite_ || full_) return make_error("--disk cannot be combined with --suite or --full");
    VERT_ASSIGN(const auto jobs, choose_disk_jobs(only_));
    if (list_) {
      for (const DiskJob& job : jobs) print_out(job.name() + "\n");
      return kExitOk;
    }
    VERT_TRY(choose_runs("3"));
    VERT_ASSIGN(std::vector<std::string> engines, chosen_engines());
    // The reference interpreter boots a Debian for minutes.
    if (engines_.empty()) std::erase(engines, "interp");
    BenchProgress progress;
    VERT_ASSIGN(const auto results, run_disk_bench(disk_setups(engines), jobs, options_.runs, progress));
    int status = kExitOk;
    for (const DiskResult& result : results) {
      if (result.measured()) continue;
      print_failure(result.name(), result.skipped, result.failure);
      if (!result.skipped) status = kExitFailure;
    }
    const DiskReport report = {.processor = processor(),
                               .host_kernel = host_kernel(),
                               .guest_append = std::string(kDiskBenchAppend),
                               .jobs = jobs,
                               .results = results};
    print_out(disk_table(report));
    if (!json_.empty()) VERT_TRY(write_file(json_, disk_json(report)));
    if (!svg_.empty()) VERT_TRY(write_file(svg_, disk_svg(report)));
    return status;
  }

  static void print_failure(const std::string& name, bool skipped, const std::string& failure) {
    print_error(fmt::format("vert: {} {}: {}\n", name, skipped ? "skipped" : "failed", failure));
  }
  static std::string processor() { return proc_field("/proc/cpuinfo", "model name").value_or("unknown"); }
  static std::string host_kernel() { return first_line("/proc/sys/kernel/osrelease").value_or("unknown"); }

  Status report(const std::vector<BenchResult>& results) const {
    const BenchReport report = {.processor = processor(),
                                .host_kernel = host_kernel(),
                                .guest_kernel = options_.kernel,
                                .guest_append = std::string(kBenchAppend),
                                .programs = options_.programs,
                                .suite = is_suite(),
                                .results = results};
    print_out(bench_table(report));
    if (!json_.empty()) VERT_TRY(write_file(json_, bench_json(report)));
    if (!svg_.empty()) VERT_TRY(write_file(svg_, bench_svg(report)));
    return {};
  }

  CLI::App& app_;
  BenchOptions options_;
  std::string engines_;
  std::string only_;
  std::string runs_;
  bool disk_ = false;
  bool full_ = false;
  bool suite_ = false;
  bool list_ = false;
  std::string json_;
  std::string svg_;
};

}  // namespace

std::unique_ptr<Command> make_bench_command(CLI::App& parent) {
  return std::make_unique<BenchCommand>(parent);
}

}  // namespace vert::cli
