// Code of an ELF program: where its symbols lie, and the bytes there. Pure, but for reading the file.
//
// The file is whatever the user names: every offset and index in it is checked.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::cli {

struct ProgramSymbol {
  std::string name;
  u64 address = 0;
  u64 size = 0;  // 0: not known
};

class ProgramFile {
 public:
  [[nodiscard]] static Result<ProgramFile> read(const std::string& path);
  /// `name` is for messages.
  [[nodiscard]] static Result<ProgramFile> parse(const std::string& name, std::vector<u8> bytes);

  [[nodiscard]] bool is_64bit() const { return is_64bit_; }
  [[nodiscard]] u64 entry() const { return entry_; }
  /// Functions, by ascending address.
  [[nodiscard]] std::span<const ProgramSymbol> functions() const { return functions_; }
  [[nodiscard]] const ProgramSymbol* function(std::string_view name) const;
  /// The file's bytes from that address to the end of the segment; empty if it has none there.
  [[nodiscard]] std::span<const u8> bytes_at(u64 address) const;

 private:
  struct Segment {
    u64 address;
    u64 offset;
    u64 size;
  };
  template <typename Elf>
  [[nodiscard]] Status load(const std::string& name);
  template <typename Elf>
  void load_symbols(u64 section_offset, u64 section_count);
  template <typename T>
  [[nodiscard]] std::optional<T> at(u64 offset) const;

  std::vector<u8> bytes_;
  bool is_64bit_ = true;
  u64 entry_ = 0;
  std::vector<Segment> segments_;
  std::vector<ProgramSymbol> functions_;
};

}  // namespace vert::cli
