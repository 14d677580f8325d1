// A guest for the vector unit's tests: 64-bit mode with one page of data and nothing mapped behind it.
#pragma once

#include <memory>
#include <vector>

#include "cpu/engine.hpp"
#include "cpu/mmu.hpp"
#include "engine/interp/vector_unit.hpp"
#include "native_oracle.hpp"
#include "x86/cpu_model.hpp"

namespace vert::test {

class Guest {
 public:
  static constexpr u64 kData = 0x10000;  // the page behind it is not present
  static constexpr u64 kRip = 0x5000;

  Guest() {
    NativeOracle::instance();  // its signal handlers come first, so that the unit's pass theirs on
    memory_ = memory::GuestMemory::create({{Gpa(0), 0x100000}}).value();
    model_ = std::make_unique<x86::CpuModel>(x86::CpuModel::make("host").value());
    context_.memory = memory_.get();
    context_.mmio = &mmio_;
    context_.pio = &pio_;
    context_.model = model_.get();
    unit_ = std::make_unique<interp::VectorUnit>(context_);
    mmu_ = std::make_unique<cpu::Mmu>(context_);
    map();
    enter_long_mode();
    attach();
  }

  cpu::CpuState state;

  /// To be called after changes of modes.
  void attach() {
    mmu_->attach(state);
    mmu_->update_privilege();
  }
  [[nodiscard]] interp::VectorUnit& unit() { return *unit_; }
  [[nodiscard]] cpu::Mmu& mmu() { return *mmu_; }
  [[nodiscard]] const x86::CpuModel& model() const { return *model_; }
  [[nodiscard]] u8* data() { return memory_->host(Gpa(kData), kPageSize); }

  /// Decodes, prepares and executes one instruction.
  cpu::MaybeFault execute(std::span<const u8> bytes) {
    const auto size = state.code64()                 ? x86::CodeSize::k64
                      : state.seg(x86::kCs).is_big() ? x86::CodeSize::k32
                                                     : x86::CodeSize::k16;
    x86::Insn insn;
    if (x86::decode(bytes, size, insn) != x86::DecodeStatus::kOk || !interp::VectorUnit::handles(insn))
      return x86::Fault::ud();
    const interp::VectorOp* op = unit_->prepare(insn, size);
    if (op == nullptr) return x86::Fault::ud();
    return unit_->execute(*op, insn, state, *mmu_, state.rip + insn.length);
  }
  cpu::MaybeFault execute(std::initializer_list<u8> bytes) {
    return execute(std::span(bytes.begin(), bytes.size()));
  }

  void enter_long_mode() {
    cpu::reset(state, *model_);
    state.rip = kRip;
    state.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::NE | x86::cr0::MP;
    state.cr3 = 0x1000;
    state.cr4 = x86::cr4::PAE | x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT | x86::cr4::OSXSAVE | x86::cr4::PKE;
    state.efer = x86::efer::LME | x86::efer::LMA;
    state.xcr0 = model_->xcr0_allowed();
    set_code_segment(x86::Segment::kL);
  }
  /// Protected mode without paging, 16- or 32-bit code; real mode with `protected_mode` false.
  void enter_legacy_mode(bool big, bool protected_mode = true) {
    enter_long_mode();
    state.efer = 0;
    state.cr0 = x86::cr0::NE | x86::cr0::MP | (protected_mode ? x86::cr0::PE : 0);
    set_code_segment(big ? x86::Segment::kDb : u16{0});
    attach();
  }

 private:
  void set_code_segment(u16 attributes) {
    using x86::Segment;
    for (auto& segment : state.segment)
      segment = {0x10, Segment::kAccessed | Segment::kWritable | Segment::kS | Segment::kP | Segment::kG,
                 0xFFFFFFFF, 0, false};
    auto& cs = state.seg(x86::kCs);
    cs.selector = 8;
    cs.attributes = static_cast<u16>(cs.attributes | Segment::kCode | attributes);
    if ((attributes & Segment::kL) == 0)
      for (const auto reg : {x86::kSs, x86::kDs, x86::kEs}) state.seg(reg).attributes |= attributes;
  }
  void map() {
    put(0x1000, 0x2003);
    put(0x2000, 0x3003);
    put(0x3000, 0x4003);
    for (u64 page = 0; page < 0x100; ++page)
      if (page != kData / kPageSize + 1 && page != kData / kPageSize - 1)
        put(0x4000 + page * 8, page * kPageSize | 3);
  }
  void put(u64 at, u64 value) { std::memcpy(memory_->host(Gpa(at), sizeof value), &value, sizeof value); }

  std::unique_ptr<memory::GuestMemory> memory_;
  std::unique_ptr<x86::CpuModel> model_;
  memory::Bus mmio_;
  memory::Bus pio_;
  cpu::VcpuContext context_;
  std::unique_ptr<interp::VectorUnit> unit_;
  std::unique_ptr<cpu::Mmu> mmu_;
};

}  // namespace vert::test
