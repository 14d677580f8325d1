// The local APIC's timer: one-shot, periodic and TSC-deadline (SDM 3A, 10.5.4).
//
// Counting is not simulated: a count is the time left until a deadline on the machine's clock. A periodic
// deadline follows from the one before, never from when its callback ran, so periods do not drift.
#include <algorithm>
#include <limits>

#include "cpu/local_apic_internal.hpp"

namespace vert::cpu {
namespace {

/// A guest may ask for a period of one tick. The expiries of a shorter period than this are taken together,
/// so that no guest can keep the timer thread busy for the others.
constexpr u64 kShortestPeriodNs = 20'000;
/// Where deadlines that lie further away are put: more than a century, and no addition overflows.
constexpr u64 kLatestNs = u64{1} << 62;

static_assert(LocalApic::kBusFrequency == base::kNanosecondsPerSecond, "a timer tick is a nanosecond");

}  // namespace

// SDM 3A, figure 10-10: bits 3, 1 and 0 are a power of two, less one, modulo 8.
u64 LocalApic::Impl::divider() const {
  const u32 code = (state.timer_divide & 3) | (state.timer_divide >> 1 & 4);
  return u64{1} << ((code + 1) & 7);
}

u32 LocalApic::Impl::current_count() const {
  if (!state.timer_armed || timer_mode() == lvt::kTimerTscDeadline) return 0;
  const u64 now = time.now_ns();
  const bool over = now >= state.timer_deadline_ns;
  u64 left = over ? now - state.timer_deadline_ns : state.timer_deadline_ns - now;
  if (timer_mode() == lvt::kTimerPeriodic)
    left = over ? period_ns() - left % period_ns() : (left - 1) % period_ns() + 1;
  else if (over)
    left = 0;
  return static_cast<u32>(std::min<u64>((left + divider() - 1) / divider(), state.timer_initial));
}

void LocalApic::Impl::start_count(u32 count) {
  if (timer_mode() == lvt::kTimerTscDeadline) return;
  state.timer_initial = count;
  if (count == 0 || timer_mode() == lvt::kTimerMode) return disarm();
  arm(time.now_ns() + period_ns());
}

void LocalApic::Impl::write_timer_divide(u32 value) {
  const u32 left = current_count();
  state.timer_divide = value;
  if (state.timer_armed && timer_mode() != lvt::kTimerTscDeadline) arm(time.now_ns() + left * divider());
}

/// A change to or from TSC-deadline mode disarms the timer (SDM 3A, 10.5.4.1); the reserved mode stops it.
void LocalApic::Impl::timer_mode_changed(u32 old_mode) {
  const u32 mode = timer_mode();
  if (mode == old_mode) return;
  const bool deadline = mode == lvt::kTimerTscDeadline || old_mode == lvt::kTimerTscDeadline;
  if (deadline || mode == lvt::kTimerMode) disarm();
}

void LocalApic::Impl::arm(u64 deadline_ns) {
  state.timer_armed = true;
  state.timer_deadline_ns = std::min(deadline_ns, kLatestNs);
  timer->arm(state.timer_deadline_ns);
}

void LocalApic::Impl::disarm() {
  state.timer_armed = false;
  state.tsc_deadline = 0;
  timer->cancel();
}

void LocalApic::Impl::on_timer() {
  const std::lock_guard lock(mutex);
  if (!state.timer_armed) return;
  const u64 now = time.now_ns();
  if (now < state.timer_deadline_ns) return arm(state.timer_deadline_ns);
  expire(now);
}

void LocalApic::Impl::expire(u64 now_ns) {
  switch (timer_mode()) {
    case lvt::kTimerPeriodic: {
      const u64 period = period_ns() * ((kShortestPeriodNs + period_ns() - 1) / period_ns());
      const u64 missed = (now_ns - state.timer_deadline_ns) / period;
      arm(state.timer_deadline_ns + period * (missed + 1));
      break;
    }
    case lvt::kTimerTscDeadline:
      // The clock may run ahead of the TSC by the error of its calibration.
      if (const u64 left = tsc_offset ? ns_until_tsc_deadline() : 0; left != 0) return arm(now_ns + left);
      [[fallthrough]];
    default: disarm();
  }
  fire(kLvtTimer);
}

/// Rounded up, so that the deadline has passed when the time has; saturated.
u64 LocalApic::Impl::ns_until_tsc_deadline() const {
  const u64 now = host_tsc() + *tsc_offset;
  if (state.tsc_deadline <= now) return 0;
  const u128 ticks = state.tsc_deadline - now;
  const u128 ns = (ticks * base::kNanosecondsPerSecond + tsc_frequency - 1) / tsc_frequency;
  return static_cast<u64>(std::min<u128>(ns, kLatestNs));
}

void LocalApic::Impl::start_tsc_deadline() {
  const u64 left = ns_until_tsc_deadline();
  if (left != 0) return arm(time.now_ns() + left);
  disarm();
  fire(kLvtTimer);
}

u64 LocalApic::tsc_deadline() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->state.tsc_deadline;
}

// SDM 3A, 10.5.4.1: outside TSC-deadline mode the MSR reads zero and ignores writes; zero disarms.
void LocalApic::set_tsc_deadline(u64 guest_tsc, u64 tsc_offset) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->timer_mode() != lvt::kTimerTscDeadline) return;
  if (guest_tsc == 0) return impl_->disarm();
  impl_->state.tsc_deadline = guest_tsc;
  impl_->tsc_offset = tsc_offset;
  impl_->start_tsc_deadline();
}

}  // namespace vert::cpu
