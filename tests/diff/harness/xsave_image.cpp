#include "diff/harness/xsave_image.hpp"

#include <cpuid.h>

#include <cstring>
#include <utility>

namespace vert::diff {

namespace {

// Legacy region (SDM 1, table 10-2) and header.
constexpr std::size_t kFcw = 0, kFsw = 2, kFtw = 4, kFop = 6, kFip = 8, kFdp = 16, kMxcsr = 24, kSt = 32;
constexpr std::size_t kXmm = 160, kXstateBv = 512;
constexpr unsigned kX87 = 0, kSse = 1, kAvx = 2, kOpmask = 5, kZmmHi256 = 6, kHi16Zmm = 7;
constexpr u64 kKnown =
    1U << kX87 | 1U << kSse | 1U << kAvx | 1U << kOpmask | 1U << kZmmHi256 | 1U << kHi16Zmm;

u64 read_xcr0() {
  u32 low = 0;
  u32 high = 0;
  // SAFETY: XGETBV 0 reads a register; every host that runs this has OSXSAVE (launch checks FSGSBASE, later).
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return u64{high} << 32 | low;
}

struct Offsets {
  std::array<u32, 8> of{};
  Offsets() {
    for (u32 i = kAvx; i < of.size(); ++i) {
      u32 size = 0;
      u32 unused = 0;
      __cpuid_count(0xD, i, size, of[i], unused, unused);
    }
  }
};

u32 offset_of(unsigned component) {
  static const Offsets kOffsets;
  return kOffsets.of[component];
}

template <typename T>
void put(u8* area, std::size_t offset, const T& value) {
  std::memcpy(area + offset, &value, sizeof value);
}

template <typename T>
T get(const u8* area, std::size_t offset) {
  T value;
  std::memcpy(&value, area + offset, sizeof value);
  return value;
}

// Calls visit(component, register bytes, area bytes, size) for each vector register part; one walk serves
// both ways.
template <typename State, typename Area, typename Visit>
void for_each_part(State& state, Area* area, u64 components, Visit visit) {
  for (unsigned i = 0; i < state.zmm.size(); ++i) {
    auto* reg = state.zmm[i].data();
    if (i >= 16) {
      if ((components >> kHi16Zmm & 1) != 0) visit(reg, area + offset_of(kHi16Zmm) + (i - 16) * 64, 64U);
      continue;
    }
    if ((components >> kSse & 1) != 0) visit(reg, area + kXmm + i * 16, 16U);
    if ((components >> kAvx & 1) != 0) visit(reg + 16, area + offset_of(kAvx) + i * 16, 16U);
    if ((components >> kZmmHi256 & 1) != 0) visit(reg + 32, area + offset_of(kZmmHi256) + i * 32, 32U);
  }
  if ((components >> kOpmask & 1) == 0) return;
  for (unsigned i = 0; i < state.k.size(); ++i) visit(&state.k[i], area + offset_of(kOpmask) + i * 8, 8U);
}

}  // namespace

u64 host_components() {
  static const u64 kComponents = read_xcr0() & kKnown;
  return kComponents;
}

void pack(const cpu::FpuState& state, XsaveImage& image) {
  u8* area = image.bytes.data();
  std::memset(area, 0, kXstateBv + 64);
  put(area, kFcw, state.fcw);
  put(area, kFsw, state.fsw);
  put(area, kFtw, state.ftw);
  put(area, kFop, state.fop);
  put(area, kFip, state.fip);
  put(area, kFdp, state.fdp);
  put(area, kMxcsr, state.mxcsr);
  put(area, kXstateBv, host_components());
  std::memcpy(area + kSt, state.st.data(), sizeof state.st);
  for_each_part(state, area, host_components(),
                [](const void* reg, void* to, unsigned size) { std::memcpy(to, reg, size); });
}

cpu::FpuState unpack(const u8* area) {
  cpu::FpuState state;
  const u64 present = get<u64>(area, kXstateBv) & host_components();
  state.fcw = 0x037F;
  if ((present >> kX87 & 1) != 0) {
    state.fcw = get<u16>(area, kFcw);
    state.fsw = get<u16>(area, kFsw);
    state.ftw = area[kFtw];
    state.fop = get<u16>(area, kFop);
    state.fip = get<u64>(area, kFip);
    state.fdp = get<u64>(area, kFdp);
    std::memcpy(state.st.data(), area + kSt, sizeof state.st);
    for (auto& reg : state.st) std::memset(reg.data() + 10, 0, 6);
  }
  // XSAVE writes MXCSR whenever SSE or AVX is asked for, in its initial state or not (SDM 1, 13.7).
  state.mxcsr = get<u32>(area, kMxcsr);
  for_each_part(state, area, present,
                [](void* reg, const void* from, unsigned size) { std::memcpy(reg, from, size); });
  return state;
}

}  // namespace vert::diff
