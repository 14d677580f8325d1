// The order of version numbers by the UAPI Version Format Specification, which Boot Loader Specification
// entries and kernels' file names follow: 6.9.1 < 6.10.2, 6.1~rc1 < 6.1.
#pragma once

#include <compare>
#include <string_view>

namespace vert::machine::disk_boot {

[[nodiscard]] std::strong_ordering compare_versions(std::string_view a, std::string_view b);

}  // namespace vert::machine::disk_boot
