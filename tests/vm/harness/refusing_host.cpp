#include "vm/harness/refusing_host.hpp"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

namespace vert::vm_test {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    VERT_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0);
    reading = base::Fd(ends[0]);
    writing = base::Fd(ends[1]);
  }
  base::Fd reading;
  base::Fd writing;
};

/// Reads a pipe to its end, on a thread of its own.
class Reader {
 public:
  Reader(base::Fd from, std::string awaited)
      : awaited_(std::move(awaited)), thread_([this, fd = std::move(from)] { read_all(fd); }) {}
  /// Until what is awaited has come, the end, or `patience` is over. False if the end came first.
  bool wait(std::chrono::seconds patience) {
    std::unique_lock lock(mutex_);
    const auto came = [this] { return text_.find(awaited_) != std::string::npos; };
    changed_.wait_for(lock, patience, [&] { return ended_ || came(); });
    return came() || !ended_;
  }
  /// All that came, without carriage returns.
  std::string finish() {
    thread_.join();
    return text_;
  }

 private:
  void read_all(const base::Fd& fd) {
    std::array<char, 4096> bytes;
    for (;;) {
      const ssize_t count = ::read(fd.get(), bytes.data(), bytes.size());
      const std::scoped_lock lock(mutex_);
      ended_ = count <= 0;
      if (!ended_) text_.append(bytes.data(), static_cast<std::size_t>(count));
      std::erase(text_, '\r');
      changed_.notify_all();
      if (ended_) return;
    }
  }

  const std::string awaited_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  bool ended_ = false;
  std::thread thread_;
};

/// Kills when the time is over.
class Watchdog {
 public:
  Watchdog(std::chrono::seconds patience, std::function<void()> kill)
      : thread_([this, patience, call = std::move(kill)] {
          std::unique_lock lock(mutex_);
          if (done_.wait_for(lock, patience, [this] { return finished_; })) return;
          late_ = true;
          call();
        }) {}
  /// Whether it had to.
  bool finish() {
    {
      const std::scoped_lock lock(mutex_);
      finished_ = true;
    }
    done_.notify_all();
    thread_.join();
    return late_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  bool late_ = false;
  std::thread thread_;
};

/// Stops the process at the calls `numbers` (all if empty) and at openat, by which its main() is known.
std::vector<sock_filter> make_filter(std::vector<long> numbers) {
  const bool all = numbers.empty();
  numbers.push_back(SYS_openat);
  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<u32>(offsetof(seccomp_data, nr)))};
  for (const long number : numbers) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<u32>(number), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, all ? SECCOMP_RET_TRACE : SECCOMP_RET_ALLOW));
  return filter;
}

struct Child {
  std::vector<std::string> words;
  const std::vector<sock_filter>* filter = nullptr;
  std::optional<Limit> limit;
};

/// Between fork and exec: only async-signal-safe calls.
[[noreturn]] void become(char* const* argv, const Child& child, const std::array<int, 3>& standard) {
  ::setsid();
  for (int fd = 0; fd < 3; ++fd) ::dup2(standard[static_cast<std::size_t>(fd)], fd);
  if (child.limit) {
    const rlimit limit = {child.limit->value, child.limit->value};
    ::setrlimit(child.limit->resource, &limit);
  }
  if (child.filter != nullptr) {
    const sock_fprog program = {static_cast<unsigned short>(child.filter->size()),
                                const_cast<sock_filter*>(child.filter->data())};
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);  // until the parent has set its options
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
  }
  ::execv(argv[0], argv);
  ::_exit(127);
}

struct Started {
  pid_t pid = -1;
  base::Fd output;
  base::Fd errors;
};

Started start(Child child) {
  Pipe output;
  Pipe errors;
  const base::Fd input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  child.words.insert(child.words.begin(), VERT_PROGRAM);
  std::vector<char*> argv;
  for (std::string& word : child.words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::array<int, 3> standard = {input.get(), output.writing.get(), errors.writing.get()};
  const pid_t pid = ::fork();
  VERT_CHECK(pid >= 0);
  if (pid == 0) become(argv.data(), child, standard);
  return {pid, std::move(output.reading), std::move(errors.reading)};
}

std::string read_string(pid_t pid, u64 address) {
  std::array<char, 256> bytes{};
  for (std::size_t size = bytes.size(); size != 0; size /= 2) {
    const iovec local = {bytes.data(), size};
    // NOLINTNEXTLINE(performance-no-int-to-ptr): another process's address.
    const iovec remote = {reinterpret_cast<void*>(address), size};
    const ssize_t count = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (count > 0) return {bytes.data(), ::strnlen(bytes.data(), static_cast<std::size_t>(count))};
  }
  return {};
}

/// The path that a call names, if it is among those that do.
std::string path_of(pid_t pid, const user_regs_struct& registers) {
  constexpr u64 kSocketPath = 2;  // sockaddr_un::sun_path
  switch (static_cast<long>(registers.orig_rax)) {
    case SYS_openat:
    case SYS_newfstatat:
    case SYS_faccessat:
    case SYS_faccessat2:
    case SYS_readlinkat: return read_string(pid, registers.rsi);
    case SYS_open:
    case SYS_stat:
    case SYS_lstat:
    case SYS_access:
    case SYS_readlink: return read_string(pid, registers.rdi);
    case SYS_bind:
    case SYS_connect: return read_string(pid, registers.rsi + kSocketPath);
    default: return {};
  }
}

/// Goes on until all that is traced has ended.
class Tracer {
 public:
  Tracer(pid_t pid, const Refusal& refusal) : pid_(pid), refusal_(refusal) {}

  End trace() {
    know(pid_);
    int status = 0;
    VERT_CHECK(::waitpid(pid_, &status, 0) == pid_ && WIFSTOPPED(status));
    constexpr long kOptions = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE |
                              PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
    ::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, kOptions);
    go_on(pid_, 0);
    for (;;) {
      const pid_t stopped = ::waitpid(-1, &status, __WALL | __WNOTHREAD);
      if (stopped < 0 && errno == EINTR) continue;
      if (stopped < 0) return end_;
      if (WIFSTOPPED(status)) {
        settle(stopped, status);
        continue;
      }
      forget(stopped);
      if (stopped == pid_) {
        end_ = WIFSIGNALED(status) ? End{.status = std::nullopt, .signal = WTERMSIG(status)}
                                   : End{.status = WEXITSTATUS(status), .signal = std::nullopt};
      }
    }
  }

  [[nodiscard]] std::map<long, unsigned> calls() const { return calls_; }
  /// Any thread.
  void kill_all() {
    const std::scoped_lock lock(mutex_);
    for (const pid_t tid : known_) ::kill(tid, SIGKILL);
  }

 private:
  /// True if it is new.
  bool know(pid_t tid) {
    const std::scoped_lock lock(mutex_);
    return known_.insert(tid).second;
  }
  void forget(pid_t tid) {
    const std::scoped_lock lock(mutex_);
    known_.erase(tid);
  }
  static void go_on(pid_t tid, int signal_number) {
    ::ptrace(PTRACE_CONT, tid, nullptr, static_cast<long>(signal_number));
  }

  void settle(pid_t tid, int status) {
    const int event = status >> 16;
    if (event == PTRACE_EVENT_SECCOMP) settle_call(tid);
    const bool starts = know(tid);
    const bool passes_on = event == 0 && !starts;
    go_on(tid, passes_on ? WSTOPSIG(status) : 0);
  }

  void settle_call(pid_t tid) {
    user_regs_struct registers{};
    ::ptrace(PTRACE_GETREGS, tid, nullptr, &registers);
    const long number = static_cast<long>(registers.orig_rax);
    if (!in_main_) {
      // vert first sees to its standard descriptors.
      in_main_ = number == SYS_openat && (registers.rdx & O_ACCMODE) == O_RDWR &&
                 read_string(tid, registers.rsi) == "/dev/null";
      if (!in_main_) return;
    }
    if (!refusal_.numbers.empty() && std::ranges::find(refusal_.numbers, number) == refusal_.numbers.end())
      return;
    if (!refusal_.path_prefix.empty() && !path_of(tid, registers).starts_with(refusal_.path_prefix)) return;
    const unsigned before = calls_[number]++;
    if (refusal_.numbers.empty() || (refusal_.only && *refusal_.only != before)) return;
    registers.orig_rax = ~0ULL;
    registers.rax = static_cast<unsigned long long>(-refusal_.error_number);
    ::ptrace(PTRACE_SETREGS, tid, nullptr, &registers);
  }

  const pid_t pid_;
  const Refusal& refusal_;
  std::mutex mutex_;
  std::set<pid_t> known_;  // guarded by it
  std::map<long, unsigned> calls_;
  bool in_main_ = false;
  End end_;
};

/// Waits for an end without tracing.
End wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) return {.status = std::nullopt, .signal = WTERMSIG(status)};
  return {.status = WEXITSTATUS(status), .signal = std::nullopt};
}

RefusedRun finish(Started started, const Act& act, std::chrono::seconds patience,
                  const std::function<End()>& wait, const std::function<void()>& kill) {
  constexpr std::chrono::seconds kLongestStart{5};
  Reader output(std::move(started.output), act.seen);
  Reader errors(std::move(started.errors), {});
  Watchdog watchdog(patience, kill);
  std::thread acting([&output, &act, pid = started.pid] {
    if (act.act && output.wait(kLongestStart)) act.act(pid);
  });
  RefusedRun run;
  run.end = wait();
  if (watchdog.finish()) run.end = {};
  run.output = output.finish();
  run.errors = errors.finish();
  acting.join();
  return run;
}

}  // namespace

bool can_trace() {
  const pid_t child = ::fork();
  VERT_CHECK(child >= 0);
  if (child == 0) {
    const bool traced = ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0;
    const bool filtered = ::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
    ::_exit(traced && filtered ? 0 : 1);
  }
  return wait_for(child).status == 0;
}

RefusedRun run_refused(const std::vector<std::string>& arguments, const Refusal& refusal, const Act& act,
                       std::chrono::seconds patience) {
  const std::vector<sock_filter> filter = make_filter(refusal.numbers);
  Started started = start({.words = arguments, .filter = &filter, .limit = {}});
  Tracer tracer(started.pid, refusal);
  RefusedRun run = finish(
      std::move(started), act, patience, [&] { return tracer.trace(); }, [&] { tracer.kill_all(); });
  run.calls = tracer.calls();
  return run;
}

RefusedRun run_limited(const std::vector<std::string>& arguments, Limit limit,
                       std::chrono::seconds patience) {
  Started started = start({.words = arguments, .filter = nullptr, .limit = limit});
  const pid_t pid = started.pid;
  return finish(
      std::move(started), {}, patience, [pid] { return wait_for(pid); }, [pid] { ::kill(pid, SIGKILL); });
}

std::string call_name(long number) {
  std::ifstream header("/usr/include/x86_64-linux-gnu/asm/unistd_64.h");
  std::string define;
  std::string name;
  for (std::string value; header >> define;)
    if (define == "#define" && header >> name >> value && value == std::to_string(number)) return name;
  return "call " + std::to_string(number);
}

}  // namespace vert::vm_test
