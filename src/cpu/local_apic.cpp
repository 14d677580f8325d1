#include "cpu/local_apic.hpp"

#include <bit>
#include <utility>

#include "cpu/local_apic_internal.hpp"

namespace vert::cpu {
namespace {

constexpr u8 kFirstLegalVector = 16;  // SDM 3A, 10.5.2
/// Address bits of IA32_APIC_BASE up to x86::CpuModel::physical_bits(), the same for all models.
constexpr u64 kBaseAddress = ((u64{1} << 46) - 1) & ~kPageOffsetMask;
constexpr u64 kBaseFlags = x86::apic_base::BSP | x86::apic_base::EXTD | x86::apic_base::EN;

void set_bit(VectorSet& set, u8 vector, bool value) {
  const u32 bit = 1U << (vector % 32);
  u32& word = set[vector / 32];
  word = value ? word | bit : word & ~bit;
}

bool test_bit(const VectorSet& set, u8 vector) { return (set[vector / 32] >> (vector % 32) & 1) != 0; }

std::optional<u8> highest(const VectorSet& set) {
  for (unsigned word = 8; word-- > 0;)
    if (set[word] != 0)
      return static_cast<u8>(word * 32 + 31 - static_cast<unsigned>(std::countl_zero(set[word])));
  return std::nullopt;
}

bool legal_base(u64 base) {
  return (base & ~(kBaseAddress | kBaseFlags)) == 0 &&
         ((base & x86::apic_base::EXTD) == 0 || (base & x86::apic_base::EN) != 0);
}

}  // namespace

LocalApic::Impl::Impl(LocalApic& apic, bool is_bootstrap, VcpuEvents& vcpu_events, ApicFabric& apic_fabric,
                      base::TimeService& time_service, u64 tsc_hz, std::function<u64()> read_host_tsc)
    : owner(apic),
      bootstrap(is_bootstrap),
      events(vcpu_events),
      fabric(apic_fabric),
      time(time_service),
      tsc_frequency(tsc_hz),
      host_tsc(std::move(read_host_tsc)),
      timer(time_service.make_timer([this] { on_timer(); })) {}

// SDM 3A, 10.8.3.1.
u8 LocalApic::Impl::processor_priority() const {
  const u8 in_service = highest(state.isr).value_or(0);
  return state.tpr >> 4 >= in_service >> 4 ? state.tpr : static_cast<u8>(in_service & 0xF0);
}

std::optional<u8> LocalApic::Impl::deliverable() const {
  const std::optional<u8> vector = highest(state.irr);
  if (!enabled() || !vector || *vector >> 4 <= processor_priority() >> 4) return std::nullopt;
  return vector;
}

void LocalApic::Impl::publish(bool arrived) {
  // A disabled local APIC is not there: LINT0 is then the processor's INTR pin (SDM 3A, 10.4.3).
  const u32 lint0 = state.lvt[kLvtLint0];
  const bool open = owner.pic_ != nullptr &&
                    (!enabled() || ((lint0 & lvt::kMasked) == 0 &&
                                    (lint0 & lvt::kMode) >> 8 == std::to_underlying(DeliveryMode::kExtInt)));
  const u32 hint = (deliverable() ? kHintReady : 0) | (open ? kHintExtIntOpen : 0);
  owner.base_.store(state.base, std::memory_order_release);
  owner.logical_.store(u64{logical_id()} << 32 | state.dfr, std::memory_order_release);
  const u32 news = hint & ~owner.hint_.exchange(hint, std::memory_order_acq_rel);
  const bool ready = (hint & kHintReady) != 0 && (arrived || (news & kHintReady) != 0);
  const bool external =
      (hint & kHintExtIntOpen) != 0 && (arrived || (news & kHintExtIntOpen) != 0) && owner.pic_->pending();
  if (ready || external) events.request(VcpuEvents::kInterrupt);
}

void LocalApic::Impl::accept(u8 vector, bool level_triggered) {
  if (vector < kFirstLegalVector) return error(esr::kReceiveIllegalVector);
  if (test_bit(state.irr, vector)) return;
  set_bit(state.irr, vector, true);
  set_bit(state.tmr, vector, level_triggered);
  publish(true);
}

/// An event at a local source (SDM 3A, 10.5.1). ExtINT is not an event but a level: see publish().
void LocalApic::Impl::fire(LvtEntry entry) {
  const u32 value = state.lvt[entry];
  if (!enabled() || (value & lvt::kMasked) != 0) return;
  switch (static_cast<DeliveryMode>((value & lvt::kMode) >> 8)) {
    case DeliveryMode::kFixed: return accept(static_cast<u8>(value & lvt::kVector), false);
    case DeliveryMode::kSmi: return events.request(VcpuEvents::kSmi);
    case DeliveryMode::kNmi: return events.request(VcpuEvents::kNmi);
    case DeliveryMode::kInit: return events.request(VcpuEvents::kInit);
    default: return;
  }
}

void LocalApic::Impl::error(u32 bit) {
  const bool known = (state.esr_pending & bit) != 0;
  state.esr_pending |= bit;
  // One interrupt for each error between two writes of ESR, which also ends the recursion of an error entry
  // whose own vector is illegal.
  if (!known) fire(kLvtError);
}

void LocalApic::Impl::reset_registers() {
  disarm();
  tsc_offset.reset();
  const u64 base = state.base;
  const bool pic_level = state.pic_level;
  state = {};
  state.base = base;
  state.pic_level = pic_level;
}

LocalApic::LocalApic(u32 id, bool bootstrap, VcpuEvents& events, ApicFabric& fabric, base::TimeService& time,
                     u64 tsc_frequency, ExternalInterruptSource* pic, std::function<u64()> host_tsc)
    : id_(id), pic_(pic) {
  VERT_CHECK(tsc_frequency != 0);
  if (!host_tsc) host_tsc = [] { return u64{__builtin_ia32_rdtsc()}; };
  impl_ = std::make_unique<Impl>(*this, bootstrap, events, fabric, time, tsc_frequency, std::move(host_tsc));
  reset(false);
}

LocalApic::~LocalApic() = default;

std::optional<u8> LocalApic::acknowledge() {
  if ((hint_.load(std::memory_order_acquire) & kHintExtIntOpen) != 0 && pic_->pending())
    return pic_->acknowledge();
  const std::lock_guard lock(impl_->mutex);
  const std::optional<u8> vector = impl_->deliverable();
  if (!vector) return std::nullopt;
  set_bit(impl_->state.irr, *vector, false);
  set_bit(impl_->state.isr, *vector, true);
  impl_->publish();
  return vector;
}

u8 LocalApic::cr8() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->state.tpr >> 4;
}

// SDM 3A, 10.8.6.1: bits 3:0 of TPR become 0.
void LocalApic::set_cr8(u8 value) {
  const std::lock_guard lock(impl_->mutex);
  impl_->state.tpr = static_cast<u8>(value << 4);
  impl_->publish();
}

// SDM 3A, 10.12.5: from disabled to xAPIC to x2APIC, from both back to disabled, and no other way.
bool LocalApic::set_base_msr(u64 value) {
  using namespace x86::apic_base;
  if (!legal_base(value)) return false;
  const std::lock_guard lock(impl_->mutex);
  LocalApicState& state = impl_->state;
  const bool was_on = impl_->enabled();
  const bool was_x2apic = impl_->x2apic();
  const bool on = (value & EN) != 0;
  const bool to_x2apic = (value & EXTD) != 0;
  if ((was_x2apic && on && !to_x2apic) || (!was_on && to_x2apic)) return false;
  state.base = (value & ~BSP) | (impl_->bootstrap ? BSP : 0);
  if (was_on && !on) impl_->reset_registers();
  if (!was_x2apic && to_x2apic) state.icr &= 0xFFFFFFFF;
  impl_->publish();
  return true;
}

bool LocalApic::claims(Gpa page) const {
  using namespace x86::apic_base;
  const u64 base = base_msr();
  return (base & (EN | EXTD)) == EN && (base & kBaseAddress) == page.value();
}

// SDM 3A, 10.6.2 and 10.12.10.
bool LocalApic::matches(u32 destination, bool logical) const {
  const u64 base = base_msr();
  if ((base & x86::apic_base::EN) == 0) return false;
  if (destination == kBroadcastDestination) return true;
  const bool x2apic = (base & x86::apic_base::EXTD) != 0;
  if (!x2apic && destination == 0xFF) return true;
  if (!logical) return destination == id_;
  const u64 ids = logical_.load(std::memory_order_acquire);
  const u32 ldr = static_cast<u32>(ids >> 32);
  if (x2apic) return destination >> 16 == ldr >> 16 && (destination & ldr & 0xFFFF) != 0;
  if (destination > 0xFF) return false;
  const u32 own = ldr >> 24;
  const u32 model = static_cast<u32>(ids) >> 28;
  if (model == 0xF) return (destination & own) != 0;  // flat
  const bool cluster = destination >> 4 == own >> 4 || destination >> 4 == 0xF;
  return model == 0 && cluster && (destination & own & 0xF) != 0;
}

std::optional<u8> LocalApic::arbitration_priority() {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->enabled() || (impl_->state.svr & svr::kEnabled) == 0) return std::nullopt;
  return impl_->processor_priority();
}

// SDM 3A, 10.4.7.2: a software-disabled APIC still answers to INIT, NMI, SMI and start-up messages.
bool LocalApic::deliver(const InterruptMessage& message) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->enabled() || (message.level_triggered && !message.assert_level)) return false;
  VcpuEvents& events = impl_->events;
  switch (message.mode) {
    case DeliveryMode::kFixed:
    case DeliveryMode::kLowestPriority:
      if ((impl_->state.svr & svr::kEnabled) == 0) return false;
      impl_->accept(message.vector, message.level_triggered);
      return true;
    case DeliveryMode::kSmi: events.request(VcpuEvents::kSmi); return true;
    case DeliveryMode::kNmi: events.request(VcpuEvents::kNmi); return true;
    case DeliveryMode::kInit: events.request(VcpuEvents::kInit); return true;
    case DeliveryMode::kStartUp:
      events.sipi_vector.store(message.vector, std::memory_order_release);
      events.request(VcpuEvents::kSipi);
      return true;
    case DeliveryMode::kExtInt: return false;  // the 8259s are wired to LINT0 only
  }
  return false;
}

void LocalApic::external_interrupt_changed() {
  if (pic_ == nullptr) return;
  const std::lock_guard lock(impl_->mutex);
  // Looked at under the lock, so that the last of several changes is the one that stays.
  const bool level = pic_->pending();
  const bool was = std::exchange(impl_->state.pic_level, level);
  if ((hint_.load(std::memory_order_relaxed) & kHintExtIntOpen) != 0) {
    if (level) impl_->events.request(VcpuEvents::kInterrupt);
  } else if (level && !was) {
    impl_->fire(kLvtLint0);
  }
}

void LocalApic::reset(bool init) {
  const std::lock_guard lock(impl_->mutex);
  impl_->reset_registers();
  if (!init)
    impl_->state.base = kDefaultBase | x86::apic_base::EN | (impl_->bootstrap ? x86::apic_base::BSP : u64{0});
  impl_->publish();
}

void LocalApic::enter_virtual_wire_mode() {
  const std::lock_guard lock(impl_->mutex);
  impl_->write_svr(svr::kEnabled | 0xFF);
  impl_->write_lvt(kLvtLint0, u32{std::to_underlying(DeliveryMode::kExtInt)} << 8);
  impl_->write_lvt(kLvtLint1, u32{std::to_underlying(DeliveryMode::kNmi)} << 8);
}

namespace {

constexpr const char* kComponent = "local-apic";
constexpr u32 kStateVersion = 1;

bool legal_lvt(const LocalApicState& state) {
  for (unsigned i = 0; i < kLvtCount; ++i) {
    if ((state.lvt[i] & ~lvt::kStored[i]) != 0) return false;
    if ((state.svr & svr::kEnabled) == 0 && (state.lvt[i] & lvt::kMasked) == 0) return false;
  }
  return (state.lvt[kLvtTimer] & lvt::kTimerMode) != lvt::kTimerMode || !state.timer_armed;
}

bool legal_timer(const LocalApicState& state) {
  constexpr u64 kLatest = u64{1} << 62;
  const bool tsc_mode = (state.lvt[kLvtTimer] & lvt::kTimerMode) == lvt::kTimerTscDeadline;
  if ((state.timer_divide & ~0xBU) != 0 || state.timer_deadline_ns > kLatest) return false;
  if (tsc_mode) return state.timer_armed == (state.tsc_deadline != 0);
  return state.tsc_deadline == 0 && (!state.timer_armed || state.timer_initial != 0);
}

Status check(const LocalApicState& state, bool bootstrap) {
  const auto refuse = [](const char* what) {
    return make_error("saved state of {} has an impossible {}", kComponent, what);
  };
  constexpr u32 kIllegalVectors = (1U << kFirstLegalVector) - 1;
  if (!legal_base(state.base) || ((state.base & x86::apic_base::BSP) != 0) != bootstrap)
    return refuse("base");
  if ((state.svr & ~svr::kStored) != 0) return refuse("svr");
  if (((state.irr[0] | state.isr[0] | state.tmr[0]) & kIllegalVectors) != 0) return refuse("vector");
  if (((state.esr | state.esr_pending) & ~esr::kStored) != 0) return refuse("esr");
  if ((state.ldr & 0x00FFFFFF) != 0 || (state.dfr | 0xF0000000) != 0xFFFFFFFF) return refuse("logical ID");
  if (!legal_lvt(state)) return refuse("lvt");
  if (!legal_timer(state)) return refuse("timer");
  return {};
}

}  // namespace

base::Document LocalApic::save() {
  const std::lock_guard lock(impl_->mutex);
  return base::save(kComponent, kStateVersion, impl_->state);
}

Status LocalApic::restore(const base::Document& document) {
  VERT_ASSIGN(const LocalApicState state, base::restore<LocalApicState>(kComponent, kStateVersion, document));
  VERT_TRY(check(state, impl_->bootstrap));
  const std::lock_guard lock(impl_->mutex);
  impl_->disarm();
  impl_->tsc_offset.reset();
  impl_->state = state;
  if (state.timer_armed) impl_->arm(state.timer_deadline_ns);
  impl_->publish(true);
  return {};
}

}  // namespace vert::cpu
