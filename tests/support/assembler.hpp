// Code for tests, byte by byte, with labels. What a mnemonic needs is written as bytes where a test uses it.
#pragma once

#include <cstring>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::test {

class Assembler {
 public:
  explicit Assembler(u64 origin) : origin_(origin) {}

  Assembler& bytes(std::initializer_list<u8> code) {
    code_.insert(code_.end(), code);
    return *this;
  }
  template <typename T>
  Assembler& value(T number) {
    const std::size_t at = code_.size();
    code_.resize(at + sizeof number);
    std::memcpy(&code_[at], &number, sizeof number);
    return *this;
  }
  Assembler& label(const std::string& name) {
    labels_[name] = here();
    return *this;
  }
  /// An opcode with a 32-bit displacement to a label, defined before or after.
  Assembler& branch(std::initializer_list<u8> opcode, const std::string& target) {
    bytes(opcode);
    fixups_.push_back({code_.size(), target});
    return value(u32{0});
  }
  /// MOV r64, imm64 (0 to 15).
  Assembler& load(u8 reg, u64 number) {
    bytes({static_cast<u8>(0x48 | reg >> 3), static_cast<u8>(0xB8 | (reg & 7))});
    return value(number);
  }
  Assembler& nop(unsigned count = 1) {
    code_.insert(code_.end(), count, 0x90);
    return *this;
  }
  Assembler& hlt() { return bytes({0xF4}); }

  [[nodiscard]] u64 here() const { return origin_ + code_.size(); }
  [[nodiscard]] u64 address(const std::string& name) const { return labels_.at(name); }
  [[nodiscard]] std::vector<u8> finish() {
    for (const Fixup& fixup : fixups_) {
      const auto displacement = static_cast<u32>(labels_.at(fixup.target) - (origin_ + fixup.at + 4));
      std::memcpy(&code_[fixup.at], &displacement, sizeof displacement);
    }
    return code_;
  }

 private:
  struct Fixup {
    std::size_t at;
    std::string target;
  };
  u64 origin_;
  std::vector<u8> code_;
  std::unordered_map<std::string, u64> labels_;
  std::vector<Fixup> fixups_;
};

}  // namespace vert::test
