// The child's walls: whatever it does, the parent gets an answer within the limits or one line.
#include "machine/disk_boot/confined_child.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "base/fd.hpp"

namespace vert::machine::disk_boot {
namespace {

using std::chrono::milliseconds;

Confinement confinement() {
  Confinement made;
  made.section_limits = {100, 10};
  return made;
}

std::string error_of(const Confinement& confinement, const std::function<Status(ConfinedOutput&)>& job) {
  const auto answer = run_confined(confinement, job);
  return answer ? "no error" : answer.error().message;
}

Status two_sections(ConfinedOutput& output, std::string_view first, std::string_view second) {
  VERT_TRY(output.write(first));
  output.end_section();
  VERT_TRY(output.write(second));
  output.end_section();
  return {};
}

/// Whether this host filters system calls; with sanitizers there is no filter.
bool filters() {
  const auto answer =
      run_confined(confinement(), [](ConfinedOutput& output) { return two_sections(output, "", ""); });
#ifdef __SANITIZE_ADDRESS__
  return false;
#else
  return answer && answer->missing.find("seccomp") == std::string::npos;
#endif
}

TEST(ConfinedChild, SectionsArrive) {
  const auto answer =
      run_confined(confinement(), [](ConfinedOutput& output) { return two_sections(output, "kernel", ""); });
  ASSERT_TRUE(answer) << answer.error().message;
  ASSERT_EQ(answer->sections.size(), 2U);
  EXPECT_EQ(std::string(answer->sections[0].begin(), answer->sections[0].end()), "kernel");
  EXPECT_TRUE(answer->sections[1].empty());
}

TEST(ConfinedChild, JobsErrorArrivesWhateverItHasWritten) {
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput& output) -> Status {
                       VERT_TRY(two_sections(output, "kernel", "x"));
                       VERT_TRY(output.write("more"));
                       return make_error("no kernel");
                     }),
            "no kernel");
}

TEST(ConfinedChild, ErrorHasNoControlCharacters) {
  EXPECT_EQ(
      error_of(confinement(), [](ConfinedOutput&) -> Status { return make_error("a\n\x1B[2Jb\xC2\x9B"); }),
      "a??[2Jb??");
}

TEST(ConfinedChild, MissingSectionIsAnError) {
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput& output) -> Status {
                       output.end_section();
                       return {};
                     }),
            "reading it gave no answer");
}

TEST(ConfinedChild, SectionOverItsLimitIsAnError) {
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput& output) { return two_sections(output, "kernel", "eleven byte"); }),
            "reading it gave no answer");
}

TEST(ConfinedChild, AnswerHasALimitWhileItIsWritten) {
  const std::string error = error_of(confinement(), [](ConfinedOutput& output) -> Status {
    const std::string piece(1000, 'x');
    while (true) VERT_TRY(output.write(piece));
  });
  EXPECT_NE(error, "no error");
}

TEST(ConfinedChild, CrashIsOneLine) {
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput&) -> Status {
                       ::raise(SIGSEGV);
                       ::_exit(0);
                     }),
            filters() ? "reading it ended with a forbidden system call"
                      : "reading it crashed (Segmentation fault)");
}

TEST(ConfinedChild, WildPointerIsACrash) {
  const std::string error = error_of(confinement(), [](ConfinedOutput&) -> Status {
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
                     [](ConfinedOutput&) -> Status {
                       std::atomic<bool> never = false;
                       while (!never.load()) {
                       }
                       return {};
                     }),
            "it takes longer to read than 0.05 s");
}

#ifndef __SANITIZE_ADDRESS__  // which needs terabytes, so there is no limit
TEST(ConfinedChild, MemoryHasALimit) {
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput&) -> Status {
                       std::vector<std::vector<u8>> all;
                       for (int i = 0; i < 1000; ++i) all.emplace_back(std::size_t{1} << 20);
                       return {};
                     }),
            "it takes more memory to read than a sound one does");
}
#endif

TEST(ConfinedChild, DescriptorsOfTheProcessAreGone) {
  const base::Fd zeros(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const auto read_zero = [&](ConfinedOutput&) -> Status {
    u8 byte = 0;
    if (::read(zeros.get(), &byte, 1) != 1) return make_system_error(errno, "read");
    return make_error("read {}", byte);
  };
  EXPECT_EQ(error_of(confinement(), read_zero), "read: Bad file descriptor");
  Confinement open = confinement();
  open.descriptors = {zeros.get()};
  EXPECT_EQ(error_of(open, read_zero), "read 0");
}

TEST(ConfinedChild, NoFileCanBeOpened) {
  if (!filters()) GTEST_SKIP() << "no system call filter here";
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput&) -> Status {
                       return make_error("{}", ::open("/dev/null", O_RDONLY | O_CLOEXEC));
                     }),
            "reading it ended with a forbidden system call");
}

TEST(ConfinedChild, NoMemoryBecomesExecutable) {
  if (!filters()) GTEST_SKIP() << "no system call filter here";
  EXPECT_EQ(error_of(confinement(),
                     [](ConfinedOutput&) -> Status {
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
    const auto answer = run_confined(
        confinement(), [](ConfinedOutput& output) { return two_sections(output, std::string(50, 'x'), ""); });
    EXPECT_TRUE(answer) << answer.error().message;
  }
  done = true;
  busy.join();
}

TEST(ConfinedChild, ParentIgnoringItsChildrenGetsTheAnswer) {
  auto* const before = ::signal(SIGCHLD, SIG_IGN);
  const auto answer =
      run_confined(confinement(), [](ConfinedOutput& output) { return two_sections(output, "kernel", ""); });
  ::signal(SIGCHLD, before);
  EXPECT_TRUE(answer) << answer.error().message;
}

}  // namespace
}  // namespace vert::machine::disk_boot
