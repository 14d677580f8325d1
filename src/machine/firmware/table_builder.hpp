// Puts the bytes of an ACPI table together, little-endian, and closes it with length and checksum.
#pragma once

#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "base/types.hpp"

namespace vert::machine {

class TableBuilder {
 public:
  static constexpr std::size_t kHeaderSize = 36;

  /// Starts with the header that all tables but RSDP and FACS have (ACPI 6.4, 5.2.6).
  TableBuilder(std::string_view signature, u8 revision) {
    text(signature).u32_(0).u8_(revision).u8_(0);
    text("VERT  ").text("VERTQ35 ").u32_(1).text("VERT").u32_(1);
  }

  TableBuilder& u8_(u8 value) { return integer(value, 1); }
  TableBuilder& u16_(u16 value) { return integer(value, 2); }
  TableBuilder& u32_(u32 value) { return integer(value, 4); }
  TableBuilder& u64_(u64 value) { return integer(value, 8); }
  TableBuilder& zeroes(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  TableBuilder& text(std::string_view text) {
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    return *this;
  }
  TableBuilder& bytes(const std::vector<u8>& bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  /// A generic address structure in I/O space (ACPI 6.4, 5.2.3.2); access size 1 byte, 2 word, 3 dword.
  TableBuilder& io_register(u16 port, u8 bits, u8 access_size) {
    constexpr u8 kSystemIo = 1;
    return u8_(kSystemIo).u8_(bits).u8_(0).u8_(access_size).u64_(port);
  }
  TableBuilder& no_register() { return zeroes(12); }

  [[nodiscard]] std::vector<u8> finish() {
    for (unsigned i = 0; i < 4; ++i) bytes_[4 + i] = static_cast<u8>(bytes_.size() >> (8 * i));
    bytes_[9] = checksum(bytes_.data(), bytes_.size());
    return std::move(bytes_);
  }

  /// What makes the sum of all bytes 0, where the checksum byte itself is still 0.
  [[nodiscard]] static u8 checksum(const u8* bytes, std::size_t size) {
    return static_cast<u8>(0U - std::accumulate(bytes, bytes + size, 0U));
  }

 private:
  TableBuilder& integer(u64 value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) bytes_.push_back(static_cast<u8>(value >> (8 * i)));
    return *this;
  }

  std::vector<u8> bytes_;
};

}  // namespace vert::machine
