#include "device/legacy/i8254.hpp"

#include <algorithm>
#include <utility>

#include "device/legacy/tick_clock.hpp"

namespace vert::device {
namespace {

constexpr u64 kTimerBase = 0x40;
constexpr u64 kTimerPorts = 4;
constexpr u64 kSpeakerPort = 0x61;

constexpr u8 kSpeakerGate = 0x01;
constexpr u8 kSpeakerWritable = 0x0f;
constexpr u8 kSpeakerRefresh = 0x10;
constexpr u8 kSpeakerOut = 0x20;
constexpr i64 kRefreshTicks = 18;  // channel 1 refreshed the AT's memory every 15 us

constexpr const char* kComponent = "i8254";
constexpr u32 kVersion = 1;

}  // namespace

I8254::I8254(base::TimeService& time, InterruptLine& line)
    : time_(time),
      line_(line),
      timer_ports_(
          kTimerPorts, [this](u64 offset) { return read_timer(offset); },
          [this](u64 offset, u8 value) { write_timer(offset, value); }),
      speaker_port_(
          1, [this](u64) { return read_speaker(); }, [this](u64, u8 value) { write_speaker(value); }),
      timer_(time.make_timer([this] { on_timer(); })) {
  channels_[2].set_gate(0, false);
}

Status I8254::map(memory::Bus& ports) {
  VERT_TRY(ports.map(kTimerBase, kTimerPorts, timer_ports_, "i8254"));
  return ports.map(kSpeakerPort, 1, speaker_port_, "speaker");
}

i64 I8254::now() const { return static_cast<i64>(ticks_at(time_.now_ns(), kI8254Hertz)); }

u8 I8254::read_timer(u64 offset) {
  const std::lock_guard lock(mutex_);
  if (offset >= channels_.size()) return 0xff;
  const i64 tick = now();
  return look_at(offset, tick).read_data(tick);
}

/// Guests measure their TSC by counter 2: they start it, then read the TSC and look, again and again, until
/// OUT is high. A vCPU that loses its processor before the first look or the last would find less time on its
/// TSC than the counter had, and its clock would run fast ever after. So a count that is not periodic, which
/// nobody hears, begins when it is first looked at, and goes on by kLongestGap between two looks at most.
I8254Channel& I8254::look_at(u64 channel, i64 tick) {
  if (channel == 2) counter2_most_ = channels_[2].count_at_most(tick, counter2_most_) + kLongestGap;
  return channels_[channel];
}

void I8254::write_timer(u64 offset, u8 value) {
  const std::lock_guard lock(mutex_);
  const i64 tick = now();
  sync(tick);
  if (offset < channels_.size()) {
    channels_[offset].write_data(tick, value);
    if (offset == 2) counter2_most_ = 0;
  } else {
    write_control(tick, value);
  }
  sync(tick);
}

void I8254::write_control(i64 tick, u8 value) {
  const unsigned select = value >> 6;
  if (select == 3) return read_back(tick, value);
  if ((value & 0x30) == 0) return look_at(select, tick).latch_count(tick);
  channels_[select].write_control(value);
  if (select == 0) backlog_ = 0;
}

void I8254::read_back(i64 tick, u8 command) {
  for (unsigned i = 0; i < channels_.size(); ++i) {
    if ((command & 2u << i) == 0) continue;
    if ((command & 0x20) == 0) look_at(i, tick).latch_count(tick);
    if ((command & 0x10) == 0) look_at(i, tick).latch_status(tick);
  }
}

u8 I8254::read_speaker() {
  const std::lock_guard lock(mutex_);
  const i64 tick = now();
  unsigned value = speaker_;
  if ((tick / kRefreshTicks & 1) != 0) value |= kSpeakerRefresh;
  if (look_at(2, tick).out(tick)) value |= kSpeakerOut;
  return static_cast<u8>(value);
}

void I8254::write_speaker(u8 value) {
  const std::lock_guard lock(mutex_);
  const bool gate = (value & kSpeakerGate) != 0;
  speaker_ = value & kSpeakerWritable;
  const i64 tick = now();
  counter2_most_ = channels_[2].count_at_most(tick, counter2_most_);
  channels_[2].set_gate(tick, gate);
}

void I8254::on_timer() {
  const std::lock_guard lock(mutex_);
  armed_tick_.reset();
  sync(now());
}

/// The soonest that the next interrupt of a periodic channel 0 may follow the last one.
i64 I8254::earliest_interrupt() const {
  return last_interrupt_tick_ + std::max(kShortestInterval, i64{channels_[0].period()} / 2);
}

void I8254::pulse(i64 tick) {
  // Edge-triggered inputs see each tick as an edge; that OUT is low for a while before matters to none.
  line_.set(false);
  line_.set(true);
  last_interrupt_tick_ = tick;
}

void I8254::sync(i64 tick) {
  I8254Channel& channel = channels_[0];
  const u64 edges = channel.take_edges(tick);
  const u64 period = channel.period();
  if (period == 0) {
    backlog_ = 0;
    if (edges > 0) pulse(tick);
  } else {
    backlog_ = std::min(backlog_ + edges, std::max<u64>(1, kI8254Hertz / period));
    if (backlog_ > 0 && tick >= earliest_interrupt()) {
      --backlog_;
      pulse(tick);
    }
  }
  line_.set(channel.state().mode >= 2 || channel.out(tick));
  arm(tick);
}

void I8254::arm(i64 tick) {
  std::optional<i64> next = channels_[0].next_edge(tick);
  if (backlog_ > 0) {
    next = earliest_interrupt();
  } else if (next && channels_[0].period() != 0) {
    next = std::max(*next, last_interrupt_tick_ + kShortestInterval);
  }
  if (next == armed_tick_) return;
  armed_tick_ = next;
  if (next) {
    timer_->arm(time_of_tick(static_cast<u64>(std::max<i64>(0, *next)), kI8254Hertz));
  } else {
    timer_->cancel();
  }
}

base::Document I8254::save() const {
  const std::lock_guard lock(mutex_);
  I8254State state;
  for (std::size_t i = 0; i < channels_.size(); ++i) state.channels[i] = channels_[i].state();
  state.speaker = speaker_;
  state.backlog = backlog_;
  state.last_interrupt_tick = last_interrupt_tick_;
  return base::save(kComponent, kVersion, state);
}

Status I8254::restore(const base::Document& document) {
  VERT_ASSIGN(const I8254State state, base::restore<I8254State>(kComponent, kVersion, document));
  const std::lock_guard lock(mutex_);
  std::array<I8254Channel, 3> channels;
  bool good = (state.speaker & ~kSpeakerWritable) == 0 && state.backlog <= kI8254Hertz;
  for (std::size_t i = 0; i < channels.size(); ++i) good = good && channels[i].restore(state.channels[i]);
  if (!good || state.last_interrupt_tick > now() || state.last_interrupt_tick < 0)
    return make_error("saved state of the i8254 is out of range");
  channels_ = channels;
  counter2_most_ = kI8254Hertz;  // more than a count has
  speaker_ = state.speaker;
  backlog_ = state.backlog;
  last_interrupt_tick_ = state.last_interrupt_tick;
  armed_tick_.reset();
  timer_->cancel();
  sync(now());
  return {};
}

void I8254::reset() {
  const std::lock_guard lock(mutex_);
  channels_ = {};
  counter2_most_ = 0;
  channels_[2].set_gate(now(), false);
  speaker_ = 0;
  backlog_ = 0;
  sync(now());
}

}  // namespace vert::device
