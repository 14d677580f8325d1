// Where the components of an XSAVE area lie (SDM 1, 13.4). Processors differ in it: CPUID.(EAX=0DH,ECX=i)
// tells.
//
// A guest sees the layout of its CPU model; the host's own instructions use the host's.
#pragma once

#include <array>

#include "base/types.hpp"

namespace vert::x86 {

struct XsaveComponent {
  u32 offset = 0;        // in the standard format, from the start of the area
  u32 size = 0;          // 0: there is no such component
  bool aligned = false;  // to 64 bytes in the compacted format
  bool operator==(const XsaveComponent&) const = default;
};

class XsaveLayout {
 public:
  static constexpr unsigned kComponents = 10;  // up to PKRU
  static constexpr u32 kHeader = 512;
  static constexpr u32 kExtended = 576;  // where the legacy area and the header end
  static constexpr u64 kCompacted = u64{1} << 63;

  /// As on Intel's processors with AVX-512; the hole at 960 is MPX's. That of every named CPU model.
  [[nodiscard]] static constexpr XsaveLayout common() {
    XsaveLayout layout;
    layout.component_[2] = {576, 256, false};    // AVX
    layout.component_[5] = {1088, 64, false};    // opmask
    layout.component_[6] = {1152, 512, false};   // ZMM_Hi256
    layout.component_[7] = {1664, 1024, false};  // Hi16_ZMM
    layout.component_[9] = {2688, 8, false};     // PKRU
    return layout;
  }
  /// This host's. What it lacks follows behind the components that it has.
  [[nodiscard]] static XsaveLayout of_host();

  /// Components 0 and 1 lie in the legacy area. Of what does not exist, the size is 0.
  [[nodiscard]] constexpr XsaveComponent operator[](unsigned component) const {
    return component < kComponents ? component_[component] : XsaveComponent{};
  }

  /// Where `component` begins in the compacted format of an area with `components`.
  [[nodiscard]] constexpr u32 compacted_offset(u64 components, unsigned component) const {
    u32 at = kExtended;
    for (unsigned i = 2; i <= component && i < kComponents; ++i) {
      if (i != component && (components >> i & 1) == 0) continue;
      if (component_[i].aligned) at = (at + 63) & ~u32{63};
      if (i != component) at += component_[i].size;
    }
    return at;
  }
  /// Bytes of an area for these components, legacy area and header included.
  [[nodiscard]] constexpr u32 standard_size(u64 components) const {
    u32 end = kExtended;
    for (unsigned i = 2; i < kComponents; ++i) {
      const u32 mine = component_[i].offset + component_[i].size;
      if ((components >> i & 1) != 0 && mine > end) end = mine;
    }
    return end;
  }
  [[nodiscard]] constexpr u32 compacted_size(u64 components) const {
    return compacted_offset(components, kComponents);
  }

  bool operator==(const XsaveLayout&) const = default;

 private:
  std::array<XsaveComponent, kComponents> component_ = {XsaveComponent{0, 160, false},
                                                        XsaveComponent{160, 256, false}};
};

}  // namespace vert::x86
