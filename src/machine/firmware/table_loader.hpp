// How firmware places ACPI tables that it reads from fw_cfg: a list of commands (QEMU,
// hw/acpi/bios-linker-loader.c), and the names of the files that they speak of.
#pragma once

#include <vector>

#include "machine/firmware/acpi_tables.hpp"

namespace vert::machine {

inline constexpr const char* kAcpiTablesFile = "etc/acpi/tables";
inline constexpr const char* kAcpiRsdpFile = "etc/acpi/rsdp";
inline constexpr const char* kTableLoaderFile = "etc/table-loader";

/// The content of kTableLoaderFile.
[[nodiscard]] std::vector<u8> make_table_loader(const AcpiTables& tables);

}  // namespace vert::machine
