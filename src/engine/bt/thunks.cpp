#include "engine/bt/thunks.hpp"

#include <cpuid.h>

#include "engine/bt/assembler.hpp"
#include "engine/bt/fpu_image.hpp"
#include "engine/bt/host_registers.hpp"
#include "engine/bt/leaf.hpp"

namespace vert::bt {

extern "C" u64 leaf_fill(Context* context, u64 address, u32 request);
extern "C" u64 leaf_string(Context* context, u64 address, u32 request);
extern "C" u64 leaf_state(Context* context, u64 address, u32 request);
extern "C" const u8* leaf_transfer(Context* context, u64 next_rip, u32 transfer);

namespace {

using namespace x86;

#define VERT_FIELD(name) field(offsetof(Context, name))

constexpr u8 kGsPrefix = 0x65;

HostMem slot(u8 guest) { return field(offsetof(Context, gpr) + guest * sizeof(u64)); }

/// Registers that the host's calling convention lets a callee change, of those that hold the guest's.
constexpr std::array<u8, 7> kCallerSaved = {kRax, kRcx, kRdx, kRsi, kRdi, kR8, kR9};

class ThunkWriter {
 public:
  ThunkWriter(PrepareFpu prepare_fpu, std::size_t look_at) : prepare_fpu_(prepare_fpu), look_at_(look_at) {}
  Thunks write(CodeCache& cache);

 private:
  void bytes(std::initializer_list<u8> values) { as_.raw(std::span(values.begin(), values.size())); }
  /// An instruction 0F AE /extension on a field, as XSAVE and LDMXCSR are.
  void group15(u8 extension, const HostMem& at, bool wide);
  void enter();
  void exit();
  void load_flags();
  void clear_fpu();
  void load_wanted_fpu();
  void restore_fpu();
  void host_fpu();
  void save_guest();
  void transfer();
  void call_leaf(u64 function);
  void on_host_stack(u64 function);
  void fill_fpu();
  void returns();

  PrepareFpu prepare_fpu_;
  std::size_t look_at_;
  Assembler as_;
  Label enter_, resume_, transfer_, exit_, exit_saved_, fill_, string_, state_, load_fpu_, return_miss_,
      return_empty_;
};

void ThunkWriter::group15(u8 extension, const HostMem& at, bool wide) {
  bytes({kGsPrefix});
  if (wide) bytes({0x48});
  const auto displacement = static_cast<u32>(at.displacement);
  bytes({0x0F, 0xAE, static_cast<u8>(extension << 3 | 4), 0x25, static_cast<u8>(displacement),
         static_cast<u8>(displacement >> 8), static_cast<u8>(displacement >> 16),
         static_cast<u8>(displacement >> 24)});
}

/// void enter(const u8* code), with the host's GS base at the Context.
void ThunkWriter::enter() {
  enter_ = as_.here();
  bytes({0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});  // push rbx, rbp, r12..r15
  bytes({0x48, 0x83, 0xEC, 0x08});                                      // sub rsp, 8: aligned for calls
  as_.store(VERT_FIELD(host_rsp), kRsp);
  clear_fpu();
  resume_ = as_.here();
  as_.mov(kAddress, kRdi);
  load_wanted_fpu();
  as_.load(kRsp, VERT_FIELD(return_rsp));
  load_flags();
  for (u8 guest = 0; guest < kGprCount; ++guest)
    if (!in_memory(guest)) as_.load(kHostRegister[guest], slot(guest));
  bytes({0x41, 0xFF, 0xE0 | (kAddress & 7)});  // jmp kAddress
}

/// The guest's arithmetic flags; POPF would take longer than all of this thunk.
void ThunkWriter::load_flags() {
  as_.load(kRax, VERT_FIELD(rflags_arithmetic));
  as_.mov32(kRdx, kRax);
  bytes({0xC1, 0xEA, 0x0B, 0x83, 0xE2, 0x01});  // shr edx, 11; and edx, 1: OF
  bytes({0xC1, 0xE0, 0x08, 0x09, 0xD0});        // shl eax, 8; or eax, edx: the others in AH
  bytes({0x04, 0x7F, 0x9E});                    // add al, 7Fh: sets OF if AL is 1; sahf
}

/// Unless the vector registers are the guest's, they are 0 in generated code, whatever C++ left in them: what
/// does not load them first is a fault of this engine's, but shows the guest nothing of the host's.
void ThunkWriter::clear_fpu() {
  const Label done = as_.make_label();
  as_.cmp_imm8(VERT_FIELD(fpu_loaded), 0);
  as_.jcc(Cond::kNe, done);
  as_.cmp_imm8(VERT_FIELD(fpu_wanted), 0);
  as_.jcc(Cond::kNe, done);
  if ((host_components() & xcr0::AVX) != 0) {
    bytes({0xC5, 0xFC, 0x77});  // VZEROALL
  } else {
    for (u8 i = 0; i < 8; ++i) {
      const auto both = static_cast<u8>(0xC0 | i << 3 | i);
      bytes({0x66, 0x0F, 0xEF, both, 0x66, 0x45, 0x0F, 0xEF, both});  // PXOR of registers i and 8 + i
    }
  }
  if ((host_components() & xcr0::HI16_ZMM) != 0) {
    for (u8 i = 0; i < 8; ++i) {
      const auto both = static_cast<u8>(0xC0 | i << 3 | i);
      const auto low = static_cast<u8>(0x85 | (~i & 7) << 3);
      bytes({0xC5, static_cast<u8>(0xC4 | (~i & 7) << 3), 0x47, both});    // KXORW
      bytes({0x62, 0xA1, static_cast<u8>(low | 0x40), 0x40, 0xEF, both});  // VPXORQ of zmm 16 + i
      bytes({0x62, 0x01, low, 0x40, 0xEF, both});                          // and 24 + i
    }
  }
  as_.bind(done);
}

/// With no guest register at hand yet, on the C++ stack. Keeps kAddress.
void ThunkWriter::load_wanted_fpu() {
  const Label done = as_.make_label();
  as_.load(kRax, VERT_FIELD(fpu_wanted), 1);
  as_.cmp_imm(kRax, 0, true);
  as_.jcc(Cond::kE, done);
  as_.cmp_imm8(VERT_FIELD(fpu_loaded), 0);
  as_.jcc(Cond::kNe, done);
  as_.store(VERT_FIELD(call_target), kAddress);
  as_.load(kRdi, VERT_FIELD(self));
  as_.mov_imm(kRax, reinterpret_cast<u64>(prepare_fpu_));
  bytes({0xFF, 0xD0});  // call rax
  restore_fpu();
  as_.load(kAddress, VERT_FIELD(call_target));
  as_.bind(done);
}

void ThunkWriter::restore_fpu() {
  as_.mov_imm(kRax, host_components());
  as_.mov_imm(kRdx, 0);
  group15(5, VERT_FIELD(xsave), true);  // XRSTOR64
  as_.store_imm(VERT_FIELD(fpu_loaded), 1, 1);
}

/// All that lives in the host's registers, into the Context.
void ThunkWriter::save_guest() {
  for (u8 guest = 0; guest < kGprCount; ++guest)
    if (!in_memory(guest)) as_.store(slot(guest), kHostRegister[guest]);
  as_.pushfq();
  bytes({0x58});  // pop rax
  as_.store(VERT_FIELD(rflags_arithmetic), kRax);
  as_.store(VERT_FIELD(return_rsp), kRsp);
}

void ThunkWriter::transfer() {
  transfer_ = as_.here();
  save_guest();
  as_.load(kRsp, VERT_FIELD(host_rsp));
  as_.load(kRdi, VERT_FIELD(self));
  as_.mov(kRsi, kAddress);
  as_.mov32(kRdx, kScratch);
  as_.mov_imm(kRax, reinterpret_cast<u64>(&leaf_transfer));
  bytes({0xFF, 0xD0});  // call rax
  as_.mov(kRdi, kRax);
  as_.cmp_imm(kRax, 0, true);
  as_.jcc(Cond::kNe, resume_);
  as_.jmp(exit_saved_);
}

void ThunkWriter::exit() {
  exit_ = as_.here();
  save_guest();
  exit_saved_ = as_.here();
  as_.load(kRsp, VERT_FIELD(host_rsp));
  const Label done = as_.make_label();
  as_.cmp_imm8(VERT_FIELD(fpu_loaded), 0);
  as_.jcc(Cond::kE, done);
  as_.mov_imm(kRax, host_components());
  as_.mov_imm(kRdx, 0);
  group15(4, VERT_FIELD(xsave), true);  // XSAVE64
  as_.store_imm(VERT_FIELD(fpu_loaded), 0, 1);
  as_.store_imm(VERT_FIELD(fpu_in_image), 1, 1);
  as_.bind(done);
  host_fpu();
  bytes({0x48, 0x83, 0xC4, 0x08});
  bytes({0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B});
  as_.ret();
}

/// What C++ takes for granted, also if generated code changed it without a word.
void ThunkWriter::host_fpu() {
  group15(2, VERT_FIELD(host_mxcsr), false);                            // LDMXCSR
  bytes({0xDB, 0xE3});                                                  // FNINIT
  if ((host_components() & xcr0::AVX) != 0) bytes({0xC5, 0xF8, 0x77});  // VZEROUPPER
}

void ThunkWriter::on_host_stack(u64 function) {
  as_.store(VERT_FIELD(return_rsp), kRsp);
  as_.load(kRsp, VERT_FIELD(host_rsp));
  as_.load(kRdi, VERT_FIELD(self));
  as_.mov_imm(kRax, function);
  bytes({0xFF, 0xD0});  // call rax
  const Label calm = as_.make_label();
  as_.cmp_imm8(VERT_FIELD(step_on), 0);
  as_.jcc(Cond::kE, calm);
  as_.pushfq();
  bytes({0x80, 0x4C, 0x24, 0x01, 0x01});  // or byte [rsp + 1], 1: TF
  as_.popfq();
  as_.bind(calm);
  as_.load(kRsp, VERT_FIELD(return_rsp));
}

/// A call from generated code: kAddress and kScratch are the arguments, kScratch the answer. The flags are
/// lost.
void ThunkWriter::call_leaf(u64 function) {
  for (const u8 reg : kCallerSaved) as_.store(slot(reg), reg);
  as_.mov(kRsi, kAddress);
  as_.mov32(kRdx, kScratch);
  on_host_stack(function);
  as_.mov(kScratch, kRax);
  for (const u8 reg : kCallerSaved) as_.load(reg, slot(reg));
  as_.ret();
}

void ThunkWriter::fill_fpu() {
  load_fpu_ = as_.here();
  for (const u8 reg : kCallerSaved) as_.store(slot(reg), reg);
  on_host_stack(reinterpret_cast<u64>(prepare_fpu_));
  restore_fpu();
  for (const u8 reg : kCallerSaved) as_.load(reg, slot(reg));
  as_.ret();
}

/// Returns that do not land where their call was: by the table of indirect branches, all flags kept.
void ThunkWriter::returns() {
  return_empty_ = as_.here();
  as_.lea(kRsp, {.base = kRsp, .displacement = -8});  // the stack's last word is this thunk's own address
  return_miss_ = as_.here();
  const Label calm = as_.make_label();
  const Label hit = as_.make_label();
  const Label miss = as_.make_label();
  as_.mov(kDelta, kRcx);
  as_.load(kRcx, field(look_at_), 1);
  as_.jrcxz(calm);
  as_.jmp(miss);
  as_.bind(calm);
  as_.load(kScratch, VERT_FIELD(salt));
  as_.lea(kRcx, {.base = kScratch, .index = kAddress});
  as_.pext(kScratch, kAddress, VERT_FIELD(jump_mask));
  as_.store(VERT_FIELD(save_rcx), kRcx);
  as_.load(kRcx, indexed_field(offsetof(Context, jump_keys), kScratch, 8));
  as_.store(VERT_FIELD(call_target), kScratch);
  as_.load(kScratch, VERT_FIELD(save_rcx));
  as_.lea(kRcx, {.base = kRcx, .index = kScratch});
  as_.load(kScratch, VERT_FIELD(call_target));
  as_.jrcxz(hit);
  as_.bind(miss);
  as_.mov(kRcx, kDelta);
  as_.store(VERT_FIELD(rip), kAddress);
  as_.load(kScratch, VERT_FIELD(last_return));
  as_.store(VERT_FIELD(exit), kScratch);
  as_.jmp(exit_);
  as_.bind(hit);
  as_.mov(kRcx, kDelta);
  as_.jmp_mem(indexed_field(offsetof(Context, jump_code), kScratch, 8));
}

Thunks ThunkWriter::write(CodeCache& cache) {
  enter();
  exit();
  fill_ = as_.here();
  call_leaf(reinterpret_cast<u64>(&leaf_fill));
  string_ = as_.here();
  call_leaf(reinterpret_cast<u64>(&leaf_string));
  state_ = as_.here();
  call_leaf(reinterpret_cast<u64>(&leaf_state));
  fill_fpu();
  returns();
  transfer();
  const Assembler::Place base{.hot = cache.position()};
  as_.place(base, cache.write_at(base.hot), nullptr);
  cache.take(as_.hot_size(), 0);
  cache.align();
  return {.enter = as_.placed(base, enter_),
          .exit = as_.placed(base, exit_),
          .exit_saved = as_.placed(base, exit_saved_),
          .fill = as_.placed(base, fill_),
          .load_fpu = as_.placed(base, load_fpu_),
          .return_miss = as_.placed(base, return_miss_),
          .return_empty = as_.placed(base, return_empty_),
          .string = as_.placed(base, string_),
          .state = as_.placed(base, state_),
          .transfer = as_.placed(base, transfer_)};
}

}  // namespace

Thunks make_thunks(CodeCache& cache, PrepareFpu prepare_fpu, std::size_t look_at) {
  return ThunkWriter(prepare_fpu, look_at).write(cache);
}

}  // namespace vert::bt
