// Whole machines with guests of a few bytes, as multiboot kernels.
#include "machine/machine.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "device/virtio/virtio_pci.hpp"

#include "unit/machine_run/kernel_file.hpp"

namespace vert::machine {
namespace {

class Serial final : public SerialBackend {
 public:
  void write(std::span<const u8> bytes) override { text.append(bytes.begin(), bytes.end()); }
  std::string text;
};

Outcome run(const MachineConfig& config) {
  auto machine = Machine::create(config);
  EXPECT_TRUE(machine) << machine.error().message;
  if (!machine) return {Outcome::Reason::kInternalError, 0, machine.error().message};
  return (*machine)->run();
}

TEST(Machine, DebugExitGivesItsStatus) {
  const KernelFile kernel(out_byte(0xF4, 0x21));
  MachineConfig config = config_for(kernel);
  config.devices = {"isa-debug-exit"};
  const Outcome outcome = run(config);
  EXPECT_EQ(outcome.reason, Outcome::Reason::kDebugExit) << outcome.description;
  EXPECT_EQ(outcome.debug_exit_status, 0x43);
}

TEST(Machine, PowerOffEndsIt) {
  // out 0x604, SLP_TYP S5 | SLP_EN
  const KernelFile kernel({0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x20, 0x66, 0xEF, 0xF4});
  EXPECT_EQ(run(config_for(kernel)).reason, Outcome::Reason::kPowerOff);
}

TEST(Machine, SerialOutputReachesTheBackend) {
  Code code;
  for (const char c : {'h', 'i'}) {
    const Code piece = out_byte(0x3F8, static_cast<u8>(c));
    code.insert(code.end(), piece.begin(), piece.end() - 1);
  }
  const Code exit = out_byte(0xF4, 0);
  code.insert(code.end(), exit.begin(), exit.end());
  const KernelFile kernel(code);
  MachineConfig config = config_for(kernel);
  Serial serial;
  config.serial = &serial;
  config.devices = {"isa-debug-exit"};
  EXPECT_EQ(run(config).reason, Outcome::Reason::kDebugExit);
  EXPECT_EQ(serial.text, "hi");
}

TEST(Machine, ResetWithNoRebootEndsIt) {
  const KernelFile kernel(out_byte(0xCF9, 6));
  MachineConfig config = config_for(kernel);
  config.no_reboot = true;
  EXPECT_EQ(run(config).reason, Outcome::Reason::kReset);
}

TEST(Machine, ResetStartsAgainWithFreshMemory) {
  // A byte of CMOS RAM survives a reset: the first time, note it there, spoil memory and reset; the second
  // time, exit with what memory holds.
  const Code code = {
      0xB0, 0x50, 0xE6, 0x70,                    // mov al, 0x50; out 0x70, al
      0xE4, 0x71, 0x3C, 0x77, 0x74, 0x14,        // in al, 0x71; cmp al, 0x77; je second
      0xB0, 0x77, 0xE6, 0x71,                    // mov al, 0x77; out 0x71, al
      0xC6, 0x05, 0x00, 0x00, 0x30, 0x00, 0xAA,  // mov byte [0x300000], 0xAA
      0x66, 0xBA, 0xF9, 0x0C, 0xB0, 0x06, 0xEE,  // out 0xcf9, 6
      0xEB, 0xFE,                                // jmp $
      0xA0, 0x00, 0x00, 0x30, 0x00,              // second: mov al, [0x300000]
      0xE6, 0xF4, 0xF4,                          // out 0xf4, al; hlt
  };
  const KernelFile kernel(code);
  MachineConfig config = config_for(kernel);
  config.devices = {"isa-debug-exit"};
  const Outcome outcome = run(config);
  EXPECT_EQ(outcome.reason, Outcome::Reason::kDebugExit);
  EXPECT_EQ(outcome.debug_exit_status, 1);
}

TEST(Machine, TripleFaultTellsRegistersAndCode) {
  // lidt with a limit of 0, then ud2.
  const Code code = {0x0F, 0x01, 0x1D, 0x00, 0x00, 0x30, 0x00, 0xB8, 0x78, 0x56, 0x34, 0x12, 0x0F, 0x0B};
  const KernelFile kernel(code);
  const Outcome outcome = run(config_for(kernel));
  ASSERT_EQ(outcome.reason, Outcome::Reason::kTripleFault);
  EXPECT_NE(outcome.description.find("RIP 000000000020008c"), std::string::npos) << outcome.description;
  EXPECT_NE(outcome.description.find("RAX 0000000012345678"), std::string::npos) << outcome.description;
  EXPECT_NE(outcome.description.find("code 0f 0b"), std::string::npos) << outcome.description;
}

// out 0x21, 0xff; sti; again: hlt; jmp again
const Code kHaltOpen = {0xB0, 0xFF, 0xE6, 0x21, 0xFB, 0xF4, 0xEB, 0xFD};

TEST(Machine, HaltWithInterruptsOffEndsIt) {
  for (const unsigned cpus : {1U, 4U}) {
    const KernelFile kernel({0xF4, 0xEB, 0xFD});
    MachineConfig config = config_for(kernel);
    config.cpus = cpus;
    EXPECT_EQ(run(config).reason, Outcome::Reason::kHalted);
  }
}

// The I/O APIC's input 0 is not connected, but it could send an NMI: mov dword [0xfec00000], 0x10; mov dword
// [0xfec00010], 0x400; hlt; jmp $-1
TEST(Machine, HaltThatAnNmiOfADeviceCouldEndGoesOn) {
  const KernelFile kernel({0xC7, 0x05, 0x00, 0x00, 0xC0, 0xFE, 0x10, 0x00, 0x00, 0x00, 0xC7, 0x05,
                           0x10, 0x00, 0xC0, 0xFE, 0x00, 0x04, 0x00, 0x00, 0xF4, 0xEB, 0xFD});
  auto machine = Machine::create(config_for(kernel)).value();
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    machine->stop();
  });
  EXPECT_EQ(machine->run().reason, Outcome::Reason::kStopped);
  stopper.join();
}

/// mov dword [address], value
void store(Code& code, u32 address, u32 value) {
  code.insert(code.end(), {0xC7, 0x05});
  for (const u32 number : {address, value})
    for (unsigned i = 0; i < 4; ++i) code.push_back(static_cast<u8>(number >> 8 * i));
}

TEST(Machine, HaltThatAnMsixMessageCouldEndGoesOn) {
  constexpr u32 kFunction = 0xB000'0000 + (1 << 15);  // 00:01.0 in the ECAM window
  constexpr u32 kBar = 0xC000'0000;
  constexpr u32 kMsixControl = kFunction + 0x40;  // the first capability
  constexpr u32 kNmi = 0x400;
  for (const u32 data : {kNmi, 0x40U}) {
    Code code;
    store(code, kFunction + device::kPciBar0, kBar);
    store(code, kFunction + device::kPciCommand, device::kPciCommandMemory | device::kPciCommandBusMaster);
    store(code, kMsixControl, 0x8000'0000);
    store(code, kBar + device::virtio::VirtioPci::kMsix, 0xFEE0'0000);
    store(code, kBar + device::virtio::VirtioPci::kMsix + 8, data);
    store(code, kBar + device::virtio::VirtioPci::kMsix + 12, 0);
    code.insert(code.end(), {0xF4, 0xEB, 0xFD});  // hlt; jmp $-1
    const KernelFile kernel(code);
    MachineConfig config = config_for(kernel);
    config.devices = {"virtio-rng"};
    auto machine = Machine::create(config).value();
    std::thread stopper([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      machine->stop();
    });
    EXPECT_EQ(machine->run().reason, data == kNmi ? Outcome::Reason::kStopped : Outcome::Reason::kHalted);
    stopper.join();
  }
}

TEST(Machine, StopEndsALoopAndAHalt) {
  for (const Code& code : {Code{0xEB, 0xFE}, kHaltOpen}) {
    const KernelFile kernel(code);
    auto machine = Machine::create(config_for(kernel)).value();
    std::thread stopper([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      machine->stop();
    });
    EXPECT_EQ(machine->run().reason, Outcome::Reason::kStopped);
    stopper.join();
    EXPECT_GT(machine->statistics().instructions, 0U);
    EXPECT_GT(machine->statistics().host_ns, 0U);
  }
}

TEST(Machine, NeverRunGoesQuietly) {
  const KernelFile kernel({0xF4});
  MachineConfig config = config_for(kernel);
  config.cpus = 4;
  EXPECT_TRUE(Machine::create(config));
}

void expect_refused(const MachineConfig& config, std::string_view says) {
  const auto machine = Machine::create(config);
  ASSERT_FALSE(machine);
  EXPECT_NE(machine.error().message.find(says), std::string::npos) << machine.error().message;
  EXPECT_EQ(machine.error().message.find('\n'), std::string::npos);
}

TEST(Machine, BadConfigurationsAreOneLine) {
  const KernelFile kernel({0xF4});
  const MachineConfig good = config_for(kernel);
  const auto with = [&](auto change) {
    MachineConfig config = good;
    change(config);
    return config;
  };
  expect_refused(with([](auto& c) { c.cpus = 0; }), "1 to 255");
  expect_refused(with([](auto& c) { c.cpus = 256; }), "1 to 255");
  expect_refused(with([](auto& c) { c.memory_bytes = 4096; }), "too little");
  expect_refused(with([](auto& c) { c.memory_bytes = ~u64{0xFFF}; }), "memory");
  expect_refused(with([](auto& c) { c.engine = "warp"; }), "interp");
  expect_refused(with([](auto& c) { c.cpu_model = "8088"; }), "x86-64-v2");
  expect_refused(with([](auto& c) { c.devices = {"teapot"}; }), "isa-debug-exit, pc-testdev");
  expect_refused(with([](auto& c) { c.devices = {"pc-testdev", "pc-testdev"}; }), "twice");
  expect_refused(with([](auto& c) { c.kernel = "/nonexistent"; }), "/nonexistent");
  expect_refused(with([](auto& c) { c.kernel.clear(); }), "--kernel");
  expect_refused(with([](auto& c) { c.initrd = "/dev/null"; }), "/dev/null");
  expect_refused(with([](auto& c) { c.kernel = "/proc/self/status"; }), "/proc/self/status");
}

TEST(Machine, EnginesAreListed) {
  const auto list = engines();
  ASSERT_FALSE(list.empty());
  for (const EngineInfo& engine : list) EXPECT_FALSE(engine.why.empty());
}

}  // namespace
}  // namespace vert::machine
