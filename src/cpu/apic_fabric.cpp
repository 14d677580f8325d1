// How interrupt messages find their local APICs.
#include "cpu/local_apic.hpp"

namespace vert::cpu {

/// The one with the lowest processor priority among those that match and take interrupts (SDM 3A, 10.6.2.4).
LocalApic* ApicFabric::arbitrate(const InterruptMessage& message, const LocalApic* except) const {
  LocalApic* chosen = nullptr;
  unsigned lowest = 0x100;
  for (LocalApic* apic : apics_) {
    if (apic == except || !apic->matches(message.destination, message.logical)) continue;
    const std::optional<u8> priority = apic->arbitration_priority();
    if (!priority || *priority >= lowest) continue;
    chosen = apic;
    lowest = *priority;
  }
  return chosen;
}

bool ApicFabric::send(const InterruptMessage& message, const LocalApic* except) {
  if (message.mode == DeliveryMode::kLowestPriority) {
    LocalApic* const chosen = arbitrate(message, except);
    return chosen != nullptr && chosen->deliver(message);
  }
  bool taken = false;
  for (LocalApic* apic : apics_) {
    if (apic == except || !apic->matches(message.destination, message.logical)) continue;
    taken |= apic->deliver(message);
  }
  return taken;
}

}  // namespace vert::cpu
