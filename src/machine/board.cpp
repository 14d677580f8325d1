#include "machine/board.hpp"

#include <fmt/ranges.h>
#include <time.h>

#include <algorithm>
#include <array>

#include "device/irqchip/msi.hpp"
#include "device/virtio/entropy.hpp"
#include "machine/firmware/acpi_tables.hpp"

namespace vert::machine {

namespace {

constexpr std::string_view kDebugExit = "isa-debug-exit";
constexpr std::string_view kTestdev = "pc-testdev";
constexpr std::string_view kEntropy = "virtio-rng";
constexpr std::string_view kConsole = "virtio-console";
constexpr std::array kOptionalDevices = {kDebugExit, kTestdev, kEntropy, kConsole};
constexpr unsigned kFirstFreeSlot = 1;  // the host bridge is at 0
constexpr unsigned kLpcSlot = 31;

static_assert(kEcamBase == device::kEcamBase && kEcamSize == device::kEcamSize);
static_assert(kIoApicBase == device::IoApic::kBase && kLocalApicBase == cpu::LocalApic::kDefaultBase);

i64 wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return i64{now.tv_sec} * static_cast<i64>(base::kNanosecondsPerSecond) + now.tv_nsec;
}

constexpr unsigned kTimerIrq = 0;
constexpr unsigned kKeyboardIrq = 1;
constexpr unsigned kRtcIrq = 8;
constexpr unsigned kMouseIrq = 12;
constexpr unsigned kCascadeIrq = 2;
constexpr unsigned kIsaIrqs = 16;
constexpr auto kPmTimerWidth =
    acpi::kWidePmTimer ? device::AcpiPm::TimerWidth::k32 : device::AcpiPm::TimerWidth::k24;

}  // namespace

Board::Board(const MemoryMap& map, memory::GuestMemory& memory, base::TimeService& time,
             cpu::ApicFabric& fabric, const BoardEvents& events)
    : memory_(memory),
      fabric_(fabric),
      io_apic_(fabric),
      router_(pic_, io_apic_),
      serial_(time, router_.connect_isa(device::kCom1Irq), events.console_output),
      pit_(time, router_.connect_isa(kTimerIrq)),
      rtc_(time, wall_clock_ns, router_.connect_isa(kRtcIrq), map.low_end(), map.high_end() - kFourGiB),
      pm_(time, router_.connect_isa(device::kAcpiSciIrq), kPmTimerWidth, events.power_off),
      keyboard_(router_.connect_isa(kKeyboardIrq), router_.connect_isa(kMouseIrq), events.reset),
      // A soft reset (INIT) would start the boot processor at firmware that is not there.
      reset_control_([reset = events.reset](device::ResetKind) { reset(); }),
      fw_cfg_(memory),
      pci_(device::PciBuses{mmio_, pio_}) {
  fabric_.set_eoi_listener(&io_apic_);
}

Result<std::unique_ptr<Board>> Board::create(const MemoryMap& map, memory::GuestMemory& memory,
                                             base::TimeService& time, cpu::ApicFabric& fabric,
                                             const BoardEvents& events,
                                             const std::vector<std::string>& devices) {
  std::unique_ptr<Board> board(new Board(map, memory, time, fabric, events));
  VERT_TRY(board->map_devices());
  for (const std::string& name : devices) VERT_TRY(board->add_optional(name, events));
  return board;
}

std::span<const std::string_view> Board::optional_devices() { return kOptionalDevices; }

Status Board::map_devices() {
  VERT_TRY(pic_.attach(pio_));
  VERT_TRY(mmio_.map(device::IoApic::kBase, device::IoApic::kSize, io_apic_, "io-apic"));
  VERT_TRY(serial_.map(pio_, device::kCom1Base));
  VERT_TRY(pit_.map(pio_));
  VERT_TRY(rtc_.map(pio_));
  VERT_TRY(pm_.map(pio_));
  VERT_TRY(keyboard_.map(pio_));
  VERT_TRY(reset_control_.map(pio_));
  VERT_TRY(ignored_ports_.map(pio_));
  VERT_TRY(fw_cfg_.map(pio_));
  return pci_.map();
}

Status Board::add_optional(const std::string& name, const BoardEvents& events) {
  if (name == kDebugExit && !debug_exit_) {
    debug_exit_.emplace(events.debug_exit);
    return debug_exit_->map(pio_);
  }
  if (name == kTestdev && !testdev_) {
    std::array<device::InterruptLine*, device::PcTestdev::kLines> lines{};
    for (unsigned line = 0; line < lines.size(); ++line)
      if (line != kCascadeIrq)
        lines[line] = &(line < kIsaIrqs ? router_.connect_isa(line) : router_.connect(line));
    testdev_.emplace(lines);
    return testdev_->map(pio_, mmio_);
  }
  const auto is_name = [&](const auto& device) { return device->name() == name; };
  if (name == kEntropy && std::ranges::none_of(virtio_, is_name)) {
    VERT_ASSIGN(auto entropy, device::virtio::Entropy::create());
    return add_virtio(name, std::move(entropy));
  }
  if (name == kConsole && console_ == nullptr) {
    VERT_ASSIGN(auto console, device::virtio::Console::create(events.console_output));
    console_ = console.get();
    return add_virtio(name, std::move(console));
  }
  if (std::ranges::find(kOptionalDevices, name) != kOptionalDevices.end())
    return make_error("the device '{}' is given twice", name);
  return make_error("there is no device '{}'; choose one of: {}", name, fmt::join(kOptionalDevices, ", "));
}

Status Board::add_disk(const DiskConfig& config, unsigned cpus, const BoardEvents& events) {
  VERT_ASSIGN(auto disk, open_disk(config, cpus,
                                   {.on_full = [full = events.disk_full, path = config.path] { full(path); },
                                    .on_error = events.disk_error}));
  disks_.push_back(disk.get());
  return add_virtio("virtio-blk", std::move(disk));
}

Status Board::flush_disks() {
  for (device::virtio::Block* const disk : disks_) VERT_TRY(disk->flush());
  return {};
}

/// Each in a slot of its own, with its pin INTA#.
Status Board::add_virtio(std::string_view name, std::unique_ptr<device::virtio::VirtioDevice> device) {
  const auto slot = static_cast<u8>(kFirstFreeSlot + virtio_.size());
  if (slot >= kLpcSlot)
    return make_error("too many devices: there are slots for {}", kLpcSlot - kFirstFreeSlot);
  virtio_.push_back(std::make_unique<device::virtio::VirtioPci>(
      std::string(name), device::PciBuses{mmio_, pio_}, memory_, router_.connect(pci_interrupt(slot, 0)),
      [this](u64 address, u32 data) { device::send_msi(fabric_, address, data); }, std::move(device)));
  return pci_.add(slot, 0, *virtio_.back());
}

std::size_t Board::console_input(std::span<const u8> bytes) {
  const bool on_virtio = console_ != nullptr && console_->is_driven();
  return on_virtio ? console_->receive(bytes) : serial_.receive(bytes);
}

void Board::set_console_ready_callback(const std::function<void()>& on_ready) {
  serial_.set_ready_callback(on_ready);
  if (console_ != nullptr) console_->set_ready_callback(on_ready);
}

void Board::set_console_size(u16 columns, u16 rows) {
  if (console_ != nullptr) console_->set_size(columns, rows);
}

void Board::pause() {
  for (const auto& device : virtio_) device->pause();
}

void Board::resume() {
  for (const auto& device : virtio_) device->resume();
}

bool Board::sends_unmaskable() {
  return io_apic_.sends_unmaskable() ||
         std::ranges::any_of(virtio_, [](const auto& device) { return device->sends_unmaskable(); });
}

void Board::reset() {
  serial_.reset();
  pit_.reset();
  rtc_.reset();
  pm_.reset();
  keyboard_.reset();
  reset_control_.reset();
  fw_cfg_.reset();
  pci_.reset();
  for (const auto& device : virtio_) device->reset();
  if (testdev_) testdev_->reset();
  io_apic_.reset();
  pic_.reset();
}

/// SeaBIOS, src/hw/pic.c and timer.c: vectors 08h and 70h, all masked but timer and cascade (SeaBIOS opens
/// more, for devices that it serves); channel 0 counts 65536 in mode 2, 18.2 times a second.
void Board::set_up_as_firmware() {
  constexpr u64 kMasterCommand = 0x20;
  constexpr u64 kMasterData = 0x21;
  constexpr u64 kSlaveCommand = 0xA0;
  constexpr u64 kSlaveData = 0xA1;
  constexpr u64 kTimerChannel0 = 0x40;
  constexpr u64 kTimerControl = 0x43;
  struct Write {
    u64 port;
    u8 value;
  };
  constexpr Write kWrites[] = {
      {kMasterCommand, 0x11}, {kSlaveCommand, 0x11},  // ICW1: cascaded, edges, ICW4 follows
      {kMasterData, 0x08},    {kSlaveData, 0x70},     // ICW2: vectors
      {kMasterData, 0x04},    {kSlaveData, 0x02},     // ICW3: the slave is at input 2
      {kMasterData, 0x01},    {kSlaveData, 0x01},     // ICW4: 8086
      {kMasterData, 0xFA},    {kSlaveData, 0xFF},     // OCW1
      {kTimerControl, 0x34},  {kTimerChannel0, 0},   {kTimerChannel0, 0},
  };
  for (const Write& write : kWrites) pio_.write(write.port, 1, write.value);
}

}  // namespace vert::machine
