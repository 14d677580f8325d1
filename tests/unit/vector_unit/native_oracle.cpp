#include "native_oracle.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include <xbyak/xbyak.h>

#include "x86/xsave_layout.hpp"

namespace vert::test {

namespace {

constexpr std::size_t kCodeSize = 0x6000;
constexpr std::size_t kInstructionOffset = 0x800;
constexpr std::size_t kAfterOffset = 0x1000;
constexpr std::size_t kDataOffset = 0x2000;
constexpr u64 kComponents = 0xE7;
constexpr std::size_t kAreaSize = 4096;

struct Data {
  alignas(64) std::array<u8, kAreaSize> area;
  std::array<u32, 7> environment;  // as FNSTENV stores it (SDM 1, figure 8-9)
  std::array<u64, 16> gpr;
  u64 rflags;
  u64 host_rsp;
};
static_assert(sizeof(Data) <= kCodeSize - kDataOffset);

u64 instruction_at = 0;
u64 after_at = 0;
NativeOutcome outcome;

// SAFETY: leaves the interrupted instruction for the oracle's epilogue, which needs no register.
void on_signal(int signal, siginfo_t* info, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  if (static_cast<u64>(registers[REG_RIP]) != instruction_at) {
    std::signal(signal, SIG_DFL);
    return;
  }
  outcome = {signal, info->si_code, reinterpret_cast<u64>(info->si_addr)};
  registers[REG_RIP] = static_cast<greg_t>(after_at);
}

class Writer : public Xbyak::CodeGenerator {
 public:
  Writer(u8* buffer, std::size_t size, Data* data) : Xbyak::CodeGenerator(size, buffer), data_(data) {}

  void before() {
    for (const auto& r : {rbx, rbp, r12, r13, r14, r15}) push(r);
    mov(ptr[at(&data_->host_rsp)], rsp);
    components();
    xrstor64(ptr[at(&data_->area)]);
    push(qword[at(&data_->rflags)]);
    popfq();
    for (int i = 0; i < 16; ++i) mov(Xbyak::Reg64(i), ptr[at(&data_->gpr[static_cast<unsigned>(i)])]);
  }
  void after() {
    for (int i = 0; i < 16; ++i) mov(ptr[at(&data_->gpr[static_cast<unsigned>(i)])], Xbyak::Reg64(i));
    mov(rsp, ptr[at(&data_->host_rsp)]);
    pushfq();
    pop(qword[at(&data_->rflags)]);
    components();
    xsave64(ptr[at(&data_->area)]);
    fnstenv(ptr[rip + static_cast<void*>(&data_->environment)]);
    fninit();
    push(0x1F80);
    ldmxcsr(ptr[rsp]);
    pop(rax);
    vzeroupper();
    for (const auto& r : {r15, r14, r13, r12, rbp, rbx}) pop(r);
    ret();
  }
  void xsave64(const Xbyak::Address& to) { state_operation(to, 4); }
  void xrstor64(const Xbyak::Address& from) { state_operation(from, 5); }

 private:
  Xbyak::RegRip at(u64* p) { return rip + static_cast<void*>(p); }
  Xbyak::RegRip at(std::array<u8, kAreaSize>* p) { return rip + static_cast<void*>(p); }
  void components() {
    mov(eax, static_cast<u32>(kComponents));
    xor_(edx, edx);
  }
  void state_operation(const Xbyak::Address& memory, int operation) {
    lea(rcx, memory);
    for (const int byte_value : {0x48, 0x0F, 0xAE, operation << 3 | 1}) db(byte_value);
  }
  Data* data_;
};

template <typename T>
T take(const u8* from, std::size_t at) {
  T value;
  std::memcpy(&value, from + at, sizeof value);
  return value;
}

/// Where the host's XSAVE puts a component.
std::size_t offset_of(unsigned component) {
  static const x86::XsaveLayout kHost = x86::XsaveLayout::of_host();
  return kHost[component].offset;
}

/// So that the processor knows what is in its initial configuration, as XINUSE.
u64 components_in_use(const cpu::FpuState& fpu) {
  const auto any = [&](std::size_t first, std::size_t last, std::size_t from, std::size_t to) {
    for (std::size_t reg = first; reg < last; ++reg)
      for (std::size_t i = from; i < to; ++i)
        if (fpu.zmm[reg][i] != 0) return true;
    return false;
  };
  const cpu::FpuState initial;
  const bool x87 = fpu.st != initial.st || fpu.fcw != 0x37F || fpu.fsw != 0 || fpu.ftw != 0 || fpu.fop != 0 ||
                   fpu.fip != 0 || fpu.fdp != 0;
  return (x87 ? 1U : 0U) | (any(0, 16, 0, 16) ? 2U : 0U) | (any(0, 16, 16, 32) ? 4U : 0U) |
         (fpu.k != initial.k ? 0x20U : 0U) | (any(0, 16, 32, 64) ? 0x40U : 0U) |
         (any(16, 32, 0, 64) ? 0x80U : 0U);
}

void to_area(const cpu::FpuState& fpu, u8* area) {
  std::memset(area, 0, kAreaSize);
  std::memcpy(area, &fpu.fcw, 2);
  std::memcpy(area + 2, &fpu.fsw, 2);
  area[4] = fpu.ftw;
  std::memcpy(area + 6, &fpu.fop, 2);
  std::memcpy(area + 8, &fpu.fip, 8);
  std::memcpy(area + 16, &fpu.fdp, 8);
  std::memcpy(area + 24, &fpu.mxcsr, 4);
  for (std::size_t i = 0; i < 8; ++i) std::memcpy(area + 32 + 16 * i, fpu.st[i].data(), 16);
  for (std::size_t i = 0; i < 16; ++i) {
    std::memcpy(area + 160 + 16 * i, fpu.zmm[i].data(), 16);
    std::memcpy(area + offset_of(2) + 16 * i, fpu.zmm[i].data() + 16, 16);
    std::memcpy(area + offset_of(6) + 32 * i, fpu.zmm[i].data() + 32, 32);
    std::memcpy(area + offset_of(7) + 64 * i, fpu.zmm[16 + i].data(), 64);
  }
  std::memcpy(area + offset_of(5), fpu.k.data(), 64);
  const u64 used = components_in_use(fpu);
  std::memcpy(area + 512, &used, 8);
}

/// The address with this lower half: one of the candidates, if that can be.
u64 completed(u32 low, std::initializer_list<u64> candidates) {
  for (const u64 candidate : candidates)
    if (static_cast<u32>(candidate) == low) return candidate;
  return low;
}

/// AMD's XSAVE shows the pointers only with an exception pending (APM 2, 11.5.8), FNSTENV their lower halves
/// always. `before` is what they were, `data` the page of the instruction's operand.
void complete_pointers(const std::array<u32, 7>& environment, const cpu::FpuState& before, u64 data,
                       cpu::FpuState& fpu) {
  if (fpu.fip != 0 || fpu.fdp != 0 || fpu.fop != 0) return;
  fpu.fop = static_cast<u16>(environment[4] >> 16 & 0x7FF);
  fpu.fip = completed(environment[3], {before.fip, instruction_at});
  const u64 near = (data & ~u64{0xFFFF'FFFF}) | environment[5];
  const bool in_page = near - data < 2 * kPageSize;
  fpu.fdp = completed(environment[5], {before.fdp, in_page ? near : before.fdp});
}

void from_area(const u8* area, cpu::FpuState& fpu) {
  fpu.fcw = take<u16>(area, 0);
  fpu.fsw = take<u16>(area, 2);
  fpu.ftw = area[4];
  fpu.fop = take<u16>(area, 6);
  fpu.fip = take<u64>(area, 8);
  fpu.fdp = take<u64>(area, 16);
  fpu.mxcsr = take<u32>(area, 24);
  for (std::size_t i = 0; i < 8; ++i) std::memcpy(fpu.st[i].data(), area + 32 + 16 * i, 16);
  for (std::size_t i = 0; i < 16; ++i) {
    std::memcpy(fpu.zmm[i].data(), area + 160 + 16 * i, 16);
    std::memcpy(fpu.zmm[i].data() + 16, area + offset_of(2) + 16 * i, 16);
    std::memcpy(fpu.zmm[i].data() + 32, area + offset_of(6) + 32 * i, 32);
    std::memcpy(fpu.zmm[16 + i].data(), area + offset_of(7) + 64 * i, 64);
  }
  std::memcpy(fpu.k.data(), area + offset_of(5), 64);
}

}  // namespace

NativeOracle& NativeOracle::instance() {
  static NativeOracle oracle;
  return oracle;
}

NativeOracle::NativeOracle() {
  const int all = PROT_READ | PROT_WRITE | PROT_EXEC;
  code_ = static_cast<u8*>(mmap(nullptr, kCodeSize, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  page_ = static_cast<u8*>(mmap(nullptr, 3 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  page_ += kPageSize;
  if (mprotect(page_, kPageSize, PROT_READ | PROT_WRITE) != 0) std::abort();
  auto* data = reinterpret_cast<Data*>(code_ + kDataOffset);
  std::memset(code_, 0x90, kDataOffset);
  Writer before(code_, kInstructionOffset, data);
  before.before();
  Writer after(code_ + kAfterOffset, kDataOffset - kAfterOffset, data);
  after.after();
  instruction_at = reinterpret_cast<u64>(code_ + kInstructionOffset);
  after_at = reinterpret_cast<u64>(code_ + kAfterOffset);

  static std::array<u8, 65536> stack;
  const stack_t alternate{.ss_sp = stack.data(), .ss_flags = 0, .ss_size = stack.size()};
  sigaltstack(&alternate, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigaction(signal, &action, nullptr);
}

u64 NativeOracle::instruction_address() const { return instruction_at; }

NativeOutcome NativeOracle::run(std::span<const u8> instruction, cpu::CpuState& state) {
  // The instruction is followed by a jump to the epilogue: no-operations up to there would take long.
  u8* at = code_ + kInstructionOffset;
  std::memcpy(at, instruction.data(), instruction.size());
  Xbyak::CodeGenerator jump(16, at + instruction.size());
  jump.jmp(code_ + kAfterOffset);
  auto* data = reinterpret_cast<Data*>(code_ + kDataOffset);
  const cpu::FpuState before = state.fpu;
  to_area(before, data->area.data());
  std::memcpy(data->gpr.data(), state.gpr.data(), sizeof data->gpr);
  data->rflags = (state.rflags & x86::rflags::kArithmetic) | 0x202;
  outcome = {};
  // SAFETY: the code keeps the ABI whatever the instruction does to registers; its memory operands lie in
  // page_ or fault, and a fault leads to the epilogue.
  reinterpret_cast<void (*)()>(code_)();
  std::memcpy(state.gpr.data(), data->gpr.data(), sizeof data->gpr);
  state.rflags = (state.rflags & ~x86::rflags::kArithmetic) | (data->rflags & x86::rflags::kArithmetic);
  from_area(data->area.data(), state.fpu);
  complete_pointers(data->environment, before, reinterpret_cast<u64>(page_), state.fpu);
  return outcome;
}

}  // namespace vert::test
