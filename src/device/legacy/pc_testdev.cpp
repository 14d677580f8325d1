#include "device/legacy/pc_testdev.hpp"

namespace vert::device {
namespace {

constexpr const char* kComponent = "pc-testdev";
constexpr u32 kVersion = 1;

/// Bits of an access of `size` bytes at `offset` within the 32-bit register.
constexpr u32 access_mask(u64 offset, unsigned size) {
  const u32 ones = size >= 4 ? ~u32{0} : (u32{1} << (size * 8)) - 1;
  return ones << (offset % 4 * 8);
}

}  // namespace

PcTestdev::PcTestdev(const std::array<InterruptLine*, kLines>& lines)
    : lines_(lines),
      data_(*this),
      data_bytes_(
          4, [this](u64 offset) { return static_cast<u8>(read_data(offset, 1)); },
          [this](u64 offset, u8 value) { write_data(offset, 1, value); }),
      flush_(*this),
      line_ports_(*this),
      memory_(*this) {
  state_.memory.resize(kMemorySize);
}

Status PcTestdev::map(memory::Bus& ports, memory::Bus& mmio) {
  VERT_TRY(ports.map(0xe0, 4, data_, "pc-testdev-ioport"));
  VERT_TRY(ports.map(0xe4, 4, flush_, "pc-testdev-flush-page"));
  VERT_TRY(ports.map(0xe8, 4, data_bytes_, "pc-testdev-ioport-byte"));
  VERT_TRY(ports.map(0x2000, kLines, line_ports_, "pc-testdev-irq-line"));
  return mmio.map(kMemoryBase, kMemorySize, memory_, "pc-testdev-iomem");
}

u64 PcTestdev::read_data(u64 offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return (state_.data & access_mask(offset, size)) >> (offset % 4 * 8);
}

void PcTestdev::write_data(u64 offset, unsigned size, u64 value) {
  const std::lock_guard lock(mutex_);
  const u32 mask = access_mask(offset, size);
  state_.data = (state_.data & ~mask) | (static_cast<u32>(value << (offset % 4 * 8)) & mask);
}

u64 PcTestdev::read_nothing(u64 /*offset*/, unsigned /*size*/) { return 0; }

void PcTestdev::write_nothing(u64 /*offset*/, unsigned /*size*/, u64 /*value*/) {}

void PcTestdev::write_lines(u64 offset, unsigned size, u64 value) {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < size && offset + i < kLines; ++i)
    if (InterruptLine* line = lines_[offset + i]; line != nullptr)
      line->set(static_cast<u8>(value >> (8 * i)) != 0);
}

u64 PcTestdev::read_memory(u64 offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  u64 value = 0;
  for (unsigned i = 0; i < size && offset + i < kMemorySize; ++i)
    value |= u64{state_.memory[offset + i]} << (i * 8);
  return value;
}

void PcTestdev::write_memory(u64 offset, unsigned size, u64 value) {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < size && offset + i < kMemorySize; ++i)
    state_.memory[offset + i] = static_cast<u8>(value >> (i * 8));
}

base::Document PcTestdev::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status PcTestdev::restore(const base::Document& document) {
  VERT_ASSIGN(PcTestdevState state, base::restore<PcTestdevState>(kComponent, kVersion, document));
  if (state.memory.size() != kMemorySize) return make_error("saved state of pc-testdev has the wrong size");
  const std::lock_guard lock(mutex_);
  state_ = std::move(state);
  return {};
}

void PcTestdev::reset() {
  const std::lock_guard lock(mutex_);
  state_.data = 0;
  state_.memory.assign(kMemorySize, 0);
  for (InterruptLine* line : lines_)
    if (line != nullptr) line->set(false);
}

}  // namespace vert::device
