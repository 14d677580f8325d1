#include "device/legacy/reset_control.hpp"

namespace vert::device {
namespace {

constexpr u64 kResetPort = 0xcf9;
constexpr u8 kSystemReset = 0x02;  // hard rather than soft
constexpr u8 kResetCpu = 0x04;     // acts when it goes from 0 to 1
constexpr u8 kFullReset = 0x08;
constexpr u8 kResetWritable = kSystemReset | kResetCpu | kFullReset;

constexpr u64 kPortA = 0x92;
constexpr u8 kFastReset = 0x01;  // acts when it goes from 0 to 1
constexpr u8 kA20 = 0x02;

constexpr const char* kComponent = "reset-control";
constexpr u32 kVersion = 1;

}  // namespace

ResetControl::ResetControl(std::function<void(ResetKind)> on_reset)
    : on_reset_(std::move(on_reset)),
      reset_port_(
          1, [this](u64) { return read_reset(); }, [this](u64, u8 value) { write_reset(value); }),
      port_a_(
          1, [this](u64) { return read_port_a(); }, [this](u64, u8 value) { write_port_a(value); }) {}

Status ResetControl::map(memory::Bus& ports) {
  VERT_TRY(ports.map(kResetPort, 1, reset_port_, "reset-control"));
  return ports.map(kPortA, 1, port_a_, "port-92");
}

u8 ResetControl::read_reset() {
  const std::lock_guard lock(mutex_);
  return state_.reset_register;
}

void ResetControl::write_reset(u8 value) {
  bool acts = false;
  {
    const std::lock_guard lock(mutex_);
    acts = (~state_.reset_register & value & kResetCpu) != 0;
    state_.reset_register = value & kResetWritable;
  }
  if (acts) on_reset_((value & kSystemReset) != 0 ? ResetKind::kHard : ResetKind::kSoft);
}

u8 ResetControl::read_port_a() {
  const std::lock_guard lock(mutex_);
  return state_.port_a | kA20;
}

void ResetControl::write_port_a(u8 value) {
  bool acts = false;
  {
    const std::lock_guard lock(mutex_);
    acts = (~state_.port_a & value & kFastReset) != 0;
    state_.port_a = value & kFastReset;
  }
  if (acts) on_reset_(ResetKind::kSoft);
}

base::Document ResetControl::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status ResetControl::restore(const base::Document& document) {
  VERT_ASSIGN(const ResetControlState state,
              base::restore<ResetControlState>(kComponent, kVersion, document));
  if ((state.reset_register & ~kResetWritable) != 0 || (state.port_a & ~kFastReset) != 0)
    return make_error("saved state of the reset registers is out of range");
  const std::lock_guard lock(mutex_);
  state_ = state;
  return {};
}

void ResetControl::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vert::device
