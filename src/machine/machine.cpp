#include "machine/machine.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>

#include "base/event_loop.hpp"
#include "base/fault_signal.hpp"
#include "base/host_tsc.hpp"
#include "machine/board.hpp"
#include "machine/boot_files.hpp"
#include "machine/engine_factory.hpp"
#include "machine/firmware/acpi_tables.hpp"
#include "machine/firmware/real_mode.hpp"
#include "machine/fw_cfg_items.hpp"
#include "machine/guest_bytes.hpp"
#include "machine/halt_watch.hpp"
#include "machine/state_dump.hpp"
#include "machine/vcpu.hpp"
#include "machine/vcpu_time.hpp"

namespace vert::machine {

namespace {

constexpr unsigned kMaxCpus = 255;  // xAPIC IDs 0 to 254; 255 is the broadcast

Outcome because(Outcome::Reason reason, std::string description = {}) {
  return {reason, 0, std::move(description)};
}

Status check_limits(const MachineConfig& config) {
  if (config.cpus == 0 || config.cpus > kMaxCpus)
    return make_error("a VM cannot have {} vCPUs; choose 1 to {}", config.cpus, kMaxCpus);
  return {};
}

/// What firmware leaves in memory.
void put_firmware_data(memory::GuestMemory& memory, unsigned cpus) {
  put_real_mode_firmware(memory);
  const std::vector<u8> tables = place_acpi_tables(make_acpi_tables(cpus), kBiosTablesBase);
  VERT_CHECK(tables.size() <= kBiosTablesEnd - kBiosTablesBase);
  VERT_CHECK(memory.write(Gpa(kBiosTablesBase), tables));
}

/// What firmware sets up on every processor: all memory cacheable by default, and virtual wire mode at the
/// boot processor (MultiProcessor Specification 1.4, 3.6.2.2).
void set_up_processor(Vcpu& vcpu) {
  constexpr u64 kMtrrsOnWriteBack = (1U << 11) | 6;
  constexpr u32 kSpuriousVector = 0xF0;
  constexpr u32 kLvtLint0 = 0x350;
  constexpr u32 kLvtLint1 = 0x360;
  constexpr u32 kEnabled = 0x1FF;
  constexpr u32 kExtInt = 0x700;
  constexpr u32 kNmi = 0x400;
  cpu::CpuState& state = vcpu.state();
  cpu::reset(state, *vcpu.context().model);
  state.msr.mtrr_def_type = kMtrrsOnWriteBack;
  cpu::LocalApic& apic = *vcpu.context().apic;
  apic.reset(false);
  if (vcpu.index() != 0) {
    state.activity = cpu::Activity::kWaitForSipi;
    return;
  }
  apic.mmio_write(kSpuriousVector, kEnabled);
  apic.mmio_write(kLvtLint0, kExtInt);
  apic.mmio_write(kLvtLint1, kNmi);
}

/// All of RAM is zero again, and the host has its pages back if its file system can do that.
void clear_memory(memory::GuestMemory& memory) {
  const auto size = static_cast<off_t>(memory.size());
  const bool cleared = ::fallocate(memory.memfd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size) == 0;
  for (const memory::RamRegion& region : memory.regions()) {
    u8* const host = memory.host(region.base, region.size);
    if (!cleared) std::memset(host, 0, region.size);
    memory.written(host, region.size);
  }
}

}  // namespace

/// Members are made in this order and go in the opposite one: what is used outlives its users.
struct Machine::Impl final : VcpuOwner {
  Impl(const MachineConfig& machine_config, const x86::CpuModel& cpu_model, MemoryMap memory_map)
      : config(machine_config), model(cpu_model), map(memory_map) {}
  ~Impl() override;

  [[nodiscard]] Status build();
  [[nodiscard]] Status make_processors();
  [[nodiscard]] BoardEvents board_events();
  /// Processors, memory and image as for a start. All vCPUs are paused.
  [[nodiscard]] Status boot();
  void start_tsc();

  void vcpu_shut_down(const Vcpu& vcpu, const std::string& faults) override;
  void vcpu_reset(const Vcpu& vcpu) override;
  void vcpu_sleeps(const Vcpu& vcpu, u32 wakers) override;
  void vcpu_wakes(const Vcpu& vcpu) override;
  /// An NMI or INIT could come from a device.
  [[nodiscard]] bool devices_can_wake() const;

  /// The first end counts. Any thread.
  void end(Outcome outcome);
  void request_reset();
  /// Pauses the machine soon, and says so. Any thread.
  void disk_full(const std::string& path);
  [[nodiscard]] Outcome run();
  [[nodiscard]] Status reset();
  [[nodiscard]] Status pause();
  void pause_all();
  /// Error: a vCPU does not stop.
  [[nodiscard]] Status wait_until_idle();
  [[nodiscard]] bool may_run() const;
  [[nodiscard]] Status stand_still();
  void go_on();
  /// Calls `look` while all vCPUs are idle, for a moment: clocks go on. Not on a vCPU's thread.
  template <typename Look>
  auto while_idle(Look look) -> Result<decltype(look())>;

  const MachineConfig config;
  const x86::CpuModel model;
  const MemoryMap map;
  EngineChoice engine;
  std::unique_ptr<BootFiles> files;
  std::unique_ptr<memory::GuestMemory> memory;
  std::unique_ptr<base::EventLoop> loop;
  cpu::ApicFabric fabric;
  std::unique_ptr<Board> board;
  std::deque<cpu::VcpuEvents> events;
  std::optional<HaltWatch> halt_watch;
  std::deque<VcpuTime> times;
  std::vector<std::unique_ptr<cpu::LocalApic>> apics;
  std::vector<std::unique_ptr<Vcpu>> vcpus;

  std::mutex transitions;   // held over each pause that ends again; outermost
  u64 stood_still_tsc = 0;  // while standing still: the host's TSC since when

  mutable std::mutex mutex;  // innermost but for Vcpu's own
  std::condition_variable changed;
  std::optional<Outcome> outcome;
  bool reset_requested = false;
  bool pause_requested = false;  // by a device, which cannot wait until the machine is paused
  bool paused = false;           // somebody asked for it
  std::string pause_reason;      // a device's
  std::optional<u64> began_ns;
  std::optional<u64> ended_ns;
};

Machine::Impl::~Impl() {
  for (const auto& vcpu : vcpus) vcpu->finish();
  for (const auto& vcpu : vcpus)
    static_cast<void>(vcpu->wait_until_idle(std::chrono::steady_clock::time_point::max()));
  // From here on no timer wakes a vCPU that may be gone.
  if (loop) loop->pause();
}

Status Machine::Impl::build() {
  VERT_TRY(base::prepare_fault_signals());
  VERT_ASSIGN(engine, find_engine(config.engine));
  VERT_ASSIGN(files, read_boot_files(config, false));
  VERT_ASSIGN(memory, memory::GuestMemory::create(map.ram_regions()));
  VERT_ASSIGN(loop, base::EventLoop::create());
  loop->pause();
  VERT_ASSIGN(board, Board::create(map, *memory, *loop, fabric, board_events(), config.devices));
  for (const DiskConfig& disk : config.disks) VERT_TRY(board->add_disk(disk, config.cpus, board_events()));
  add_fw_cfg_items(board->fw_cfg(), config.cpus, map, files->source);
  VERT_TRY(make_processors());
  halt_watch.emplace(events);
  board->pic().set_output_callback([this] { apics.front()->external_interrupt_changed(); });
  VERT_TRY(boot());
  for (const auto& vcpu : vcpus) VERT_TRY(vcpu->start());
  return {};
}

BoardEvents Machine::Impl::board_events() {
  return {
      .power_off = [this] { end(because(Outcome::Reason::kPowerOff)); },
      .reset = [this] { request_reset(); },
      .debug_exit =
          [this](u32 value) {
            Outcome exit = because(Outcome::Reason::kDebugExit);
            exit.debug_exit_status = static_cast<int>((value << 1) | 1);
            end(std::move(exit));
          },
      .console_output =
          [this](std::span<const u8> bytes) {
            if (config.serial != nullptr) config.serial->write(bytes);
          },
      .disk_full = [this](const std::string& path) { disk_full(path); },
      .disk_error =
          [this](const Error& error) {
            if (config.notice) config.notice(fmt::format("{}; the guest gets an I/O error", error.message));
          },
  };
}

Status Machine::Impl::make_processors() {
  for (unsigned index = 0; index < config.cpus; ++index) {
    const bool bootstrap = index == 0;
    cpu::VcpuEvents& vcpu_events = events.emplace_back();
    VcpuTime& time = times.emplace_back(*loop, vcpu_events);
    apics.push_back(std::make_unique<cpu::LocalApic>(index, bootstrap, vcpu_events, fabric, time,
                                                     model.tsc_frequency(),
                                                     bootstrap ? &board->pic() : nullptr));
    fabric.attach(*apics.back());
    const cpu::VcpuContext context = {.index = index,
                                      .topology = {config.cpus},
                                      .memory = memory.get(),
                                      .mmio = &board->mmio(),
                                      .pio = &board->pio(),
                                      .apic = apics.back().get(),
                                      .events = &vcpu_events,
                                      .model = &model,
                                      .aids = config.aids};
    VERT_ASSIGN(auto vcpu_engine, engine.make(context));
    vcpus.push_back(std::make_unique<Vcpu>(context, std::move(vcpu_engine), time, *this));
  }
  return {};
}

Status Machine::Impl::boot() {
  put_firmware_data(*memory, config.cpus);
  board->set_up_as_firmware();
  for (const auto& vcpu : vcpus) set_up_processor(*vcpu);
  VERT_TRY(load_kernel(files->source, map, *memory, vcpus.front()->state()));
  start_tsc();
  if (config.no_reboot) files.reset();  // not needed again
  return {};
}

/// The TSC of every vCPU is 0 now, and stands still.
void Machine::Impl::start_tsc() {
  stood_still_tsc = __rdtsc();
  for (const auto& vcpu : vcpus) vcpu->state().tsc_offset = 0 - stood_still_tsc;
}

void Machine::Impl::vcpu_shut_down(const Vcpu& vcpu, const std::string& faults) {
  end(because(Outcome::Reason::kTripleFault, faults + "\n" + dump_state(vcpu.context(), vcpu.state())));
}

void Machine::Impl::vcpu_reset(const Vcpu& /*vcpu*/) { request_reset(); }

void Machine::Impl::vcpu_sleeps(const Vcpu& vcpu, u32 wakers) {
  if (halt_watch->sleeps(vcpu.index(), wakers) && !devices_can_wake()) end(because(Outcome::Reason::kHalted));
}

void Machine::Impl::vcpu_wakes(const Vcpu& vcpu) { halt_watch->wakes(vcpu.index()); }

bool Machine::Impl::devices_can_wake() const {
  constexpr u32 kLvtLint0 = 0x350;
  constexpr u32 kLvtError = 0x370;
  constexpr u32 kMasked = 1U << 16;
  constexpr u32 kMode = 7U << 8;
  constexpr u32 kNmi = 4U << 8;
  constexpr u32 kInit = 5U << 8;
  const auto unmaskable = [](cpu::LocalApic& apic, u32 entry) {
    const u32 value = apic.mmio_read(entry);
    return (value & kMasked) == 0 && ((value & kMode) == kNmi || (value & kMode) == kInit);
  };
  return board->sends_unmaskable() || std::ranges::any_of(apics, [&](const auto& apic) {
           return unmaskable(*apic, kLvtLint0) || unmaskable(*apic, kLvtError);
         });
}

void Machine::Impl::end(Outcome why) {
  {
    const std::scoped_lock lock(mutex);
    if (outcome) return;
    outcome = std::move(why);
  }
  pause_all();
  changed.notify_all();
}

void Machine::Impl::request_reset() {
  {
    const std::scoped_lock lock(mutex);
    reset_requested = true;
  }
  pause_all();
  changed.notify_all();
}

void Machine::Impl::disk_full(const std::string& path) {
  std::string reason = fmt::format(
      "no room on the host for what the guest writes to '{}'; make room, then 'vert resume' it", path);
  {
    const std::scoped_lock lock(mutex);
    if (std::exchange(pause_requested, true)) return;
    pause_reason = reason;
  }
  if (config.notice) config.notice("paused: " + reason);
  changed.notify_all();
}

void Machine::Impl::pause_all() {
  for (const auto& vcpu : vcpus) vcpu->pause();
}

Status Machine::Impl::wait_until_idle() {
  const auto limit = std::chrono::steady_clock::now() + config.patience;
  for (const auto& vcpu : vcpus)
    if (!vcpu->wait_until_idle(limit))
      return make_error("vCPU {} has not stopped within {} ms; it was last seen at RIP {:#x}", vcpu->index(),
                        config.patience.count(), vcpu->seen_at());
  return {};
}

Outcome Machine::Impl::run() {
  {
    const std::scoped_lock running(transitions);
    {
      const std::scoped_lock lock(mutex);
      began_ns = loop->now_ns();
    }
    go_on();
  }
  while (true) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return outcome || reset_requested || pause_requested; });
    if (!outcome && config.no_reboot) outcome = because(Outcome::Reason::kReset);
    if (outcome) break;
    const bool pauses = !reset_requested;
    pause_requested = false;
    lock.unlock();
    if (const Status status = pauses ? pause() : reset(); !status)
      end(because(Outcome::Reason::kInternalError, status.error().message));
  }
  const std::scoped_lock running(transitions);
  pause_all();
  const Status idle = wait_until_idle();
  const std::scoped_lock lock(mutex);
  ended_ns = loop->now_ns();
  if (!idle) outcome->unanswered = idle.error().message;
  return *outcome;
}

/// Whether vCPUs shall run, or have been told to stop for good or for a reset.
bool Machine::Impl::may_run() const {
  const std::scoped_lock lock(mutex);
  return began_ns && !paused && !outcome && !reset_requested;
}

/// Stops vCPUs, timers and TSCs. With `transitions` held.
Status Machine::Impl::stand_still() {
  pause_all();
  VERT_TRY(wait_until_idle());
  if (loop->paused()) return {};
  // Clocks stop one after the other; the guest must not see that.
  const base::HostMoment before = base::host_moment();
  loop->pause();
  board->pause();
  const u64 later = loop->host_ns(loop->now_ns()) - before.ns;
  stood_still_tsc =
      before.tsc + static_cast<u64>(u128{later} * model.tsc_frequency() / base::kNanosecondsPerSecond);
  return {};
}

/// The reverse, if nothing is against it. With `transitions` held, and all vCPUs idle.
void Machine::Impl::go_on() {
  if (!may_run()) return;
  if (loop->paused()) {
    const base::HostMoment now = base::host_moment();
    const u64 missed = now.tsc - stood_still_tsc;
    for (const auto& vcpu : vcpus) {
      u64& offset = vcpu->state().tsc_offset;
      offset -= missed;
      apics[vcpu->index()]->set_tsc_deadline(apics[vcpu->index()]->tsc_deadline(), offset);
    }
    loop->resume_at(now.ns);
    board->resume();
  }
  const std::scoped_lock lock(mutex);
  if (outcome || reset_requested) return;  // whoever asked for that has paused, or will pause, all vCPUs
  for (const auto& vcpu : vcpus) vcpu->resume();
}

template <typename Look>
auto Machine::Impl::while_idle(Look look) -> Result<decltype(look())> {
  const std::scoped_lock running(transitions);
  pause_all();
  if (const Status idle = wait_until_idle(); !idle) {
    go_on();
    return std::unexpected(idle.error());
  }
  auto seen = look();
  go_on();
  return seen;
}

Status Machine::Impl::reset() {
  const std::scoped_lock running(transitions);
  VERT_TRY(stand_still());
  board->reset();
  clear_memory(*memory);
  for (cpu::VcpuEvents& vcpu_events : events) static_cast<void>(vcpu_events.take(~u32{0}));
  if (boots_from_disk(config)) {  // the guest may have installed another kernel
    VERT_TRY(board->flush_disks());
    VERT_ASSIGN(files, read_boot_files(config, true));
  }
  VERT_TRY(boot());
  for (const auto& vcpu : vcpus) {
    VERT_ASSIGN(auto new_engine, engine.make(vcpu->context()));
    vcpu->replace_engine(std::move(new_engine));
  }
  {
    const std::scoped_lock lock(mutex);
    reset_requested = false;
  }
  go_on();
  return {};
}

Status Machine::Impl::pause() {
  const std::scoped_lock running(transitions);
  const auto set_paused = [this](bool value) {
    const std::scoped_lock lock(mutex);
    return std::exchange(paused, value);
  };
  const bool before = set_paused(true);
  Status still = stand_still();
  if (still) return {};
  set_paused(before);
  go_on();
  return still;
}

Machine::Machine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Machine::~Machine() = default;

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config) {
  VERT_TRY(check_limits(config));
  VERT_ASSIGN(auto map, MemoryMap::make(config.memory_bytes));
  VERT_ASSIGN(auto model, x86::CpuModel::make(config.cpu_model));
  auto impl = std::make_unique<Impl>(config, model, map);
  VERT_TRY(impl->build());
  return std::unique_ptr<Machine>(new Machine(std::move(impl)));
}

Outcome Machine::run() { return impl_->run(); }

void Machine::stop() { impl_->end(because(Outcome::Reason::kStopped)); }

std::size_t Machine::console_input(std::span<const u8> bytes) { return impl_->board->console_input(bytes); }

void Machine::set_console_ready_callback(const std::function<void()>& on_ready) {
  impl_->board->set_console_ready_callback(on_ready);
}

void Machine::set_console_size(u16 columns, u16 rows) { impl_->board->set_console_size(columns, rows); }

MachineStatistics Machine::statistics() const {
  MachineStatistics statistics;
  for (const auto& vcpu : impl_->vcpus) statistics.instructions += vcpu->instructions();
  const std::scoped_lock lock(impl_->mutex);
  if (impl_->began_ns)
    statistics.host_ns = impl_->ended_ns.value_or(impl_->loop->now_ns()) - *impl_->began_ns;
  return statistics;
}

std::string_view Machine::engine_name() const { return impl_->engine.name; }

Machine::State Machine::state() const {
  const std::scoped_lock lock(impl_->mutex);
  if (impl_->outcome) return State::kEnded;
  if (impl_->paused) return State::kPaused;
  return impl_->began_ns ? State::kRunning : State::kCreated;
}

std::string Machine::pause_reason() const {
  const std::scoped_lock lock(impl_->mutex);
  return impl_->paused ? impl_->pause_reason : "";
}

Status Machine::pause() { return impl_->pause(); }

void Machine::resume() {
  const std::scoped_lock running(impl_->transitions);
  {
    const std::scoped_lock lock(impl_->mutex);
    impl_->paused = false;
    impl_->pause_reason.clear();
  }
  impl_->go_on();
}

void Machine::reset() { impl_->request_reset(); }

void Machine::press_power_button() { impl_->board->power_management().press_power_button(); }

std::vector<DiskState> Machine::disks() const {
  std::vector<DiskState> all;
  for (const auto* const disk : impl_->board->disks()) all.push_back({disk_id(all.size()), disk->size()});
  return all;
}

Status Machine::grow_disk(const std::string& id, u64 size) {
  constexpr u64 kSector = device::virtio::block::kSectorSize;
  const auto all = disks();
  const auto found = std::ranges::find(all, id, &DiskState::id);
  if (found == all.end()) return make_error("there is no disk '{}'", id);
  const auto index = static_cast<std::size_t>(found - all.begin());
  if (size < found->size)
    return make_error("{} has {} bytes; the disk of a running VM can only grow", id, found->size);
  if (impl_->config.disks[index].image.read_only) return make_error("{} is read-only", id);
  return impl_->board->disks()[index]->resize((size + kSector - 1) / kSector * kSector);
}

Result<std::vector<std::vector<cpu::CounterGroup>>> Machine::engine_counters() {
  return impl_->while_idle([this] {
    std::vector<std::vector<cpu::CounterGroup>> counters;
    for (const auto& vcpu : impl_->vcpus) counters.push_back(vcpu->engine_counters());
    return counters;
  });
}

Result<bool> Machine::start_sampling() {
  return impl_->while_idle([this] {
    return std::ranges::all_of(impl_->vcpus, [](const auto& vcpu) { return vcpu->start_sampling(); });
  });
}

Result<std::vector<cpu::SampleReport>> Machine::engine_samples(std::size_t hottest) {
  return impl_->while_idle([this, hottest] {
    std::vector<cpu::SampleReport> samples;
    for (const auto& vcpu : impl_->vcpus) samples.push_back(vcpu->engine_samples(hottest));
    return samples;
  });
}

Status Machine::stop_sampling() {
  VERT_TRY(impl_->while_idle([this] {
    for (const auto& vcpu : impl_->vcpus) vcpu->stop_sampling();
    return true;
  }));
  return {};
}

Result<GuestBytes> Machine::read_guest(unsigned vcpu, u64 address, std::size_t size) {
  if (vcpu >= impl_->vcpus.size()) return make_error("no vCPU {}; the VM has {}", vcpu, impl_->vcpus.size());
  Result<GuestBytes> found;
  VERT_TRY(impl_->while_idle([&] {
    const Vcpu& looked_at = *impl_->vcpus[vcpu];
    found = read_linear(looked_at.context(), looked_at.state(), address, size);
    return true;
  }));
  return found;
}

}  // namespace vert::machine
