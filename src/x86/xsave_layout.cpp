#include "x86/xsave_layout.hpp"

#include <cpuid.h>

#include <algorithm>

namespace vert::x86 {

XsaveLayout XsaveLayout::of_host() {
  constexpr u32 kAligned = 1U << 1;  // CPUID.(0DH,i).ECX
  const XsaveLayout known = common();
  XsaveLayout layout;
  u32 end = kExtended;
  for (unsigned i = 2; i < kComponents; ++i) {
    u32 size = 0, offset = 0, flags = 0, unused = 0;
    if (known[i].size == 0 || __get_cpuid_count(0xD, i, &size, &offset, &flags, &unused) == 0) continue;
    if (size != known[i].size) continue;
    layout.component_[i] = {offset, size, (flags & kAligned) != 0};
    end = std::max(end, offset + size);
  }
  for (unsigned i = 2; i < kComponents; ++i) {
    if (known[i].size == 0 || layout.component_[i].size != 0) continue;
    layout.component_[i] = {(end + 63) & ~u32{63}, known[i].size, false};
    end = layout.component_[i].offset + layout.component_[i].size;
  }
  return layout;
}

}  // namespace vert::x86
