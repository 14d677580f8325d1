// Message-signalled interrupts: memory writes of devices as interrupt messages (SDM 3A, 10.11).
#pragma once

#include <optional>

#include "cpu/local_apic.hpp"

namespace vert::device {

/// The message that a write of `data` to `address` is; nothing if it is none (another address, or a reserved
/// delivery mode). With the redirection hint a logical destination means one of those that match.
[[nodiscard]] std::optional<cpu::InterruptMessage> decode_msi(u64 address, u32 data);

/// Sends it. False if it is no message or nobody took it. Any thread.
bool send_msi(cpu::ApicFabric& fabric, u64 address, u32 data);

}  // namespace vert::device
