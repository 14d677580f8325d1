// Writes ACPI Machine Language (ACPI 6.4, chapter 20): each function returns the bytes of one term.
//
// Only what vert's DSDT needs. Names are given in full ("_SB_", "PCI0"): four characters a segment.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace vert::machine::aml {

using Bytes = std::vector<u8>;

/// One after the other.
[[nodiscard]] Bytes join(std::initializer_list<Bytes> terms);
[[nodiscard]] Bytes join(std::span<const Bytes> terms);

// Data.
[[nodiscard]] Bytes integer(u64 value);
[[nodiscard]] Bytes string(std::string_view text);
/// A compressed EISA ID such as "PNP0A08" (ACPI 6.4, 19.3.4).
[[nodiscard]] Bytes eisa_id(std::string_view id);
[[nodiscard]] Bytes buffer(const Bytes& content);
/// At most 255 elements.
[[nodiscard]] Bytes package(std::span<const Bytes> elements);
/// A buffer with the bytes of a UUID in ACPI's order (ACPI 6.4, 19.6.142, ToUUID).
[[nodiscard]] Bytes uuid(std::string_view text);

// Names and what is named. `path` may start with '\' and hold dots.
[[nodiscard]] Bytes path(std::string_view path);
[[nodiscard]] Bytes name(std::string_view path, const Bytes& value);
[[nodiscard]] Bytes scope(std::string_view path, const Bytes& body);
[[nodiscard]] Bytes device(std::string_view path, const Bytes& body);
/// Serialized, so that it may create named objects.
[[nodiscard]] Bytes method(std::string_view path, u8 arguments, const Bytes& body);

// Within methods.
[[nodiscard]] Bytes argument(u8 index);
[[nodiscard]] Bytes create_dword_field(const Bytes& source, u64 byte_offset, std::string_view path);
[[nodiscard]] Bytes if_then(const Bytes& predicate, const Bytes& body);
[[nodiscard]] Bytes otherwise(const Bytes& body);
[[nodiscard]] Bytes equal(const Bytes& left, const Bytes& right);
[[nodiscard]] Bytes bit_and(const Bytes& left, const Bytes& right, const Bytes& target);
[[nodiscard]] Bytes bit_or(const Bytes& left, const Bytes& right, const Bytes& target);
[[nodiscard]] Bytes return_value(const Bytes& value);

// Resource descriptors (ACPI 6.4, 6.4), to be put into resources().
[[nodiscard]] Bytes resources(std::initializer_list<Bytes> descriptors);
[[nodiscard]] Bytes io_ports(u16 base, u8 count);
/// An ISA interrupt: edge-triggered, active high, exclusive.
[[nodiscard]] Bytes isa_irq(u8 irq);
[[nodiscard]] Bytes fixed_memory(u32 base, u32 size);
[[nodiscard]] Bytes bus_numbers(u16 first, u16 last);
[[nodiscard]] Bytes io_window(u16 first, u16 last);
[[nodiscard]] Bytes memory_window(u32 first, u32 last);

}  // namespace vert::machine::aml
