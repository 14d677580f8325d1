// Port I/O: permission and the access itself, for IN, OUT, INS and OUTS.
#pragma once

#include "engine/interp/core.hpp"

namespace vert::interp {

/// Checks CPL against IOPL, then the TSS's I/O permission bitmap (SDM 1, 19.5). False with core.fault set.
[[nodiscard]] bool check_port_permission(Core& core, u16 port, unsigned size);

[[nodiscard]] inline u64 port_read(Core& core, u16 port, unsigned size) {
  core.note_port_access(port, size);
  return core.context.pio->read(port, size);
}
inline void port_write(Core& core, u16 port, unsigned size, u64 value) {
  core.note_port_access(port, size);
  core.context.pio->write(port, size, value);
}

}  // namespace vert::interp
