#include "engine/interp/x87.hpp"

#include <algorithm>

#include "cpu/x87_pointers.hpp"
#include "engine/interp/effective_address.hpp"
#include "engine/interp/vector_memory.hpp"

namespace vert::interp {

namespace {

using cpu::FpuState;
using cpu::MaybeFault;

constexpr unsigned kTopShift = 11;
constexpr u16 kErrorSummary = 0x8080;
constexpr std::size_t kRegisterBytes = 10;
constexpr std::size_t kMaxEnvironment = 28;

unsigned top_of(const FpuState& fpu) { return fpu.fsw >> kTopShift & 7; }

/// Two bits for a register: valid, zero, special or empty (SDM 1, 8.1.7).
unsigned tag_of(const std::array<u8, 16>& value) {
  u64 significand = 0;
  u16 exponent = 0;
  std::memcpy(&significand, value.data(), sizeof significand);
  std::memcpy(&exponent, value.data() + 8, sizeof exponent);
  exponent &= 0x7FFF;
  if (exponent == 0) return significand == 0 ? 1 : 2;
  return exponent == 0x7FFF || significand >> 63 == 0 ? 2 : 0;
}

u16 full_tags(const FpuState& fpu) {
  unsigned tags = 0;
  for (unsigned physical = 0; physical < 8; ++physical) {
    const bool empty = (fpu.ftw >> physical & 1) == 0;
    const unsigned tag = empty ? 3 : tag_of(fpu.st[(physical - top_of(fpu)) & 7]);
    tags |= tag << (2 * physical);
  }
  return static_cast<u16>(tags);
}

u8 abridged_tags(u16 full) {
  unsigned abridged = 0;
  for (unsigned physical = 0; physical < 8; ++physical)
    abridged |= ((full >> (2 * physical) & 3) != 3 ? 1U : 0U) << physical;
  return static_cast<u8>(abridged);
}

/// The fields of an environment, as wide as the widest format has them.
struct Environment {
  u16 fcw = 0, fsw = 0, ftw = 0, fop = 0;
  u32 fip = 0, fdp = 0;
  u16 fcs = 0, fds = 0;
};

/// The four layouts of FSTENV (SDM 1, figures 8-9 to 8-12), as halves or words of the same seven elements.
class EnvironmentFormat {
 public:
  EnvironmentFormat(const cpu::CpuState& state, unsigned operand_size)
      : wide_(operand_size >= 4), real_(state.real_addressing()) {}

  [[nodiscard]] std::size_t size() const { return wide_ ? 28 : 14; }

  void put(const Environment& env, std::span<u8> to) const {
    std::array<u32, 7> e = {env.fcw, env.fsw, env.ftw, env.fip, env.fcs, env.fdp, env.fds};
    if (real_) {
      // Pointers are linear addresses, 16 bits in one element and the rest in the top of the next.
      const u32 ip = env.fip + (u32{env.fcs} << 4);
      const u32 dp = env.fdp + (u32{env.fds} << 4);
      e[3] = ip & 0xFFFF;
      e[4] = (ip >> 16) << 12 | (env.fop & 0x7FF);
      e[5] = dp & 0xFFFF;
      e[6] = (dp >> 16) << 12;
    } else if (wide_) {
      e[4] |= u32{env.fop} << 16;
      e[6] |= 0xFFFF0000;
    }
    for (std::size_t i = 0; i < 3 && wide_; ++i) e[i] |= 0xFFFF0000;
    for (std::size_t i = 0; i < e.size(); ++i) std::memcpy(to.data() + i * element(), &e[i], element());
  }

  [[nodiscard]] Environment get(std::span<const u8> from) const {
    std::array<u32, 7> e{};
    for (std::size_t i = 0; i < e.size(); ++i) std::memcpy(&e[i], from.data() + i * element(), element());
    Environment env;
    env.fcw = static_cast<u16>(e[0]);
    env.fsw = static_cast<u16>(e[1]);
    env.ftw = static_cast<u16>(e[2]);
    if (real_) {
      env.fip = (e[3] & 0xFFFF) | (e[4] >> 12) << 16;
      env.fop = e[4] & 0x7FF;
      env.fdp = (e[5] & 0xFFFF) | (e[6] >> 12) << 16;
    } else {
      env.fip = e[3];
      env.fcs = static_cast<u16>(e[4]);
      env.fop = e[4] >> 16 & 0x7FF;
      env.fdp = e[5];
      env.fds = static_cast<u16>(e[6]);
    }
    return env;
  }

 private:
  [[nodiscard]] std::size_t element() const { return wide_ ? 4 : 2; }

  bool wide_;
  bool real_;
};

Environment environment_of(const FpuState& fpu) {
  return {fpu.fcw, fpu.fsw, full_tags(fpu), fpu.fop, static_cast<u32>(fpu.fip), static_cast<u32>(fpu.fdp),
          fpu.fcs, fpu.fds};
}

void load_environment(FpuState& fpu, const Environment& env, bool selectors) {
  fpu.fcw = normalized_fcw(env.fcw);
  set_top(fpu, env.fsw >> kTopShift & 7);
  fpu.fsw = env.fsw;
  fpu.ftw = abridged_tags(env.ftw);
  fpu.fop = env.fop;
  fpu.fip = env.fip;
  fpu.fdp = env.fdp;
  fpu.fcs = selectors ? env.fcs : u16{0};
  fpu.fds = selectors ? env.fds : u16{0};
  update_error_summary(fpu);
}

MaybeFault store_environment(const VectorOp& op, unsigned operand_size, u64 offset, bool registers,
                             cpu::CpuState& state, cpu::Mmu& mmu) {
  const EnvironmentFormat format(state, operand_size);
  std::array<u8, kMaxEnvironment + 8 * kRegisterBytes> image{};
  std::size_t size = format.size();
  format.put(environment_of(state.fpu), image);
  if (registers) {
    for (const auto& value : state.fpu.st) {
      std::copy_n(value.begin(), kRegisterBytes, image.begin() + static_cast<std::ptrdiff_t>(size));
      size += kRegisterBytes;
    }
  }
  const GuestAccess access(state, mmu);
  Gla address;
  if (MaybeFault fault = access.aligned(op.memory, offset, size, cpu::AccessKind::kWrite, address))
    return fault;
  if (MaybeFault fault = access.write_at(address, std::span(image).first(size))) return fault;
  if (registers) {
    x87_init(state.fpu);
  } else {
    state.fpu.fcw |= kX87Exceptions;
    update_error_summary(state.fpu);
  }
  return {};
}

MaybeFault restore_environment(const VectorOp& op, unsigned operand_size, u64 offset, bool registers,
                               bool selectors, cpu::CpuState& state, cpu::Mmu& mmu) {
  const EnvironmentFormat format(state, operand_size);
  std::array<u8, kMaxEnvironment + 8 * kRegisterBytes> image{};
  const std::size_t size = format.size() + (registers ? 8 * kRegisterBytes : 0);
  const GuestAccess access(state, mmu);
  Gla address;
  if (MaybeFault fault = access.aligned(op.memory, offset, size, cpu::AccessKind::kRead, address))
    return fault;
  if (MaybeFault fault = access.read_at(address, std::span(image).first(size))) return fault;
  load_environment(state.fpu, format.get(image), selectors);
  for (std::size_t i = 0; i < 8 && registers; ++i) {
    auto& value = state.fpu.st[i];
    value.fill(0);
    std::copy_n(image.begin() + static_cast<std::ptrdiff_t>(format.size() + i * kRegisterBytes),
                kRegisterBytes, value.begin());
  }
  return {};
}

MaybeFault store_word(const VectorOp& op, u16 value, u64 offset, cpu::CpuState& state, cpu::Mmu& mmu) {
  if (!op.memory.present) {  // FNSTSW AX
    state.gpr[x86::kRax] = (state.gpr[x86::kRax] & ~u64{0xFFFF}) | value;
    return {};
  }
  std::array<u8, 2> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);
  return write_operand(op, offset, state, mmu, bytes);
}

MaybeFault load_control_word(const VectorOp& op, u64 offset, cpu::CpuState& state, cpu::Mmu& mmu) {
  std::array<u8, 2> bytes{};
  if (MaybeFault fault = read_operand(op, offset, state, mmu, bytes)) return fault;
  u16 value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  state.fpu.fcw = normalized_fcw(value);
  update_error_summary(state.fpu);
  return {};
}

}  // namespace

void update_error_summary(FpuState& fpu) {
  const unsigned rest = fpu.fsw & ~unsigned{kErrorSummary};
  fpu.fsw = static_cast<u16>(x87_exception_pending(fpu) ? rest | kErrorSummary : rest);
}

void set_top(FpuState& fpu, unsigned top) {
  const auto old = top_of(fpu);
  std::rotate(fpu.st.begin(), fpu.st.begin() + ((top - old) & 7), fpu.st.end());
  fpu.fsw = static_cast<u16>((fpu.fsw & ~(7U << kTopShift)) | top << kTopShift);
}

void x87_init(FpuState& fpu) {
  set_top(fpu, 0);
  fpu.fcw = 0x37F;
  fpu.fsw = 0;
  fpu.ftw = 0;
  fpu.fop = 0;
  fpu.fip = 0;
  fpu.fdp = 0;
  fpu.fcs = 0;
  fpu.fds = 0;
}

void enter_mmx(FpuState& fpu) {
  set_top(fpu, 0);
  fpu.ftw = 0xFF;
}

void set_instruction_pointer(cpu::CpuState& state, bool selectors) {
  state.fpu.fip = truncate(state.rip, state.code64() ? 8 : 4);
  state.fpu.fcs = selectors ? state.seg(x86::kCs).selector : u16{0};
}

void set_data_pointer(cpu::CpuState& state, u8 segment, u64 offset, bool selectors) {
  state.fpu.fdp = truncate(offset, state.code64() ? 8 : 4);
  state.fpu.fds = selectors ? state.segment[segment].selector : u16{0};
}

MaybeFault x87_control(const VectorOp& op, const x86::Insn& insn, u64 offset, cpu::CpuState& state,
                       cpu::Mmu& mmu, const x86::CpuModel& model) {
  FpuState& fpu = state.fpu;
  const bool selectors = cpu::x87_pointer_rules(model).selectors;
  switch (op.mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT: x87_init(fpu); return {};
    case ZYDIS_MNEMONIC_FNCLEX: fpu.fsw &= 0x7F00; return {};
    case ZYDIS_MNEMONIC_FLDCW: return load_control_word(op, offset, state, mmu);
    case ZYDIS_MNEMONIC_FNSTCW: return store_word(op, fpu.fcw, offset, state, mmu);
    case ZYDIS_MNEMONIC_FNSTSW: return store_word(op, fpu.fsw, offset, state, mmu);
    case ZYDIS_MNEMONIC_FLDENV:
      return restore_environment(op, insn.operand_size, offset, false, selectors, state, mmu);
    case ZYDIS_MNEMONIC_FRSTOR:
      return restore_environment(op, insn.operand_size, offset, true, selectors, state, mmu);
    case ZYDIS_MNEMONIC_FNSTENV: return store_environment(op, insn.operand_size, offset, false, state, mmu);
    case ZYDIS_MNEMONIC_FNSAVE: return store_environment(op, insn.operand_size, offset, true, state, mmu);
    default: return {};  // FWAIT: its gate is all there is
  }
}

}  // namespace vert::interp
