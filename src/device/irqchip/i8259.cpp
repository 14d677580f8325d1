#include "device/irqchip/i8259.hpp"

#include <bit>
#include <optional>

namespace vert::device {
namespace {

constexpr unsigned kMaster = 0;
constexpr unsigned kSlave = 1;
constexpr unsigned kCascadeInput = 2;
constexpr unsigned kSpuriousInput = 7;
/// Inputs that ELCR can make level-triggered: not the timer, keyboard, cascade, RTC and FPU.
constexpr std::array<u8, 2> kElcrMask = {0xF8, 0xDE};

constexpr u8 bit_of(unsigned input) { return static_cast<u8>(1U << input); }
constexpr u8 next_input(unsigned input) { return static_cast<u8>((input + 1) & 7); }

/// The input of highest priority in a set that is not empty.
unsigned first_of(const I8259Chip& chip, u8 set) {
  return (static_cast<unsigned>(std::countr_zero(std::rotr(set, chip.top))) + chip.top) & 7;
}

unsigned rank(const I8259Chip& chip, unsigned input) { return (input - chip.top) & 7; }

/// The input that the chip raises INT for now.
std::optional<unsigned> request(const I8259Chip& chip) {
  const u8 requests = static_cast<u8>(chip.irr & ~chip.imr);
  if (requests == 0 || chip.init_step != 0) return std::nullopt;
  const unsigned input = first_of(chip, requests);
  // Special mask mode: what is masked does not block what comes after it.
  const u8 serving = static_cast<u8>(chip.special_mask ? chip.isr & ~chip.imr : chip.isr);
  if (serving == 0) return input;
  const unsigned blocker = first_of(chip, serving);
  // Special fully nested mode, set on the master: the slave may interrupt its own service.
  if (input == blocker && chip.special_fully_nested && input == kCascadeInput) return input;
  return rank(chip, input) < rank(chip, blocker) ? std::optional(input) : std::nullopt;
}

void acknowledge_input(I8259Chip& chip, unsigned input) {
  if (!chip.auto_eoi)
    chip.isr |= bit_of(input);
  else if (chip.rotate_on_auto_eoi)
    chip.top = next_input(input);
  if ((chip.elcr & bit_of(input)) == 0) chip.irr &= static_cast<u8>(~bit_of(input));
}

void drive(I8259Chip& chip, unsigned input, bool level) {
  const u8 bit = bit_of(input);
  const bool rising = level && (chip.lines & bit) == 0;
  chip.lines = static_cast<u8>(level ? chip.lines | bit : chip.lines & ~bit);
  if ((chip.elcr & bit) != 0)
    chip.irr = static_cast<u8>((chip.irr & ~bit) | (chip.lines & bit));
  else if (rising)
    chip.irr |= bit;
}

void write_icw1(I8259Chip& chip, u8 value) {
  I8259Chip fresh;
  fresh.lines = chip.lines;
  fresh.elcr = chip.elcr;
  fresh.irr = chip.lines & chip.elcr;
  fresh.imr = 0;
  fresh.vector_base = chip.vector_base;
  fresh.init_step = 2;
  fresh.icw4_follows = (value & 1) != 0;
  fresh.single = (value & 2) != 0;
  chip = fresh;
}

void end_of_interrupt(I8259Chip& chip, unsigned input, bool rotate) {
  chip.isr &= static_cast<u8>(~bit_of(input));
  if (rotate) chip.top = next_input(input);
}

void write_ocw2(I8259Chip& chip, u8 value) {
  const unsigned input = value & 7;
  const bool rotate = (value & 0x80) != 0;
  switch (value >> 5) {
    case 0:
    case 4: chip.rotate_on_auto_eoi = rotate; break;
    case 1:
    case 5: {  // non-specific EOI; in special mask mode it passes over what is masked
      const u8 serving = static_cast<u8>(chip.special_mask ? chip.isr & ~chip.imr : chip.isr);
      if (serving != 0) end_of_interrupt(chip, first_of(chip, serving), rotate);
      break;
    }
    case 3:
    case 7: end_of_interrupt(chip, input, rotate); break;
    case 6: chip.top = next_input(input); break;
    default: break;
  }
}

void write_ocw3(I8259Chip& chip, u8 value) {
  if ((value & 0x02) != 0) chip.read_isr = (value & 0x01) != 0;
  chip.poll = (value & 0x04) != 0;
  if ((value & 0x40) != 0) chip.special_mask = (value & 0x20) != 0;
}

void write_command(I8259Chip& chip, u8 value) {
  if ((value & 0x10) != 0) return write_icw1(chip, value);
  if ((value & 0x08) != 0) return write_ocw3(chip, value);
  write_ocw2(chip, value);
}

void write_data(I8259Chip& chip, u8 value) {
  const u8 last = chip.icw4_follows ? 4 : 0;
  switch (chip.init_step) {
    case 2:
      chip.vector_base = value & 0xF8;
      chip.init_step = chip.single ? last : 3;
      return;
    case 3: chip.init_step = last; return;
    case 4:
      chip.auto_eoi = (value & 0x02) != 0;
      chip.special_fully_nested = (value & 0x10) != 0;
      chip.init_step = 0;
      return;
    default: chip.imr = value;
  }
}

u8 read_register(I8259Chip& chip, bool data) {
  if (chip.poll) {  // the read is the INTA
    chip.poll = false;
    const std::optional<unsigned> input = request(chip);
    if (!input) return 0;
    acknowledge_input(chip, *input);
    return static_cast<u8>(0x80 | *input);
  }
  if (data) return chip.imr;
  return chip.read_isr ? chip.isr : chip.irr;
}

}  // namespace

u64 I8259::Ports::read(u64 offset, unsigned size) {
  u64 value = 0;
  for (unsigned i = 0; i < size; ++i)
    value |= u64{offset + i < 2 ? pic_.read_port(base_ + offset + i) : u8{0xFF}} << (i * 8);
  return value;
}

void I8259::Ports::write(u64 offset, unsigned size, u64 value) {
  for (unsigned i = 0; i < size && offset + i < 2; ++i)
    pic_.write_port(base_ + offset + i, static_cast<u8>(value >> (i * 8)));
}

Status I8259::attach(memory::Bus& pio) {
  VERT_TRY(pio.map(kMasterPort, 2, master_ports_, "8259 master"));
  VERT_TRY(pio.map(kSlavePort, 2, slave_ports_, "8259 slave"));
  return pio.map(kElcrPort, 2, elcr_ports_, "8259 ELCR");
}

bool I8259::update() {
  I8259Chip& master = state_.chips[kMaster];
  // The master sees the slave's INT as a level, so that a second request behind the first is not lost.
  const bool slave = request(state_.chips[kSlave]).has_value();
  master.irr = static_cast<u8>((master.irr & ~bit_of(kCascadeInput)) | (slave ? bit_of(kCascadeInput) : 0));
  const bool output = request(master).has_value();
  return output_.exchange(output, std::memory_order_acq_rel) != output || output;
}

void I8259::set_input(unsigned irq, bool level) {
  if (irq == kCascadeInput || irq >= 16) return;
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    drive(state_.chips[irq / 8], irq % 8, level);
    due = update();
  }
  notify(due);
}

u8 I8259::acknowledge() {
  bool due = false;
  u8 vector = 0;
  {
    const std::lock_guard lock(mutex_);
    I8259Chip& master = state_.chips[kMaster];
    I8259Chip& slave = state_.chips[kSlave];
    // A request that went away reads as IR7, without a bit in ISR.
    const std::optional<unsigned> input = request(master);
    vector = static_cast<u8>(master.vector_base | input.value_or(kSpuriousInput));
    if (input) acknowledge_input(master, *input);
    if (input == kCascadeInput) {
      const std::optional<unsigned> slave_input = request(slave);
      vector = static_cast<u8>(slave.vector_base | slave_input.value_or(kSpuriousInput));
      if (slave_input) acknowledge_input(slave, *slave_input);
    }
    due = update();
  }
  notify(due);
  return vector;
}

u8 I8259::read_port(u64 port) {
  bool due = false;
  u8 value = 0;
  {
    const std::lock_guard lock(mutex_);
    if ((port & ~u64{1}) == kElcrPort) return state_.chips[port & 1].elcr;
    I8259Chip& chip = state_.chips[(port & ~u64{1}) == kMasterPort ? kMaster : kSlave];
    const bool polled = chip.poll;
    value = read_register(chip, (port & 1) != 0);
    due = polled && update();
  }
  notify(due);
  return value;
}

void I8259::write_port(u64 port, u8 value) {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    if ((port & ~u64{1}) == kElcrPort) {
      write_elcr(port & 1, value);
    } else {
      I8259Chip& chip = state_.chips[(port & ~u64{1}) == kMasterPort ? kMaster : kSlave];
      (port & 1) != 0 ? write_data(chip, value) : write_command(chip, value);
    }
    due = update();
  }
  notify(due);
}

void I8259::write_elcr(unsigned index, u8 value) {
  I8259Chip& chip = state_.chips[index];
  chip.elcr = value & kElcrMask[index];
  chip.irr = static_cast<u8>((chip.irr & ~chip.elcr) | (chip.lines & chip.elcr));
}

void I8259::reset() {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    for (I8259Chip& chip : state_.chips) {
      const u8 lines = chip.lines;
      chip = {};
      chip.lines = lines;
    }
    due = update();
  }
  notify(due);
}

namespace {

constexpr const char* kComponent = "i8259";
constexpr u32 kStateVersion = 1;

bool legal(const I8259Chip& chip, u8 elcr_mask) {
  return (chip.elcr & ~elcr_mask) == 0 && (chip.vector_base & 7) == 0 && chip.top < 8 &&
         chip.init_step != 1 && chip.init_step <= 4;
}

}  // namespace

base::Document I8259::save() {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kStateVersion, state_);
}

Status I8259::restore(const base::Document& document) {
  VERT_ASSIGN(const I8259State state, base::restore<I8259State>(kComponent, kStateVersion, document));
  for (unsigned i = 0; i < 2; ++i)
    if (!legal(state.chips[i], kElcrMask[i]))
      return make_error("saved state of {} has an impossible chip {}", kComponent, i);
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    state_ = state;
    due = update();
  }
  notify(due);
  return {};
}

}  // namespace vert::device
