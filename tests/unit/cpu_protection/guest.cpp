#include "unit/cpu_protection/guest.hpp"

#include <array>

namespace vert::cpu::test {

using x86::Segment;

namespace {

constexpr u16 kGdtLimit = 0xFF;
constexpr u32 kFlatLimit = 0xFFFFF;

}  // namespace

Guest::Guest() {
  memory = memory::GuestMemory::create({{Gpa(0), 4 << 20}}).value();
  model = x86::CpuModel::make("x86-64-v2").value();
  VcpuContext context;
  context.memory = memory.get();
  context.mmio = &mmio;
  context.pio = &pio;
  context.events = &events;
  context.model = &*model;
  mmu_owner = std::make_unique<Mmu>(context);
  mmu().attach(state);
  write_tables();
}

void Guest::write_tables() {
  set_gdt(kCode0, descriptor(0, kFlatLimit, kCodeType | kFlat));
  set_gdt(kData0, descriptor(0, kFlatLimit, kDataType | kFlat));
  set_gdt(kCode3, descriptor(0, kFlatLimit, kCodeType | level(3) | kFlat));
  set_gdt(kData3, descriptor(0, kFlatLimit, kDataType | level(3) | kFlat));
  set_gdt(kCode64, descriptor(0, kFlatLimit, kCodeType | Segment::kL | Segment::kG));
  set_gdt(kUser64, descriptor(0, kFlatLimit, kCodeType | level(3) | Segment::kL | Segment::kG));
  set_gdt(kLdtSelector, descriptor(kLdtBase, 0xF, Segment::kP | x86::kLdt));
  set_gdt(kTaskA, descriptor(kTssA, 0x67, Segment::kP | x86::kTssAvailable));
  set_gdt(kTaskB, descriptor(kTssB, 0x67, Segment::kP | x86::kTssAvailable));
  set_gdt(kAbsentCode, descriptor(0, kFlatLimit, (kCodeType | kFlat) & ~Segment::kP));
  set_gdt(kAbsentData, descriptor(0, kFlatLimit, (kDataType | kFlat) & ~Segment::kP));
  set_gdt(kReadOnly, descriptor(0, kFlatLimit, 0x90 | kFlat));
  set_gdt(kConforming, descriptor(0, kFlatLimit, 0x9E | kFlat));
  set_gdt(kExecuteOnly, descriptor(0, kFlatLimit, 0x98 | kFlat));
  set_gdt(kCode16, descriptor(0, 0xFFFF, kCodeType));
  set_gdt(kData16, descriptor(0, 0xFFFF, kDataType));
  set_gdt(kExpandDown, descriptor(0, 0xFFF, 0x96 | Segment::kDb));
  set_gdt(kSmallCode, descriptor(0, 0xFFF, kCodeType | Segment::kDb));
  set_gdt(kLongAndBig, descriptor(0, kFlatLimit, kCodeType | kFlat | Segment::kL));
  set_gdt(kSmallData, descriptor(0, 0xFFF, kDataType | Segment::kDb));

  // 4-level tables that map the first 4 MiB with large user pages; their third level serves PAE as well.
  constexpr u64 kUserWritable = 7;
  constexpr u64 kLarge = 0x80;
  put(kPageTables, (kPageTables + 0x1000) | kUserWritable, 8);
  put(kPageTables + 0x1000, (kPageTables + 0x2000) | kUserWritable, 8);
  put(kPageTables + 0x2000, kUserWritable | kLarge, 8);
  put(kPageTables + 0x2008, 0x20'0000 | kUserWritable | kLarge, 8);
}

void Guest::put(u64 address, u64 value, unsigned size) {
  ASSERT_TRUE(memory->write(Gpa(address), {reinterpret_cast<const u8*>(&value), size}));
}

u64 Guest::get(u64 address, unsigned size) {
  u64 value = 0;
  EXPECT_TRUE(memory->read(Gpa(address), {reinterpret_cast<u8*>(&value), size}));
  return value;
}

u64 Guest::stacked(unsigned index, unsigned size) {
  const unsigned width = stack_width(state);
  const u64 pointer = width == 2 ? rsp() & 0xFFFF : rsp();
  return get((width == 8 ? 0 : seg(x86::kSs).base) + pointer + u64{index} * size, size);
}

void Guest::push(std::initializer_list<u64> values, unsigned size) {
  u64& pointer = state.gpr[x86::kRsp];
  for (const u64 value : values) {
    pointer -= size;
    put((state.code64() ? 0 : seg(x86::kSs).base) + pointer, value, size);
  }
}

void Guest::set_idt64(u8 vector, u64 raw, u32 high) {
  put(kIdt + u64{vector} * 16, raw, 8);
  put(kIdt + u64{vector} * 16 + 8, high, 8);
}

void Guest::attach() {
  state.rip = kRip;
  state.rflags = x86::rflags::kFixed1 | (state.rflags & (x86::rflags::VM | x86::rflags::IOPL));
  state.gdtr = {kGdt, kGdtLimit};
  mmu().attach(state);
}

void Guest::real_mode() {
  state = CpuState{};
  state.idtr = {0, 0x3FF};
  for (auto& segment : state.segment) segment = {0x100, 0x93, 0xFFFF, 0x1000, false};
  attach();
  state.rip = 0x1234;
  state.gpr[x86::kRsp] = 0xABCD'1000;
  state.idtr = {0, 0x3FF};
}

void Guest::load_flat(u16 code, u16 data, u8 cpl) {
  state.cpl = cpl;
  const auto flat = [&](u16 selector) {
    Segment segment = x86::Descriptor{get(kGdt + (selector & ~7U), 8)}.to_segment(selector);
    segment.attributes |= Segment::kAccessed;
    return segment;
  };
  for (auto& segment : state.segment) segment = flat(data);
  seg(x86::kCs) = flat(code);
  state.gpr[x86::kRsp] = cpl == 0 ? kKernelStack : kUserStack;
  state.idtr = {kIdt, 0x7FF};
  state.tr = {kTaskA, Segment::kP | x86::kTssBusy, 0x67, kTssA, false};
  set_gdt(kTaskA, descriptor(kTssA, 0x67, Segment::kP | x86::kTssBusy));
  state.ldtr.unusable = true;
}

void Guest::protected_mode(u8 cpl) {
  state = CpuState{};
  state.cr0 = x86::cr0::PE | x86::cr0::ET;
  load_flat(cpl == 0 ? kCode0 : kCode3, cpl == 0 ? kData0 : kData3, cpl);
  attach();
  put(kTssA + 4, kInnerStack, 4);
  put(kTssA + 8, kData0, 2);
}

void Guest::v86_mode(u8 iopl) {
  protected_mode(3);
  state.rflags |= x86::rflags::VM | (u64{iopl} << x86::rflags::kIoplShift);
  for (auto& segment : state.segment) segment = {0x1000, 0xF3, 0xFFFF, 0x10000, false};
  seg(x86::kCs) = {0x2000, 0xF3, 0xFFFF, 0x20000, false};
  seg(x86::kSs) = {0x2000, 0xF3, 0xFFFF, 0x20000, false};
  attach();
  state.rip = 0x100;
  state.gpr[x86::kRsp] = 0x8000;
}

void Guest::long_mode(u8 cpl) {
  state = CpuState{};
  state.cr0 = x86::cr0::PE | x86::cr0::ET | x86::cr0::PG;
  state.cr4 = x86::cr4::PAE;
  state.cr3 = kPageTables;
  state.efer = x86::efer::LME | x86::efer::LMA;
  load_flat(cpl == 0 ? kCode64 : kUser64, cpl == 0 ? kData0 : kData3, cpl);
  attach();
  state.idtr = {kIdt, 0xFFF};
  put(kTssA + 4, kInnerStack, 8);
  put(kTssA + 0x24, kIstStack, 8);
}

void Guest::compat_mode(u8 cpl) {
  long_mode(cpl);
  load_flat(cpl == 0 ? kCode0 : kCode3, cpl == 0 ? kData0 : kData3, cpl);
  state.idtr = {kIdt, 0xFFF};
}

void Guest::enable_pae() {
  state.cr4 |= x86::cr4::PAE;
  state.cr3 = kPageTables + 0x1000;
  state.pdpte[0] = (kPageTables + 0x2000) | 1;
  put(kPageTables + 0x1000, state.pdpte[0], 8);
  state.cr0 |= x86::cr0::PG;
  mmu().flush();
}

}  // namespace vert::cpu::test
