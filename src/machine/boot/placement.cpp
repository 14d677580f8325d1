#include "machine/boot/placement.hpp"

#include <algorithm>

namespace vert::machine {

namespace {

constexpr u64 align_down(u64 value) { return value & ~kPageOffsetMask; }
constexpr u64 align_up(u64 value) { return align_down(value + kPageOffsetMask); }

std::span<const u8> as_bytes(const std::string& text) {
  return {reinterpret_cast<const u8*>(text.c_str()), text.size() + 1};
}

}  // namespace

Placement::Placement(const MemoryMap& map, memory::GuestMemory& memory)
    : memory_(memory), low_end_(map.low_end()) {
  claims_.push_back({0, kPageSize, "the BIOS data area"});
  claims_.push_back({boot_area::kBase, boot_area::kEnd - boot_area::kBase, "vert's boot data"});
  claims_.push_back({kEbdaBase, kOneMiB - kEbdaBase, "the BIOS area"});
}

const Placement::Claim* Placement::overlapping(u64 base, u64 size) const {
  const auto found = std::ranges::find_if(claims_, [&](const Claim& claim) {
    return base < claim.base + claim.size && claim.base < base + size;
  });
  return found == claims_.end() ? nullptr : &*found;
}

Status Placement::put(std::string_view what, u64 address, u64 memory_size, std::span<const u8> bytes) {
  if (memory_size == 0) return {};
  if (bytes.size() > memory_size)
    return make_error("{}: holds {} bytes, more than the {} it says it takes", what, bytes.size(),
                      memory_size);
  if (memory_.host(Gpa(address), memory_size) == nullptr)
    return make_error(
        "{}: goes to {:#x} and takes {} KiB, where the machine has no memory: try more --memory", what,
        address, (memory_size >> 10) + 1);
  if (const Claim* claim = overlapping(address, memory_size); claim != nullptr)
    return make_error("{}: goes to {:#x}, which overlaps {} at {:#x}", what, address, claim->what,
                      claim->base);
  claims_.push_back({address, memory_size, std::string(what)});
  VERT_CHECK(memory_.write(Gpa(address), bytes));
  return {};
}

std::unexpected<Error> Placement::no_room(std::string_view what, u64 size) const {
  return make_error("{}: {} KiB do not fit into the machine's memory beside the kernel: try more --memory",
                    what, (size >> 10) + 1);
}

Result<u64> Placement::find_highest(std::string_view what, u64 size, u64 floor, u64 limit) const {
  limit = std::min(limit, low_end_);
  while (size <= limit && align_down(limit - size) >= floor) {
    const u64 base = align_down(limit - size);
    const Claim* claim = overlapping(base, std::max<u64>(size, 1));
    if (claim == nullptr) return base;
    limit = claim->base;
  }
  return no_room(what, size);
}

Result<u64> Placement::find_lowest(std::string_view what, u64 size, u64 floor, u64 limit) const {
  limit = std::min(limit, low_end_);
  u64 base = align_up(floor);
  while (base <= limit && size <= limit - base) {
    const Claim* claim = overlapping(base, std::max<u64>(size, 1));
    if (claim == nullptr) return base;
    base = align_up(claim->base + claim->size);
  }
  return no_room(what, size);
}

u64 Placement::low_end_used() const {
  u64 end = kOneMiB;
  for (const Claim& claim : claims_)
    if (claim.base < low_end_) end = std::max(end, claim.base + claim.size);
  return end;
}

Status Placement::put_command_line(const std::string& text, u64 limit) {
  limit = std::min(limit, boot_area::kCommandLineSize - 1);
  if (text.size() > limit)
    return make_error("the command line has {} characters, but the kernel takes at most {}: shorten --append",
                      text.size(), limit);
  put_boot_data(boot_area::kCommandLine, as_bytes(text));
  return {};
}

Result<u64> Placement::put_module_line(const std::string& text) {
  const u64 address = module_lines_end_;
  if (text.size() >= boot_area::kEnd - address)
    return make_error("the modules' command lines take more than {} bytes in all: shorten --initrd",
                      boot_area::kModuleLinesSize);
  put_boot_data(address, as_bytes(text));
  module_lines_end_ += text.size() + 1;
  return address;
}

void Placement::put_boot_data(u64 address, std::span<const u8> bytes) {
  VERT_CHECK(address >= boot_area::kBase && address + bytes.size() <= boot_area::kEnd);
  VERT_CHECK(memory_.write(Gpa(address), bytes));
}

}  // namespace vert::machine
