#include "machine/fw_cfg_items.hpp"

#include "machine/firmware/acpi_tables.hpp"
#include "machine/firmware/table_loader.hpp"

namespace vert::machine {

namespace {

namespace key = device::fw_cfg_key;

/// etc/e820: an array of packed entries (SeaBIOS, src/fw/paravirt.c).
std::vector<u8> e820_table(const MemoryMap& map) {
  std::vector<u8> table;
  const auto append = [&](auto value) {
    const auto* const bytes = reinterpret_cast<const u8*>(&value);
    table.insert(table.end(), bytes, bytes + sizeof value);
  };
  const auto entry = [&](u64 base, u64 size, E820Type type) {
    append(base);
    append(size);
    append(static_cast<u32>(type));
  };
  // RAM below 1 MiB is whole here: firmware takes from it what it needs.
  for (const memory::RamRegion& region : map.ram_regions())
    entry(region.base.value(), region.size, E820Type::kRam);
  entry(kEcamBase, kEcamSize, E820Type::kReserved);
  return table;
}

void add_sized(device::FwCfg& fw_cfg, u16 size_key, u16 data_key, std::span<const u8> bytes) {
  fw_cfg.add_integer(size_key, static_cast<u32>(bytes.size()));
  fw_cfg.add_view(data_key, bytes);
}

void add_kernel(device::FwCfg& fw_cfg, const BootSource& source) {
  const u64 setup = bzimage_setup_size(source.kernel);
  add_sized(fw_cfg, key::kSetupSize, key::kSetupData, source.kernel.first(setup));
  add_sized(fw_cfg, key::kKernelSize, key::kKernelData, source.kernel.subspan(setup));
  const auto& modules = source.modules;
  add_sized(fw_cfg, key::kInitrdSize, key::kInitrdData,
            modules.empty() ? std::span<const u8>{} : modules.front().bytes);
  const char* const line = source.command_line.c_str();
  fw_cfg.add_integer(key::kCommandLineSize, static_cast<u32>(source.command_line.size() + 1));
  fw_cfg.add(key::kCommandLineData, {line, line + source.command_line.size() + 1});
}

}  // namespace

void add_fw_cfg_items(device::FwCfg& fw_cfg, unsigned cpus, const MemoryMap& map, const BootSource& source) {
  fw_cfg.add(key::kUuid, std::vector<u8>(16));
  fw_cfg.add_integer(key::kRamSize, map.low_end() + (map.high_end() - kFourGiB));
  fw_cfg.add_integer(key::kNoGraphic, u16{1});
  fw_cfg.add_integer(key::kCpus, static_cast<u16>(cpus));
  fw_cfg.add_integer(key::kBootMenu, u16{0});
  fw_cfg.add_integer(key::kMaxCpus, static_cast<u16>(cpus));
  add_kernel(fw_cfg, source);

  const AcpiTables tables = make_acpi_tables(cpus);
  // By name, in order, as on QEMU.
  fw_cfg.add_file(kAcpiRsdpFile, tables.rsdp.bytes);
  fw_cfg.add_file(kAcpiTablesFile, tables.tables.bytes);
  fw_cfg.add_file("etc/e820", e820_table(map));
  fw_cfg.add_file(kTableLoaderFile, make_table_loader(tables));
}

}  // namespace vert::machine
