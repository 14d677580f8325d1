#include "base/host_tsc.hpp"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#include "base/time.hpp"

namespace vert::base {

namespace {

u64 monotonic_ns() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * kNanosecondsPerSecond + static_cast<u64>(now.tv_nsec);
}

u64 measure() {
  constexpr u64 kMeasureNs = 20'000'000;
  const HostMoment begin = host_moment();
  constexpr timespec kPause = {0, static_cast<long>(kMeasureNs)};
  ::nanosleep(&kPause, nullptr);
  HostMoment end = host_moment();
  while (end.ns - begin.ns < kMeasureNs) end = host_moment();
  return static_cast<u64>(u128{end.tsc - begin.tsc} * kNanosecondsPerSecond / (end.ns - begin.ns));
}

/// SDM 2A, CPUID leaf 15H; and the leaf 4000'0010H that hypervisors share. 0 if neither tells.
u64 reported() {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0x15, &eax, &ebx, &ecx, &edx) != 0 && eax != 0 && ebx != 0 && ecx != 0)
    return u64{ecx} * ebx / eax;
  constexpr u32 kHypervisorBit = 1U << 31;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kHypervisorBit) == 0) return 0;
  __cpuid(0x40000000, eax, ebx, ecx, edx);
  if (eax < 0x40000010) return 0;
  __cpuid(0x40000010, eax, ebx, ecx, edx);
  return u64{eax} * 1000;
}

}  // namespace

HostMoment host_moment() {
  HostMoment best;
  u64 shortest = ~u64{0};
  for (int attempt = 0; attempt < 16; ++attempt) {
    const u64 before = __rdtsc();
    const u64 ns = monotonic_ns();
    const u64 after = __rdtsc();
    if (after - before >= shortest) continue;
    shortest = after - before;
    best = {before + shortest / 2, ns};
  }
  return best;
}

u64 host_tsc_frequency() {
  static const u64 kFrequency = [] {
    const u64 measured = measure();
    const u64 told = reported();
    const u64 difference = told > measured ? told - measured : measured - told;
    return difference < measured / 1000 ? told : measured;
  }();
  return kFrequency;
}

}  // namespace vert::base
