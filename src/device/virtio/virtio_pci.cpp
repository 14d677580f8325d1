#include "device/virtio/virtio_pci.hpp"

#include <algorithm>
#include <cstring>

#include "device/irqchip/msi.hpp"

namespace vert::device::virtio {
namespace {

// Capabilities (virtio 1.2, 4.1.4).
constexpr u8 kVendorCapability = 0x09;
constexpr u8 kCapabilitySize = 16;
enum ConfigType : u8 { kCommonType = 1, kNotifyType = 2, kIsrType = 3, kDeviceType = 4, kWindowType = 5 };
constexpr u8 kBar = 0;

// Offsets in one.
constexpr u16 kCapabilityLength = 2;
constexpr u16 kCapabilityType = 3;
constexpr u16 kCapabilityBar = 4;
constexpr u16 kRegionOffset = 8;
constexpr u16 kRegionSize = 12;
constexpr u16 kNotifyMultiplierAt = 16;
constexpr u16 kWindowData = 16;

// Advanced Features, which give a conventional function its function-level reset (PCI-SIG ECN "Advanced
// Capabilities for Conventional PCI", 2006).
constexpr u8 kAdvancedFeatures = 0x13;
constexpr u8 kAdvancedFeaturesSize = 6;
constexpr u32 kTransactionsPending = 1;
constexpr u32 kFunctionLevelReset = 2;
constexpr u16 kAdvancedControl = 4;
constexpr u32 kInitiateReset = 1;

constexpr u16 kMsixEnable = 1U << 15;
constexpr u16 kMsixFunctionMask = 1U << 14;

constexpr u8 kIsrQueue = 1;
constexpr u8 kIsrConfig = 2;

constexpr u32 kStateVersion = 1;

/// The common configuration, as it reads (4.1.4.3).
struct CommonConfig {
  u32 device_feature_select = 0;
  u32 device_feature = 0;
  u32 driver_feature_select = 0;
  u32 driver_feature = 0;
  u16 config_vector = 0;
  u16 queue_count = 0;
  u8 status = 0;
  u8 generation = 0;
  u16 queue_select = 0;
  u16 queue_size = 0;
  u16 queue_vector = 0;
  u16 queue_enable = 0;
  u16 queue_notify_offset = 0;
  u64 queue_descriptors = 0;
  u64 queue_driver = 0;
  u64 queue_device = 0;
  u16 queue_notify_data = 0;
  u16 queue_reset = 0;
  u32 padding = 0;
};
static_assert(offsetof(CommonConfig, queue_descriptors) == 0x20 &&
              offsetof(CommonConfig, queue_reset) == 0x3A);

constexpr u64 kQueueRegisters = offsetof(CommonConfig, queue_size);

/// Base class and subclass (PCI Code and ID Assignment).
constexpr u32 class_code_of(u16 type) {
  switch (type) {
    case kNetworkDevice: return 0x020000;
    case kBlockDevice: return 0x010000;
    case kConsoleDevice: return 0x078000;
    default: return 0x00FF00;
  }
}

PciIdentity identity_of(u16 type) {
  return {.vendor = VirtioPci::kVendor,
          .device = static_cast<u16>(VirtioPci::kFirstDevice + type),
          .class_code = class_code_of(type),
          .revision = 1,
          .subsystem_vendor = VirtioPci::kVendor,
          .subsystem = static_cast<u16>(VirtioPci::kFirstDevice + type)};
}

constexpr bool overlap(u32 a, u32 a_size, u32 b, u32 b_size) { return a < b + b_size && b < a + a_size; }

/// Low or high half, or all of a register of 64 bits at `offset`, which is a multiple of 4.
void write_wide(u64& whole, u64 offset, unsigned size, u64 value) {
  const unsigned shift = offset % 8 == 0 ? 0 : 32;
  if (size == 8 && shift == 0) whole = value;
  if (size == 4) whole = (whole & ~(u64{0xFFFF'FFFF} << shift)) | (value & 0xFFFF'FFFF) << shift;
}

}  // namespace

VirtioPci::VirtioPci(std::string name, PciBuses buses, memory::GuestMemory& memory, InterruptLine& line,
                     Msix::Send send, std::unique_ptr<VirtioDevice> device)
    : PciDevice(std::move(name), buses, identity_of(device->type())),
      memory_(memory),
      line_(line),
      msix_(static_cast<unsigned>(device->queue_sizes().size()) + 1, std::move(send)),
      device_(std::move(device)),
      queues_(device_->queue_sizes().size()),
      queue_vectors_(queues_.size()) {
  add_bar(kBar, BarKind::kMemory32, kBarSize, *this);
  set_interrupt_pin(1);
  add_capabilities();
  seal();
  reset_registers();
  device_->pause();
}

VirtioPci::~VirtioPci() { device_->reset(); }

std::array<VirtioPci::Region, 4> VirtioPci::regions() const {
  const auto queue_count = static_cast<u32>(queues_.size());
  return {Region{kCommonType, kCommon, sizeof(CommonConfig)}, Region{kIsrType, kIsr, 1},
          Region{kDeviceType, kDeviceConfig, 0x1000},
          Region{kNotifyType, kNotify, queue_count * kNotifyMultiplier}};
}

u16 VirtioPci::add_virtio_capability(const Region& region, u8 extra) {
  const u8 size = kCapabilitySize + extra;
  const u16 at = add_capability(kVendorCapability, size);
  set_config(at + kCapabilityLength, 1, size);
  set_config(at + kCapabilityType, 1, region.type);
  set_config(at + kCapabilityBar, 1, kBar);
  set_config(at + kRegionOffset, 4, region.offset);
  set_config(at + kRegionSize, 4, region.size);
  return at;
}

void VirtioPci::add_capabilities() {
  msix_capability_ = add_capability(Msix::kCapabilityId, Msix::kCapabilitySize);
  const auto control = static_cast<u16>(msix_capability_ + 2);
  set_config(control, 2, msix_.vector_count() - 1);
  set_writable(control, 2, kMsixEnable | kMsixFunctionMask);
  set_config(static_cast<u16>(msix_capability_ + 4), 4, kMsix | kBar);
  set_config(static_cast<u16>(msix_capability_ + 8), 4, (kMsix + Msix::kPendingOffset) | kBar);

  for (const Region& region : regions()) {
    const bool notify = region.type == kNotifyType;
    const u16 at = add_virtio_capability(region, notify ? 4 : 0);
    if (notify) set_config(at + kNotifyMultiplierAt, 4, kNotifyMultiplier);
  }
  window_capability_ = add_virtio_capability({kWindowType, 0, 0}, 4);
  set_writable(window_capability_ + kCapabilityBar, 1, 0xFF);
  for (const u16 field : {kRegionOffset, kRegionSize, kWindowData})
    set_writable(window_capability_ + field, 4, ~u32{0});

  reset_capability_ = add_capability(kAdvancedFeatures, kAdvancedFeaturesSize);
  set_config(reset_capability_ + 2, 1, kAdvancedFeaturesSize);
  set_config(reset_capability_ + 3, 1, kTransactionsPending | kFunctionLevelReset);
}

// Configuration space.

/// Where it is, if that is aligned and in one of the regions: the MSI-X table is none of them.
std::optional<VirtioPci::Window> VirtioPci::window() const {
  const u64 offset = config(window_capability_ + kRegionOffset, 4);
  const u32 size = config(window_capability_ + kRegionSize, 4);
  const bool aligned = (size == 1 || size == 2 || size == 4) && offset % size == 0;
  if (!aligned || config(window_capability_ + kCapabilityBar, 1) != kBar) return std::nullopt;
  const bool inside = std::ranges::any_of(regions(), [&](const Region& region) {
    return offset >= region.offset && offset + size <= u64{region.offset} + region.size;
  });
  return inside ? std::optional(Window{offset, size}) : std::nullopt;
}

void VirtioPci::on_config_read(u16 offset, unsigned size) {
  const u16 data = window_capability_ + kWindowData;
  if (!overlap(offset, size, data, 4)) return;
  if (const auto at = window()) update_config(data, at->size, static_cast<u32>(read(at->offset, at->size)));
}

void VirtioPci::on_config_written(u16 offset, unsigned size, u32 value) {
  const u16 data = window_capability_ + kWindowData;
  if (overlap(offset, size, data, 4)) {
    if (const auto at = window()) write(at->offset, at->size, config(data, at->size));
  }
  const u16 control = reset_capability_ + kAdvancedControl;
  if (overlap(offset, size, control, 1) && (value >> 8 * (control - offset) & kInitiateReset) != 0) reset();
}

// The BAR.

u64 VirtioPci::read(u64 offset, unsigned size) {
  if (offset >= kMsix) return msix_.read(offset - kMsix, size);
  if (offset >= kNotify) return 0;
  if (offset >= kDeviceConfig) {
    std::array<u8, 8> bytes{};
    const std::lock_guard lock(mutex_);
    device_->read_config(static_cast<u32>(offset - kDeviceConfig), std::span(bytes).first(size));
    u64 value = 0;
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  if (offset >= kIsr) return offset == kIsr ? take_isr() : 0;
  return read_common(offset, size);
}

void VirtioPci::write(u64 offset, unsigned size, u64 value) {
  if (offset >= kMsix) {
    msix_.write(offset - kMsix, size, value);
    return;
  }
  const std::lock_guard lock(mutex_);
  if (offset >= kNotify) {
    notify(static_cast<unsigned>((offset - kNotify) / kNotifyMultiplier));
  } else if (offset >= kDeviceConfig) {
    std::array<u8, 8> bytes{};
    std::memcpy(bytes.data(), &value, sizeof value);
    device_->write_config(static_cast<u32>(offset - kDeviceConfig), std::span(bytes).first(size));
  } else if (offset < kIsr) {
    write_common(offset, size, value);
  }
}

u64 VirtioPci::read_common(u64 offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  const auto half = [](u64 whole, u32 select) {
    return select < 2 ? static_cast<u32>(whole >> (32 * select)) : 0;
  };
  CommonConfig config{.device_feature_select = device_feature_select_,
                      .device_feature = half(offered(), device_feature_select_),
                      .driver_feature_select = driver_feature_select_,
                      .driver_feature = half(driver_features_, driver_feature_select_),
                      .config_vector = config_vector_.load(),
                      .queue_count = static_cast<u16>(queues_.size()),
                      .status = status_.load(),
                      .generation = config_generation_.load(),
                      .queue_select = queue_select_};
  if (queue_select_ < queues_.size()) {
    const Queue& queue = queues_[queue_select_];
    config.queue_size = queue.size;
    config.queue_vector = queue_vectors_[queue_select_].load();
    config.queue_enable = queue.enabled ? 1 : 0;
    config.queue_notify_offset = queue_select_;
    config.queue_descriptors = queue.layout.descriptors;
    config.queue_driver = queue.layout.driver;
    config.queue_device = queue.layout.device;
    config.queue_notify_data = queue_select_;
  }
  u64 value = 0;
  if (offset + size <= sizeof config)
    std::memcpy(&value, reinterpret_cast<const u8*>(&config) + offset, size);
  return value;
}

/// Registers are written whole, those of 64 bits also by halves (4.1.3.1).
void VirtioPci::write_common(u64 offset, unsigned size, u64 value) {
  const auto is = [&](u64 place, unsigned width) { return offset == place && size == width; };
  if (is(offsetof(CommonConfig, device_feature_select), 4))
    device_feature_select_ = static_cast<u32>(value);
  else if (is(offsetof(CommonConfig, driver_feature_select), 4))
    driver_feature_select_ = static_cast<u32>(value);
  else if (is(offsetof(CommonConfig, driver_feature), 4))
    write_driver_features(static_cast<u32>(value));
  else if (is(offsetof(CommonConfig, config_vector), 2))
    config_vector_ = stored_vector(value);
  else if (is(offsetof(CommonConfig, status), 1))
    write_status(static_cast<u8>(value));
  else if (is(offsetof(CommonConfig, queue_select), 2))
    queue_select_ = static_cast<u16>(value);
  else if (offset >= kQueueRegisters && queue_select_ < queues_.size())
    write_queue(offset, size, value);
}

void VirtioPci::write_queue(u64 offset, unsigned size, u64 value) {
  const auto is = [&](u64 place, unsigned width) { return offset == place && size == width; };
  Queue& queue = queues_[queue_select_];
  if (is(offsetof(CommonConfig, queue_vector), 2)) {
    queue_vectors_[queue_select_] = stored_vector(value);
  } else if (is(offsetof(CommonConfig, queue_reset), 2)) {
    if (value == 1 && accepted(feature::kRingReset)) reset_queue(queue_select_);
  } else if (queue.enabled) {
    return;  // what follows is fixed then
  } else if (is(offsetof(CommonConfig, queue_size), 2)) {
    queue.size = static_cast<u16>(value);
  } else if (is(offsetof(CommonConfig, queue_enable), 2)) {
    if (value == 1) enable_queue(queue_select_);
  } else if (offset % 4 == 0 && offset >= offsetof(CommonConfig, queue_descriptors)) {
    switch (offset & ~u64{7}) {
      case offsetof(CommonConfig, queue_descriptors):
        write_wide(queue.layout.descriptors, offset, size, value);
        break;
      case offsetof(CommonConfig, queue_driver): write_wide(queue.layout.driver, offset, size, value); break;
      case offsetof(CommonConfig, queue_device): write_wide(queue.layout.device, offset, size, value); break;
      default: break;
    }
  }
}

// The driver's steps (3.1.1).

u64 VirtioPci::offered() const {
  return device_->features() | feature::kVersion1 | feature::kIndirectDescriptors | feature::kEventIndex |
         feature::kRingPacked | feature::kNotificationData | feature::kRingReset;
}

void VirtioPci::write_driver_features(u32 value) {
  if (driver_feature_select_ >= 2 || has_status(status::kFeaturesOk)) return;
  write_wide(driver_features_, driver_feature_select_ * 4, 4, value);
}

void VirtioPci::write_status(u8 value) {
  if (value == 0) {
    reset_device();
    return;
  }
  const bool fit = (driver_features_ & ~offered()) == 0 && accepted(feature::kVersion1);
  if (!fit) value = static_cast<u8>(value & ~status::kFeaturesOk);
  if ((value & status::kFeaturesOk) == 0) value = static_cast<u8>(value & ~status::kDriverOk);
  const bool started = has_status(status::kDriverOk);
  // Bits are only ever added but by a reset; the device's own may come at any moment.
  status_.fetch_or(static_cast<u8>(value & ~status::kNeedsReset));
  if (!started && has_status(status::kDriverOk)) start();
}

Result<std::unique_ptr<Virtqueue>> VirtioPci::make_queue(unsigned index) {
  Queue& queue = queues_[index];
  if (queue.size > device_->queue_sizes()[index])
    return make_error("queue {} of {} cannot have {} descriptors", index, name(), queue.size);
  queue.layout.size = queue.size;
  return Virtqueue::create(memory_, queue.layout,
                           {.packed = accepted(feature::kRingPacked),
                            .indirect = accepted(feature::kIndirectDescriptors),
                            .event_index = accepted(feature::kEventIndex)});
}

void VirtioPci::enable_queue(unsigned index) {
  if (!has_status(status::kFeaturesOk)) return;
  Queue& queue = queues_[index];
  auto made = make_queue(index);
  if (!made) {
    needs_reset();
    return;
  }
  queue.enabled = true;
  queue.waiting = std::move(*made);
  if (has_status(status::kDriverOk)) {
    device_->queue_ready(index, std::move(queue.waiting));
    notify(index);
  }
}

void VirtioPci::start() {
  device_->start(*this, driver_features_);
  for (unsigned i = 0; i < queues_.size(); ++i) {
    if (queues_[i].waiting == nullptr) continue;
    device_->queue_ready(i, std::move(queues_[i].waiting));
    notify(i);
  }
}

void VirtioPci::notify(unsigned index) {
  const bool ready = has_status(status::kDriverOk) && !has_status(status::kNeedsReset) && !held_;
  if (ready && index < queues_.size() && queues_[index].enabled) device_->queue_notify(index);
}

void VirtioPci::reset_queue(unsigned index) {
  if (!queues_[index].enabled) return;
  queues_[index].waiting.reset();
  if (has_status(status::kDriverOk)) device_->queue_reset(index);
  clear_queue(index);
}

void VirtioPci::clear_queue(unsigned index) {
  queues_[index] = {};
  queues_[index].size = device_->queue_sizes()[index];
  queue_vectors_[index] = kNoVector;
}

void VirtioPci::reset_device() {
  device_->reset();
  reset_registers();
}

void VirtioPci::reset_registers() {
  device_feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  queue_select_ = 0;
  for (unsigned i = 0; i < queues_.size(); ++i) clear_queue(i);
  status_ = 0;
  config_vector_ = kNoVector;
  const std::lock_guard lock(pin_mutex_);
  isr_ = 0;
  drive_pin();
}

void VirtioPci::reset() {
  {
    const std::lock_guard lock(mutex_);
    reset_device();
  }
  msix_.reset();
  reset_config();
}

// State.

VirtioQueueState VirtioPci::save_queue(unsigned index) const {
  const Queue& queue = queues_[index];
  std::optional<QueueState> position;
  if (queue.waiting != nullptr)
    position = queue.waiting->state();
  else if (queue.enabled)
    position = device_->queue_state(index);
  return {.size = queue.size,
          .enabled = queue.enabled,
          .vector = queue_vectors_[index].load(),
          .descriptors = queue.layout.descriptors,
          .driver = queue.layout.driver,
          .device = queue.layout.device,
          .works = position.has_value(),
          .position = position.value_or(QueueState{})};
}

VirtioPciState VirtioPci::save_transport() const {
  const std::lock_guard lock(mutex_);
  VERT_CHECK(held_);
  VirtioPciState state{.device_feature_select = device_feature_select_,
                       .driver_feature_select = driver_feature_select_,
                       .driver_features = driver_features_,
                       .queue_select = queue_select_,
                       .status = status_.load(),
                       .config_generation = config_generation_.load(),
                       .config_vector = config_vector_.load(),
                       .queues = {},
                       .msix = msix_.save()};
  for (unsigned i = 0; i < queues_.size(); ++i) state.queues.push_back(save_queue(i));
  const std::lock_guard pin_lock(pin_mutex_);
  state.isr = isr_;
  return state;
}

Result<base::Document> VirtioPci::save() const {
  VERT_ASSIGN(const base::Document device, device_->save());
  return base::Document{{"transport", base::save(name(), kStateVersion, save_transport())},
                        {"config", save_config()},
                        {"device", device}};
}

/// What no driver can have brought about.
Status VirtioPci::check(const VirtioPciState& state) const {
  const auto refuse = [this](std::string_view what) {
    return make_error("saved state of {}: {}", name(), what);
  };
  const auto has = [&](u8 bit) { return (state.status & bit) != 0; };
  const auto is_vector = [this](u16 vector) { return vector == stored_vector(vector); };
  const bool fit =
      (state.driver_features & ~offered()) == 0 && (state.driver_features & feature::kVersion1) != 0;
  if (has(status::kFeaturesOk) && !fit) return refuse("the driver accepted features that are not offered");
  if (has(status::kDriverOk) && !has(status::kFeaturesOk))
    return refuse("a driver is ready without features");
  if ((state.isr & ~(kIsrQueue | kIsrConfig)) != 0) return refuse("the ISR status is out of range");
  if (state.queues.size() != queues_.size()) return refuse("the number of queues is another");
  if (!is_vector(state.config_vector)) return refuse("an MSI-X vector is out of range");
  for (const VirtioQueueState& queue : state.queues) {
    if (!is_vector(queue.vector)) return refuse("an MSI-X vector is out of range");
    if (queue.enabled && !has(status::kFeaturesOk)) return refuse("a queue is enabled without features");
    if (queue.works && !queue.enabled) return refuse("a queue works that is not enabled");
    const QueueState& at = queue.position;
    if (at.next != at.used || at.next_wrap != at.used_wrap) return refuse("requests were in flight");
    // A queue stops for no other reason than that it broke.
    if (queue.enabled && !queue.works && !has(status::kNeedsReset)) return refuse("a queue is missing");
  }
  return {};
}

Status VirtioPci::restore_queue(unsigned index, const VirtioQueueState& state) {
  Queue& queue = queues_[index];
  queue.size = state.size;
  queue.enabled = state.enabled;
  queue.layout = {
      .size = state.size, .descriptors = state.descriptors, .driver = state.driver, .device = state.device};
  queue_vectors_[index] = state.vector;
  if (!state.works) return {};
  auto made = make_queue(index);
  if (!made) return make_error("saved state of {}: {}", name(), made.error().message);
  if (!(*made)->restore(state.position))
    return make_error("saved state of {}: the position in queue {} is out of range", name(), index);
  queue.waiting = std::move(*made);
  return {};
}

Status VirtioPci::restore_transport(const VirtioPciState& state) {
  const std::lock_guard lock(mutex_);
  VERT_TRY(msix_.restore(state.msix));
  device_feature_select_ = state.device_feature_select;
  driver_feature_select_ = state.driver_feature_select;
  driver_features_ = state.driver_features;
  queue_select_ = state.queue_select;
  status_ = state.status;
  config_generation_ = state.config_generation;
  config_vector_ = state.config_vector;
  {
    const std::lock_guard pin_lock(pin_mutex_);
    isr_ = state.isr;
    drive_pin();
  }
  for (unsigned i = 0; i < queues_.size(); ++i) VERT_TRY(restore_queue(i, state.queues[i]));
  if (has_status(status::kDriverOk)) start();
  return {};
}

Status VirtioPci::restore_parts(const VirtioPciState& state, const base::Document& document) {
  VERT_TRY(restore_config(document["config"]));
  VERT_TRY(restore_transport(state));
  const std::lock_guard lock(mutex_);
  return device_->restore(document["device"]);
}

Status VirtioPci::restore(const base::Document& document) {
  for (const char* part : {"transport", "config", "device"})
    if (!document.is_object() || !document.contains(part) || document.size() != 3)
      return make_error("saved state of {} is incomplete, or has more in it than it should", name());
  VERT_ASSIGN(const VirtioPciState state,
              base::restore<VirtioPciState>(name(), kStateVersion, document["transport"]));
  VERT_TRY(check(state));
  {
    const std::lock_guard lock(mutex_);
    VERT_CHECK(machine_paused_);
  }
  reset();
  Status restored = restore_parts(state, document);
  if (!restored) reset();
  return restored;
}

// Whether the device may work.

void VirtioPci::on_config_changed() {
  const u32 command = config(kPciCommand, 2);
  const u32 control = config(static_cast<u16>(msix_capability_ + 2), 2);
  const bool bus_master = (command & kPciCommandBusMaster) != 0;
  msix_.set_control({.enabled = (control & kMsixEnable) != 0,
                     .function_masked = (control & kMsixFunctionMask) != 0,
                     .bus_master = bus_master});
  {
    const std::lock_guard lock(pin_mutex_);
    pin_disabled_ = (command & kPciCommandInterruptDisable) != 0;
    drive_pin();
  }
  const std::lock_guard lock(mutex_);
  bus_master_ = bus_master;
  hold_device(machine_paused_ || !bus_master_);
}

void VirtioPci::pause() {
  const std::lock_guard lock(mutex_);
  machine_paused_ = true;
  hold_device(true);
}

void VirtioPci::resume() {
  const std::lock_guard lock(mutex_);
  machine_paused_ = false;
  hold_device(!bus_master_);
}

void VirtioPci::hold_device(bool on) {
  if (held_ == on) return;
  held_ = on;
  if (on) {
    device_->pause();
    return;
  }
  device_->resume();
  for (unsigned i = 0; i < queues_.size(); ++i) notify(i);
}

// Interrupts.

u16 VirtioPci::stored_vector(u64 value) const {
  return value < msix_.vector_count() ? static_cast<u16>(value) : kNoVector;
}

bool VirtioPci::sends_unmaskable() const {
  return msix_.any_ready([](u64 address, u32 data) {
    const auto message = decode_msi(address, data);
    return message && (message->mode == cpu::DeliveryMode::kNmi || message->mode == cpu::DeliveryMode::kInit);
  });
}

void VirtioPci::queue_interrupt(unsigned queue) { raise(queue_vectors_[queue].load(), kIsrQueue); }

void VirtioPci::config_changed() {
  config_generation_.fetch_add(1);
  raise(config_vector_.load(), kIsrConfig);
}

void VirtioPci::needs_reset() {
  const u8 before = status_.fetch_or(status::kNeedsReset);
  if ((before & status::kDriverOk) != 0) raise(config_vector_.load(), kIsrConfig);
}

/// By MSI-X or, without, by the pin, which stays asserted until the driver reads the ISR status (4.1.5.3).
void VirtioPci::raise(u16 vector, u8 isr_bit) {
  if (msix_.enabled()) {
    msix_.notify(vector);
    return;
  }
  const std::lock_guard lock(pin_mutex_);
  isr_ = static_cast<u8>(isr_ | isr_bit);
  drive_pin();
}

u8 VirtioPci::take_isr() {
  const std::lock_guard lock(pin_mutex_);
  const u8 taken = std::exchange(isr_, u8{0});
  drive_pin();
  return taken;
}

void VirtioPci::drive_pin() { line_.set(isr_ != 0 && !pin_disabled_); }

}  // namespace vert::device::virtio
