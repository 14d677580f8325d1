// QEMU's firmware configuration device (QEMU, docs/specs/fw_cfg.rst): what firmware and test kernels ask for
// the number of processors, the memory map, the ACPI tables and the kernel.
//
// Owned by machine/, which adds all items before the guest runs; they never change, and the guest only reads
// them. Ports on any vCPU thread. A transfer is done when the write that asks for it returns; its size is
// bounded by the item's and kMaxPadding.
#pragma once

#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/archive.hpp"
#include "memory/bus.hpp"
#include "memory/guest_memory.hpp"

namespace vert::device {

/// Selector keys, as QEMU numbers them (include/standard-headers/linux/qemu_fw_cfg.h there).
namespace fw_cfg_key {
inline constexpr u16 kSignature = 0x00;
inline constexpr u16 kId = 0x01;
inline constexpr u16 kUuid = 0x02;
inline constexpr u16 kRamSize = 0x03;
inline constexpr u16 kNoGraphic = 0x04;
inline constexpr u16 kCpus = 0x05;
inline constexpr u16 kKernelSize = 0x08;
inline constexpr u16 kInitrdSize = 0x0B;
inline constexpr u16 kBootMenu = 0x0E;
inline constexpr u16 kMaxCpus = 0x0F;
inline constexpr u16 kKernelData = 0x11;
inline constexpr u16 kInitrdData = 0x12;
inline constexpr u16 kCommandLineSize = 0x14;
inline constexpr u16 kCommandLineData = 0x15;
inline constexpr u16 kSetupSize = 0x17;
inline constexpr u16 kSetupData = 0x18;
inline constexpr u16 kFileDirectory = 0x19;
inline constexpr u16 kFirstFile = 0x20;
}  // namespace fw_cfg_key

struct FwCfgState {
  u16 key = fw_cfg_key::kSignature;
  u64 offset = 0;       // of the next byte; not past the item's end
  u64 dma_address = 0;  // the upper half, where it was written alone

  template <typename Archive>
  void fields(Archive& a) {
    a("key", key);
    a("offset", offset);
    a("dma_address", dma_address);
  }
};

class FwCfg final : private memory::BusDevice {
 public:
  static constexpr u64 kBase = 0x510;
  static constexpr u64 kPorts = 12;
  /// What a transfer may ask for behind an item's end, where it gets zeroes.
  static constexpr u64 kMaxPadding = 0x10000;

  /// With the items that tell of the device itself. `memory` is what transfers go to.
  explicit FwCfg(memory::GuestMemory& memory);

  // Before the guest runs.

  void add(u16 key, std::vector<u8> bytes);
  template <typename T>
  requires std::is_integral_v<T>
  void add_integer(u16 key, T value) {
    const auto* const bytes = reinterpret_cast<const u8*>(&value);  // little-endian, as the host is
    add(key, {bytes, bytes + sizeof value});
  }
  /// Without a copy: `bytes` outlive the device.
  void add_view(u16 key, std::span<const u8> bytes);
  /// A named item, with its entry in the directory. `name` has at most 55 characters.
  void add_file(const std::string& name, std::vector<u8> bytes);

  /// Claims 0x510-0x51b.
  [[nodiscard]] Status map(memory::Bus& ports);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  [[nodiscard]] u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;
  void select(u16 key);
  /// The selected item; empty if there is none.
  [[nodiscard]] std::span<const u8> selected() const;
  [[nodiscard]] std::span<const u8> take(u64 size);
  void transfer(u64 descriptor);
  [[nodiscard]] bool run(u32 control, u32 length, u64 address);
  [[nodiscard]] bool copy_out(u32 length, u64 address);

  memory::GuestMemory& memory_;
  std::map<u16, std::vector<u8>> owned_;
  std::map<u16, std::span<const u8>> items_;
  std::vector<u8> directory_entries_;
  u16 files_ = 0;

  mutable std::mutex mutex_;
  FwCfgState state_;
};

}  // namespace vert::device
