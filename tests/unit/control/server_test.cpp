#include "control/server.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <thread>

#include "control/client.hpp"
#include "control/registry.hpp"
#include "support/random.hpp"
#include "unit/control/fake_vm.hpp"
#include "unit/control/temporary_folder.hpp"

namespace vert::control::test {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

/// A connection on which a test says what it likes.
class RawClient {
 public:
  explicit RawClient(const std::string& path)
      : RawClient(path, base::Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))) {}
  RawClient(const std::string& path, base::Fd socket) : fd_(std::move(socket)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    VERT_CHECK(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }
  bool send(std::string_view text) {
    return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  /// As much as possible, without waiting.
  void flood(std::string_view text) {
    ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  void end_sending() { ::shutdown(fd_.get(), SHUT_WR); }
  /// What comes until `text` does, or the end, or nothing for ten seconds.
  std::string read_until(const std::string& text) {
    while (got_.find(text) == std::string::npos || text.empty()) {
      pollfd readable = {fd_.get(), POLLIN, 0};
      std::array<char, 4096> bytes;
      if (::poll(&readable, 1, 10'000) != 1) return got_ + "(nothing more came)";
      const ssize_t count = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
      if (count <= 0) {
        ended_ = true;
        break;
      }
      got_.append(bytes.data(), static_cast<std::size_t>(count));
    }
    return std::exchange(got_, "");
  }
  std::string read_to_end() { return read_until(""); }
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  base::Fd fd_;
  std::string got_;
  bool ended_ = false;
};

class ServerTest : public testing::Test {
 protected:
  void start(const ServerLimits& limits = {}) {
    auto socket = SocketFile::listen(path());
    ASSERT_TRUE(socket) << socket.error().message;
    std::vector<base::Fd> listeners;
    listeners.push_back(socket->take());
    file_.emplace(std::move(*socket));
    auto server = Server::start(std::move(listeners), vm_, hub_, limits);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }
  [[nodiscard]] std::string path() const { return folder_.path() + "/api.sock"; }
  void say(std::string_view text) { hub_.write({reinterpret_cast<const u8*>(text.data()), text.size()}); }
  [[nodiscard]] bool answers() { return call(path(), "GET", "vmm.ping").has_value(); }
  template <typename Condition>
  static bool soon(Condition condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(10ms);
    return condition();
  }

  TemporaryFolder folder_;
  FakeVm vm_;
  ConsoleHub hub_{nullptr};
  std::optional<SocketFile> file_;
  std::unique_ptr<Server> server_;
};

constexpr const char* kPing = "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n";
constexpr const char* kConsole =
    "GET /api/v1/vm.console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: vert-console\r\n\r\n";

TEST_F(ServerTest, ClientAndServerUnderstandEachOther) {
  start();
  EXPECT_EQ(call(path(), "GET", "vm.info").value()["vert"]["name"], "fake");
  EXPECT_TRUE(call(path(), "PUT", "vm.pause").value().is_null());
  EXPECT_EQ(vm_.state(), machine::Machine::State::kPaused);
  EXPECT_EQ(call(path(), "PUT", "vm.pause").error().message, "the VM is already paused");
  EXPECT_FALSE(call(path(), "GET", "vm.nothing"));
}

TEST_F(ServerTest, NobodyThereIsAnError) {
  EXPECT_FALSE(call(path(), "GET", "vmm.ping"));
  EXPECT_FALSE(call(folder_.path(), "GET", "vmm.ping"));
  EXPECT_FALSE(call(folder_.path() + std::string(200, 'x'), "GET", "vmm.ping"));
}

TEST_F(ServerTest, ShutDownIsAnsweredFirst) {
  start();
  EXPECT_TRUE(call(path(), "PUT", "vmm.shutdown"));
  EXPECT_TRUE(soon([this] { return vm_.shut_downs == 1; }));
}

TEST_F(ServerTest, OneConnectionCanAskAgainAndAgain) {
  start();
  RawClient client(path());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send(kPing));
    EXPECT_TRUE(client.read_until("}\n").starts_with("HTTP/1.1 200 OK\r\n"));
  }
  // Two at once, and one in pieces.
  ASSERT_TRUE(client.send(std::string(kPing) + "PUT /api/v1/vm.pause HTTP/1.1\r\nConnection: close\r\n\r\n"));
  const std::string both = client.read_to_end();
  EXPECT_NE(both.find("200 OK"), std::string::npos);
  EXPECT_NE(both.find("204 No Content\r\n"), std::string::npos);
  EXPECT_TRUE(client.ended());
  RawClient slow(path());
  for (const char* piece = kPing; *piece != '\0'; ++piece) ASSERT_TRUE(slow.send({piece, 1}));
  EXPECT_NE(slow.read_until("}\n").find("200 OK"), std::string::npos);
}

TEST_F(ServerTest, SamplesComeWhenTheTimeIsOverAndOthersAreServedMeanwhile) {
  start();
  std::optional<Result<json>> samples;
  std::thread asking([&] {
    samples = call(path(), "PUT", "vm.hot-blocks", {{"milliseconds", 300}, {"hottest", 4}});
  });
  ASSERT_TRUE(soon([this] { return vm_.sampling.load(); }));
  EXPECT_TRUE(answers());
  EXPECT_FALSE(call(path(), "PUT", "vm.hot-blocks"));
  EXPECT_EQ(vm_.sampling_starts, 1);
  asking.join();
  EXPECT_EQ(samples->value()["vcpus"][0]["groups"][0]["counters"][0]["value"], 4);
  EXPECT_FALSE(vm_.sampling);
}

TEST_F(ServerTest, ServerCanGoWhileClientsWait) {
  start();
  RawClient idle(path());
  RawClient half(path());
  ASSERT_TRUE(half.send("GET /api"));
  RawClient console(path());
  ASSERT_TRUE(console.send(kConsole));
  EXPECT_NE(console.read_until("\r\n\r\n").find("101"), std::string::npos);
  RawClient sampling(path());
  ASSERT_TRUE(sampling.send("PUT /api/v1/vm.hot-blocks HTTP/1.1\r\n\r\n"));
  ASSERT_TRUE(soon([this] { return vm_.sampling.load(); }));
  server_.reset();
  say("nobody hears this");
  EXPECT_EQ(console.read_to_end(), "");
}

// Hostile clients.

TEST_F(ServerTest, TooMuchIsRefused) {
  start({.header_bytes = 1024, .body_bytes = 2048});
  RawClient header(path());
  header.flood("GET /" + std::string(100'000, 'a'));
  EXPECT_TRUE(header.read_to_end().starts_with("HTTP/1.1 431"));
  RawClient announced(path());
  announced.flood("PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n");
  EXPECT_TRUE(announced.read_to_end().starts_with("HTTP/1.1 413"));
  RawClient chunked(path());
  chunked.flood("PUT /api/v1/vm.pause HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" +
                std::string(65535, ' '));
  EXPECT_TRUE(chunked.read_to_end().starts_with("HTTP/1.1 4"));
  EXPECT_TRUE(answers());
  EXPECT_EQ(vm_.state(), machine::Machine::State::kRunning);
}

TEST_F(ServerTest, WhoSaysNothingIsDropped) {
  start({.request_time = 50ms});
  RawClient silent(path());
  RawClient dripping(path());
  ASSERT_TRUE(dripping.send("GET /"));
  EXPECT_EQ(silent.read_to_end(), "");
  EXPECT_TRUE(silent.ended());
  EXPECT_EQ(dripping.read_to_end(), "");
  EXPECT_TRUE(answers());
}

TEST_F(ServerTest, TooManyAreTurnedAway) {
  start({.connections = 3});
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<RawClient>(path()));
    ASSERT_TRUE(clients.back()->send(kPing));
    EXPECT_NE(clients.back()->read_until("}\n").find("200 OK"), std::string::npos);
  }
  RawClient another(path());
  EXPECT_TRUE(another.read_to_end().starts_with("HTTP/1.1 503"));
  clients.clear();
  EXPECT_TRUE(soon([this] { return answers(); }));
}

TEST_F(ServerTest, DeeplyNestedBodyDoesNoHarm) {
  start();
  const std::string body = "{\"begin\":" + std::string(60'000, '[');
  for (const std::string& end : {std::string(), std::string(60'000 - 1, ']') + "}"}) {
    const std::string whole = (body + end).substr(0, 64'000);
    RawClient client(path());
    client.flood("PUT /api/v1/vm.explain HTTP/1.1\r\nContent-Length: " + std::to_string(whole.size()) +
                 "\r\n\r\n" + whole);
    EXPECT_TRUE(client.read_until("}\n").starts_with("HTTP/1.1 400"));
  }
  EXPECT_TRUE(answers());
}

/// While it lives, this process can open no more files.
class NoMoreFiles {
 public:
  NoMoreFiles() {
    VERT_CHECK(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const base::Fd next(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const rlimit now = {static_cast<rlim_t>(next.get()), before_.rlim_max};
    VERT_CHECK(::setrlimit(RLIMIT_NOFILE, &now) == 0);
  }
  ~NoMoreFiles() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoMoreFiles(const NoMoreFiles&) = delete;
  NoMoreFiles& operator=(const NoMoreFiles&) = delete;

 private:
  rlimit before_{};
};

TEST_F(ServerTest, TwoListenersWithoutFilesToOpenDoNotSpin) {
  std::vector<base::Fd> listeners;
  std::vector<SocketFile> files;
  for (const char* name : {"/one", "/two"}) {
    files.push_back(SocketFile::listen(folder_.path() + name).value());
    listeners.push_back(files.back().take());
  }
  server_ = Server::start(std::move(listeners), vm_, hub_).value();
  base::Fd first(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  base::Fd second(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const NoMoreFiles no_more;
  RawClient one(folder_.path() + "/one", std::move(first));
  RawClient two(folder_.path() + "/two", std::move(second));
  const std::clock_t before = std::clock();  // processor time
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 5);
}

TEST_F(ServerTest, RandomBytesDoNoHarm) {
  start({.request_time = 100ms});
  vert::test::Random random(7);
  const std::vector<std::string> pieces = {"GET ",
                                           "PUT ",
                                           "/api/v1/vm.pause",
                                           "/api/v1/vm.explain",
                                           " HTTP/1.1",
                                           "\r\n",
                                           "\r\n\r\n",
                                           ":",
                                           "Content-Length: ",
                                           "Transfer-Encoding: ",
                                           "chunked",
                                           "18446744073709551616",
                                           "{\"begin\":",
                                           "\"0x10\"}",
                                           "Connection: Upgrade\r\n",
                                           "Upgrade: vert-console\r\n",
                                           std::string(3, '\0'),
                                           "-1",
                                           "5\r\n"};
  for (int round = 0; round < 300; ++round) {
    RawClient client(path());
    std::string text;
    for (u64 i = random.below(12); i-- > 0;) {
      if (random.below(5) == 0) {
        for (u64 n = random.below(40); n-- > 0;) text += static_cast<char>(random.next());
      } else {
        text += pieces[random.below(pieces.size())];
      }
    }
    client.flood(text);
    if (random.below(2) == 0) client.end_sending();
    if (random.below(4) == 0) static_cast<void>(client.read_until("\r\n"));
  }
  EXPECT_TRUE(soon([this] { return answers(); }));
}

// The console.

TEST_F(ServerTest, ConsoleReplaysThenShowsWhatComes) {
  start();
  say("before\r\n");
  auto console = open_console(path());
  ASSERT_TRUE(console) << console.error().message;
  std::string text(console->greeting.begin(), console->greeting.end());
  say("after\r\n");
  while (text.size() < 15) {
    std::array<char, 64> bytes;
    pollfd readable = {console->fd.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&readable, 1, 10'000), 1);
    const ssize_t count = ::read(console->fd.get(), bytes.data(), bytes.size());
    ASSERT_GT(count, 0);
    text.append(bytes.data(), static_cast<std::size_t>(count));
  }
  EXPECT_EQ(text, "before\r\nafter\r\n");
}

TEST_F(ServerTest, AllWatchersSeeAndAllMayType) {
  start();
  RawClient first(path());
  RawClient second(path());
  for (RawClient* client : {&first, &second}) {
    ASSERT_TRUE(client->send(kConsole));
    EXPECT_TRUE(client->read_until("\r\n\r\n").starts_with("HTTP/1.1 101"));
  }
  ASSERT_TRUE(first.send("ls"));
  EXPECT_TRUE(soon([this] { return vm_.typed() == "ls"; }));
  ASSERT_TRUE(second.send("\r"));
  EXPECT_TRUE(soon([this] { return vm_.typed() == "ls\r"; }));
  say("bin dev");
  EXPECT_EQ(first.read_until("dev"), "bin dev");
  EXPECT_EQ(second.read_until("dev"), "bin dev");
}

TEST_F(ServerTest, WhatIsTypedWithTheRequestIsNotLost) {
  start();
  RawClient client(path());
  ASSERT_TRUE(client.send(std::string(kConsole) + "early"));
  EXPECT_TRUE(soon([this] { return vm_.typed() == "early"; }));
}

TEST_F(ServerTest, TypedBytesWaitForTheGuest) {
  vm_.make_room(3);
  start();
  RawClient client(path());
  ASSERT_TRUE(client.send(kConsole));
  EXPECT_TRUE(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 101"));
  ASSERT_TRUE(client.send("abcdef"));
  EXPECT_TRUE(soon([this] { return vm_.typed() == "abc"; }));
  vm_.make_room(100);
  server_->serial_ready();
  EXPECT_TRUE(soon([this] { return vm_.typed() == "abcdef"; }));
  ASSERT_TRUE(client.send("g"));
  EXPECT_TRUE(soon([this] { return vm_.typed() == "abcdefg"; }));
}

TEST_F(ServerTest, ConsolesAreBoundedAndWantTheUpgrade) {
  start({.consoles = 1});
  RawClient plain(path());
  ASSERT_TRUE(plain.send("GET /api/v1/vm.console HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(plain.read_until("}\n").starts_with("HTTP/1.1 426"));
  const auto first = open_console(path());
  ASSERT_TRUE(first);
  const auto second = open_console(path());
  ASSERT_FALSE(second);
}

TEST_F(ServerTest, WatcherThatReadsNothingHoldsNobodyUpForLong) {
  start();
  RawClient lazy(path());
  ASSERT_TRUE(lazy.send(kConsole));
  EXPECT_TRUE(lazy.read_until("\r\n\r\n").starts_with("HTTP/1.1 101"));
  say("ready");  // it watches once this comes
  EXPECT_TRUE(lazy.read_until("ready").ends_with("ready"));
  const auto begin = std::chrono::steady_clock::now();
  const std::string line(1024, 'x');
  for (int i = 0; i < 2000; ++i) say(line);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_TRUE(answers());
  EXPECT_NE(lazy.read_until("bytes of the guest's output were lost here").find("lost here"),
            std::string::npos);
}

}  // namespace
}  // namespace vert::control::test
