#include "machine/firmware/table_loader.hpp"

#include <cstring>
#include <string_view>

#include "base/error.hpp"

namespace vert::machine {

namespace {

enum Command : u32 { kAllocate = 1, kAddPointer = 2, kAddChecksum = 3 };
enum Zone : u8 { kHigh = 1, kBelowOneMiB = 2 };

/// 128 bytes, little-endian: a command and its operands.
class Entry {
 public:
  explicit Entry(Command command) { integer(u32{command}); }
  Entry& file(std::string_view name) {
    constexpr std::size_t kNameSize = 56;
    VERT_CHECK(name.size() < kNameSize);
    std::memcpy(&bytes_[at_], name.data(), name.size());
    at_ += kNameSize;
    return *this;
  }
  template <typename T>
  Entry& integer(T value) {
    std::memcpy(&bytes_[at_], &value, sizeof value);
    at_ += sizeof value;
    return *this;
  }
  void append_to(std::vector<u8>& commands) const {
    commands.insert(commands.end(), bytes_.begin(), bytes_.end());
  }

 private:
  std::vector<u8> bytes_ = std::vector<u8>(128);
  std::size_t at_ = 0;
};

void add_pointers(std::vector<u8>& commands, const AcpiBlob& blob, std::string_view file) {
  for (const AcpiBlob::Pointer& pointer : blob.pointers)
    Entry(kAddPointer)
        .file(file)
        .file(kAcpiTablesFile)
        .integer(pointer.offset)
        .integer(pointer.size)
        .append_to(commands);
}

void add_checksums(std::vector<u8>& commands, const AcpiBlob& blob, std::string_view file) {
  for (const AcpiBlob::Checksum& sum : blob.checksums)
    Entry(kAddChecksum)
        .file(file)
        .integer(sum.offset)
        .integer(sum.start)
        .integer(sum.size)
        .append_to(commands);
}

}  // namespace

std::vector<u8> make_table_loader(const AcpiTables& tables) {
  constexpr u32 kRsdpAlignment = 16;  // ACPI 6.4, 5.2.5.1
  std::vector<u8> commands;
  Entry(kAllocate).file(kAcpiRsdpFile).integer(kRsdpAlignment).integer(u8{kBelowOneMiB}).append_to(commands);
  Entry(kAllocate)
      .file(kAcpiTablesFile)
      .integer(AcpiTables::kAlignment)
      .integer(u8{kHigh})
      .append_to(commands);
  add_pointers(commands, tables.tables, kAcpiTablesFile);
  add_pointers(commands, tables.rsdp, kAcpiRsdpFile);
  add_checksums(commands, tables.tables, kAcpiTablesFile);
  add_checksums(commands, tables.rsdp, kAcpiRsdpFile);
  return commands;
}

}  // namespace vert::machine
