#include "device/irqchip/interrupt_router.hpp"

#include <algorithm>

namespace vert::device {
namespace {

constexpr const char* kComponent = "interrupt-router";
constexpr u32 kStateVersion = 1;
constexpr unsigned kTimerGsi = InterruptRouter::gsi_of_isa(0);
constexpr unsigned kIsaIrqs = 16;

}  // namespace

InterruptLine& InterruptRouter::connect(unsigned gsi) {
  VERT_CHECK(gsi != 0 && gsi < IoApic::kPins);
  const std::lock_guard lock(mutex_);
  return lines_.emplace_back(*this, gsi);
}

InterruptLine& InterruptRouter::connect_isa(unsigned irq) {
  VERT_CHECK(irq < kIsaIrqs && irq != kTimerGsi);
  return connect(gsi_of_isa(irq));
}

void InterruptRouter::set(Line& line, bool level) {
  const std::lock_guard lock(mutex_);
  if (line.level == level) return;
  line.level = level;
  unsigned& count = asserted_[line.gsi];
  const bool was = count != 0;
  count = level ? count + 1 : count - 1;
  if (was == (count != 0)) return;
  if (line.gsi < kIsaIrqs) pic_.set_input(line.gsi == kTimerGsi ? 0 : line.gsi, level);
  io_apic_.set_pin(line.gsi, level);
}

base::Document InterruptRouter::save() {
  const std::lock_guard lock(mutex_);
  InterruptRouterState state;
  for (const Line& line : lines_) state.levels.push_back(line.level ? 1 : 0);
  return base::save(kComponent, kStateVersion, state);
}

Status InterruptRouter::restore(const base::Document& document) {
  VERT_ASSIGN(const InterruptRouterState state,
              base::restore<InterruptRouterState>(kComponent, kStateVersion, document));
  const std::lock_guard lock(mutex_);
  if (state.levels.size() != lines_.size() || std::ranges::any_of(state.levels, [](u8 v) { return v > 1; }))
    return make_error("saved state of {} does not fit this machine's lines", kComponent);
  asserted_ = {};
  for (std::size_t i = 0; i < lines_.size(); ++i) {
    lines_[i].level = state.levels[i] != 0;
    asserted_[lines_[i].gsi] += state.levels[i];
  }
  return {};
}

}  // namespace vert::device
