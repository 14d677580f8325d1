// Puts pieces of a boot image into guest memory so that none overlaps another or vert's own boot data.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "machine/firmware/memory_map.hpp"
#include "memory/guest_memory.hpp"

namespace vert::machine {

/// vert's own boot data, in conventional memory, well below the pages under the EBDA that Linux's
/// decompressor takes for a trampoline while it still runs on our page tables.
namespace boot_area {
inline constexpr u64 kBase = 0x80000;
inline constexpr u64 kPageTables = kBase;       // PML4, PDPT, four page directories
inline constexpr u64 kGdt = kBase + 0x6000;     // one page
inline constexpr u64 kInfo = kBase + 0x7000;    // boot_params, hvm_start_info or multiboot_info
inline constexpr u64 kTables = kBase + 0x8000;  // memory map and module list: one page
inline constexpr u64 kCommandLine = kBase + 0x9000;
inline constexpr u64 kCommandLineSize = 0x10000;  // with the final NUL
inline constexpr u64 kModuleLines = kCommandLine + kCommandLineSize;
inline constexpr u64 kModuleLinesSize = 2 * kPageSize;  // of all modules, each with its NUL
inline constexpr u64 kEnd = kModuleLines + kModuleLinesSize;
}  // namespace boot_area

class Placement {
 public:
  Placement(const MemoryMap& map, memory::GuestMemory& memory);

  /// Claims [address, address + memory_size) and copies `bytes`, of which there are at most memory_size, to
  /// its start. `what` names it for people: "vmlinux: segment 2".
  [[nodiscard]] Status put(std::string_view what, u64 address, u64 memory_size, std::span<const u8> bytes);

  /// Free, page-aligned room of that size within [floor, limit) and below 4 GiB; not claimed yet.
  [[nodiscard]] Result<u64> find_highest(std::string_view what, u64 size, u64 floor, u64 limit) const;
  [[nodiscard]] Result<u64> find_lowest(std::string_view what, u64 size, u64 floor, u64 limit) const;

  /// End of the highest piece put below 4 GiB, or 1 MiB.
  [[nodiscard]] u64 low_end_used() const;

  /// The command line, with its NUL. Error: longer than `limit` bytes without it, or than boot_area has room.
  [[nodiscard]] Status put_command_line(const std::string& text, u64 limit);
  /// A multiboot module's command line; yields its address. Error: no room is left in boot_area.
  [[nodiscard]] Result<u64> put_module_line(const std::string& text);
  /// vert's own tables in boot_area.
  void put_boot_data(u64 address, std::span<const u8> bytes);

  [[nodiscard]] memory::GuestMemory& memory() { return memory_; }

 private:
  struct Claim {
    u64 base;
    u64 size;
    std::string what;
  };
  [[nodiscard]] const Claim* overlapping(u64 base, u64 size) const;
  [[nodiscard]] std::unexpected<Error> no_room(std::string_view what, u64 size) const;

  memory::GuestMemory& memory_;
  u64 low_end_;
  std::vector<Claim> claims_;
  u64 module_lines_end_ = boot_area::kModuleLines;
};

}  // namespace vert::machine
