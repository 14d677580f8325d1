#include "memory/bus.hpp"

#include <algorithm>
#include <mutex>

namespace vert::memory {

Status Bus::map(u64 base, u64 size, BusDevice& device, std::string name) {
  if (size == 0 || base + size - 1 < base)
    return make_error("bus range of {} at {:#x} is not one", name, base);
  const std::unique_lock lock(mutex_);
  const auto next = std::ranges::lower_bound(ranges_, base, {}, &Range::base);
  if (next != ranges_.end() && next->base - base < size)
    return make_error("bus range of {} at {:#x} overlaps {}", name, base, next->name);
  if (next != ranges_.begin() && base - std::prev(next)->base < std::prev(next)->size)
    return make_error("bus range of {} at {:#x} overlaps {}", name, base, std::prev(next)->name);
  ranges_.insert(next, {base, size, &device, std::move(name)});
  return {};
}

void Bus::unmap(u64 base) {
  const std::unique_lock lock(mutex_);
  std::erase_if(ranges_, [base](const Range& range) { return range.base == base; });
}

Bus::Hit Bus::find(u64 address) const {
  const std::shared_lock lock(mutex_);
  const auto next = std::ranges::upper_bound(ranges_, address, {}, &Range::base);
  if (next == ranges_.begin()) return {nullptr, 0};
  const Range& range = *std::prev(next);
  const u64 offset = address - range.base;
  return offset < range.size ? Hit{range.device, offset} : Hit{nullptr, 0};
}

u64 Bus::read(u64 address, unsigned size) const {
  const u64 mask = size >= 8 ? ~u64{0} : (u64{1} << (size * 8)) - 1;
  const Hit hit = find(address);
  return (hit.device != nullptr ? hit.device->read(hit.offset, size) : ~u64{0}) & mask;
}

void Bus::write(u64 address, unsigned size, u64 value) const {
  const u64 mask = size >= 8 ? ~u64{0} : (u64{1} << (size * 8)) - 1;
  if (const Hit hit = find(address); hit.device != nullptr) hit.device->write(hit.offset, size, value & mask);
}

}  // namespace vert::memory
