// A range of byte-wide registers on a bus.
//
// ISA devices are eight bits wide: a wider access falls apart into bytes, the lowest address first. Owned by
// the device whose registers these are, which locks for itself.
#pragma once

#include <functional>
#include <utility>

#include "memory/bus.hpp"

namespace vert::device {

class PortRange final : public memory::BusDevice {
 public:
  using Read = std::function<u8(u64 offset)>;
  using Write = std::function<void(u64 offset, u8 value)>;

  PortRange(u64 size, Read read, Write write)
      : size_(size), read_(std::move(read)), write_(std::move(write)) {}

  [[nodiscard]] u64 read(u64 offset, unsigned size) override {
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) {
      const u8 byte = offset + i < size_ ? read_(offset + i) : u8{0xff};
      value |= u64{byte} << (i * 8);
    }
    return value;
  }

  void write(u64 offset, unsigned size, u64 value) override {
    for (unsigned i = 0; i < size && offset + i < size_; ++i)
      write_(offset + i, static_cast<u8>(value >> (i * 8)));
  }

 private:
  u64 size_;
  Read read_;
  Write write_;
};

}  // namespace vert::device
