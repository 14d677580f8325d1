// Which instruction sets a CPU model executes: the decoder library's names for them against CPUID features.
#include "x86/cpu_model.hpp"

namespace vert::x86 {

bool CpuModel::allows(const Insn& insn, CodeSize size) const {
  using enum Feature;
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_CMPXCHG8B: return has(CX8);
    case ZYDIS_MNEMONIC_RDTSC: return has(TSC);
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR: return has(MSR);
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT: return has(SEP);
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET: return has(SYSCALL);
    default: break;
  }
  switch (insn.isa_set) {
    // Every x86-64 processor. RDPMC, RSM, UD0..UD2 fault by themselves. Hints are NOPs where unknown.
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I386:
    case ZYDIS_ISA_SET_I486:
    case ZYDIS_ISA_SET_I486REAL:
    case ZYDIS_ISA_SET_PENTIUMREAL:
    case ZYDIS_ISA_SET_PPRO:
    case ZYDIS_ISA_SET_LONGMODE:
    case ZYDIS_ISA_SET_RDPMC:
    case ZYDIS_ISA_SET_SSE_PREFETCH:
    case ZYDIS_ISA_SET_PAUSE:
    case ZYDIS_ISA_SET_FAT_NOP:
    case ZYDIS_ISA_SET_PREFETCHWT1:
    case ZYDIS_ISA_SET_LZCNT: return true;

    // 0F 0D with a register is a hint to Intel's processors only (APM 3, PREFETCH).
    case ZYDIS_ISA_SET_PREFETCH_NOP: return vendor() != Vendor::kAmd || insn.modrm < 0xC0;
    case ZYDIS_ISA_SET_X87: return has(FPU);
    case ZYDIS_ISA_SET_PENTIUMMMX: return has(MMX);
    case ZYDIS_ISA_SET_CMOV: return has(CMOV);
    case ZYDIS_ISA_SET_FCMOV: return has(CMOV) && has(FPU);
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64: return has(FXSR);
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSEMXCSR: return has(SSE);
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX: return has(SSE2);
    case ZYDIS_ISA_SET_CLFSH: return has(CLFSH);
    case ZYDIS_ISA_SET_LAHF: return size != CodeSize::k64 || has(LAHF64);

    case ZYDIS_ISA_SET_BMI1: return has(BMI1) || insn.mnemonic == ZYDIS_MNEMONIC_TZCNT;
    case ZYDIS_ISA_SET_BMI2: return has(BMI2);
    case ZYDIS_ISA_SET_ADOX_ADCX: return has(ADX);
    case ZYDIS_ISA_SET_CMPXCHG16B: return has(CMPXCHG16B);
    case ZYDIS_ISA_SET_MOVBE: return has(MOVBE);
    case ZYDIS_ISA_SET_POPCNT: return has(POPCNT);
    case ZYDIS_ISA_SET_CLFLUSHOPT: return has(CLFLUSHOPT);
    case ZYDIS_ISA_SET_CLWB: return has(CLWB);
    case ZYDIS_ISA_SET_CLZERO: return has(CLZERO);
    case ZYDIS_ISA_SET_MONITOR: return has(MONITOR);
    case ZYDIS_ISA_SET_INVPCID: return has(INVPCID);
    case ZYDIS_ISA_SET_PKU: return has(PKU);
    case ZYDIS_ISA_SET_RDPID: return has(RDPID);
    case ZYDIS_ISA_SET_RDRAND: return has(RDRAND);
    case ZYDIS_ISA_SET_RDSEED: return has(RDSEED);
    case ZYDIS_ISA_SET_RDTSCP: return has(RDTSCP);
    case ZYDIS_ISA_SET_RDWRFSGS: return has(FSGSBASE);
    case ZYDIS_ISA_SET_SMAP: return has(SMAP);
    case ZYDIS_ISA_SET_XSAVE: return has(XSAVE);
    case ZYDIS_ISA_SET_XSAVEC: return has(XSAVEC);
    case ZYDIS_ISA_SET_XSAVEOPT: return has(XSAVEOPT);
    case ZYDIS_ISA_SET_XSAVES: return has(XSAVES);

    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87: return has(SSE3);
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX: return has(SSSE3);
    case ZYDIS_ISA_SET_SSE4A: return has(SSE4A);
    case ZYDIS_ISA_SET_SSE4: return has(SSE4_1);
    case ZYDIS_ISA_SET_SSE42: return has(SSE4_2);
    case ZYDIS_ISA_SET_AES: return has(AES);
    case ZYDIS_ISA_SET_PCLMULQDQ: return has(PCLMULQDQ);
    case ZYDIS_ISA_SET_SHA: return has(SHA);
    case ZYDIS_ISA_SET_GFNI: return has(GFNI);

    case ZYDIS_ISA_SET_AVX: return has(AVX) && (insn.mnemonic != ZYDIS_MNEMONIC_VPCLMULQDQ || has(PCLMULQDQ));
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER: return has(AVX2);
    case ZYDIS_ISA_SET_F16C: return has(F16C);
    case ZYDIS_ISA_SET_FMA: return has(FMA);
    case ZYDIS_ISA_SET_AVXAES: return has(AVX) && has(AES);
    case ZYDIS_ISA_SET_AVX_GFNI: return has(AVX) && has(GFNI);
    case ZYDIS_ISA_SET_AVX_VNNI: return has(AVX_VNNI);
    case ZYDIS_ISA_SET_VAES: return has(VAES);
    case ZYDIS_ISA_SET_VPCLMULQDQ:
      return has(VPCLMULQDQ);

// Encodings with 128- and 256-bit vectors need AVX512VL as well.
#define VERT_AVX512_SET(set, condition)                               \
  case ZYDIS_ISA_SET_##set##_512: return has(AVX512F) && (condition); \
  case ZYDIS_ISA_SET_##set##_128:                                     \
  case ZYDIS_ISA_SET_##set##_256: return has(AVX512VL) && (condition)
      VERT_AVX512_SET(AVX512F, true);
      VERT_AVX512_SET(AVX512BW, has(AVX512BW));
      VERT_AVX512_SET(AVX512CD, has(AVX512CD));
      VERT_AVX512_SET(AVX512DQ, has(AVX512DQ));
      VERT_AVX512_SET(AVX512_BF16, has(AVX512_BF16));
      VERT_AVX512_SET(AVX512_BITALG, has(AVX512_BITALG));
      VERT_AVX512_SET(AVX512_FP16, has(AVX512_FP16));
      VERT_AVX512_SET(AVX512_GFNI, has(GFNI));
      VERT_AVX512_SET(AVX512_IFMA, has(AVX512_IFMA));
      VERT_AVX512_SET(AVX512_VAES, has(VAES));
      VERT_AVX512_SET(AVX512_VBMI, has(AVX512_VBMI));
      VERT_AVX512_SET(AVX512_VBMI2, has(AVX512_VBMI2));
      VERT_AVX512_SET(AVX512_VNNI, has(AVX512_VNNI));
      VERT_AVX512_SET(AVX512_VP2INTERSECT, has(AVX512_VP2INTERSECT));
      VERT_AVX512_SET(AVX512_VPCLMULQDQ, has(VPCLMULQDQ));
      VERT_AVX512_SET(AVX512_VPOPCNTDQ, has(AVX512_VPOPCNTDQ));
#undef VERT_AVX512_SET
    case ZYDIS_ISA_SET_AVX512F_128N:
    case ZYDIS_ISA_SET_AVX512F_KOP:
    case ZYDIS_ISA_SET_AVX512F_SCALAR: return has(AVX512F);
    case ZYDIS_ISA_SET_AVX512BW_128N:
    case ZYDIS_ISA_SET_AVX512BW_KOP: return has(AVX512BW);
    case ZYDIS_ISA_SET_AVX512DQ_128N:
    case ZYDIS_ISA_SET_AVX512DQ_KOP:
    case ZYDIS_ISA_SET_AVX512DQ_SCALAR: return has(AVX512DQ);
    case ZYDIS_ISA_SET_AVX512_FP16_128N:
    case ZYDIS_ISA_SET_AVX512_FP16_SCALAR: return has(AVX512_FP16);

    // AMX, TSX, CET, VMX, SVM, MPX, SGX, Key Locker, user interrupts, other vendors' sets, ...
    default: return false;
  }
}

void CpuModel::legacy_form(Insn& insn) const {
  if (insn.mnemonic == ZYDIS_MNEMONIC_TZCNT && !has(Feature::BMI1)) insn.mnemonic = ZYDIS_MNEMONIC_BSF;
  if (insn.mnemonic == ZYDIS_MNEMONIC_LZCNT && !has(Feature::LZCNT)) insn.mnemonic = ZYDIS_MNEMONIC_BSR;
}

}  // namespace vert::x86
