#include "device/pci/pci_device.hpp"

#include <bit>

#include "base/log.hpp"

namespace vert::device {
namespace {

constexpr u16 kRevision = 0x08;
constexpr u16 kHeaderType = 0x0e;
constexpr u16 kInterruptPin = 0x3d;
constexpr u32 kStatusCapabilities = 0x0010;
constexpr u32 kHeaderMultifunction = 0x80;
constexpr u32 kBarIo = 0x1;
constexpr u32 kBar64 = 0x4;
constexpr u32 kBarPrefetchable = 0x8;
constexpr u16 kCommandWritable = kPciCommandIo | kPciCommandMemory | kPciCommandBusMaster |
                                 0x0140 /* parity, SERR# */ | kPciCommandInterruptDisable;
constexpr u64 kPortSpace = 0x10000;

constexpr u32 kVersion = 1;

constexpr u16 bar_offset(unsigned index) { return static_cast<u16>(kPciBar0 + 4 * index); }

}  // namespace

PciDevice::PciDevice(std::string name, PciBuses buses, const PciIdentity& identity, u16 config_size)
    : name_(std::move(name)),
      buses_(buses),
      config_size_(config_size),
      config_(config_size),
      writable_(config_size),
      clearable_(config_size) {
  set_config(0x00, 2, identity.vendor);
  set_config(0x02, 2, identity.device);
  set_config(kRevision, 4, identity.class_code << 8 | identity.revision);
  set_config(kPciSubsystemVendor, 2, identity.subsystem_vendor);
  set_config(kPciSubsystemVendor + 2, 2, identity.subsystem);
  set_writable(kPciCommand, 2, kCommandWritable);
  set_writable(0x0c, 1, 0xff);  // cache line size: no effect, but drivers expect to keep it
  seal();
}

PciDevice::~PciDevice() { unmap_bars(); }

void PciDevice::seal() { power_on_ = config_; }

void PciDevice::store(std::vector<u8>& bytes, u16 offset, unsigned size, u32 value) const {
  VERT_CHECK(offset + size <= config_size_);
  for (unsigned i = 0; i < size; ++i) bytes[offset + i] = static_cast<u8>(value >> (i * 8));
}

void PciDevice::set_config(u16 offset, unsigned size, u32 value) { store(config_, offset, size, value); }
void PciDevice::set_writable(u16 offset, unsigned size, u32 mask) { store(writable_, offset, size, mask); }
void PciDevice::set_write_1_to_clear(u16 offset, unsigned size, u32 mask) {
  store(clearable_, offset, size, mask);
}
void PciDevice::set_multifunction() { set_config(kHeaderType, 1, kHeaderMultifunction); }

void PciDevice::set_interrupt_pin(u8 pin) {
  set_config(kInterruptPin, 1, pin);
  set_writable(kPciInterruptLine, 1, 0xff);
}

void PciDevice::add_bar(unsigned index, BarKind kind, u64 size, memory::BusDevice& handler) {
  const bool io = kind == BarKind::kIo;
  const bool wide = kind >= BarKind::kMemory64;
  VERT_CHECK(index + (wide ? 1 : 0) < bars_.size() && std::has_single_bit(size));
  VERT_CHECK(io ? size >= 4 && size <= 256 : size >= 16 && (wide || size <= u64{1} << 31));
  bars_[index] = {kind, size, &handler, std::nullopt};
  const u64 address_mask = ~(size - 1);
  u32 flags = 0;
  if (io) flags |= kBarIo;
  if (wide) flags |= kBar64;
  if (kind == BarKind::kMemory64Prefetchable) flags |= kBarPrefetchable;
  set_config(bar_offset(index), 4, flags);
  set_writable(bar_offset(index), 4, static_cast<u32>(address_mask));
  if (wide) set_writable(bar_offset(index + 1), 4, static_cast<u32>(address_mask >> 32));
}

u16 PciDevice::add_capability(u8 id, u8 size) {
  const u16 offset = free_for_capabilities_;
  VERT_CHECK(offset + size <= kConventionalSize);
  free_for_capabilities_ = static_cast<u16>((offset + size + 3) & ~3);
  set_config(offset, 1, id);
  set_config(last_capability_ == 0 ? kPciCapabilityPointer : static_cast<u16>(last_capability_ + 1), 1,
             offset);
  set_config(kPciStatus, 2, load(kPciStatus, 2) | kStatusCapabilities);
  last_capability_ = offset;
  return offset;
}

u32 PciDevice::load(u16 offset, unsigned size) const {
  u32 value = 0;
  for (unsigned i = 0; i < size; ++i) {
    const u32 byte = offset + i < config_size_ ? config_[offset + i] : 0xff;
    value |= byte << (i * 8);
  }
  return value;
}

u32 PciDevice::config(u16 offset, unsigned size) const {
  const std::lock_guard lock(mutex_);
  return load(offset, size);
}

void PciDevice::update_config(u16 offset, unsigned size, u32 value) {
  const std::lock_guard lock(mutex_);
  store(config_, offset, size, value);
}

u32 PciDevice::config_read(u16 offset, unsigned size) {
  on_config_read(offset, size);
  return config(offset, size);
}

void PciDevice::config_write(u16 offset, unsigned size, u32 value) {
  {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < size && offset + i < config_size_; ++i) {
      const u8 byte = static_cast<u8>(value >> (i * 8));
      const u8 writable = writable_[offset + i];
      u8& now = config_[offset + i];
      now = static_cast<u8>((now & ~writable) | (byte & writable));
      now &= static_cast<u8>(~(byte & clearable_[offset + i]));
    }
    remap_bars();
  }
  on_config_changed();
  on_config_written(offset, size, value);
}

void PciDevice::on_config_read(u16 /*offset*/, unsigned /*size*/) {}
void PciDevice::on_config_written(u16 /*offset*/, unsigned /*size*/, u32 /*value*/) {}
void PciDevice::on_config_changed() {}

/// Where a BAR answers, if it does.
std::optional<u64> PciDevice::wanted_address(unsigned index) const {
  const Bar& bar = bars_[index];
  const u32 decodes = load(kPciCommand, 2) & (is_io(bar) ? kPciCommandIo : kPciCommandMemory);
  if (bar.size == 0 || decodes == 0) return std::nullopt;
  u64 address = load(bar_offset(index), 4);
  if (is_64bit(bar)) address |= u64{load(bar_offset(index + 1), 4)} << 32;
  address &= ~(bar.size - 1);
  // Zero is "not assigned yet"; all ones, while its size is being found out, does not fit anywhere.
  const u64 space = is_io(bar) ? kPortSpace : is_64bit(bar) ? ~u64{0} : u64{1} << 32;
  if (address == 0 || address >= space - bar.size) return std::nullopt;
  return address;
}

void PciDevice::remap_bars() {
  static base::LogLimit log_limit(8);
  for (unsigned i = 0; i < bars_.size(); ++i) {
    Bar& bar = bars_[i];
    if (bar.size == 0) continue;
    const std::optional<u64> wanted = wanted_address(i);
    if (wanted == bar.mapped_at) continue;
    if (bar.mapped_at) bus_of(bar).unmap(*bar.mapped_at);
    bar.mapped_at.reset();
    if (!wanted) continue;
    if (const Status mapped = bus_of(bar).map(*wanted, bar.size, *bar.handler, name_); mapped) {
      bar.mapped_at = wanted;
    } else {
      log_limit.log(base::LogLevel::kInfo, "BAR {} of {} is not mapped: {}", i, name_,
                    mapped.error().message);
    }
  }
}

void PciDevice::unmap_bars() {
  for (Bar& bar : bars_) {
    if (bar.mapped_at) bus_of(bar).unmap(*bar.mapped_at);
    bar.mapped_at.reset();
  }
}

base::Document PciDevice::save_config() const {
  const std::lock_guard lock(mutex_);
  return base::save(name_, kVersion, PciDeviceState{config_});
}

Status PciDevice::restore_config(const base::Document& document) {
  VERT_ASSIGN(const PciDeviceState state, base::restore<PciDeviceState>(name_, kVersion, document));
  {
    const std::lock_guard lock(mutex_);
    if (state.config.size() != config_size_)
      return make_error("saved configuration space of {} has the wrong size", name_);
    for (u16 i = 0; i < config_size_; ++i) {
      const u8 fixed = static_cast<u8>(~(writable_[i] | clearable_[i]));
      if (i < 4 && state.config[i] != config_[i])
        return make_error("saved configuration space of {} is that of another device", name_);
      config_[i] = static_cast<u8>((power_on_[i] & fixed) | (state.config[i] & ~fixed));
    }
    remap_bars();
  }
  on_config_changed();
  return {};
}

void PciDevice::reset_config() {
  {
    const std::lock_guard lock(mutex_);
    config_ = power_on_;
    remap_bars();
  }
  on_config_changed();
}

}  // namespace vert::device
