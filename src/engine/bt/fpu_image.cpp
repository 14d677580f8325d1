#include "engine/bt/fpu_image.hpp"

#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "cpu/x87_pointers.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

namespace {

// Legacy area (SDM 1, table 10-2) and header.
constexpr std::size_t kFcw = 0, kFsw = 2, kFtw = 4, kFop = 6, kFip = 8, kFdp = 16, kMxcsr = 24, kSt = 32,
                      kXmm = 160;
constexpr std::size_t kHeader = x86::XsaveLayout::kHeader;
constexpr unsigned kPkru = 9;
constexpr u64 kWanted = x86::xcr0::X87 | x86::xcr0::SSE | x86::xcr0::AVX | x86::xcr0::OPMASK |
                        x86::xcr0::ZMM_HI256 | x86::xcr0::HI16_ZMM;

struct Host {
  u32 components = 0;
  x86::XsaveLayout layout;
};

Host probe() {
  Host host{.layout = x86::XsaveLayout::of_host()};
  u32 a = 0, d = 0;
  // XGETBV: what this host's kernel has enabled.
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  host.components = a & static_cast<u32>(kWanted);
  VERT_CHECK(host.layout.standard_size(host.components) <= kXsaveSize);
  return host;
}

const Host& host() {
  static const Host kHost = probe();
  return kHost;
}

bool has(unsigned component) { return (host().components >> component & 1) != 0; }

template <typename T>
void put(std::span<u8> image, std::size_t at, const T& value) {
  std::memcpy(image.data() + at, &value, sizeof value);
}
template <typename T>
void get(std::span<const u8> image, std::size_t at, T& value) {
  std::memcpy(&value, image.data() + at, sizeof value);
}

/// One slice of each vector register: `size` bytes at `from` of registers first..first+count.
struct Slice {
  unsigned component;
  unsigned first;
  std::size_t from;
  std::size_t size;
};
constexpr std::array<Slice, 3> kSlices = {{{2, 0, 16, 16}, {6, 0, 32, 32}, {7, 16, 0, 64}}};

bool all_zero(std::span<const u8> bytes) {
  return std::ranges::all_of(bytes, [](u8 byte) { return byte == 0; });
}

bool x87_is_initial(const cpu::FpuState& fpu) {
  constexpr u16 kInitialFcw = 0x37F;
  return fpu.fcw == kInitialFcw && fpu.fsw == 0 && fpu.ftw == 0 && !cpu::has_x87_pointers(fpu) &&
         std::ranges::all_of(fpu.st, [](const auto& st) { return all_zero(st); });
}

}  // namespace

u32 host_components() { return host().components; }

StateLayout state_layout(const x86::CpuModel& model) {
  constexpr u32 kXsavec = 1U << 1, kXgetbv1 = 1U << 2;  // CPUID.(0DH,1).EAX
  u32 a = 0, b = 0, c = 0, d = 0;
  __cpuid_count(0xD, 1, a, b, c, d);
  StateLayout state;
  state.usable = (a & kXsavec) != 0 && (a & kXgetbv1) != 0;
  state.standard = true;
  state.components = host_components();
  state.mxcsr_mask = model.mxcsr_mask();
  state.x87_pointers_hidden = cpu::x87_pointer_rules(model).hidden;
  state.layout = model.xsave_layout();
  // PKRU is not in the host's registers: leaf_state() puts it where the guest's layout has it.
  for (unsigned i = 2; i < kPkru; ++i) {
    if ((model.xcr0_allowed() >> i & 1) == 0) continue;
    const x86::XsaveComponent guest = state.layout[i], native = host().layout[i];
    state.usable = state.usable && guest.size == native.size && guest.aligned == native.aligned;
    state.standard = state.standard && guest.offset == native.offset;
  }
  return state;
}

void to_image(const cpu::FpuState& fpu, std::span<u8, kXsaveSize> image) {
  put(image, kFcw, fpu.fcw);
  put(image, kFsw, fpu.fsw);
  put(image, kFtw, u16{fpu.ftw});
  // The host's pointers are nobody's: the guest's are noted (x87_notes.hpp).
  put(image, kFop, u16{0});
  put(image, kFip, u64{0});
  put(image, kFdp, u64{0});
  put(image, kMxcsr, fpu.mxcsr);
  for (unsigned i = 0; i < 8; ++i) put(image, kSt + i * 16, fpu.st[i]);
  for (unsigned i = 0; i < 16; ++i) std::memcpy(image.data() + kXmm + i * 16, fpu.zmm[i].data(), 16);
  u64 present = x86::xcr0::SSE | (x87_is_initial(fpu) ? 0 : x86::xcr0::X87);
  // Components that are all zero are left in their initial state, so that the host need not keep them.
  for (const Slice& slice : kSlices) {
    if (!has(slice.component)) continue;
    u8* to = image.data() + host().layout[slice.component].offset;
    bool zero = true;
    for (unsigned i = 0; i < 16; ++i) {
      const u8* from = fpu.zmm[slice.first + i].data() + slice.from;
      zero = zero && all_zero({from, slice.size});
      std::memcpy(to + i * slice.size, from, slice.size);
    }
    if (!zero) present |= u64{1} << slice.component;
  }
  if (has(5)) {
    put(image, host().layout[5].offset, fpu.k);
    if (std::ranges::any_of(fpu.k, [](u64 mask) { return mask != 0; })) present |= x86::xcr0::OPMASK;
  }
  std::memset(image.data() + kHeader, 0, 64);
  put(image, kHeader, present);
}

void from_image(std::span<const u8, kXsaveSize> image, cpu::FpuState& fpu) {
  u16 ftw = 0;
  get(image, kFcw, fpu.fcw);
  get(image, kFsw, fpu.fsw);
  get(image, kFtw, ftw);
  fpu.ftw = static_cast<u8>(ftw);
  get(image, kMxcsr, fpu.mxcsr);
  for (unsigned i = 0; i < 8; ++i) {
    get(image, kSt + i * 16, fpu.st[i]);
    std::fill(fpu.st[i].begin() + 10, fpu.st[i].end(), u8{0});
  }
  for (unsigned i = 0; i < 16; ++i) std::memcpy(fpu.zmm[i].data(), image.data() + kXmm + i * 16, 16);
  for (const Slice& slice : kSlices) {
    if (!has(slice.component)) continue;
    const u8* from = image.data() + host().layout[slice.component].offset;
    for (unsigned i = 0; i < 16; ++i)
      std::memcpy(fpu.zmm[slice.first + i].data() + slice.from, from + i * slice.size, slice.size);
  }
  if (has(5)) get(image, host().layout[5].offset, fpu.k);
}

}  // namespace vert::bt
