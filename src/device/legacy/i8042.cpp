#include "device/legacy/i8042.hpp"

#include <algorithm>

namespace vert::device {
namespace {

constexpr u64 kDataPort = 0x60;
constexpr u64 kCommandPort = 0x64;

// The command byte, ram[0].
constexpr u8 kKeyboardInterrupt = 0x01;
constexpr u8 kMouseInterrupt = 0x02;
constexpr u8 kSystemFlag = 0x04;
constexpr u8 kKeyboardDisabled = 0x10;
constexpr u8 kMouseDisabled = 0x20;

constexpr u8 kStatusOutputFull = 0x01;
constexpr u8 kStatusSystemFlag = 0x04;
constexpr u8 kStatusCommand = 0x08;
constexpr u8 kStatusUnlocked = 0x10;
constexpr u8 kStatusMouse = 0x20;

constexpr u8 kWriteRam = 0x60;
constexpr u8 kWriteOutputPort = 0xd1;
constexpr u8 kLoopKeyboard = 0xd2;
constexpr u8 kLoopMouse = 0xd3;
constexpr u8 kToMouse = 0xd4;
constexpr u8 kOutputPort = 0xcf;  // reset high, A20 on, nothing else pulled
constexpr u8 kNotReset = 0x01;

constexpr u8 kAck = 0xfa;
constexpr u8 kResend = 0xfe;
constexpr u8 kTestPassed = 0xaa;

constexpr const char* kComponent = "i8042";
constexpr u32 kVersion = 1;

constexpr bool takes_data(u8 command) {
  return (command & 0xe0) == kWriteRam || (command >= kWriteOutputPort && command <= kToMouse);
}
/// Keyboard commands with a byte to follow: lights, scan code set, repeat rate.
constexpr bool keyboard_takes_data(u8 command) {
  return command == 0xed || command == 0xf0 || command == 0xf3;
}
/// Mouse commands with a byte to follow: resolution, sample rate.
constexpr bool mouse_takes_data(u8 command) { return command == 0xe8 || command == 0xf3; }

}  // namespace

I8042::I8042(InterruptLine& keyboard_irq1, InterruptLine& mouse_irq12, std::function<void()> on_reset)
    : keyboard_line_(keyboard_irq1),
      mouse_line_(mouse_irq12),
      on_reset_(std::move(on_reset)),
      data_port_(
          1, [this](u64) { return read_data(); }, [this](u64, u8 value) { write_data(value); }),
      command_port_(
          1, [this](u64) { return read_status(); }, [this](u64, u8 value) { write_command(value); }) {}

Status I8042::map(memory::Bus& ports) {
  VERT_TRY(ports.map(kDataPort, 1, data_port_, "i8042-data"));
  return ports.map(kCommandPort, 1, command_port_, "i8042-command");
}

u8 I8042::read_data() {
  const std::lock_guard lock(mutex_);
  const u8 value = state_.output;
  state_.output_full = false;
  update_lines();
  refill();
  return value;
}

u8 I8042::read_status() {
  const std::lock_guard lock(mutex_);
  unsigned status = kStatusUnlocked;
  if (state_.output_full) status |= kStatusOutputFull;
  if (state_.output_full && state_.output_from_mouse) status |= kStatusMouse;
  if ((state_.ram[0] & kSystemFlag) != 0) status |= kStatusSystemFlag;
  if (state_.last_was_command) status |= kStatusCommand;
  return static_cast<u8>(status);
}

void I8042::write_data(u8 value) {
  bool resets = false;
  {
    const std::lock_guard lock(mutex_);
    state_.last_was_command = false;
    const u8 command = std::exchange(state_.data_for, u8{0});
    if (command != 0) {
      resets = take_data(command, value);
    } else {
      state_.ram[0] &= static_cast<u8>(~kKeyboardDisabled);  // talking to the keyboard turns its clock on
      to_keyboard(value);
    }
    update_lines();
    refill();
  }
  if (resets) on_reset_();
}

void I8042::write_command(u8 command) {
  bool resets = false;
  {
    const std::lock_guard lock(mutex_);
    state_.last_was_command = true;
    state_.data_for = takes_data(command) ? command : u8{0};
    resets = run_command(command);
    update_lines();
    refill();
  }
  if (resets) on_reset_();
}

bool I8042::run_command(u8 command) {
  if ((command & 0xe0) == 0x20) {
    answer(state_.ram[command & 0x1f], false);
    return false;
  }
  if (command >= 0xf0) return (command & kNotReset) == 0;  // pulses the output port's zero bits low
  u8& command_byte = state_.ram[0];
  switch (command) {
    case 0xa4: answer(0xf1, false); break;  // no password
    case 0xa7: command_byte |= kMouseDisabled; break;
    case 0xa8: command_byte &= static_cast<u8>(~kMouseDisabled); break;
    case 0xa9: answer(0x00, false); break;  // mouse port: no fault
    case 0xaa:
      command_byte |= kSystemFlag;
      answer(0x55, false);
      break;
    case 0xab: answer(0x00, false); break;  // keyboard port: no fault
    case 0xad: command_byte |= kKeyboardDisabled; break;
    case 0xae: command_byte &= static_cast<u8>(~kKeyboardDisabled); break;
    case 0xc0: answer(0x80, false); break;  // input port: keyboard not locked
    case 0xd0: answer(kOutputPort, false); break;
    case 0xe0: answer(0x00, false); break;  // test inputs
    default: break;
  }
  return false;
}

bool I8042::take_data(u8 command, u8 value) {
  switch (command) {
    case kWriteOutputPort: return (value & kNotReset) == 0;
    case kLoopKeyboard: answer(value, false); break;
    case kLoopMouse: answer(value, true); break;
    case kToMouse:
      state_.ram[0] &= static_cast<u8>(~kMouseDisabled);
      to_mouse(value);
      break;
    default: state_.ram[command & 0x1f] = value; break;
  }
  return false;
}

void I8042::to_keyboard(u8 value) {
  static constexpr std::array<u8, 1> kOk{kAck};
  if (const u8 command = std::exchange(state_.keyboard_command, u8{0}); command != 0) {
    static constexpr std::array<u8, 2> kScanCodeSet{kAck, 2};
    return command == 0xf0 && value == 0 ? queue(state_.keyboard, kScanCodeSet) : queue(state_.keyboard, kOk);
  }
  static constexpr std::array<u8, 1> kEcho{0xee};
  static constexpr std::array<u8, 3> kIdentity{kAck, 0xab, 0x83};
  static constexpr std::array<u8, 2> kReset{kAck, kTestPassed};
  static constexpr std::array<u8, 1> kUnknown{kResend};
  if (keyboard_takes_data(value)) {
    state_.keyboard_command = value;
    return queue(state_.keyboard, kOk);
  }
  switch (value) {
    case 0xee: return queue(state_.keyboard, kEcho);
    case 0xf2: return queue(state_.keyboard, kIdentity);
    case 0xf4:  // enable
    case 0xf5:  // disable, defaults
    case 0xf6: return queue(state_.keyboard, kOk);
    case 0xff: state_.keyboard.count = 0; return queue(state_.keyboard, kReset);
    default: return queue(state_.keyboard, kUnknown);
  }
}

void I8042::to_mouse(u8 value) {
  static constexpr std::array<u8, 1> kOk{kAck};
  if (std::exchange(state_.mouse_command, u8{0}) != 0) return queue(state_.mouse, kOk);
  static constexpr std::array<u8, 4> kStatus{kAck, 0x00, 0x02, 0x64};  // stream mode, 4 a mm, 100 a second
  static constexpr std::array<u8, 4> kNoMotion{kAck, 0x08, 0x00, 0x00};
  static constexpr std::array<u8, 2> kIdentity{kAck, 0x00};
  static constexpr std::array<u8, 3> kReset{kAck, kTestPassed, 0x00};
  static constexpr std::array<u8, 1> kUnknown{kResend};
  if (mouse_takes_data(value)) {
    state_.mouse_command = value;
    return queue(state_.mouse, kOk);
  }
  switch (value) {
    case 0xe6:  // scaling 1:1
    case 0xe7:  // scaling 2:1
    case 0xea:  // stream mode
    case 0xec:  // end of wrap mode
    case 0xf0:  // remote mode
    case 0xf4:  // enable
    case 0xf5:  // disable
    case 0xf6: return queue(state_.mouse, kOk);
    case 0xe9: return queue(state_.mouse, kStatus);
    case 0xeb: return queue(state_.mouse, kNoMotion);
    case 0xf2: return queue(state_.mouse, kIdentity);
    case 0xff: state_.mouse.count = 0; return queue(state_.mouse, kReset);
    default: return queue(state_.mouse, kUnknown);
  }
}

/// The controller's own answer: it takes the output buffer, whatever was in it.
void I8042::answer(u8 value, bool from_mouse) {
  state_.output_full = false;
  update_lines();
  state_.output = value;
  state_.output_from_mouse = from_mouse;
  state_.output_full = true;
}

void I8042::queue(I8042Queue& queue, std::span<const u8> bytes) {
  for (const u8 byte : bytes) {
    if (queue.count == queue.bytes.size()) return;
    queue.bytes[queue.count++] = byte;
  }
}

/// Moves the next byte of keyboard or mouse to the output buffer, if that is free.
void I8042::refill() {
  const auto take = [this](I8042Queue& from, u8 disabled) {
    if (state_.output_full || from.count == 0 || (state_.ram[0] & disabled) != 0) return;
    state_.output = from.bytes[0];
    state_.output_from_mouse = &from == &state_.mouse;
    state_.output_full = true;
    std::shift_left(from.bytes.begin(), from.bytes.end(), 1);
    --from.count;
  };
  take(state_.keyboard, kKeyboardDisabled);
  take(state_.mouse, kMouseDisabled);
  update_lines();
}

void I8042::update_lines() {
  const bool mouse = state_.output_full && state_.output_from_mouse;
  const bool keyboard = state_.output_full && !state_.output_from_mouse;
  keyboard_line_.set(keyboard && (state_.ram[0] & kKeyboardInterrupt) != 0);
  mouse_line_.set(mouse && (state_.ram[0] & kMouseInterrupt) != 0);
}

base::Document I8042::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status I8042::restore(const base::Document& document) {
  VERT_ASSIGN(const I8042State state, base::restore<I8042State>(kComponent, kVersion, document));
  const bool good = state.keyboard.count <= state.keyboard.bytes.size() &&
                    state.mouse.count <= state.mouse.bytes.size() &&
                    (state.data_for == 0 || takes_data(state.data_for)) &&
                    (state.keyboard_command == 0 || keyboard_takes_data(state.keyboard_command)) &&
                    (state.mouse_command == 0 || mouse_takes_data(state.mouse_command));
  if (!good) return make_error("saved state of the keyboard controller is out of range");
  const std::lock_guard lock(mutex_);
  state_ = state;
  update_lines();
  return {};
}

void I8042::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
  update_lines();
}

}  // namespace vert::device
