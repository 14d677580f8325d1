#include "machine/disk_boot/confined_child.hpp"

#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <optional>
#include <thread>

#include "base/shared_file.hpp"
#include "machine/disk_boot/block_service.hpp"

namespace vert::machine::disk_boot {

namespace {

#ifdef VERT_SANITIZED
// Sanitizers map terabytes, open files of /proc, and report on standard error.
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr u64 kTrailerMagic = 0x656E6F6420746F6F;
constexpr std::size_t kMaxSections = 8;
constexpr u64 kMaxText = 4096;

/// At the very end of the answer, behind the sections, the error and the list of what is missing.
struct Trailer {
  u64 magic = kTrailerMagic;
  u64 failed = 0;
  u64 count = 0;
  std::array<u64, kMaxSections> sizes{};
  u64 error_size = 0;
  u64 missing_size = 0;
};

u64 most_output(const Confinement& confinement) {
  u64 total = sizeof(Trailer) + 2 * kMaxText;
  for (const u64 limit : confinement.section_limits) total += limit;
  return total;
}

// The child's side

/// The descriptors that it has.
struct ChildEnds {
  int output;
  int socket;
};

/// What the host refused, as "seccomp (Operation not permitted), ...".
class Missing {
 public:
  void add(std::string_view what, int error_number) {
    text_ += fmt::format("{}{} ({})", text_.empty() ? "" : ", ", what, std::strerror(error_number));
  }
  void unless(bool done, std::string_view what) {
    if (!done) add(what, errno);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// vert's handlers are for faults of its engines; here a fault ends the child.
void reset_signals() {
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  ::signal(SIGXFSZ, SIG_IGN);  // write() fails instead
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

/// Closes the descriptors from `first` to `last`.
void close_all(unsigned int first, unsigned int last) {
  if (::close_range(first, last, 0) == 0) return;
  constexpr unsigned int kMostOpen = 1U << 20;  // for hosts that do not know close_range(2)
  for (unsigned int fd = first; fd <= std::min(last, kMostOpen); ++fd) ::close(static_cast<int>(fd));
}

void close_others(const ChildEnds& ends) {
  std::vector<int> kept = {ends.output, ends.socket};
  if (kSanitized) kept.push_back(STDERR_FILENO);
  std::ranges::sort(kept);
  unsigned int from = 0;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned int>(fd);
    if (number > from) close_all(from, number - 1);
    from = std::max(from, number + 1);
  }
  close_all(from, ~0U);
}

/// The address space that this process has already, guest memory and all.
std::optional<u64> mapped_bytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return std::nullopt;
  unsigned long pages = 0;
  const bool read = std::fscanf(file, "%lu", &pages) == 1;
  std::fclose(file);
  if (!read) return std::nullopt;
  return u64{pages} * kPageSize;
}

/// A limit that is lower already stays.
bool limit(__rlimit_resource_t resource, u64 soft, u64 hard) {
  rlimit both{};
  if (::getrlimit(resource, &both) != 0) return false;
  both.rlim_max = std::min<u64>(both.rlim_max, hard);
  both.rlim_cur = std::min<u64>({both.rlim_cur, both.rlim_max, soft});
  return ::setrlimit(resource, &both) == 0;
}

bool limit(__rlimit_resource_t resource, u64 value) { return limit(resource, value, value); }

void set_limits(const Confinement& confinement, Missing& missing) {
  const u64 seconds = static_cast<u64>(confinement.time.count()) / 1000 + 1;
  missing.unless(limit(RLIMIT_CORE, 0), "RLIMIT_CORE");
  missing.unless(limit(RLIMIT_CPU, seconds, seconds + 1), "RLIMIT_CPU");
  missing.unless(limit(RLIMIT_FSIZE, most_output(confinement)), "RLIMIT_FSIZE");
  if (kSanitized) return;
  if (const auto mapped = mapped_bytes())
    missing.unless(limit(RLIMIT_AS, *mapped + confinement.memory_bytes), "RLIMIT_AS");
  else
    missing.add("RLIMIT_AS", ENOENT);
  missing.unless(limit(RLIMIT_NOFILE, 0), "RLIMIT_NOFILE");
}

/// Adds the rules; 0 or an error number, negative.
int add_rules(scmp_filter_ctx filter, const ChildEnds& ends) {
  const scmp_arg_cmp not_executable{2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0};
  int result = 0;
  const auto add = [&](int number) {
    if (result == 0) result = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 0, nullptr);
  };
  const auto add_if = [&](int number, const scmp_arg_cmp& condition) {
    if (result == 0) result = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 1, &condition);
  };
  for (const int number :
       {SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(futex),
        SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom), SCMP_SYS(exit),
        SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall)})
    add(number);
  add_if(SCMP_SYS(mmap), not_executable);
  add_if(SCMP_SYS(mprotect), not_executable);
  add_if(SCMP_SYS(read), {0, SCMP_CMP_EQ, static_cast<scmp_datum_t>(ends.socket), 0});
  for (const int fd : {ends.socket, ends.output})
    add_if(SCMP_SYS(write), {0, SCMP_CMP_EQ, static_cast<scmp_datum_t>(fd), 0});
  return result;
}

void filter_calls(const ChildEnds& ends, Missing& missing) {
  if (kSanitized) return;
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
  int result = filter == nullptr ? -ENOMEM : add_rules(filter, ends);
  if (result == 0) result = seccomp_load(filter);
  if (result != 0) missing.add("seccomp", -result);
  seccomp_release(filter);
}

std::string confine(const Confinement& confinement, const ChildEnds& ends, pid_t parent) {
  Missing missing;
  reset_signals();
  missing.unless(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "PR_SET_PDEATHSIG");
  if (::getppid() != parent) ::_exit(1);
  close_others(ends);
  set_limits(confinement, missing);
  filter_calls(ends, missing);
  return missing.text();
}

Status run_job(const ConfinedJob& job, BlockReader& disk, ConfinedOutput& output) {
  try {
    return job(disk, output);
  } catch (const std::bad_alloc&) {
    return make_error("it takes more memory to read than a sound one does");
  }
}

[[noreturn]] void run_child(const Confinement& confinement, const ChildEnds& ends, u64 disk_size,
                            pid_t parent, const ConfinedJob& job) {
  const std::string missing = confine(confinement, ends, parent).substr(0, kMaxText);
  ConfinedOutput output(ends.output);
  RemoteReader disk(ends.socket, disk_size);
  const Status status = run_job(job, disk, output);
  Trailer trailer;
  trailer.failed = status ? 0 : 1;
  trailer.count = std::min(output.sizes().size(), kMaxSections);
  std::copy_n(output.sizes().begin(), trailer.count, trailer.sizes.begin());
  const std::string error = status ? "" : status.error().message.substr(0, kMaxText);
  trailer.error_size = error.size();
  trailer.missing_size = missing.size();
  std::array<u8, sizeof trailer> bytes{};
  std::memcpy(bytes.data(), &trailer, sizeof trailer);
  const bool written = output.write(error) && output.write(missing) && output.write(bytes);
  ::_exit(written ? 0 : 1);
}

// The parent's side

/// In the child all signals stay blocked, so that none reaches a handler of vert there.
pid_t fork_quietly() {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t child = ::fork();
  const int error_number = errno;
  if (child != 0) ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error_number;
  return child;
}

/// Serves the child until it ends, or has to be killed.
class Supervisor {
 public:
  Supervisor(pid_t child, int socket, BlockReader& disk, std::chrono::milliseconds time)
      : child_(child), socket_(socket), disk_(disk), end_(Clock::now() + time) {}

  /// How the child ended, or nothing if it took too long. Error: it asked for what nobody may.
  Result<std::optional<int>> run() {
    while (Clock::now() < end_) {
      if (const auto status = look()) return status;
      VERT_TRY(serve());
    }
    kill();
    return std::nullopt;
  }

 private:
  using Clock = std::chrono::steady_clock;

  /// The child's status, if it has ended.
  std::optional<int> look() const {
    int status = 0;
    const pid_t ended = ::waitpid(child_, &status, WNOHANG);
    if (ended == child_) return status;
    // Without a status (SIGCHLD is ignored, so the kernel has forgotten it) the answer alone must tell.
    return ended < 0 && errno != EINTR ? std::optional(0) : std::nullopt;
  }

  /// Waits for requests for a moment; the child's end closes the socket.
  Status serve() {
    if (closed_) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      return {};
    }
    constexpr int kMilliseconds = 5;
    pollfd poll_one{socket_, POLLIN, 0};
    if (::poll(&poll_one, 1, kMilliseconds) <= 0) return {};
    const Result<Served> served = serve_request(disk_, socket_);
    if (!served) {
      kill();
      return std::unexpected(served.error());
    }
    closed_ = *served == Served::kEnd;
    return {};
  }

  void kill() const {
    ::kill(child_, SIGKILL);
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  pid_t child_;
  int socket_;
  BlockReader& disk_;
  Clock::time_point end_;
  bool closed_ = false;
};

Status check_end(std::optional<int> status, std::chrono::milliseconds time) {
  if (!status || (WIFSIGNALED(*status) && WTERMSIG(*status) == SIGXCPU))
    return make_error("it takes longer to read than {} s", static_cast<double>(time.count()) / 1000);
  if (WIFSIGNALED(*status) && WTERMSIG(*status) == SIGSYS)
    return make_error("reading it ended with a forbidden system call");
  if (WIFSIGNALED(*status)) return make_error("reading it crashed ({})", ::strsignal(WTERMSIG(*status)));
  if (WEXITSTATUS(*status) != 0) return make_error("reading it ended with status {}", WEXITSTATUS(*status));
  return {};
}

Status read_at(int fd, u64 offset, std::span<u8> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return make_system_error(got < 0 ? errno : EIO, "cannot read the answer");
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += static_cast<u64>(got);
  }
  return {};
}

/// One line for a terminal, whatever the bytes are.
std::string as_line(std::span<const u8> bytes) {
  std::string line(bytes.begin(), bytes.end());
  std::ranges::replace_if(
      line, [](char c) { return c < ' ' || c > '~'; }, '?');
  return line;
}

/// The child may have been taken over: nothing it says is believed.
class AnswerReader {
 public:
  AnswerReader(int fd, const Confinement& confinement) : fd_(fd), confinement_(confinement) {}

  Result<ConfinedAnswer> read() {
    VERT_TRY(read_trailer());
    VERT_TRY(check_sizes());
    // What a failed job has written ahead of its error belongs to no section.
    const u64 missing_at = file_size_ - sizeof trailer_ - trailer_.missing_size;
    const u64 error_at = missing_at - trailer_.error_size;
    VERT_ASSIGN(const auto error, read_bytes(error_at, trailer_.error_size));
    if (trailer_.failed != 0) return make_error("{}", as_line(error));
    ConfinedAnswer answer;
    VERT_ASSIGN(const auto missing, read_bytes(missing_at, trailer_.missing_size));
    answer.missing = as_line(missing);
    u64 at = 0;
    for (u64 i = 0; i < trailer_.count; at += trailer_.sizes[i], ++i) {
      VERT_ASSIGN(auto section, read_bytes(at, trailer_.sizes[i]));
      answer.sections.push_back(std::move(section));
    }
    return answer;
  }

 private:
  static std::unexpected<Error> malformed() { return make_error("reading it gave no answer"); }

  Status read_trailer() {
    struct stat info {};
    if (::fstat(fd_, &info) != 0) return make_system_error(errno, "cannot read the answer");
    file_size_ = static_cast<u64>(info.st_size);
    if (file_size_ < sizeof trailer_) return malformed();
    std::array<u8, sizeof trailer_> bytes{};
    VERT_TRY(read_at(fd_, file_size_ - bytes.size(), bytes));
    std::memcpy(&trailer_, bytes.data(), bytes.size());
    return {};
  }

  Status check_sizes() const {
    const auto& limits = confinement_.section_limits;
    if (trailer_.magic != kTrailerMagic || trailer_.count > limits.size()) return malformed();
    if (trailer_.failed == 0 && trailer_.count != limits.size()) return malformed();
    if (trailer_.error_size > kMaxText || trailer_.missing_size > kMaxText) return malformed();
    u64 total = sizeof trailer_ + trailer_.error_size + trailer_.missing_size;
    for (u64 i = 0; i < trailer_.count; ++i) {
      if (trailer_.sizes[i] > limits[i]) return malformed();
      total += trailer_.sizes[i];
    }
    if (trailer_.failed == 0 ? total != file_size_ : total > file_size_) return malformed();
    return {};
  }

  Result<std::vector<u8>> read_bytes(u64 at, u64 size) const {
    std::vector<u8> bytes(size);
    VERT_TRY(read_at(fd_, at, bytes));
    return bytes;
  }

  int fd_;
  const Confinement& confinement_;
  Trailer trailer_;
  u64 file_size_ = 0;
};

}  // namespace

Status ConfinedOutput::write(std::span<const u8> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return make_system_error(wrote < 0 ? errno : EIO, "cannot hand over what was read");
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    size_ += static_cast<u64>(wrote);
  }
  return {};
}

Status ConfinedOutput::write(std::string_view text) {
  return write(std::span(reinterpret_cast<const u8*>(text.data()), text.size()));
}

void ConfinedOutput::end_section() { sizes_.push_back(std::exchange(size_, 0)); }

Result<ConfinedAnswer> run_confined(const Confinement& confinement, BlockReader& disk,
                                    const ConfinedJob& job) {
  VERT_CHECK(confinement.section_limits.size() <= kMaxSections);
  VERT_ASSIGN(const base::Fd output, base::make_shared_file(0, "vert-confined"));
  VERT_ASSIGN(ServiceSockets sockets, make_service_sockets());
  const pid_t parent = ::getpid();
  const u64 disk_size = disk.size();
  const pid_t child = fork_quietly();
  if (child < 0) return make_system_error(errno, "cannot start a process");
  if (child == 0) run_child(confinement, {output.get(), sockets.child.get()}, disk_size, parent, job);
  sockets.child.reset();
  VERT_ASSIGN(const auto status, Supervisor(child, sockets.parent.get(), disk, confinement.time).run());
  VERT_TRY(check_end(status, confinement.time));
  return AnswerReader(output.get(), confinement).read();
}

}  // namespace vert::machine::disk_boot
