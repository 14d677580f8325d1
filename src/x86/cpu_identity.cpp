#include "x86/cpu_identity.hpp"

#include <cpuid.h>
#include <cstring>

namespace vert::x86 {

namespace {

constexpr u32 kBrandLeaf = 0x80000002;

enum class CacheType : u32 { kData = 1, kInstruction = 2, kUnified = 3 };

/// One subleaf of CPUID.04H.
CpuidResult cache(CacheType type, u32 level, u32 kib, u32 ways) {
  constexpr u32 kLine = 64, kSelfInitializing = 1U << 8;
  return {static_cast<u32>(type) | level << 5 | kSelfInitializing, (kLine - 1) | (ways - 1) << 22,
          kib * 1024 / kLine / ways - 1, 0};
}

Vendor vendor_of(CpuidSource source) {
  constexpr u32 kAuth = 0x68747541, kHygo = 0x6F677948;  // how "AuthenticAMD" and "HygonGenuine" begin
  const u32 begin = source(0, 0).ebx;
  return begin == kAuth || begin == kHygo ? Vendor::kAmd : Vendor::kIntel;
}

}  // namespace

CpuidResult host_cpuid(u32 leaf, u32 subleaf) {
  CpuidResult result;
  if (__get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx, &result.edx) == 0) return {};
  return result;
}

Vendor host_vendor() { return vendor_of(host_cpuid); }

CpuIdentity CpuIdentity::intel(std::string_view brand) {
  CpuIdentity identity;
  identity.vendor_string = {0, 0x756E6547, 0x6C65746E, 0x49656E69};  // "GenuineIntel"
  std::array<char, sizeof identity.brand> text{};
  brand.copy(text.data(), text.size() - 1);
  std::memcpy(identity.brand.data(), text.data(), text.size());
  identity.caches = {cache(CacheType::kData, 1, 48, 12), cache(CacheType::kInstruction, 1, 32, 8),
                     cache(CacheType::kUnified, 2, 2048, 16), cache(CacheType::kUnified, 3, 32768, 16)};
  identity.level2 = {0, 0, 2048U << 16 | 8U << 12 | 64U, 0};  // KiB, 16 ways, line
  return identity;
}

CpuIdentity CpuIdentity::of_host(CpuidSource host) {
  CpuIdentity identity = intel("vert host");
  identity.vendor = vendor_of(host);
  if (identity.vendor != Vendor::kAmd) return identity;
  identity.vendor_string = host(0, 0);
  identity.vendor_string.eax = 0;
  identity.signature = host(1, 0).eax;
  for (u32 i = 0; i < identity.brand.size(); ++i) identity.brand[i] = host(kBrandLeaf + i, 0);
  identity.level1 = host(0x80000005, 0);
  identity.level2 = host(0x80000006, 0);
  if (host(0x8000001D, 0).eax == 0) return identity;  // hidden, or older than the leaf
  constexpr u32 kSharers = 0xFFFU << 14;
  for (u32 i = 0; i < kCaches; ++i) {
    identity.caches[i] = host(0x8000001D, i);
    identity.caches[i].eax &= ~kSharers;
  }
  return identity;
}

u64 CpuIdentity::microcode_revision() const {
  if (vendor == Vendor::kIntel) return u64{1} << 32;
  // Extended family and model, model, stepping, and a byte that counts.
  const u32 extended = signature >> 16 & 0xFFF, model = signature >> 4 & 0xF, stepping = signature & 0xF;
  return extended << 20 | model << 12 | stepping << 8 | 0xFF;
}

}  // namespace vert::x86
