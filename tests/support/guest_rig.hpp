// A bare machine for tests: RAM, buses, local APICs, one engine a vCPU, and a kernel of nothing but tables.
//
// Long mode is set up with 4-level page tables. All RAM is mapped for the supervisor at kDirectMap; tests map
// user pages as they like. Each vector of the IDT leads to a HLT of its own, so that a fault ends the run and
// can be looked at (caught()). The GDT has Linux's selectors, so that programs see what they see natively.
// Owned by one test; each vCPU is used on one thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fake_time.hpp"
#include "cpu/cpu_state.hpp"
#include "cpu/engine.hpp"
#include "cpu/local_apic.hpp"
#include "memory/bus.hpp"
#include "memory/guest_memory.hpp"
#include "x86/cpu_model.hpp"

namespace vert::test {

/// Selectors as Linux has them.
inline constexpr u16 kKernelCs = 0x10;
inline constexpr u16 kKernelDs = 0x18;
inline constexpr u16 kUserCs32 = 0x23;
inline constexpr u16 kUserDs = 0x2B;
inline constexpr u16 kUserCs = 0x33;
inline constexpr u16 kTssSelector = 0x40;

/// What an exception or interrupt left behind when it came through the rig's IDT.
struct Caught {
  u8 vector = 0;
  std::optional<u64> error_code;
  u64 cr2 = 0;
  u64 rip = 0;
  u64 cs = 0;
  u64 rflags = 0;
  u64 rsp = 0;
  u64 ss = 0;
};

struct PagePermissions {
  bool user = true;
  bool write = false;
  bool execute = false;
};

class GuestRig {
 public:
  static constexpr u64 kDirectMap = 0xFFFF'8000'0000'0000;
  static constexpr u64 kRamSize = u64{16} << 20;

  /// Aborts with a message if the machine cannot be made: tests need not handle that.
  explicit GuestRig(const std::string& engine, unsigned vcpus = 1, u64 ram_size = kRamSize,
                    const std::string& cpu_model = "host");
  GuestRig(const std::string& engine, const x86::CpuModel& model, unsigned vcpus = 1,
           u64 ram_size = kRamSize);

  /// Maps `pages` pages at `linear` to fresh zeroed RAM; returns the host address of the first (they are
  /// contiguous). Remapping changes permissions' and frames alike; call flush() afterwards.
  u8* map(u64 linear, u64 pages, PagePermissions permissions);
  /// Maps one page to a given frame.
  void map_page(u64 linear, Gpa page, PagePermissions permissions);
  void unmap_page(u64 linear);
  /// The page-table entry that maps the 4 KiB page, for tests that change bits. Null if there is no table.
  u64* page_entry(u64 linear);
  /// A zeroed page of RAM that nothing else uses.
  Gpa allocate_page();

  [[nodiscard]] static u64 direct(Gpa gpa) { return kDirectMap + gpa.value(); }
  [[nodiscard]] u8* host(Gpa gpa, u64 size = 1) { return memory_->host(gpa, size); }
  /// Writes to RAM as a device or debugger does, with the marks for code kept true.
  void write(Gpa gpa, std::span<const u8> bytes);
  void write_host(u8* to, std::span<const u8> bytes);

  /// The state at the start of 64-bit code at that privilege; RFLAGS.IF is set for CPL 3 only. Registers that
  /// are not named are 0, XCR0 is all that the model has.
  [[nodiscard]] cpu::CpuState initial_state(u64 rip, u64 rsp, u8 cpl, unsigned vcpu = 0) const;

  /// Sets the state of a vCPU and tells its engine.
  void set_state(const cpu::CpuState& state, unsigned vcpu = 0);
  [[nodiscard]] cpu::CpuState& state(unsigned vcpu = 0) { return vcpus_[vcpu]->state; }
  [[nodiscard]] cpu::Engine& engine(unsigned vcpu = 0) { return *vcpus_[vcpu]->engine; }
  [[nodiscard]] cpu::VcpuEvents& events(unsigned vcpu = 0) { return vcpus_[vcpu]->events; }
  [[nodiscard]] cpu::LocalApic& apic(unsigned vcpu = 0) { return *vcpus_[vcpu]->apic; }
  [[nodiscard]] const cpu::VcpuContext& context(unsigned vcpu = 0) { return vcpus_[vcpu]->context; }
  /// A second engine on the same vCPU, to switch to in mid-run.
  void replace_engine(const std::string& name, unsigned vcpu = 0);

  [[nodiscard]] cpu::ExitInfo run(u64 budget, unsigned vcpu = 0);

  /// If the vCPU halted in one of the IDT's stubs: what led there.
  [[nodiscard]] std::optional<Caught> caught(unsigned vcpu = 0);

  /// Linear address of the stub of a vector, and where a gate may point instead.
  [[nodiscard]] static u64 stub(u8 vector) { return direct(Gpa(kStubs + u64{vector} * kStubSize)); }
  void set_gate(u8 vector, u64 handler, u8 dpl = 0, u8 ist = 0, bool trap = false, u16 cs = kKernelCs);
  void set_gdt_entry(u16 selector, u64 raw);
  [[nodiscard]] static u64 gdt_base(unsigned vcpu = 0) { return direct(Gpa(kGdt + u64{vcpu} * kPerVcpu)); }
  [[nodiscard]] static Gpa tss(unsigned vcpu = 0) { return Gpa(kTss + u64{vcpu} * kPerVcpu); }
  /// Top of the stack that the TSS names for CPL 0.
  [[nodiscard]] static u64 kernel_stack_top(unsigned vcpu = 0) {
    return direct(Gpa(kStacks + u64{vcpu} * kStackSize + kStackSize));
  }

  [[nodiscard]] memory::GuestMemory& memory() { return *memory_; }
  [[nodiscard]] memory::Bus& mmio() { return mmio_; }
  [[nodiscard]] memory::Bus& pio() { return pio_; }
  [[nodiscard]] base::FakeTime& time() { return time_; }
  [[nodiscard]] const x86::CpuModel& model() const { return model_; }
  [[nodiscard]] cpu::ApicFabric& fabric() { return fabric_; }
  [[nodiscard]] Gpa page_table_root() const { return root_; }

 private:
  static constexpr unsigned kMaxVcpus = 4;
  // Guest-physical layout below the allocator's first page.
  static constexpr u64 kIdt = 0x10'0000;
  static constexpr u64 kStubs = 0x10'1000;
  static constexpr u64 kStubSize = 16;
  static constexpr u64 kGdt = 0x10'2000;  // one a vCPU, kPerVcpu apart, the TSS behind it
  static constexpr u64 kTss = 0x10'2400;
  static constexpr u64 kPerVcpu = 0x800;
  static constexpr u64 kStacks = 0x10'8000;
  static constexpr u64 kStackSize = 0x4000;
  static constexpr u64 kFree = 0x20'0000;

  struct Vcpu {
    cpu::CpuState state;
    cpu::VcpuEvents events;
    std::unique_ptr<cpu::LocalApic> apic;
    cpu::VcpuContext context;
    std::unique_ptr<cpu::Engine> engine;
  };

  [[nodiscard]] u64* table_entry(Gpa table, u64 index);
  [[nodiscard]] Gpa next_table(Gpa table, u64 index);
  void build_direct_map();
  void build_tables();
  void build_vcpu(unsigned index, unsigned count, const std::string& engine);

  x86::CpuModel model_;
  std::unique_ptr<memory::GuestMemory> memory_;
  memory::Bus mmio_;
  memory::Bus pio_;
  base::FakeTime time_;
  cpu::ApicFabric fabric_;
  Gpa next_free_{kFree};
  Gpa root_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace vert::test
