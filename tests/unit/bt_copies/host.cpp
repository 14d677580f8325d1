#include "unit/bt_copies/host.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <vector>

#include <immintrin.h>

#include "base/error.hpp"
#include "base/fault_signal.hpp"
#include "engine/bt/fpu_image.hpp"

namespace vert::test {

namespace {

/// What runs now: faults in [begin, end) go on at `end`.
struct Running {
  u64 begin = 0;
  u64 end = 0;
  Outcome outcome;
};
thread_local constinit Running running;

bool on_fault(int signal, const siginfo_t& info, ucontext_t& host) {
  auto& rip = host.uc_mcontext.gregs[REG_RIP];
  if (static_cast<u64>(rip) - running.begin >= running.end - running.begin) return false;
  running.outcome = {signal, reinterpret_cast<u64>(info.si_addr)};
  rip = static_cast<greg_t>(running.end);
  return true;
}

base::Mapping map(std::size_t size, int protection) {
  auto mapping = base::Mapping::map(size, protection, MAP_PRIVATE | MAP_ANONYMOUS);
  VERT_CHECK(mapping.has_value());
  return std::move(*mapping);
}

/// Vector registers and MXCSR as they begin: all 0, all masked.
struct alignas(64) InitialState {
  std::array<u8, bt::kXsaveSize> bytes{};
  InitialState() {
    constexpr u16 kControl = 0x37F;
    constexpr u32 kMxcsr = 0x1F80;
    std::memcpy(bytes.data(), &kControl, sizeof kControl);
    std::memcpy(&bytes[24], &kMxcsr, sizeof kMxcsr);
  }
};

__attribute__((noinline, target("xsave"))) void load_initial_state() {
  static InitialState state;
  _xrstor64(state.bytes.data(), bt::host_components());
}

}  // namespace

Host::Host()
    : code_(map(kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC)), pages_(map(3 * kPageSize, PROT_NONE)) {
  VERT_CHECK(mprotect(page().data(), kPageSize, PROT_READ | PROT_WRITE) == 0);
  base::use_alternate_signal_stack();
  base::add_fault_handler(on_fault);
}

std::span<u8> Host::page() const { return {pages_.data() + kPageSize, kPageSize}; }

void Host::fill_page(u8 value) { std::ranges::fill(page(), value); }

Outcome Host::run(std::span<const u8> code, std::size_t offset) {
  u8* at = code_.data();
  const auto put = [&](std::span<const u8> bytes) { at = std::ranges::copy(bytes, at).out; };
  // push rbx, rbp, r12 to r15; mov rbx and r15, rdi; eax, ecx, edx, esi, edi, ebp; test al, al
  constexpr auto kBefore = std::to_array<u8>(
      {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x48, 0x89, 0xFB, 0x49, 0x89, 0xDF,
       0xB8, 5,    0,    0,    0,    0xB9, 1,    0,    0,    0,    0xBA, 0,    0,    0,    0,    0xBE,
       7,    0,    0,    0,    0xBF, 9,    0,    0,    0,    0xBD, 3,    0,    0,    0,    0x84, 0xC0});
  constexpr auto kAfter =
      std::to_array<u8>({0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3});
  put(kBefore);
  running = {
      .begin = reinterpret_cast<u64>(at), .end = reinterpret_cast<u64>(at) + code.size(), .outcome = {}};
  put(code);
  put(kAfter);
  load_initial_state();
  // SAFETY: the code keeps to the calling convention; what it may do besides is what is being tested.
  reinterpret_cast<void (*)(const u8*)>(code_.data())(page().data() + offset);
  load_initial_state();
  return running.outcome;
}

}  // namespace vert::test
