#include "control/registry.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "unit/control/temporary_folder.hpp"

namespace vert::control {
namespace {

namespace fs = std::filesystem;

class RegistryTest : public testing::Test {
 protected:
  RegistryTest() { ::setenv("XDG_RUNTIME_DIR", folder_.path().c_str(), 1); }
  ~RegistryTest() override { ::unsetenv("XDG_RUNTIME_DIR"); }

  [[nodiscard]] fs::path root() const { return fs::path(folder_.path()) / "vert"; }
  [[nodiscard]] static std::vector<std::string> names() {
    std::vector<std::string> found;
    const auto machines = living_machines();
    for (const LivingMachine& machine : machines.value()) found.push_back(machine.name);
    return found;
  }
  /// A process that claims `name` and waits for its end.
  static pid_t claim_in_child(const std::string& name) {
    int ready[2];
    VERT_CHECK(::pipe(ready) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const auto claimed = StateFolder::claim(name);
      const auto listener = claimed ? claimed->listen() : Result<base::Fd>(base::Fd());
      const char done = claimed && listener ? '1' : '0';
      static_cast<void>(::write(ready[1], &done, 1));
      for (;;) ::pause();
    }
    char done = 0;
    EXPECT_EQ(::read(ready[0], &done, 1), 1);
    EXPECT_EQ(done, '1');
    ::close(ready[0]);
    ::close(ready[1]);
    return child;
  }

  test::TemporaryFolder folder_;
};

TEST(MachineName, IsShortAndPlain) {
  for (const char* good : {"a", "vm1", "web-2_b.test", "0", "A..b"}) EXPECT_TRUE(check_name(good)) << good;
  EXPECT_TRUE(check_name(std::string(32, 'x')));
  for (const std::string bad : {"", ".", "..", ".x", "-q", "a/b", "../a", "a b", "a\n", "\xc3\xa9", "a*"})
    EXPECT_FALSE(check_name(bad)) << bad;
  EXPECT_FALSE(check_name(std::string(33, 'x')));
  EXPECT_FALSE(check_name(std::string_view("a\0b", 3)));
}

TEST(MachineChoice, NameThenPrefixThenTheOnlyOne) {
  const std::vector<std::string> names = {"db", "web", "web2", "worker"};
  EXPECT_EQ(choose_machine(names, "web").value(), 1U);
  EXPECT_EQ(choose_machine(names, "d").value(), 0U);
  EXPECT_EQ(choose_machine(names, "wo").value(), 3U);
  EXPECT_EQ(choose_machine({"db"}, "").value(), 0U);
  EXPECT_EQ(choose_machine(names, "we").error().message, "'we' is ambiguous; it matches: web, web2");
  EXPECT_EQ(choose_machine(names, "x").error().message, "no VM named 'x'; running: db, web, web2, worker");
  EXPECT_NE(choose_machine(names, "").error().message.find("choose one of: db, web"), std::string::npos);
  EXPECT_NE(choose_machine({}, "").error().message.find("no VM is running"), std::string::npos);
  EXPECT_FALSE(choose_machine({}, "web"));
}

TEST_F(RegistryTest, ClaimedNameIsListedAndGoneAfterwards) {
  {
    const auto claimed = StateFolder::claim("web");
    ASSERT_TRUE(claimed) << claimed.error().message;
    EXPECT_TRUE(claimed->open_log());
    EXPECT_EQ(names(), std::vector<std::string>{"web"});
    EXPECT_EQ(living_machines()->at(0).pid, ::getpid());
    EXPECT_EQ(fs::status(root()).permissions() & fs::perms::all, fs::perms::owner_all);
  }
  EXPECT_EQ(names(), std::vector<std::string>());
  EXPECT_TRUE(fs::is_empty(root()));
}

TEST_F(RegistryTest, TakenNameIsRefused) {
  const auto claimed = StateFolder::claim("web");
  const auto again = StateFolder::claim("web");
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message.find("already running"), std::string::npos);
  EXPECT_EQ(names(), std::vector<std::string>{"web"});
}

TEST_F(RegistryTest, NamesAreMadeUpWhereNoneIsGiven) {
  auto first = std::make_unique<StateFolder>(StateFolder::claim("").value());
  const auto second = StateFolder::claim("");
  EXPECT_EQ(first->name(), "vm1");
  EXPECT_EQ(second->name(), "vm2");
  first.reset();
  EXPECT_EQ(StateFolder::claim("")->name(), "vm1");
}

TEST_F(RegistryTest, WhatAKilledOneLeftIsRemoved) {
  const pid_t child = claim_in_child("web");
  EXPECT_EQ(names(), std::vector<std::string>{"web"});
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(fs::exists(root() / "web" / "api.sock"));
  EXPECT_EQ(names(), std::vector<std::string>());
  EXPECT_TRUE(fs::is_empty(root()));
}

TEST_F(RegistryTest, WhatAKilledOneLeftCanBeTakenOver) {
  const pid_t child = claim_in_child("web");
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const auto claimed = StateFolder::claim("web");
  ASSERT_TRUE(claimed) << claimed.error().message;
  EXPECT_TRUE(claimed->listen());
}

TEST_F(RegistryTest, KillEndsTheProcessAndLeavesNothing) {
  const pid_t child = claim_in_child("web");
  const auto machines = living_machines();
  ASSERT_EQ(machines->size(), 1U);
  EXPECT_TRUE(lives((*machines)[0]));
  EXPECT_TRUE(kill_machine((*machines)[0]));
  EXPECT_FALSE(lives((*machines)[0]));
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(fs::is_empty(root()));
  EXPECT_TRUE(kill_machine((*machines)[0]));  // it has ended: nothing to do
}

TEST_F(RegistryTest, OthersFilesAreLeftAlone) {
  fs::create_directories(root() / "notes");
  fs::permissions(root(), fs::perms::owner_all);
  std::ofstream(root() / "notes" / "text") << "mine";
  std::ofstream(root() / "file") << "mine";
  fs::create_directory(root() / "empty");
  EXPECT_EQ(names(), std::vector<std::string>());
  EXPECT_TRUE(fs::exists(root() / "notes" / "text"));
  EXPECT_TRUE(fs::exists(root() / "file"));
  EXPECT_FALSE(fs::exists(root() / "empty"));
}

TEST_F(RegistryTest, LinksAreNotFollowed) {
  const test::TemporaryFolder elsewhere;
  fs::create_directory(root());
  fs::permissions(root(), fs::perms::owner_all);
  fs::create_directory_symlink(elsewhere.path(), root() / "web");
  EXPECT_FALSE(StateFolder::claim("web"));
  fs::create_directory(root() / "db");
  std::ofstream(elsewhere.path() + "/target") << "mine";
  fs::create_symlink(elsewhere.path() + "/target", root() / "db" / "lock");
  EXPECT_FALSE(StateFolder::claim("db"));
  EXPECT_EQ(fs::file_size(elsewhere.path() + "/target"), 4U);
}

TEST_F(RegistryTest, FolderThatOthersCanEnterIsRefused) {
  fs::create_directory(root());
  ::chmod(root().c_str(), 0755);
  const auto claimed = StateFolder::claim("web");
  ASSERT_FALSE(claimed);
  EXPECT_NE(claimed.error().message.find("must belong to you"), std::string::npos);
  EXPECT_FALSE(living_machines());
}

TEST_F(RegistryTest, ManyAtOnceGetNamesOfTheirOwn) {
  constexpr unsigned kThreads = 4;
  std::vector<std::thread> threads;
  std::vector<std::string> failures(kThreads);
  for (unsigned i = 0; i < kThreads; ++i)
    threads.emplace_back([&failures, i] {
      for (int turn = 0; turn < 50; ++turn) {
        const auto mine = StateFolder::claim("");
        if (!mine) {
          failures[i] = mine.error().message;
          return;
        }
        static_cast<void>(living_machines());
        static_cast<void>(mine->listen());
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) EXPECT_EQ(failure, "");
  EXPECT_TRUE(fs::is_empty(root()));
}

TEST_F(RegistryTest, SocketFileTakesThePlaceOfADeadSocketOnly) {
  const std::string path = folder_.path() + "/my.sock";
  {
    const auto socket = SocketFile::listen(path);
    ASSERT_TRUE(socket) << socket.error().message;
    EXPECT_EQ(fs::status(path).permissions() & fs::perms::all,
              fs::perms::owner_read | fs::perms::owner_write);
    EXPECT_FALSE(SocketFile::listen(path));
  }
  EXPECT_FALSE(fs::exists(path));
  std::ofstream(path) << "mine";
  EXPECT_FALSE(SocketFile::listen(path));
  EXPECT_TRUE(fs::exists(path));
  fs::remove(path);
  const pid_t child = ::fork();
  if (child == 0) {
    auto socket = SocketFile::listen(path);
    ::_exit(socket ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(fs::exists(path));
  EXPECT_TRUE(SocketFile::listen(path));
  EXPECT_FALSE(SocketFile::listen(folder_.path() + "/" + std::string(200, 'x')));
}

TEST_F(RegistryTest, SocketFileLeavesWhatTookItsPlace) {
  const std::string path = folder_.path() + "/my.sock";
  auto first = SocketFile::listen(path);
  ASSERT_TRUE(first) << first.error().message;
  { const base::Fd closed = first->take(); }  // nobody listens any more
  const auto second = SocketFile::listen(path);
  ASSERT_TRUE(second) << second.error().message;
  { const SocketFile gone = std::move(*first); }
  EXPECT_TRUE(fs::exists(path));
}

TEST_F(RegistryTest, TooLongAPathIsNotAnotherOne) {
  const std::string long_path = folder_.path() + "/" + std::string(120, 'x');
  ASSERT_EQ(::mknod(long_path.c_str(), S_IFSOCK | 0600, 0), 0);
  const std::string error = SocketFile::listen(long_path).error().message;
  EXPECT_NE(error.find("too long"), std::string::npos) << error;
}

}  // namespace
}  // namespace vert::control
