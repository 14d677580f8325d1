#include "device/pci/msix.hpp"

namespace vert::device {
namespace {

constexpr u64 kEntrySize = 16;
constexpr u32 kVectorMasked = 1;
constexpr u32 kAddressReserved = 3;

// Offsets in an entry.
constexpr u64 kAddressLow = 0;
constexpr u64 kAddressHigh = 4;
constexpr u64 kData = 8;
constexpr u64 kVectorControl = 12;

constexpr u64 with_half(u64 whole, unsigned shift, u32 half) {
  return (whole & ~(u64{0xFFFF'FFFF} << shift)) | u64{half} << shift;
}

}  // namespace

Msix::Msix(unsigned vectors, Send send) : send_(std::move(send)), vectors_(vectors) {
  VERT_CHECK(vectors >= 1 && vectors <= kMaxVectors);
}

u64 Msix::read(u64 offset, unsigned size) const {
  if ((size != 4 && size != 8) || offset % size != 0) return 0;
  const std::lock_guard lock(mutex_);
  const u64 low = read_dword(offset);
  return size == 4 ? low : low | u64{read_dword(offset + 4)} << 32;
}

void Msix::write(u64 offset, unsigned size, u64 value) {
  if ((size != 4 && size != 8) || offset % size != 0) return;
  const std::lock_guard lock(mutex_);
  write_dword(offset, static_cast<u32>(value));
  if (size == 8) write_dword(offset + 4, static_cast<u32>(value >> 32));
}

u32 Msix::read_dword(u64 offset) const {
  if (offset >= kPendingOffset) {
    u32 bits = 0;
    const u64 first = (offset - kPendingOffset) * 8;
    for (unsigned i = 0; i < 32 && first + i < vectors_.size(); ++i)
      bits |= (vectors_[first + i].pending ? 1U : 0U) << i;
    return bits;
  }
  if (offset / kEntrySize >= vectors_.size()) return 0;
  const MsixVector& vector = vectors_[offset / kEntrySize];
  switch (offset % kEntrySize) {
    case kAddressLow: return static_cast<u32>(vector.address);
    case kAddressHigh: return static_cast<u32>(vector.address >> 32);
    case kData: return vector.data;
    default: return vector.masked ? kVectorMasked : 0;
  }
}

void Msix::write_dword(u64 offset, u32 value) {
  if (offset / kEntrySize >= vectors_.size()) return;
  MsixVector& vector = vectors_[offset / kEntrySize];
  switch (offset % kEntrySize) {
    case kAddressLow: vector.address = with_half(vector.address, 0, value & ~kAddressReserved); break;
    case kAddressHigh: vector.address = with_half(vector.address, 32, value); break;
    case kData: vector.data = value; break;
    case kVectorControl:
      vector.masked = (value & kVectorMasked) != 0;
      if (vector.pending) deliver(vector);
      break;
    default: break;
  }
}

/// Sends the message now, or marks it pending.
void Msix::deliver(MsixVector& vector) {
  vector.pending = !may_send(vector);
  if (!vector.pending) send_(vector.address, vector.data);
}

void Msix::deliver_pending() {
  for (MsixVector& vector : vectors_)
    if (vector.pending) deliver(vector);
}

void Msix::set_control(const Control& control) {
  const std::lock_guard lock(mutex_);
  control_ = control;
  if (control_.enabled) deliver_pending();
}

bool Msix::enabled() const {
  const std::lock_guard lock(mutex_);
  return control_.enabled;
}

void Msix::notify(unsigned vector) {
  const std::lock_guard lock(mutex_);
  if (control_.enabled && vector < vectors_.size()) deliver(vectors_[vector]);
}

MsixState Msix::save() const {
  const std::lock_guard lock(mutex_);
  return {vectors_};
}

Status Msix::restore(const MsixState& state) {
  const std::lock_guard lock(mutex_);
  if (state.vectors.size() != vectors_.size())
    return make_error("a saved MSI-X table has {} vectors instead of {}", state.vectors.size(),
                      vectors_.size());
  for (const MsixVector& vector : state.vectors)
    if ((vector.address & kAddressReserved) != 0)
      return make_error("a saved MSI-X table has the address {:#x}", vector.address);
  vectors_ = state.vectors;
  return {};
}

void Msix::reset() {
  const std::lock_guard lock(mutex_);
  for (MsixVector& vector : vectors_) vector = {};
  control_ = {};
}

}  // namespace vert::device
