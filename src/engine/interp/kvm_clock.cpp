#include "engine/interp/kvm_clock.hpp"

#include <atomic>
#include <chrono>
#include <span>

#include "base/time.hpp"
#include "engine/interp/system_registers.hpp"

namespace vert::interp {

namespace {

using base::kNanosecondsPerSecond;

/// pvclock_vcpu_time_info: nanoseconds = system_time + ((TSC - tsc_timestamp) * 2^shift * multiplier >> 32).
/// The version is odd while the rest is being written.
struct ClockPage {
  u32 version = 0;
  u32 padding = 0;
  u64 tsc_timestamp = 0;
  u64 system_time = 0;
  u32 multiplier = 0;
  i8 shift = 0;
  u8 flags = 0;
  u16 more_padding = 0;
};
static_assert(sizeof(ClockPage) == 32);

/// pvclock_wall_clock.
struct WallClock {
  u32 version = 0;
  u32 seconds = 0;
  u32 nanoseconds = 0;
};
static_assert(sizeof(WallClock) == 12);

constexpr u64 kEnabled = 1;
constexpr u8 kTscIsStable = 1;  // all vCPUs' clocks agree

void set_scale(ClockPage& page, u64 tsc_frequency) {
  u128 scaled = u128{kNanosecondsPerSecond} << 32;
  for (; scaled / tsc_frequency < u64{1} << 31; scaled <<= 1) --page.shift;
  for (; scaled / tsc_frequency >= u64{1} << 32; scaled >>= 1) ++page.shift;
  page.multiplier = static_cast<u32>(scaled / tsc_frequency);
}

/// Version last, as the guest may look meanwhile: other vCPUs read the first one's clock.
template <typename Page>
void put(Core& core, Gpa at, Page page) {
  memory::GuestMemory& memory = *core.context.memory;
  const auto before = memory.load<u32>(at);
  if (!before) return;
  page.version = *before | 1;
  const auto bytes = [](const auto& value, std::size_t size) {
    return std::span(reinterpret_cast<const u8*>(&value), size);
  };
  if (!memory.write(at, bytes(page, sizeof page))) return;
  std::atomic_thread_fence(std::memory_order_release);
  const u32 complete = page.version + 1;
  static_cast<void>(memory.write(at, bytes(complete, sizeof complete)));
}

}  // namespace

// The clock is 0 where the TSC would be, had the guest not moved it: so all vCPUs' clocks agree, whatever the
// guest writes to their TSCs, and stand still with the machine.
void write_kvm_clock(Core& core) {
  const cpu::CpuState& state = core.state();
  if ((state.msr.kvm_system_time & kEnabled) == 0) return;
  ClockPage page;
  page.tsc_timestamp = state.msr.tsc_adjust;
  page.flags = kTscIsStable;
  set_scale(page, core.context.model->tsc_frequency());
  put(core, Gpa{state.msr.kvm_system_time & ~kEnabled}, page);
}

void write_kvm_wall_clock(Core& core) {
  const cpu::CpuState& state = core.state();
  const u128 ticks = guest_tsc(state) - state.msr.tsc_adjust;
  const auto since_start =
      static_cast<i64>(ticks * kNanosecondsPerSecond / core.context.model->tsc_frequency());
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const i64 start = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - since_start;
  WallClock page;
  page.seconds = static_cast<u32>(start / static_cast<i64>(kNanosecondsPerSecond));
  page.nanoseconds = static_cast<u32>(start % static_cast<i64>(kNanosecondsPerSecond));
  put(core, Gpa{state.msr.kvm_wall_clock}, page);
}

}  // namespace vert::interp
