// Memory map and ACPI tables: structure as the specifications say.
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>

#include "device/legacy/acpi_pm.hpp"
#include "machine/firmware/acpi_tables.hpp"
#include "machine/firmware/aml.hpp"
#include "machine/firmware/memory_map.hpp"
#include "machine/firmware/real_mode.hpp"
#include "machine/firmware/table_loader.hpp"

namespace vert::machine {
namespace {

constexpr u64 kGiB = u64{1} << 30;

TEST(MemoryMap, SmallMemoryLiesBelowTheHole) {
  const auto map = MemoryMap::make(512 << 20).value();
  EXPECT_EQ(map.low_end(), 512U << 20);
  EXPECT_EQ(map.high_end(), kFourGiB);
  ASSERT_EQ(map.ram_regions().size(), 1U);
}

TEST(MemoryMap, TheRestGoesAboveFourGiB) {
  const auto map = MemoryMap::make(6 * kGiB).value();
  EXPECT_EQ(map.low_end(), kEcamBase);
  EXPECT_EQ(map.high_end(), kFourGiB + 6 * kGiB - kEcamBase);
  u64 total = 0;
  for (const auto& region : map.ram_regions()) total += region.size;
  EXPECT_EQ(total, 6 * kGiB);
}

TEST(MemoryMap, ImpossibleSizesAreRefused) {
  EXPECT_FALSE(MemoryMap::make(0));
  EXPECT_FALSE(MemoryMap::make(kMinMemory - kPageSize));
  EXPECT_FALSE(MemoryMap::make(kMinMemory + 1));
  EXPECT_FALSE(MemoryMap::make(kMaxMemory + kPageSize));
  EXPECT_FALSE(MemoryMap::make(~u64{0}));
  EXPECT_TRUE(MemoryMap::make(kMinMemory));
}

TEST(MemoryMap, E820IsSortedDisjointAndAgreesWithRam) {
  for (const u64 size : {kMinMemory, u64{512} << 20, kEcamBase, kEcamBase + kPageSize, 64 * kGiB}) {
    const auto map = MemoryMap::make(size).value();
    u64 end = 0;
    u64 ram = 0;
    for (const E820Entry& entry : map.e820()) {
      EXPECT_GE(entry.base, end);
      EXPECT_GT(entry.size, 0U);
      end = entry.base + entry.size;
      if (entry.type != E820Type::kRam) continue;
      ram += entry.size;
      EXPECT_TRUE(std::ranges::any_of(map.ram_regions(), [&](const auto& region) {
        return entry.base >= region.base.value() && end <= region.base.value() + region.size;
      }));
    }
    EXPECT_EQ(ram, size - (kOneMiB - kEbdaBase));
  }
}

/// The tables as an OS finds them: from the RSDP on.
class Tables {
 public:
  explicit Tables(unsigned cpus) : Tables(place_acpi_tables(make_acpi_tables(cpus), kBiosTablesBase)) {}
  explicit Tables(std::vector<u8> placed) : image(std::move(placed)) {
    const u64 xsdt = get<u64>(24);
    const u64 at = xsdt - kBiosTablesBase;
    tables["XSDT"] = at;
    for (u64 entry = at + 36; entry < at + get<u32>(at + 4); entry += 8) {
      const u64 table = get<u64>(entry) - kBiosTablesBase;
      tables[signature(table)] = table;
    }
  }
  template <typename T>
  T get(u64 offset) const {
    EXPECT_LE(offset + sizeof(T), image.size());
    T value{};
    if (offset + sizeof(T) <= image.size()) std::memcpy(&value, image.data() + offset, sizeof value);
    return value;
  }
  std::string signature(u64 offset) const {
    return {reinterpret_cast<const char*>(image.data() + offset), 4};
  }
  u8 sum(u64 offset, u64 size) const {
    return static_cast<u8>(std::accumulate(image.begin() + static_cast<i64>(offset),
                                           image.begin() + static_cast<i64>(offset + size), 0U));
  }

  std::vector<u8> image;
  std::map<std::string, u64> tables;
};

TEST(Acpi, RsdpIsWhereItIsLookedFor) {
  const Tables acpi(1);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(acpi.image.data()), 8), "RSD PTR ");
  EXPECT_EQ(kBiosTablesBase % 16, 0U);
  EXPECT_EQ(acpi.sum(0, 20), 0);
  EXPECT_EQ(acpi.sum(0, 36), 0);
  EXPECT_EQ(acpi.get<u8>(15), 2);
}

TEST(Acpi, AllChecksumsHold) {
  for (const unsigned cpus : {1U, 2U, 255U}) {
    const Tables acpi(cpus);
    ASSERT_TRUE(acpi.tables.contains("FACP") && acpi.tables.contains("APIC") && acpi.tables.contains("MCFG"));
    for (const auto& [name, at] : acpi.tables) EXPECT_EQ(acpi.sum(at, acpi.get<u32>(at + 4)), 0) << name;
    const u64 dsdt = acpi.get<u32>(acpi.tables.at("FACP") + 40) - kBiosTablesBase;
    EXPECT_EQ(acpi.signature(dsdt), "DSDT");
    EXPECT_EQ(acpi.sum(dsdt, acpi.get<u32>(dsdt + 4)), 0);
    EXPECT_LE(acpi.image.size(), kBiosTablesEnd - kBiosTablesBase);
  }
}

TEST(Acpi, FadtDescribesTheFixedHardware) {
  const Tables acpi(1);
  const u64 fadt = acpi.tables.at("FACP");
  EXPECT_EQ(acpi.get<u32>(fadt + 4), 276U);
  EXPECT_EQ(acpi.get<u8>(fadt + 8), 6);
  const u64 facs = acpi.get<u32>(fadt + 36);
  EXPECT_EQ(facs % 64, 0U);
  EXPECT_EQ(acpi.signature(facs - kBiosTablesBase), "FACS");
  EXPECT_EQ(acpi.get<u64>(fadt + 140), acpi.get<u32>(fadt + 40));
  EXPECT_EQ(acpi.get<u16>(fadt + 46), 9);
  EXPECT_EQ(acpi.get<u32>(fadt + 48), device::kAcpiSmiCommandPort);
  EXPECT_EQ(acpi.get<u32>(fadt + 56), device::kAcpiPm1EventBlock);
  EXPECT_EQ(acpi.get<u32>(fadt + 64), device::kAcpiPm1ControlBlock);
  EXPECT_EQ(acpi.get<u32>(fadt + 76), device::kAcpiPmTimerBlock);
  EXPECT_EQ(acpi.get<u8>(fadt + 88), 4);
  EXPECT_EQ(acpi.get<u8>(fadt + 89), 2);
  EXPECT_EQ(acpi.get<u8>(fadt + 91), 4);
  EXPECT_EQ(acpi.get<u8>(fadt + 108), acpi::kRtcCenturyIndex);
  EXPECT_NE(acpi.get<u16>(fadt + 109) & 2, 0) << "there is an 8042";
  EXPECT_NE(acpi.get<u32>(fadt + 112) & (1U << 10), 0U) << "there is a reset register";
  EXPECT_EQ(acpi.get<u64>(fadt + 116 + 4), acpi::kResetPort);
  EXPECT_EQ(acpi.get<u8>(fadt + 128), acpi::kResetValue);
  EXPECT_EQ(acpi.get<u64>(fadt + 148 + 4), device::kAcpiPm1EventBlock);
  EXPECT_EQ(acpi.get<u8>(fadt + 148 + 1), 32);
  EXPECT_EQ(acpi.get<u64>(fadt + 172 + 4), device::kAcpiPm1ControlBlock);
  EXPECT_EQ(acpi.get<u64>(fadt + 208 + 4), device::kAcpiPmTimerBlock);
}

TEST(Acpi, MadtListsProcessorsAndInterrupts) {
  const Tables acpi(3);
  const u64 madt = acpi.tables.at("APIC");
  EXPECT_EQ(acpi.get<u32>(madt + 36), kLocalApicBase);
  std::map<u8, std::vector<u64>> entries;
  const u64 end = madt + acpi.get<u32>(madt + 4);
  for (u64 at = madt + 44; at < end; at += acpi.get<u8>(at + 1)) {
    ASSERT_GE(acpi.get<u8>(at + 1), 2);
    entries[acpi.get<u8>(at)].push_back(at);
  }
  ASSERT_EQ(entries[0].size(), 3U);
  for (u8 cpu = 0; cpu < 3; ++cpu) {
    EXPECT_EQ(acpi.get<u8>(entries[0][cpu] + 3), cpu);
    EXPECT_EQ(acpi.get<u32>(entries[0][cpu] + 4), 1U);
  }
  ASSERT_EQ(entries[1].size(), 1U);
  EXPECT_EQ(acpi.get<u32>(entries[1][0] + 4), kIoApicBase);
  EXPECT_EQ(acpi.get<u32>(entries[1][0] + 8), 0U);
  ASSERT_EQ(entries[2].size(), 2U);
  EXPECT_EQ(acpi.get<u8>(entries[2][0] + 3), 0);
  EXPECT_EQ(acpi.get<u32>(entries[2][0] + 4), 2U);
  EXPECT_EQ(acpi.get<u8>(entries[2][1] + 3), 9);
  EXPECT_EQ(acpi.get<u32>(entries[2][1] + 4), 9U);
  EXPECT_EQ(acpi.get<u16>(entries[2][1] + 8), 0xD) << "active high, level";
  ASSERT_EQ(entries[4].size(), 1U);
  EXPECT_EQ(acpi.get<u8>(entries[4][0] + 5), 1);
}

/// As firmware does: runs the loader's commands (QEMU, hw/acpi/bios-linker-loader.c) on the files.
class Firmware {
 public:
  explicit Firmware(const AcpiTables& tables) {
    files_[kAcpiRsdpFile] = {tables.rsdp.bytes, 0, 0};
    files_[kAcpiTablesFile] = {tables.tables.bytes, 0, 0};
    const std::vector<u8> commands = make_table_loader(tables);
    EXPECT_EQ(commands.size() % 128, 0U);
    for (std::size_t at = 0; at < commands.size(); at += 128) run(&commands[at]);
  }
  /// RSDP first, the tables 64 bytes on: as place_acpi_tables() has it.
  std::vector<u8> image() {
    std::vector<u8> image = files_[kAcpiRsdpFile].bytes;
    image.resize(64);
    const auto& tables = files_[kAcpiTablesFile].bytes;
    image.insert(image.end(), tables.begin(), tables.end());
    return image;
  }
  u32 alignment(const std::string& file) { return files_[file].alignment; }

 private:
  struct File {
    std::vector<u8> bytes;
    u32 alignment = 0;
    u64 address = 0;
  };
  template <typename T>
  static T get(const u8* at) {
    T value{};
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  static std::string name(const u8* at) { return reinterpret_cast<const char*>(at); }
  void run(const u8* command) {
    File& file = files_.at(name(command + 4));
    const u8* const operands = command + 60;
    switch (get<u32>(command)) {
      case 1:
        file.alignment = get<u32>(operands);
        file.address = kBiosTablesBase + (name(command + 4) == kAcpiTablesFile ? 64 : 0);
        return;
      case 2: {
        const File& to = files_.at(name(operands));
        ASSERT_NE(to.address, 0U) << "allocated before it is pointed at";
        u8* const at = &file.bytes.at(get<u32>(operands + 56));
        const u8 size = operands[60];
        u64 value = 0;
        std::memcpy(&value, at, size);
        ASSERT_LT(value, to.bytes.size());
        value += to.address;
        std::memcpy(at, &value, size);
        return;
      }
      case 3: {
        const auto start = file.bytes.begin() + get<u32>(operands + 4);
        const u8 sum = static_cast<u8>(std::accumulate(start, start + get<u32>(operands + 8), 0U));
        file.bytes.at(get<u32>(operands)) = static_cast<u8>(file.bytes.at(get<u32>(operands)) - sum);
        return;
      }
      default: FAIL() << "command " << get<u32>(command);
    }
  }
  std::map<std::string, File> files_;
};

TEST(TableLoader, PlacesTheTablesAsVertDoes) {
  const AcpiTables tables = make_acpi_tables(3);
  Firmware firmware(tables);
  EXPECT_EQ(firmware.image(), place_acpi_tables(tables, kBiosTablesBase));
  EXPECT_EQ(firmware.alignment(kAcpiTablesFile), 64U);
  EXPECT_EQ(firmware.alignment(kAcpiRsdpFile), 16U);
}

TEST(RealMode, VectorsLeadToHandlersThatReturn) {
  const auto map = MemoryMap::make(kMinMemory).value();
  const auto memory = memory::GuestMemory::create(map.ram_regions()).value();
  put_real_mode_firmware(*memory);
  const auto handler = [&](unsigned vector) {
    const u32 pointer = memory->load<u32>(Gpa(4 * vector)).value();
    return Gpa((pointer >> 16 << 4) + (pointer & 0xFFFF));
  };
  constexpr u8 kIret = 0xCF;
  EXPECT_EQ(memory->load<u8>(handler(0x10)), kIret);
  EXPECT_EQ(memory->load<u8>(handler(0xFF)), kIret);
  EXPECT_EQ(handler(0x08).value(), 0xFFEA5U);
  EXPECT_EQ(handler(0x09), handler(0x0F));
  EXPECT_EQ(handler(0x70), handler(0x77));
  EXPECT_NE(handler(0x09), handler(0x70));
  EXPECT_EQ(memory->load<u16>(Gpa(0x413)), 639);
  EXPECT_EQ(memory->load<u8>(Gpa(0xFFFF0)), 0xEA) << "a far jump";
}

TEST(Acpi, McfgNamesEcam) {
  const Tables acpi(1);
  const u64 mcfg = acpi.tables.at("MCFG");
  EXPECT_EQ(acpi.get<u32>(mcfg + 4), 60U);
  EXPECT_EQ(acpi.get<u64>(mcfg + 44), kEcamBase);
  EXPECT_EQ(acpi.get<u8>(mcfg + 54), 0);
  EXPECT_EQ(acpi.get<u8>(mcfg + 55), 255);
}

// ACPI 6.4, 20.2.4: the two top bits of the first byte count the bytes that follow.
TEST(Aml, PackageLengths) {
  const auto length_bytes = [](std::size_t body) {
    const auto scope = aml::scope("\\_SB_", aml::Bytes(body));
    return aml::Bytes(scope.begin() + 1, scope.begin() + 5);
  };
  EXPECT_EQ(length_bytes(0)[0], 6);  // itself, '\', four characters
  EXPECT_EQ(length_bytes(57)[0], 63);
  EXPECT_EQ(length_bytes(58)[0], 0x40 | (65 & 0xF));
  EXPECT_EQ(length_bytes(58)[1], 65 >> 4);
  EXPECT_EQ(length_bytes(5000)[0] >> 6, 2);
  EXPECT_EQ(length_bytes(70000)[0] >> 6, 2);
  EXPECT_EQ(length_bytes(2'000'000)[0] >> 6, 3);
}

TEST(Aml, IntegersAndIds) {
  EXPECT_EQ(aml::integer(0), aml::Bytes({0}));
  EXPECT_EQ(aml::integer(1), aml::Bytes({1}));
  EXPECT_EQ(aml::integer(0x1234), aml::Bytes({0x0B, 0x34, 0x12}));
  EXPECT_EQ(aml::eisa_id("PNP0A08"), aml::Bytes({0x0C, 0x41, 0xD0, 0x0A, 0x08}));
  EXPECT_EQ(aml::path("\\_SB_.PCI0"), aml::Bytes({'\\', 0x2E, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
  // ACPI 6.4, 19.6.142: aabbccdd-eeff-gghh-iijj-kkllmmnnoopp.
  const auto uuid = aml::uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766");
  EXPECT_EQ(aml::Bytes(uuid.end() - 16, uuid.end()),
            aml::Bytes({0x5B, 0x4D, 0xDB, 0x33, 0xF7, 0x1F, 0x1C, 0x40, 0x96, 0x57, 0x74, 0x41, 0xC0, 0x3D,
                        0xD7, 0x66}));
}

/// What the ACPICA disassembler makes of a table, or nothing where there is none.
std::string disassemble(const std::vector<u8>& table) {
  const auto folder = std::filesystem::path(testing::TempDir()) / fmt::format("vert-dsdt-{}", ::getpid());
  std::filesystem::create_directory(folder);
  const std::string base = (folder / "dsdt").string();
  std::ofstream(base + ".aml", std::ios::binary)
      .write(reinterpret_cast<const char*>(table.data()), static_cast<std::streamsize>(table.size()));
  const std::string command = "iasl -d " + base + ".aml > " + base + ".log 2>&1 && iasl -p " + base + "2 " +
                              base + ".dsl > " + base + ".relog 2>&1";
  const int status = std::system(command.c_str());
  std::ifstream source(base + ".dsl");
  std::string text(std::istreambuf_iterator<char>(source), {});
  std::ifstream log(base + ".relog");
  if (status != 0) text = "iasl failed: " + std::string(std::istreambuf_iterator<char>(log), {});
  std::filesystem::remove_all(folder);
  return text;
}

TEST(Dsdt, DisassemblesAndCompilesAgain) {
  if (std::system("command -v iasl > /dev/null") != 0) GTEST_SKIP() << "iasl is not installed";
  for (const unsigned cpus : {1U, 255U}) {
    const std::string source = disassemble(make_dsdt(cpus));
    ASSERT_FALSE(source.starts_with("iasl failed")) << source;
    for (const char* part :
         {"Device (PCI0)", "EisaId (\"PNP0A08\")", "Name (_CRS, ResourceTemplate ()",
          "Name (_PRT, Package (0x80)", "ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\")",
          "Name (\\_S5, Package (0x04)", "EisaId (\"PNP0501\")", "EisaId (\"PNP0B00\")",
          "EisaId (\"PNP0303\")", "EisaId (\"PNP0F13\")", "\"ACPI0007\"", "Device (C000)", "\"QEMU0002\""})
      EXPECT_NE(source.find(part), std::string::npos) << part;
    EXPECT_EQ(source.find("Device (C0FE)") != std::string::npos, cpus == 255);
  }
}

}  // namespace
}  // namespace vert::machine
