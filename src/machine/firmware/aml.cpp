#include "machine/firmware/aml.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"

namespace vert::machine::aml {

namespace {

// Opcodes (ACPI 6.4, table 20-3).
constexpr u8 kZeroOp = 0x00;
constexpr u8 kOneOp = 0x01;
constexpr u8 kNameOp = 0x08;
constexpr u8 kBytePrefix = 0x0A;
constexpr u8 kWordPrefix = 0x0B;
constexpr u8 kDwordPrefix = 0x0C;
constexpr u8 kStringPrefix = 0x0D;
constexpr u8 kQwordPrefix = 0x0E;
constexpr u8 kScopeOp = 0x10;
constexpr u8 kBufferOp = 0x11;
constexpr u8 kPackageOp = 0x12;
constexpr u8 kMethodOp = 0x14;
constexpr u8 kDualNamePrefix = 0x2E;
constexpr u8 kMultiNamePrefix = 0x2F;
constexpr u8 kExtOpPrefix = 0x5B;
constexpr u8 kArg0Op = 0x68;
constexpr u8 kAndOp = 0x7B;
constexpr u8 kOrOp = 0x7D;
constexpr u8 kCreateDwordFieldOp = 0x8A;
constexpr u8 kLequalOp = 0x93;
constexpr u8 kIfOp = 0xA0;
constexpr u8 kElseOp = 0xA1;
constexpr u8 kReturnOp = 0xA4;
constexpr u8 kDeviceOpExt = 0x82;

constexpr u8 kMethodSerialized = 1U << 3;
constexpr std::size_t kNameSegment = 4;

Bytes little_endian(u64 value, unsigned size) {
  Bytes bytes;
  for (unsigned i = 0; i < size; ++i) bytes.push_back(static_cast<u8>(value >> (8 * i)));
  return bytes;
}

void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

/// PkgLength, which counts itself, and what it covers (ACPI 6.4, 20.2.4).
Bytes with_length(const Bytes& body) {
  std::size_t follow = 0;
  if (body.size() + 1 > 0x3F) follow = 1;
  if (body.size() + 2 > 0xFFF) follow = 2;
  if (body.size() + 3 > 0xFFFFF) follow = 3;
  const std::size_t length = body.size() + 1 + follow;
  Bytes out;
  if (follow == 0) {
    out.push_back(static_cast<u8>(length));
  } else {
    out.push_back(static_cast<u8>((follow << 6) | (length & 0xF)));
    append(out, little_endian(length >> 4, static_cast<unsigned>(follow)));
  }
  append(out, body);
  return out;
}

Bytes packaged(u8 opcode, const Bytes& body) { return join({{opcode}, with_length(body)}); }

unsigned hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  VERT_CHECK(c >= 'A' && c <= 'F');
  return static_cast<unsigned>(c - 'A') + 10;
}

/// A word or dword address-space descriptor (ACPI 6.4, 6.4.3.5): fixed minimum and maximum, produced.
Bytes window(u8 tag, unsigned field, u8 type, u8 type_flags, u64 first, u64 last) {
  constexpr u8 kMinAndMaxFixed = 0x0C;
  Bytes out = {tag};
  append(out, little_endian(3 + 5 * field, 2));
  append(out, {type, kMinAndMaxFixed, type_flags});
  for (const u64 value : {u64{0}, first, last, u64{0}, last - first + 1})
    append(out, little_endian(value, field));
  return out;
}

}  // namespace

Bytes join(std::span<const Bytes> terms) {
  Bytes out;
  for (const Bytes& term : terms) append(out, term);
  return out;
}

Bytes join(std::initializer_list<Bytes> terms) {
  return join(std::span<const Bytes>(terms.begin(), terms.size()));
}

Bytes integer(u64 value) {
  if (value == 0) return {kZeroOp};
  if (value == 1) return {kOneOp};
  if (value <= 0xFF) return join({{kBytePrefix}, little_endian(value, 1)});
  if (value <= 0xFFFF) return join({{kWordPrefix}, little_endian(value, 2)});
  if (value <= 0xFFFFFFFF) return join({{kDwordPrefix}, little_endian(value, 4)});
  return join({{kQwordPrefix}, little_endian(value, 8)});
}

Bytes string(std::string_view text) {
  return join({{kStringPrefix}, Bytes(text.begin(), text.end()), Bytes(1)});
}

Bytes eisa_id(std::string_view id) {
  VERT_CHECK(id.size() == 7);
  const auto letter = [&](std::size_t i) { return static_cast<unsigned>(id[i] - '@') & 0x1F; };
  const auto digit = [&](std::size_t i) { return hex_digit(id[i]); };
  const unsigned big_endian = (letter(0) << 26) | (letter(1) << 21) | (letter(2) << 16) | (digit(3) << 12) |
                              (digit(4) << 8) | (digit(5) << 4) | digit(6);
  return join({{kDwordPrefix}, little_endian(__builtin_bswap32(big_endian), 4)});
}

Bytes buffer(const Bytes& content) { return packaged(kBufferOp, join({integer(content.size()), content})); }

Bytes package(std::span<const Bytes> elements) {
  VERT_CHECK(elements.size() <= 0xFF);
  return packaged(kPackageOp, join({{static_cast<u8>(elements.size())}, join(elements)}));
}

Bytes uuid(std::string_view text) {
  std::string digits(text);
  std::erase(digits, '-');
  VERT_CHECK(digits.size() == 32);
  Bytes in_order;
  for (std::size_t i = 0; i < digits.size(); i += 2)
    in_order.push_back(static_cast<u8>((hex_digit(digits[i]) << 4) | hex_digit(digits[i + 1])));
  std::reverse(in_order.begin(), in_order.begin() + 4);
  std::reverse(in_order.begin() + 4, in_order.begin() + 6);
  std::reverse(in_order.begin() + 6, in_order.begin() + 8);
  return buffer(in_order);
}

Bytes path(std::string_view path) {
  Bytes out;
  if (path.starts_with('\\')) {
    out.push_back('\\');
    path.remove_prefix(1);
  }
  const std::size_t segments = (path.size() + 1) / (kNameSegment + 1);
  VERT_CHECK(segments > 0 && path.size() == segments * (kNameSegment + 1) - 1);
  if (segments == 2) out.push_back(kDualNamePrefix);
  if (segments > 2) append(out, {kMultiNamePrefix, static_cast<u8>(segments)});
  for (const char c : path)
    if (c != '.') out.push_back(static_cast<u8>(c));
  return out;
}

Bytes name(std::string_view named, const Bytes& value) { return join({{kNameOp}, path(named), value}); }

Bytes scope(std::string_view named, const Bytes& body) {
  return packaged(kScopeOp, join({path(named), body}));
}

Bytes device(std::string_view named, const Bytes& body) {
  return join({{kExtOpPrefix}, packaged(kDeviceOpExt, join({path(named), body}))});
}

Bytes method(std::string_view named, u8 arguments, const Bytes& body) {
  return packaged(kMethodOp, join({path(named), {static_cast<u8>(arguments | kMethodSerialized)}, body}));
}

Bytes argument(u8 index) { return {static_cast<u8>(kArg0Op + index)}; }

Bytes create_dword_field(const Bytes& source, u64 byte_offset, std::string_view named) {
  return join({{kCreateDwordFieldOp}, source, integer(byte_offset), path(named)});
}

Bytes if_then(const Bytes& predicate, const Bytes& body) { return packaged(kIfOp, join({predicate, body})); }

Bytes otherwise(const Bytes& body) { return packaged(kElseOp, body); }

Bytes equal(const Bytes& left, const Bytes& right) { return join({{kLequalOp}, left, right}); }

Bytes bit_and(const Bytes& left, const Bytes& right, const Bytes& target) {
  return join({{kAndOp}, left, right, target});
}

Bytes bit_or(const Bytes& left, const Bytes& right, const Bytes& target) {
  return join({{kOrOp}, left, right, target});
}

Bytes return_value(const Bytes& value) { return join({{kReturnOp}, value}); }

Bytes resources(std::initializer_list<Bytes> descriptors) {
  constexpr u8 kEndTag = 0x79;
  return buffer(join({join(descriptors), {kEndTag, 0}}));  // checksum 0: taken as right
}

Bytes io_ports(u16 base, u8 count) {
  constexpr u8 kDecode16 = 1;
  return join({{0x47, kDecode16}, little_endian(base, 2), little_endian(base, 2), {1, count}});
}

Bytes isa_irq(u8 irq) { return join({{0x22}, little_endian(u64{1} << irq, 2)}); }

Bytes fixed_memory(u32 base, u32 size) {
  constexpr u8 kReadWrite = 1;
  return join({{0x86}, little_endian(9, 2), {kReadWrite}, little_endian(base, 4), little_endian(size, 4)});
}

Bytes bus_numbers(u16 first, u16 last) { return window(0x88, 2, 2, 0, first, last); }

Bytes io_window(u16 first, u16 last) {
  constexpr u8 kEntireRange = 3;
  return window(0x88, 2, 1, kEntireRange, first, last);
}

Bytes memory_window(u32 first, u32 last) {
  constexpr u8 kReadWrite = 1;  // and not cacheable
  return window(0x87, 4, 0, kReadWrite, first, last);
}

}  // namespace vert::machine::aml
