// A host that refuses what vert asks of it: one clear line and an end, or vert does without. Never a hang, a
// crash or silence.
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "control/client.hpp"
#include "control/registry.hpp"
#include "vm/harness/refusing_host.hpp"

namespace vert::vm_test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// Calls that no host refuses: without them, the C library ends the process itself, cannot end it, or takes
/// the error for an address.
const std::set<long> kNeverRefused = {SYS_brk,
                                      SYS_munmap,
                                      SYS_rseq,
                                      SYS_exit,
                                      SYS_exit_group,
                                      SYS_rt_sigreturn,
                                      SYS_restart_syscall,
                                      SYS_futex,
                                      SYS_clock_gettime,
                                      SYS_close,
                                      SYS_execve,
                                      SYS_kill,
                                      SYS_tgkill};

/// Calls that may fail now and then, for want of something, on a host that allows them.
const std::map<long, int> kScarce = {{SYS_mmap, ENOMEM},
                                     {SYS_mprotect, ENOMEM},
                                     {SYS_mremap, ENOMEM},
                                     {SYS_clone3, EAGAIN},
                                     {SYS_clone, EAGAIN},
                                     {SYS_openat, EMFILE},
                                     {SYS_socket, EMFILE},
                                     {SYS_accept4, EMFILE},
                                     {SYS_accept, EMFILE},
                                     {SYS_eventfd2, EMFILE},
                                     {SYS_timerfd_create, EMFILE},
                                     {SYS_epoll_create1, EMFILE},
                                     {SYS_signalfd4, EMFILE},
                                     {SYS_memfd_create, ENFILE},
                                     {SYS_pipe2, EMFILE},
                                     {SYS_fcntl, EMFILE},
                                     {SYS_mkdir, ENOSPC},
                                     {SYS_mkdirat, ENOSPC},
                                     {SYS_ftruncate, ENOSPC},
                                     {SYS_fallocate, ENOSPC},
                                     {SYS_flock, ENOLCK},
                                     {SYS_pwrite64, ENOSPC},
                                     {SYS_read, EIO},
                                     {SYS_timer_create, EAGAIN},
                                     {SYS_sendmsg, ENOBUFS},
                                     {SYS_recvmsg, ENOMEM},
                                     {SYS_epoll_ctl, ENOMEM}};

std::string guest(const std::string& kernel) { return VERT_GUEST_FOLDER "/" + kernel + ".elf"; }

class RefusalTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!can_trace()) GTEST_SKIP() << "this host forbids ptrace";
    std::string name = testing::TempDir() + "/vert-refusal-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    ::setenv("XDG_RUNTIME_DIR", name.c_str(), 1);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  struct Scenario {
    std::vector<std::string> arguments;
    Act act;
    int works;    // the status if vert does without what is refused
    int failure;  // and if it gives up
  };

  /// One clear line and an end, or it worked.
  static void expect_clear_end(const Scenario& scenario, const RefusedRun& run) {
    ASSERT_FALSE(run.end.signal.has_value()) << "killed by signal " << *run.end.signal << "\n" << run.errors;
    ASSERT_TRUE(run.end.status.has_value()) << "did not end\n" << run.errors;
    std::istringstream lines(run.errors);
    unsigned count = 0;
    for (std::string line; std::getline(lines, line);) {
      const bool is_notice = line.starts_with("vert: this VM will not show up in 'vert ls': ") ||
                             line.starts_with("vert: booting ");
      if (!is_notice) ++count;
      EXPECT_TRUE(line.starts_with("vert: ")) << run.errors;
      EXPECT_EQ(line.find("internal error"), std::string::npos) << line;
      EXPECT_EQ(line.find("std::"), std::string::npos) << line;
    }
    if (run.end.status == scenario.works) return;
    EXPECT_EQ(run.end.status, scenario.failure) << run.errors;
    const bool could_speak = !run.calls.contains(SYS_write) && !run.calls.contains(SYS_writev);
    if (could_speak) {
      EXPECT_EQ(count, 1U) << run.errors;
    }
  }

  static void run_with(const Scenario& scenario, const Refusal& refusal) {
    SCOPED_TRACE(call_name(refusal.numbers.front()) + " fails with " + strerrorname_np(refusal.error_number) +
                 (refusal.only ? ", time " + std::to_string(*refusal.only + 1) : ", always"));
    expect_clear_end(scenario, run_refused(scenario.arguments, refusal, scenario.act));
  }

  /// Each call that vert makes, but for `except`, refused for good; and those that may be scarce, refused
  /// once.
  static void refuse_each(const Scenario& scenario, const std::set<long>& except = {}) {
    const RefusedRun all = run_refused(scenario.arguments, {}, scenario.act);
    ASSERT_EQ(all.end.status, scenario.works) << all.output << all.errors;
    const unsigned times = long_tests() ? 1000 : 1;
    for (const auto& [number, count] : all.calls) {
      if (kNeverRefused.contains(number) || except.contains(number)) continue;
      run_with(scenario, {.numbers = {number}, .error_number = EPERM, .path_prefix = {}, .only = {}});
      if (long_tests())
        run_with(scenario, {.numbers = {number}, .error_number = ENOSYS, .path_prefix = {}, .only = {}});
      const auto scarce = kScarce.find(number);
      for (unsigned i = 0; scarce != kScarce.end() && i < std::min(count, times); ++i)
        run_with(scenario,
                 {.numbers = {number}, .error_number = scarce->second, .path_prefix = {}, .only = i});
    }
  }

  /// The same but for those calls that the test kernel's run makes too, unless time does not matter.
  static void refuse_each_other(const Scenario& scenario) {
    // Without it, vert takes another folder for its state than the test looks in.
    std::set<long> except = {SYS_access};
    if (!long_tests())
      for (const auto& [number, count] : run_refused(test_kernel().arguments, {}).calls)
        except.insert(number);
    refuse_each(scenario, except);
  }

  static Scenario test_kernel() {
    return {{"run", guest("debug_exit"), "--memory", "16M", "--device", "isa-debug-exit"}, {}, 85, 125};
  }

  fs::path folder_;
};

TEST_F(RefusalTest, TestKernelRunsOrVertSaysWhyNot) { refuse_each(test_kernel()); }

TEST_F(RefusalTest, MachineThatResetsItselfRunsOrVertSaysWhyNot) {
  refuse_each_other({{"run", guest("reset"), "--memory", "16M"},
                     {"kernel up\nkernel up\n", [](pid_t vert) { ::kill(vert, SIGTERM); }},
                     1,
                     1});
}

TEST_F(RefusalTest, MachineThatIsSteeredEndsWhenItIsTold) {
  const auto steer = [this](pid_t vert) {
    const std::string socket = (folder_ / "vert/x/api.sock").string();
    const auto ask = [&socket](const char* method, const char* endpoint) {
      return control::call(socket, method, endpoint, {}, 2s).has_value();
    };
    const bool steered = ask("GET", "vm.info") && ask("GET", "vm.engine-counters") &&
                         ask("PUT", "vm.pause") && ask("PUT", "vm.resume") && control::open_console(socket) &&
                         ask("PUT", "vm.shutdown");
    if (!steered) ::kill(vert, SIGTERM);
  };
  refuse_each_other({{"run", guest("halt"), "--memory", "16M", "--name", "x"}, {"kernel up", steer}, 1, 1});
}

TEST_F(RefusalTest, MachineInTheBackgroundStartsOrVertSaysWhyNot) {
  const auto end = [this](pid_t) {
    const std::string socket = (folder_ / "vert/x/api.sock").string();
    if (control::call(socket, "PUT", "vm.shutdown", {}, 2s)) return;
    const auto machines = control::living_machines();
    for (const control::LivingMachine& machine : machines.value()) ::kill(machine.pid, SIGTERM);
  };
  refuse_each_other(
      {{"run", guest("halt"), "--memory", "16M", "--name", "x", "--detach"}, {"x\n", end}, 0, 1});
}

TEST_F(RefusalTest, DiskBootsOrVertSaysWhyNot) {
  const std::string disk = (folder_ / "disk.raw").string();
  const std::string make = "mkdir -p " + (folder_ / "root/boot").string() + " && cp " + guest("debug_exit") +
                           " " + (folder_ / "root/boot/vmlinuz-1").string() +
                           " && PATH=$PATH:/sbin:/usr/sbin mke2fs -q -t ext4 -d " +
                           (folder_ / "root").string() + " " + disk + " 4M >/dev/null 2>&1";
  if (std::system(make.c_str()) != 0) GTEST_SKIP() << "SKIP: no ext4 image could be made (mke2fs)";
  refuse_each_other(
      {{"run", disk, "--memory", "16M", "--append", "x", "--device", "isa-debug-exit"}, {}, 85, 125});
}

TEST_F(RefusalTest, CommandsSayWhatTheyLack) {
  refuse_each_other({{"ls"}, {}, 0, 1});
  refuse_each_other({{"explain", "--bytes", "48 03 43 08 c3"}, {}, 0, 1});
  if (long_tests()) refuse_each_other({{"doctor"}, {}, 0, 1});
}

TEST_F(RefusalTest, HiddenProcIsNotNeeded) {
  for (const int error : {ENOENT, EACCES}) {
    const Refusal hidden = {.numbers = {SYS_openat, SYS_newfstatat, SYS_stat, SYS_access, SYS_faccessat,
                                        SYS_readlink, SYS_readlinkat, SYS_bind, SYS_connect},
                            .error_number = error,
                            .path_prefix = "/proc",
                            .only = {}};
    const RefusedRun run = run_refused(test_kernel().arguments, hidden);
    EXPECT_EQ(run.end.status, 85);
    EXPECT_EQ(run.output, "kernel up\n");
    EXPECT_EQ(run.errors, "");
  }
}

TEST_F(RefusalTest, MemfdIsNotNeeded) {
  const RefusedRun run =
      run_refused(test_kernel().arguments,
                  {.numbers = {SYS_memfd_create}, .error_number = EPERM, .path_prefix = {}, .only = {}});
  EXPECT_GT(run.calls.at(SYS_memfd_create), 0U);
  EXPECT_EQ(run.end.status, 85);
  EXPECT_EQ(run.errors, "");
}

TEST_F(RefusalTest, ForbiddenLocksAreNotTakenForTakenNames) {
  const RefusedRun run =
      run_refused({"run", guest("halt"), "--memory", "16M", "--name", "x"},
                  {.numbers = {SYS_flock}, .error_number = EPERM, .path_prefix = {}, .only = {}});
  EXPECT_EQ(run.end.status, 1);
  EXPECT_NE(run.errors.find("cannot lock"), std::string::npos) << run.errors;
}

TEST_F(RefusalTest, AnyLimitOnOpenFilesIsEnoughOrVertSaysSo) {
  const Scenario scenario = test_kernel();
  for (rlim_t files = long_tests() ? 4 : 14; files < 36; ++files) {
    SCOPED_TRACE("ulimit -n " + std::to_string(files));
    const RefusedRun run = run_limited(scenario.arguments, {RLIMIT_NOFILE, files});
    if (run.end.status == 127) continue;  // too few for the dynamic linker
    expect_clear_end(scenario, run);
  }
}

TEST_F(RefusalTest, LimitOnFileSizeGivesOneLine) {
  const Scenario scenario = test_kernel();
  const RefusedRun run = run_limited(scenario.arguments, {RLIMIT_FSIZE, 1 << 20});
  expect_clear_end(scenario, run);
}

TEST_F(RefusalTest, AnyLimitOnAddressSpaceIsEnoughOrVertSaysSo) {
  const Scenario scenario = test_kernel();
  for (rlim_t mebibytes = 32; mebibytes < 4096; mebibytes += long_tests() ? mebibytes / 16 : mebibytes) {
    SCOPED_TRACE("ulimit -v " + std::to_string(mebibytes << 10));
    const RefusedRun run = run_limited(scenario.arguments, {RLIMIT_AS, mebibytes << 20});
    if (run.end.status == 127) continue;  // too little for the dynamic linker
    expect_clear_end(scenario, run);
  }
}

}  // namespace
}  // namespace vert::vm_test
