#include "machine/boot/linux_params.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace vert::machine {

namespace {

using ZeroPage = std::array<u8, kPageSize>;

template <typename T>
void set(ZeroPage& page, u64 offset, T value) {
  std::memcpy(page.data() + offset, &value, sizeof value);
}

void set_memory_map(ZeroPage& page, const MemoryMap& map) {
  constexpr u64 kEntryCount = 0x1E8;
  constexpr u64 kTable = 0x2D0;
  constexpr u64 kEntrySize = 20;
  const auto entries = map.e820();
  set(page, kEntryCount, static_cast<u8>(entries.size()));
  u64 at = kTable;
  for (const E820Entry& entry : entries) {
    set(page, at, entry.base);
    set(page, at + 8, entry.size);
    set(page, at + 16, static_cast<u32>(entry.type));
    at += kEntrySize;
  }
}

}  // namespace

Status put_linux_params(const BootSource& source, const MemoryMap& map, const LinuxBoot& boot,
                        Placement& placement, cpu::CpuState& state) {
  constexpr u64 kAcpiRsdp = 0x70;
  namespace header = setup_header;
  ZeroPage page{};
  VERT_CHECK(boot.header.size() <= header::kRoomEnd - header::kStart);
  std::ranges::copy(boot.header, page.begin() + header::kStart);

  VERT_TRY(placement.put_command_line(source.command_line, boot.command_line_limit));
  if (!source.modules.empty()) {
    const BootModule& initrd = source.modules.front();
    const u64 size = initrd.bytes.size();
    VERT_ASSIGN(const u64 address,
                placement.find_highest(initrd.name, size, placement.low_end_used(), boot.initrd_limit));
    VERT_TRY(placement.put(initrd.name, address, size, initrd.bytes));
    set(page, header::kRamdiskImage, static_cast<u32>(address));
    set(page, header::kRamdiskSize, static_cast<u32>(size));
  }
  set(page, kAcpiRsdp, kBiosTablesBase);
  set_memory_map(page, map);
  set(page, header::kLoader, header::kUnknownLoader);
  set(page, header::kCommandLine, static_cast<u32>(boot_area::kCommandLine));
  set(page, header::kSetupData, u64{0});
  placement.put_boot_data(boot_area::kInfo, page);
  state.gpr[x86::kRsi] = boot_area::kInfo;
  return {};
}

}  // namespace vert::machine
