// The child's walls: whatever it does, the parent gets an answer within the limits or one line.
#include "machine/disk_boot/confined_child.hpp"

#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "base/fd.hpp"

namespace vert::machine::disk_boot {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // so neither system calls nor memory have limits
#else
constexpr bool kSanitized = false;
#endif

using std::chrono::milliseconds;

Confinement confinement() {
  Confinement made;
  made.section_limits = {100, 10};
  return made;
}

/// A disk whose bytes are their addresses.
class Disk : public BlockReader {
 public:
  [[nodiscard]] u64 size() const override { return 100'000; }
  Status read(u64 offset, std::span<u8> bytes) override {
    reads_.emplace_back(offset, bytes.size());
    if (offset <= 70'000 && 70'000 < offset + bytes.size()) return make_error("bad sector");
    for (u8& byte : bytes) byte = static_cast<u8>(offset++);
    return {};
  }
  [[nodiscard]] const std::vector<std::pair<u64, u64>>& reads() const { return reads_; }

 private:
  std::vector<std::pair<u64, u64>> reads_;
};

Result<ConfinedAnswer> run(const Confinement& confinement, const ConfinedJob& job) {
  Disk disk;
  return run_confined(confinement, disk, job);
}

std::string error_of(const Confinement& confinement, const ConfinedJob& job) {
  const auto answer = run(confinement, job);
  return answer ? "no error" : answer.error().message;
}

Status two_sections(ConfinedOutput& output, std::string_view first, std::string_view second) {
  VERT_TRY(output.write(first));
  output.end_section();
  VERT_TRY(output.write(second));
  output.end_section();
  return {};
}

/// Whether this host filters system calls.
bool filters() {
  const auto answer =
      run(confinement(), [](BlockReader&, ConfinedOutput& output) { return two_sections(output, "", ""); });
  return !kSanitized && answer && answer->missing.find("seccomp") == std::string::npos;
}

TEST(ConfinedChild, SectionsArrive) {
  const auto answer = run(
      confinement(), [](BlockReader&, ConfinedOutput& output) { return two_sections(output, "kernel", ""); });
  ASSERT_TRUE(answer) << answer.error().message;
  ASSERT_EQ(answer->sections.size(), 2U);
  EXPECT_EQ(std::string(answer->sections[0].begin(), answer->sections[0].end()), "kernel");
  EXPECT_TRUE(answer->sections[1].empty());
}

TEST(ConfinedChild, JobsErrorArrivesWhateverItHasWritten) {
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput& output) -> Status {
                       VERT_TRY(two_sections(output, "kernel", "x"));
                       VERT_TRY(output.write("more"));
                       return make_error("no kernel");
                     }),
            "no kernel");
}

TEST(ConfinedChild, ErrorHasNoControlCharacters) {
  EXPECT_EQ(
      error_of(confinement(),
               [](BlockReader&, ConfinedOutput&) -> Status { return make_error("a\n\x1B[2Jb\xC2\x9B"); }),
      "a??[2Jb??");
}

TEST(ConfinedChild, MissingSectionIsAnError) {
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput& output) -> Status {
                       output.end_section();
                       return {};
                     }),
            "reading it gave no answer");
}

TEST(ConfinedChild, SectionOverItsLimitIsAnError) {
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput& output) {
                       return two_sections(output, "kernel", "eleven byte");
                     }),
            "reading it gave no answer");
}

TEST(ConfinedChild, AnswerHasALimitWhileItIsWritten) {
  const std::string error = error_of(confinement(), [](BlockReader&, ConfinedOutput& output) -> Status {
    const std::string piece(1000, 'x');
    while (true) VERT_TRY(output.write(piece));
  });
  EXPECT_NE(error, "no error");
}

TEST(ConfinedChild, CrashIsOneLine) {
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput&) -> Status {
                       ::raise(SIGSEGV);
                       ::_exit(0);
                     }),
            filters() ? "reading it ended with a forbidden system call"
                      : "reading it crashed (Segmentation fault)");
}

TEST(ConfinedChild, WildPointerIsACrash) {
  const std::string error = error_of(confinement(), [](BlockReader&, ConfinedOutput&) -> Status {
    volatile std::uintptr_t address = 8;
    auto* const nowhere = reinterpret_cast<volatile u8*>(address);  // NOLINT: it is meant to be wild
    *nowhere = 1;
    return {};
  });
  EXPECT_TRUE(error.starts_with("reading it ")) << error;
}

TEST(ConfinedChild, EndlessLoopEndsWithTheTime) {
  Confinement short_time = confinement();
  short_time.time = milliseconds(50);
  EXPECT_EQ(error_of(short_time,
                     [](BlockReader&, ConfinedOutput&) -> Status {
                       std::atomic<bool> never = false;
                       while (!never.load()) {
                       }
                       return {};
                     }),
            "it takes longer to read than 0.05 s");
}

TEST(ConfinedChild, MemoryHasALimit) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need terabytes";
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput&) -> Status {
                       std::vector<std::vector<u8>> all;
                       for (int i = 0; i < 1000; ++i) all.emplace_back(std::size_t{1} << 20);
                       return {};
                     }),
            "it takes more memory to read than a sound one does");
}

/// What a read of a descriptor of the process gives in the child.
std::string read_of_own_descriptor() {
  const base::Fd zeros(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  return error_of(confinement(), [&](BlockReader&, ConfinedOutput&) -> Status {
    u8 byte = 0;
    // Where system calls are filtered, only calls with the child's own descriptors are allowed.
    if (::write(zeros.get(), &byte, 0) != 0) return make_system_error(errno, "write");
    return make_error("wrote");
  });
}

TEST(ConfinedChild, DescriptorsOfTheProcessAreGone) {
  EXPECT_EQ(read_of_own_descriptor(),
            filters() ? "reading it ended with a forbidden system call" : "write: Bad file descriptor");
}

TEST(ConfinedChild, NoFileCanBeOpened) {
  if (!filters()) GTEST_SKIP() << "no system call filter here";
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput&) -> Status {
                       return make_error("{}", ::open("/dev/null", O_RDONLY | O_CLOEXEC));
                     }),
            "reading it ended with a forbidden system call");
}

TEST(ConfinedChild, NoMemoryBecomesExecutable) {
  if (!filters()) GTEST_SKIP() << "no system call filter here";
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader&, ConfinedOutput&) -> Status {
                       void* const page = ::mmap(nullptr, kPageSize, PROT_READ | PROT_EXEC,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                       return make_error("{}", page != MAP_FAILED);
                     }),
            "reading it ended with a forbidden system call");
}

TEST(ConfinedChild, RunsWhileOtherThreadsAllocate) {
  std::atomic<bool> done = false;
  std::thread busy([&] {
    while (!done) std::vector<u8>(1000).swap(*std::make_unique<std::vector<u8>>());
  });
  for (int i = 0; i < 20; ++i) {
    const auto answer = run(confinement(), [](BlockReader&, ConfinedOutput& output) {
      return two_sections(output, std::string(50, 'x'), "");
    });
    EXPECT_TRUE(answer) << answer.error().message;
  }
  done = true;
  busy.join();
}

/// Runs in a process of its own, in which those system calls fail.
void with_refused_calls(std::initializer_list<int> calls, const std::function<void()>& body) {
  const pid_t process = ::fork();
  if (process == 0) {
    const scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_ALLOW);
    for (const int call : calls) ::seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call, 0);
    if (::seccomp_load(filter) != 0) ::_exit(2);
    body();
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(process, &status, 0), process);
  EXPECT_EQ(status, 0);
}

TEST(ConfinedChild, HostThatRefusesItsWallsGetsAnAnswerAllTheSame) {
  if (!filters()) GTEST_SKIP() << "no system call filter here";
  with_refused_calls(
      {SCMP_SYS(seccomp), SCMP_SYS(setrlimit), SCMP_SYS(prlimit64), SCMP_SYS(memfd_create)}, [] {
        const auto answer = run(confinement(), [](BlockReader&, ConfinedOutput& output) {
          return two_sections(output, "kernel", "");
        });
        ASSERT_TRUE(answer) << answer.error().message;
        EXPECT_EQ(answer->sections[0].size(), 6U);
        EXPECT_NE(answer->missing.find("seccomp ("), std::string::npos) << answer->missing;
        EXPECT_NE(answer->missing.find("RLIMIT_AS (Operation not permitted)"), std::string::npos)
            << answer->missing;
      });
}

TEST(ConfinedChild, DescriptorsAreClosedWithoutHelpOfTheHost) {
  if (!filters()) GTEST_SKIP() << "no system call filter here";
  with_refused_calls({SCMP_SYS(seccomp), SCMP_SYS(close_range)},
                     [] { EXPECT_EQ(read_of_own_descriptor(), "write: Bad file descriptor"); });
}

TEST(ConfinedChild, DiskIsReadForTheChild) {
  Confinement wide;
  wide.section_limits = {100'000};
  Disk disk;
  const auto answer = run_confined(wide, disk, [](BlockReader& remote, ConfinedOutput& output) -> Status {
    if (remote.size() != 100'000) return make_error("{} bytes", remote.size());
    std::vector<u8> bytes(60'001);
    for (int i = 0; i < 10; ++i) VERT_TRY(remote.read(3, bytes));
    VERT_TRY(output.write(bytes));
    output.end_section();
    return {};
  });
  ASSERT_TRUE(answer) << answer.error().message;
  ASSERT_EQ(answer->sections[0].size(), 60'001U);
  for (u64 i = 0; i < 60'001; ++i) ASSERT_EQ(answer->sections[0][i], static_cast<u8>(3 + i)) << i;
  EXPECT_EQ(disk.reads(), (std::vector<std::pair<u64, u64>>{{0, 32768}, {32768, 32768}}))
      << "what is known is asked again";
}

TEST(ConfinedChild, ErrorsOfTheDiskReachTheChild) {
  EXPECT_EQ(error_of(confinement(),
                     [](BlockReader& disk, ConfinedOutput&) -> Status {
                       std::vector<u8> bytes(10);
                       return disk.read(69'999, bytes);
                     }),
            "bad sector");
}

TEST(ConfinedChild, EndOfTheDiskHolds) {
  for (const auto& [offset, length] : {std::pair<u64, u64>{99'999, 2}, {100'001, 0}, {~u64{0}, 1}})
    EXPECT_EQ(error_of(confinement(),
                       [&](BlockReader& disk, ConfinedOutput&) -> Status {
                         std::vector<u8> bytes(length);
                         return disk.read(offset, bytes);
                       }),
              "beyond the end of the disk");
}

TEST(ConfinedChild, ParentIgnoringItsChildrenGetsTheAnswer) {
  auto* const before = ::signal(SIGCHLD, SIG_IGN);
  const auto answer = run(
      confinement(), [](BlockReader&, ConfinedOutput& output) { return two_sections(output, "kernel", ""); });
  ::signal(SIGCHLD, before);
  EXPECT_TRUE(answer) << answer.error().message;
}

}  // namespace
}  // namespace vert::machine::disk_boot
