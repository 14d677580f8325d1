#include "device/irqchip/msi.hpp"

namespace vert::device {

std::optional<cpu::InterruptMessage> decode_msi(u64 address, u32 data) {
  constexpr u64 kWindow = 0xFEE;
  if (address >> 20 != kWindow) return std::nullopt;
  const unsigned mode = data >> 8 & 7;
  if (mode == 3 || mode == 6) return std::nullopt;
  cpu::InterruptMessage message;
  const u32 destination = static_cast<u32>(address >> 12 & 0xFF);
  message.destination = destination == 0xFF ? cpu::kBroadcastDestination : destination;
  message.logical = (address >> 2 & 1) != 0;
  message.mode = static_cast<cpu::DeliveryMode>(mode);
  const bool redirect = (address >> 3 & 1) != 0;
  if (redirect && message.logical && message.mode == cpu::DeliveryMode::kFixed)
    message.mode = cpu::DeliveryMode::kLowestPriority;
  message.vector = static_cast<u8>(data);
  message.level_triggered = (data >> 15 & 1) != 0;
  message.assert_level = !message.level_triggered || (data >> 14 & 1) != 0;
  return message;
}

bool send_msi(cpu::ApicFabric& fabric, u64 address, u32 data) {
  const std::optional<cpu::InterruptMessage> message = decode_msi(address, data);
  return message && fabric.send(*message);
}

}  // namespace vert::device
