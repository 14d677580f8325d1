// What fw_cfg tells of a machine: processors, memory, kernel and ACPI tables.
#pragma once

#include "device/legacy/fw_cfg.hpp"
#include "machine/boot/kernel_image.hpp"
#include "machine/firmware/memory_map.hpp"

namespace vert::machine {

/// Before the guest runs. What `source` views outlives the device.
void add_fw_cfg_items(device::FwCfg& fw_cfg, unsigned cpus, const MemoryMap& map, const BootSource& source);

}  // namespace vert::machine
