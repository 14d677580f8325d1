#include "support/guest_rig.hpp"

#include <cstring>

#include "base/error.hpp"
#include "support/engines.hpp"
#include "x86/exception.hpp"
#include "x86/paging.hpp"

namespace vert::test {

namespace {

namespace pte = x86::pte;

// Descriptors as Linux's GDT has them (arch/x86/kernel/cpu/common.c), the accessed bit set.
constexpr u64 kCode32Kernel = 0x00CF'9B00'0000'FFFF;
constexpr u64 kCode64Kernel = 0x00AF'9B00'0000'FFFF;
constexpr u64 kDataKernel = 0x00CF'9300'0000'FFFF;
constexpr u64 kCode32User = 0x00CF'FB00'0000'FFFF;
constexpr u64 kDataUser = 0x00CF'F300'0000'FFFF;
constexpr u64 kCode64User = 0x00AF'FB00'0000'FFFF;

constexpr u16 kTssLimit = 0x67;
constexpr u16 kGdtLimit = 0x7F;
constexpr u64 kBusyTss = 0x0000'8B00'0000'0000;
constexpr u8 kHlt = 0xF4;
constexpr unsigned kTssIoMapBase = 0x66;
constexpr unsigned kTssRsp0 = 4;

x86::CpuModel make_model(const std::string& name) {
  auto model = x86::CpuModel::make(name);
  if (!model) {
    fmt::print(stderr, "no CPU model: {}\n", model.error().message);
    VERT_CHECK(model.has_value());
  }
  return *model;
}

std::unique_ptr<memory::GuestMemory> ram(u64 size) {
  auto memory = memory::GuestMemory::create({{Gpa(0), size}});
  VERT_CHECK(memory.has_value());
  return std::move(*memory);
}

void store64(u8* to, u64 value) { std::memcpy(to, &value, sizeof value); }

u64 load64(const u8* from) {
  u64 value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace

GuestRig::GuestRig(const std::string& engine, unsigned vcpus, u64 ram_size, const std::string& cpu_model)
    : GuestRig(engine, make_model(cpu_model), vcpus, ram_size) {}

GuestRig::GuestRig(const std::string& engine, const x86::CpuModel& model, unsigned vcpus, u64 ram_size)
    : model_(model), memory_(ram(ram_size)) {
  VERT_CHECK(vcpus >= 1 && vcpus <= kMaxVcpus && ram_size >= kRamSize);
  root_ = allocate_page();
  build_direct_map();
  for (unsigned i = 0; i < vcpus; ++i) build_vcpu(i, vcpus, engine);
  build_tables();
}

u64* GuestRig::table_entry(Gpa table, u64 index) {
  // Tables are pages of RAM, so that the host address is aligned.
  return reinterpret_cast<u64*>(memory_->host(table + index * sizeof(u64), sizeof(u64)));
}

Gpa GuestRig::next_table(Gpa table, u64 index) {
  u64* entry = table_entry(table, index);
  if ((*entry & pte::P) == 0) *entry = allocate_page().value() | pte::P | pte::RW | pte::US;
  return Gpa(*entry & pte::kAddressMask);
}

Gpa GuestRig::allocate_page() {
  const Gpa page = next_free_;
  u8* bytes = memory_->host(page, kPageSize);
  VERT_CHECK(bytes != nullptr);
  std::memset(bytes, 0, kPageSize);
  memory_->written(bytes, kPageSize);
  next_free_ = next_free_ + kPageSize;
  return page;
}

void GuestRig::build_direct_map() {
  constexpr u64 kLargePage = u64{2} << 20;
  for (u64 at = 0; at < memory_->size(); at += kLargePage) {
    const u64 linear = kDirectMap + at;
    const Gpa pdpt = next_table(root_, (linear >> 39) & 511);
    const Gpa directory = next_table(pdpt, (linear >> 30) & 511);
    *table_entry(directory, (linear >> 21) & 511) = at | pte::P | pte::RW | pte::PS | pte::A | pte::D;
  }
}

u64* GuestRig::page_entry(u64 linear) {
  Gpa table = root_;
  for (const unsigned shift : {39U, 30U, 21U}) {
    const u64 entry = *table_entry(table, (linear >> shift) & 511);
    if ((entry & pte::P) == 0 || (entry & pte::PS) != 0) return nullptr;
    table = Gpa(entry & pte::kAddressMask);
  }
  return table_entry(table, (linear >> 12) & 511);
}

void GuestRig::map_page(u64 linear, Gpa page, PagePermissions permissions) {
  Gpa table = root_;
  for (const unsigned shift : {39U, 30U, 21U}) table = next_table(table, (linear >> shift) & 511);
  u64 entry = page.value() | pte::P;
  if (permissions.user) entry |= pte::US;
  if (permissions.write) entry |= pte::RW;
  if (!permissions.execute) entry |= pte::XD;
  *table_entry(table, (linear >> 12) & 511) = entry;
}

void GuestRig::unmap_page(u64 linear) {
  if (u64* entry = page_entry(linear)) *entry = 0;
}

u8* GuestRig::map(u64 linear, u64 pages, PagePermissions permissions) {
  // Tables come first, so that the pages themselves are contiguous.
  for (u64 i = 0; i < pages; ++i) map_page(linear + i * kPageSize, Gpa(0), permissions);
  const Gpa first = next_free_;
  for (u64 i = 0; i < pages; ++i) map_page(linear + i * kPageSize, allocate_page(), permissions);
  return memory_->host(first, pages * kPageSize);
}

void GuestRig::write(Gpa gpa, std::span<const u8> bytes) { VERT_CHECK(memory_->write(gpa, bytes)); }

void GuestRig::write_host(u8* to, std::span<const u8> bytes) {
  if (bytes.empty()) return;
  std::memcpy(to, bytes.data(), bytes.size());
  memory_->written(to, bytes.size());
}

void GuestRig::set_gate(u8 vector, u64 handler, u8 dpl, u8 ist, bool trap, u16 cs) {
  const u64 type = trap ? x86::kTrapGate : x86::kInterruptGate;
  u8* gate = memory_->host(Gpa(kIdt + u64{vector} * 16), 16);
  store64(gate, (handler & 0xFFFF) | u64{cs} << 16 | u64{ist} << 32 | type << 40 | u64{dpl} << 45 |
                    u64{1} << 47 | ((handler >> 16) & 0xFFFF) << 48);
  store64(gate + 8, handler >> 32);
}

void GuestRig::set_gdt_entry(u16 selector, u64 raw) {
  for (unsigned i = 0; i < vcpus_.size(); ++i) {
    u8* entry = memory_->host(Gpa(kGdt + i * kPerVcpu + (selector & ~7U)), sizeof raw);
    store64(entry, raw);
    memory_->written(entry, sizeof raw);
  }
}

void GuestRig::build_tables() {
  for (unsigned vector = 0; vector < 256; ++vector) {
    *memory_->host(Gpa(kStubs + vector * kStubSize), 1) = kHlt;
    // As Linux: INT3, INTO and INT 0x80 may be called by anyone.
    const bool open = vector == x86::kBP || vector == x86::kOF || vector == 0x80;
    set_gate(static_cast<u8>(vector), stub(static_cast<u8>(vector)), open ? 3 : 0);
  }
  set_gdt_entry(0x08, kCode32Kernel);
  set_gdt_entry(kKernelCs, kCode64Kernel);
  set_gdt_entry(kKernelDs, kDataKernel);
  set_gdt_entry(kUserCs32, kCode32User);
  set_gdt_entry(kUserDs, kDataUser);
  set_gdt_entry(kUserCs, kCode64User);
  for (unsigned i = 0; i < vcpus_.size(); ++i) {
    const u64 base = direct(tss(i));
    u8* entry = memory_->host(Gpa(kGdt + i * kPerVcpu + kTssSelector), 16);
    store64(entry, kTssLimit | (base & 0xFFFFFF) << 16 | kBusyTss | ((base >> 24) & 0xFF) << 56);
    store64(entry + 8, base >> 32);
    u8* segment = memory_->host(tss(i), kTssLimit + 1);
    store64(segment + kTssRsp0, kernel_stack_top(i));
    const u16 no_map = kTssLimit + 1;
    std::memcpy(segment + kTssIoMapBase, &no_map, sizeof no_map);
  }
}

void GuestRig::build_vcpu(unsigned index, unsigned count, const std::string& engine) {
  auto vcpu = std::make_unique<Vcpu>();
  vcpu->apic = std::make_unique<cpu::LocalApic>(index, index == 0, vcpu->events, fabric_, time_,
                                                model_.tsc_frequency(), nullptr);
  fabric_.attach(*vcpu->apic);
  vcpu->context = {index, {count}, memory_.get(), &mmio_, &pio_, vcpu->apic.get(), &vcpu->events, &model_};
  vcpu->engine = make_engine(engine, vcpu->context);
  VERT_CHECK(vcpu->engine != nullptr);
  vcpus_.push_back(std::move(vcpu));
}

void GuestRig::replace_engine(const std::string& name, unsigned vcpu) {
  vcpus_[vcpu]->engine = make_engine(name, vcpus_[vcpu]->context);
  VERT_CHECK(vcpus_[vcpu]->engine != nullptr);
}

cpu::CpuState GuestRig::initial_state(u64 rip, u64 rsp, u8 cpl, unsigned vcpu) const {
  cpu::CpuState state;
  state.gpr[x86::kRsp] = rsp;
  state.rip = rip;
  state.cpl = cpl;
  const u64 code = cpl == 3 ? kCode64User : kCode64Kernel;
  const u64 data = cpl == 3 ? kDataUser : kDataKernel;
  for (x86::Segment& segment : state.segment) segment = {0, 0, 0, 0, true};
  state.seg(x86::kCs) = x86::Descriptor{code}.to_segment(cpl == 3 ? kUserCs : kKernelCs);
  state.seg(x86::kSs) = x86::Descriptor{data}.to_segment(cpl == 3 ? kUserDs : kKernelDs);
  state.ldtr = {0, x86::kLdt, 0, 0, true};
  state.tr = {kTssSelector, x86::Segment::kP | x86::kTssBusy, kTssLimit, direct(tss(vcpu)), false};
  state.gdtr = {gdt_base(vcpu), kGdtLimit};
  state.idtr = {direct(Gpa(kIdt)), 256 * 16 - 1};
  state.rflags = x86::rflags::kFixed1 | (cpl == 3 ? x86::rflags::IF : 0);
  state.cr0 =
      x86::cr0::PE | x86::cr0::MP | x86::cr0::ET | x86::cr0::NE | x86::cr0::WP | x86::cr0::AM | x86::cr0::PG;
  state.cr3 = root_.value();
  state.cr4 = (x86::cr4::PAE | x86::cr4::PGE | x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT | x86::cr4::OSXSAVE |
               x86::cr4::FSGSBASE) &
              model_.cr4_allowed();
  state.xcr0 = model_.xcr0_allowed();
  state.efer = x86::efer::SCE | x86::efer::LME | x86::efer::LMA | x86::efer::NXE;
  state.fpu.fcw = 0x037F;
  return state;
}

void GuestRig::set_state(const cpu::CpuState& state, unsigned vcpu) {
  vcpus_[vcpu]->state = state;
  vcpus_[vcpu]->engine->state_changed();
}

cpu::ExitInfo GuestRig::run(u64 budget, unsigned vcpu) {
  return vcpus_[vcpu]->engine->run(vcpus_[vcpu]->state, budget);
}

std::optional<Caught> GuestRig::caught(unsigned vcpu) {
  const cpu::CpuState& state = vcpus_[vcpu]->state;
  const u64 offset = state.rip - stub(0);
  // RIP is behind the HLT.
  if (state.activity != cpu::Activity::kHalted || offset >= 256 * kStubSize || offset % kStubSize != 1)
    return std::nullopt;
  Caught caught;
  caught.vector = static_cast<u8>(offset / kStubSize);
  caught.cr2 = state.cr2;
  const bool coded = x86::has_error_code(caught.vector);
  const u8* frame = memory_->host(Gpa(state.gpr[x86::kRsp] - kDirectMap), coded ? 48 : 40);
  if (frame == nullptr) return std::nullopt;
  if (coded) {
    caught.error_code = load64(frame);
    frame += 8;
  }
  caught.rip = load64(frame);
  caught.cs = load64(frame + 8);
  caught.rflags = load64(frame + 16);
  caught.rsp = load64(frame + 24);
  caught.ss = load64(frame + 32);
  return caught;
}

}  // namespace vert::test
