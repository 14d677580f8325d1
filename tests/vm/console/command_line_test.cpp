// Wrong calls and inputs: one clear line on standard error, status 1, nothing on standard output.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

const std::string kKernel = VERT_GUEST_FOLDER "/halt.elf";

struct WrongCall {
  const char* name;
  std::vector<std::string> arguments;
  const char* says;  // part of the line
};

class WrongCallTest : public testing::TestWithParam<WrongCall> {};

TEST_P(WrongCallTest, GivesOneLineAndStatusOne) {
  VertProcess vert(GetParam().arguments, VertProcess::Console::kPipes);
  vert.close_input();
  const End end = vert.wait(30s);
  EXPECT_EQ(end.status, 1);
  EXPECT_EQ(std::ranges::count(vert.errors(), '\n'), 1) << vert.errors();
  EXPECT_TRUE(vert.errors().starts_with("vert: ")) << vert.errors();
  EXPECT_NE(vert.errors().find(GetParam().says), std::string::npos) << vert.errors();
  EXPECT_EQ(vert.output(), "");
}

INSTANTIATE_TEST_SUITE_P(
    Calls, WrongCallTest,
    testing::Values(
        WrongCall{"UnknownCommand", {"rnu"}, "did you mean 'run'?"},
        WrongCall{"UnknownOption", {"run", "--memroy", "1G"}, "did you mean '--memory'?"},
        WrongCall{"OptionOfNoKind", {"run", kKernel, "--frobnicate"}, "'--frobnicate'"},
        WrongCall{"MissingValue", {"run", "--kernel"}, "--kernel needs a value"},
        WrongCall{"NothingToBoot", {"run"}, "--kernel"},
        WrongCall{"TwoKernels", {"run", "a", "--kernel", "b"}, "use one of them"},
        WrongCall{"SecondImage", {"run", "a", "b"}, "'b'"},
        WrongCall{"UnknownEngine", {"run", kKernel, "--engine", "intrep"}, "did you mean 'interp'?"},
        WrongCall{"UnknownDevice", {"run", kKernel, "--device", "floppy"}, "isa-debug-exit"},
        WrongCall{"UnknownCpu", {"run", kKernel, "--cpu", "486"}, "x86-64-v2"},
        WrongCall{"UnknownCpuFeature", {"run", kKernel, "--cpu", "host,+MONITR"}, "did you mean MONITOR?"},
        WrongCall{"UnknownSerial", {"run", kKernel, "--serial", "tcp"}, "stdio"},
        WrongCall{"SizeWithoutUnit", {"run", kKernel, "--memory", "512"}, "512M"},
        WrongCall{"NegativeSize", {"run", kKernel, "--memory=-1G"}, "--memory"},
        WrongCall{"NoMemory", {"run", kKernel, "--memory", "0M"}, "--memory"},
        WrongCall{"MoreMemoryThanCanBeHad", {"run", kKernel, "--memory", "900T"}, "--memory"},
        WrongCall{"NoCpus", {"run", kKernel, "--cpus", "0"}, "--cpus"},
        WrongCall{"MoreCpusThanCanBeHad", {"run", kKernel, "--cpus", "100000"}, "--cpus"},
        WrongCall{"CpusNotANumber", {"run", kKernel, "--cpus", "two"}, "--cpus"},
        WrongCall{"MissingKernel", {"run", "--kernel", "/nonexistent/vmlinuz"}, "/nonexistent/vmlinuz"},
        WrongCall{"KernelIsAFolder", {"run", "--kernel", "/tmp"}, "/tmp"},
        WrongCall{"EmptyKernel", {"run", "--kernel", "/dev/null"}, "/dev/null"},
        WrongCall{"KernelIsNone", {"run", "--kernel", VERT_GUEST_SOURCES "/multiboot.S"}, "multiboot.S"},
        WrongCall{
            "MissingInitrd", {"run", "--kernel", kKernel, "--initrd", "/nonexistent/rd"}, "/nonexistent/rd"},
        WrongCall{"SerialFileInNoFolder",
                  {"run", kKernel, "--serial", "file=/nonexistent/log"},
                  "/nonexistent/log"},
        WrongCall{"BenchOfUnknownEngine", {"bench", "--engines", "bare,foo"}, "'foo'"},
        WrongCall{"BenchWithoutRuns", {"bench", "--runs", "0"}, "--runs"}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(Help, TeachesByExample) {
  for (const std::string command : {"", "run", "ls", "info", "console", "stop", "kill", "pause", "resume",
                                    "bench", "explain", "doctor"}) {
    std::vector<std::string> arguments = {"--help"};
    if (!command.empty()) arguments.insert(arguments.begin(), command);
    VertProcess vert(arguments, VertProcess::Console::kPipes);
    EXPECT_EQ(vert.wait(30s).status, 0);
    EXPECT_NE(vert.output().find("Example"), std::string::npos) << vert.output();
    EXPECT_EQ(vert.errors(), "");
  }
}

TEST(Doctor, NamesAnEngineThatCanRun) {
  VertProcess vert({"doctor"}, VertProcess::Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, 0);
  EXPECT_NE(vert.output().find("interp"), std::string::npos) << vert.output();
  EXPECT_NE(vert.output().find("/dev/kvm"), std::string::npos);
}

}  // namespace
}  // namespace vert::vm_test
