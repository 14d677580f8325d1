// Machines that are listed, looked into and steered by other processes: guests are the kernels of
// guest/multiboot.S.
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "control/registry.hpp"
#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Console = VertProcess::Console;

struct Ran {
  int status = -1;
  std::string output;
  std::string errors;
};

Ran vert(const std::vector<std::string>& arguments) {
  VertProcess process(arguments, Console::kPipes);
  process.close_input();
  const End end = process.wait(50s);
  return {end.status.value_or(-1), process.output(), process.errors()};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// With a registry of its own, whose machines end with the test.
class ControlTest : public testing::Test {
 protected:
  ControlTest() {
    VERT_CHECK(::mkdtemp(folder_.data()) != nullptr);
    ::setenv("XDG_RUNTIME_DIR", folder_.c_str(), 1);
  }
  ~ControlTest() override {
    if (const auto machines = control::living_machines())
      for (const auto& machine : *machines) static_cast<void>(control::kill_machine(machine));
    fs::remove_all(folder_);
  }

  static std::vector<std::string> run(const std::string& action, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"run", VERT_GUEST_FOLDER "/" + action + ".elf", "--memory", "64M"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static void start(const std::string& action, const std::string& name) {
    const Ran started = vert(run(action, {"--detach", "--name", name}));
    ASSERT_EQ(started.status, 0) << started.errors;
    ASSERT_EQ(started.output, name + "\n");
  }
  static std::string names() { return vert({"ls", "-q"}).output; }
  [[nodiscard]] bool nothing_is_left() const { return fs::is_empty(fs::path(folder_) / "vert"); }

  std::string folder_ = "/tmp/vert-vm-control-XXXXXX";
};

TEST_F(ControlTest, DetachedMachineIsListedToldOfAndKilled) {
  start("halt", "web");
  EXPECT_EQ(names(), "web\n");
  const Ran list = vert({"ls"});
  EXPECT_TRUE(contains(list.output, "web   running")) << list.output;
  EXPECT_TRUE(contains(list.output, "64 MiB")) << list.output;
  const Ran info = vert({"info", "web"});
  EXPECT_EQ(info.status, 0) << info.errors;
  EXPECT_TRUE(contains(info.output, "halt.elf")) << info.output;
  EXPECT_TRUE(contains(info.output, "vcpu 0")) << info.output;
  const auto json = nlohmann::json::parse(vert({"info", "--json"}).output, nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["info"]["state"], "Running");
  EXPECT_EQ(json["info"]["config"]["cpus"]["boot_vcpus"], 1);
  EXPECT_EQ(json["engine_counters"]["vcpus"].size(), 1U);
  EXPECT_EQ(vert({"kill", "web"}).status, 0);
  EXPECT_EQ(names(), "");
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(ControlTest, MachineInTheForegroundIsListedToo) {
  VertProcess foreground(run("halt", {}), Console::kTerminal);
  ASSERT_TRUE(foreground.expect("kernel up", 30s));
  EXPECT_EQ(names(), "vm1\n");
  foreground.send(
      "\x01"
      "d");
  EXPECT_TRUE(foreground.expect("cannot detach", 10s));
  foreground.send("\x01x");
  EXPECT_EQ(foreground.wait(10s).status, 0);
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(ControlTest, KillGivesTheTerminalBack) {
  VertProcess foreground(run("halt", {}), Console::kTerminal);
  ASSERT_TRUE(foreground.expect("kernel up", 30s));
  EXPECT_TRUE(foreground.terminal_is_raw());
  EXPECT_EQ(vert({"kill"}).status, 0);
  EXPECT_EQ(foreground.wait(10s).status, 1);
  EXPECT_FALSE(foreground.terminal_is_raw());
}

TEST_F(ControlTest, WhatDoesNotStartSaysWhy) {
  const Ran missing = vert({"run", "--detach", "--kernel", "/nonexistent/vmlinuz"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_EQ(missing.output, "");
  EXPECT_TRUE(missing.errors.starts_with("vert: ") && contains(missing.errors, "/nonexistent"))
      << missing.errors;
  EXPECT_EQ(std::ranges::count(missing.errors, '\n'), 1);
  start("halt", "web");
  const Ran taken = vert(run("halt", {"--detach", "--name", "web"}));
  EXPECT_EQ(taken.status, 1);
  EXPECT_TRUE(contains(taken.errors, "already running")) << taken.errors;
  for (const char* name : {"../x", "a b", ".hidden"}) {
    const Ran wrong = vert(run("halt", {"--detach", std::string("--name=") + name}));
    EXPECT_EQ(wrong.status, 1) << name;
  }
  EXPECT_EQ(vert(run("halt", {"--detach", "--serial", "stdio"})).status, 1);
  EXPECT_EQ(names(), "web\n");
}

TEST_F(ControlTest, LogTellsHowADetachedMachineEnded) {
  const std::string log = folder_ + "/log";
  const Ran started = vert(run("triple_fault", {"--detach", "--log", log}));
  EXPECT_EQ(started.status, 0) << started.errors;
  for (int i = 0; i < 500 && !names().empty(); ++i) usleep(20'000);
  const auto text = base::read_file(log);
  ASSERT_TRUE(text);
  EXPECT_TRUE(contains(std::string(text->begin(), text->end()), "triple fault"));
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(ControlTest, ConsoleReplaysTakesKeysAndLeaves) {
  start("echo", "web");
  VertProcess console({"console", "web"}, Console::kTerminal);
  ASSERT_TRUE(console.expect("kernel up", 30s)) << console.output();
  EXPECT_TRUE(console.terminal_is_raw());
  console.send("hello\x03\x1a");
  EXPECT_TRUE(console.expect("hello\x03\x1a", 10s)) << console.output();
  console.send("\x01?");
  EXPECT_TRUE(console.expect("Ctrl-A d detaches (the VM keeps running)", 10s));
  console.send(
      "\x01"
      "d");
  EXPECT_EQ(console.wait(10s).status, 0);
  EXPECT_FALSE(console.terminal_is_raw());
  EXPECT_EQ(names(), "web\n");
  VertProcess again({"console"}, Console::kTerminal);
  EXPECT_TRUE(again.expect("hello", 10s));
}

TEST_F(ControlTest, SeveralMayBeAtOneConsole) {
  start("echo", "web");
  VertProcess first({"console", "web"}, Console::kTerminal);
  VertProcess second({"console", "web"}, Console::kPipes);
  ASSERT_TRUE(first.expect("kernel up", 30s));
  ASSERT_TRUE(second.expect("kernel up", 30s));
  first.send("one");
  EXPECT_TRUE(second.expect("one", 10s));
  second.send("two");
  EXPECT_TRUE(first.expect("two", 10s));
  second.close_input();  // whoever reads only may go on reading
  first.send("three");
  EXPECT_TRUE(second.expect("three", 10s));
  EXPECT_EQ(vert({"kill"}).status, 0);
  EXPECT_EQ(second.wait(10s).status, 0);
  EXPECT_TRUE(contains(second.errors(), "'web' has ended")) << second.errors();
  EXPECT_EQ(first.wait(10s).status, 0);
  EXPECT_FALSE(first.terminal_is_raw());
}

TEST_F(ControlTest, SignalEndsTheConsoleNotTheMachine) {
  start("echo", "web");
  VertProcess console({"console"}, Console::kTerminal);
  ASSERT_TRUE(console.expect("kernel up", 30s));
  console.kill(SIGTERM);
  EXPECT_EQ(console.wait(10s).status, 1);
  EXPECT_FALSE(console.terminal_is_raw());
  EXPECT_EQ(names(), "web\n");
}

TEST_F(ControlTest, LoopsOfEveryShapeArePausedAndEnded) {
  for (const std::string shape : {"calls", "pushes", "look_ups", "over_the_top"}) {
    SCOPED_TRACE(shape);
    VertProcess guest(run("loop_" + shape, {"--name", "web"}), Console::kPipes);
    ASSERT_TRUE(guest.expect("kernel up", 30s));
    std::this_thread::sleep_for(50ms);
    const Ran paused = vert({"pause", "web"});
    EXPECT_EQ(paused.status, 0) << paused.errors;
    EXPECT_EQ(vert({"resume", "web"}).status, 0);
    EXPECT_EQ(vert({"info", "web"}).status, 0);
    guest.kill(SIGTERM);
    EXPECT_EQ(guest.wait(10s).status, 1);
    EXPECT_TRUE(contains(guest.errors(), "stopped by SIGTERM")) << guest.errors();
    EXPECT_FALSE(contains(guest.errors(), "has not stopped")) << guest.errors();
  }
}

TEST_F(ControlTest, StopPressesThePowerButtonAndWaits) {
  start("power_button", "web");
  VertProcess console({"console", "web"}, Console::kPipes);
  ASSERT_TRUE(console.expect("kernel up", 30s));
  const Ran stopped = vert({"stop", "web", "--timeout", "30"});
  EXPECT_EQ(stopped.status, 0) << stopped.errors;
  EXPECT_EQ(names(), "");
  EXPECT_EQ(console.wait(10s).status, 0);
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(ControlTest, StopOfADeafGuestSaysWhatToDo) {
  start("halt", "web");
  const Ran deaf = vert({"stop", "web", "--timeout", "1"});
  EXPECT_EQ(deaf.status, 1);
  EXPECT_TRUE(contains(deaf.errors, "vert kill web")) << deaf.errors;
  EXPECT_EQ(names(), "web\n");
  EXPECT_EQ(vert({"stop", "web", "--timeout", "1", "--force"}).status, 0);
  EXPECT_EQ(names(), "");
  EXPECT_EQ(vert({"stop", "web", "--timeout", "soon"}).status, 1);
}

TEST_F(ControlTest, PauseHoldsTheGuestAndResumeLetsItGo) {
  start("echo", "web");
  VertProcess console({"console"}, Console::kTerminal);
  ASSERT_TRUE(console.expect("kernel up", 30s));
  EXPECT_EQ(vert({"pause", "web"}).status, 0);
  EXPECT_TRUE(contains(vert({"ls"}).output, "paused"));
  EXPECT_EQ(vert({"pause", "web"}).status, 1);
  EXPECT_EQ(vert({"stop", "web"}).status, 1);
  console.send("late");
  EXPECT_FALSE(console.expect("late", 1s));
  EXPECT_EQ(vert({"resume", "web"}).status, 0);
  EXPECT_TRUE(console.expect("late", 10s));
  EXPECT_TRUE(contains(vert({"ls"}).output, "running"));
}

TEST_F(ControlTest, KilledVertLeavesNothingThatMatters) {
  start("halt", "web");
  start("halt", "db");
  const auto machines = control::living_machines();
  ASSERT_EQ(machines->size(), 2U);
  const auto web = std::ranges::find(*machines, "web", &control::LivingMachine::name);
  ::kill(web->pid, SIGKILL);
  for (int i = 0; i < 500 && control::lives(*web); ++i) usleep(20'000);
  EXPECT_TRUE(fs::exists(fs::path(folder_) / "vert/web/api.sock"));
  EXPECT_EQ(names(), "db\n");
  EXPECT_FALSE(fs::exists(fs::path(folder_) / "vert/web"));
  start("halt", "web");
  EXPECT_EQ(names(), "db\nweb\n");
}

TEST_F(ControlTest, NamesAreFoundByHowTheyBegin) {
  EXPECT_TRUE(contains(vert({"info"}).errors, "no VM is running"));
  start("halt", "web-1");
  start("halt", "web-2");
  start("halt", "db");
  EXPECT_TRUE(vert({"info", "d"}).output.starts_with("db\n"));
  const Ran unclear = vert({"info", "web"});
  EXPECT_EQ(unclear.status, 1);
  EXPECT_TRUE(contains(unclear.errors, "web-1, web-2")) << unclear.errors;
  EXPECT_TRUE(contains(vert({"kill"}).errors, "db, web-1, web-2"));
  EXPECT_TRUE(contains(vert({"pause", "x"}).errors, "db, web-1, web-2"));
}

TEST_F(ControlTest, ExplainShowsWhatAMachineDoes) {
  start("flood", "web");
  const Ran range = vert({"explain", "--vm", "web", "--range", "0x10000c..0x100020"});
  if (contains(range.errors, "engine bt needs")) GTEST_SKIP() << range.errors;
  EXPECT_EQ(range.status, 0) << range.errors;
  EXPECT_TRUE(contains(range.output, "cli")) << range.output;
  const Ran hot = vert({"explain", "--vm", "--hottest", "2", "--seconds", "1"});
  EXPECT_EQ(hot.status, 0) << hot.errors;
  EXPECT_TRUE(contains(hot.output, "samples, by place")) << hot.output;
  EXPECT_EQ(vert({"explain", "--vm", "--range", "0xfff000000"}).status, 1);
  EXPECT_EQ(vert({"explain", "--vm", "--hottest", "0"}).status, 1);
  EXPECT_EQ(vert({"explain", "--hottest", "2"}).status, 1);
}

TEST_F(ControlTest, InterfaceIsServedWhereItIsAskedFor) {
  const std::string path = folder_ + "/my.sock";
  ASSERT_EQ(vert(run("halt", {"--detach", "--api-socket", path})).status, 0);
  EXPECT_TRUE(fs::is_socket(path));
  EXPECT_EQ(vert(run("halt", {"--detach", "--api-socket", path})).status, 1);
  EXPECT_EQ(vert({"kill"}).status, 0);
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace vert::vm_test
