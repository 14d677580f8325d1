// Hardware task switches with 16- and 32-bit TSSs (SDM 3A, chapter 7). On the vCPU's thread.
//
// A switch has a point of no return: what fails before it is the old task's fault and leaves everything as it
// was; what fails after it (bad selectors in the new TSS) is raised in the new task, whose registers are in
// force by then.
#include <array>

#include "cpu/protection_internal.hpp"

namespace vert::cpu::internal {

using x86::Fault;
using x86::Segment;
using x86::SegmentRegister;
using x86::Vector;

namespace {

namespace rflags = x86::rflags;

/// Where a TSS keeps what (SDM 3A, figures 7-2 and 7-10).
struct TssLayout {
  unsigned size;        // of a general register
  u64 ip, flags, gprs;  // general registers follow one another in encoding order
  u64 segments;         // ES, CS, SS, DS, and in the 32-bit TSS FS, GS; `size` apart
  unsigned segment_count;
  u64 ldt;
  u64 least_limit;
};
constexpr TssLayout kLayout16 = {2, 0x0E, 0x10, 0x12, 0x22, 4, 0x2A, 0x2B};
constexpr TssLayout kLayout32 = {4, 0x20, 0x24, 0x28, 0x48, 6, 0x60, 0x67};
constexpr u64 kTss32Cr3 = 0x1C;
constexpr u64 kTss32Trap = 0x64;
constexpr unsigned kTssGprCount = 8;

const TssLayout& layout_of(u8 type) { return (type & 8) != 0 ? kLayout32 : kLayout16; }

/// A task's registers as its TSS holds them.
struct TaskImage {
  u32 cr3 = 0;
  u32 ip = 0;
  u32 flags = 0;
  std::array<u32, kTssGprCount> gprs{};
  std::array<u16, x86::kSegmentCount> selectors{};
  u16 ldt = 0;
  bool trap = false;
};

/// Reads or writes the fields of one TSS; remembers the first fault.
class TssAccess {
 public:
  TssAccess(const Cpu& cpu, u64 base, const TssLayout& layout) : cpu_(cpu), base_(base), layout_(layout) {}

  [[nodiscard]] u32 read(u64 offset, unsigned size) {
    u32 value = 0;
    u16 narrow = 0;
    note(size == 4 ? read_system(cpu_, at(offset), value) : read_system(cpu_, at(offset), narrow));
    return value | narrow;
  }
  void write(u64 offset, unsigned size, u64 value) {
    note(size == 4 ? write_system(cpu_, at(offset), static_cast<u32>(value))
                   : write_system(cpu_, at(offset), static_cast<u16>(value)));
  }
  [[nodiscard]] u32 read_register(u64 offset) { return read(offset, layout_.size); }
  void write_register(u64 offset, u64 value) { write(offset, layout_.size, value); }
  [[nodiscard]] u16 read_selector(u64 offset) { return static_cast<u16>(read(offset, 2)); }
  void write_selector(u64 offset, u16 value) { write(offset, 2, value); }
  /// Checks the pages of `size` bytes at `offset`.
  void probe(AccessKind kind, u64 offset, u64 size) {
    if (fault_ || cpu_.mmu.probe(kind, system_privilege(cpu_.state), at(offset), size)) return;
    fault_ = cpu_.mmu.fault();
  }
  [[nodiscard]] const MaybeFault& fault() const { return fault_; }

 private:
  [[nodiscard]] Gla at(u64 offset) const { return system_address(cpu_.state, base_, offset); }
  void note(const MaybeFault& fault) {
    if (!fault_) fault_ = fault;
  }

  Cpu cpu_;
  u64 base_;
  const TssLayout& layout_;
  MaybeFault fault_;
};

void save_task(TssAccess& tss, const TssLayout& layout, const CpuState& state, u64 rip, u64 flags) {
  tss.write_register(layout.ip, rip);
  tss.write_register(layout.flags, flags);
  for (unsigned i = 0; i < kTssGprCount; ++i)
    tss.write_register(layout.gprs + u64{i} * layout.size, state.gpr[i]);
  for (unsigned i = 0; i < layout.segment_count; ++i)
    tss.write_selector(layout.segments + u64{i} * layout.size, state.segment[i].selector);
}

TaskImage read_image(TssAccess& tss, const TssLayout& layout) {
  TaskImage image;
  image.ip = tss.read_register(layout.ip);
  image.flags = tss.read_register(layout.flags);
  for (unsigned i = 0; i < kTssGprCount; ++i) {
    image.gprs[i] = tss.read_register(layout.gprs + u64{i} * layout.size);
    if (layout.size == 2) image.gprs[i] |= 0xFFFF0000;  // as processors leave the undefined upper halves
  }
  for (unsigned i = 0; i < layout.segment_count; ++i)
    image.selectors[i] = tss.read_selector(layout.segments + u64{i} * layout.size);
  image.ldt = tss.read_selector(layout.ldt);
  if (layout.size == 4) {
    image.cr3 = tss.read(kTss32Cr3, 4);
    image.trap = (tss.read_selector(kTss32Trap) & 1) != 0;
  }
  return image;
}

/// The new task's PDPTEs for PAE paging, read with paging off, when linear addresses are physical ones.
MaybeFault load_task_pdptes(const Cpu& cpu) {
  CpuState& state = cpu.state;
  constexpr u64 kPresent = 1;
  constexpr u64 kReserved = 0xFFF0'0000'0000'01E6;  // SDM 3A, table 4-8
  std::array<u64, 4> entries{};
  state.cr0 &= ~x86::cr0::PG;
  cpu.mmu.flush();
  MaybeFault fault;
  for (unsigned i = 0; i < entries.size() && !fault; ++i) {
    fault = read_system(cpu, Gla((state.cr3 & 0xFFFFFFE0) + i * sizeof(u64)), entries[i]);
    if ((entries[i] & kPresent) != 0 && (entries[i] & kReserved) != 0) fault = Fault::gp(cpu.ext);
  }
  state.cr0 |= x86::cr0::PG;
  cpu.mmu.flush();
  if (!fault) state.pdpte = entries;
  return fault;
}

/// The registers that need no check. Segments are only selectors yet, not to be used until they are loaded.
void load_image(CpuState& state, const TaskImage& image) {
  state.rip = image.ip;
  state.rflags = (image.flags & rflags::kDefined) | rflags::kFixed1;
  for (unsigned i = 0; i < kTssGprCount; ++i) state.gpr[i] = image.gprs[i];
  for (unsigned i = 0; i < x86::kSegmentCount; ++i) state.segment[i] = null_segment(image.selectors[i]);
  state.ldtr = null_segment(image.ldt);
  state.cpl = state.v86() ? 3 : rpl_of(image.selectors[x86::kCs]);
}

MaybeFault load_task_paging(const Cpu& cpu, const TaskImage& image, const TssLayout& layout) {
  CpuState& state = cpu.state;
  if (layout.size != 4 || (state.cr0 & x86::cr0::PG) == 0) return std::nullopt;
  state.cr3 = image.cr3;
  if ((state.cr4 & x86::cr4::PAE) != 0) return load_task_pdptes(cpu);
  cpu.mmu.flush();
  return std::nullopt;
}

MaybeFault load_task_ldt(const Cpu& cpu, u16 selector) {
  if (is_null(selector)) return std::nullopt;
  if (in_ldt(selector)) return selector_fault(cpu, x86::kTS, selector);
  Entry entry;
  if (auto fault = read_entry(cpu, selector, x86::kTS, entry)) return fault;
  const x86::Descriptor& descriptor = entry.descriptor;
  if (!descriptor.is_system() || descriptor.type() != x86::kLdt || !descriptor.present())
    return selector_fault(cpu, x86::kTS, selector);
  cpu.state.ldtr = descriptor.to_segment(selector);
  return std::nullopt;
}

MaybeFault load_task_code(const Cpu& cpu, u16 selector) {
  Entry entry;
  if (auto fault = read_return_code(cpu, selector, 0, x86::kTS, entry)) return fault;
  return to_segment(cpu, entry, selector, cpu.state.seg(x86::kCs));
}

MaybeFault load_task_stack(const Cpu& cpu, u16 selector) {
  if (is_null(selector)) return selector_fault(cpu, x86::kTS, selector);
  Entry entry;
  if (auto fault = read_stack_entry(cpu, selector, cpu.state.cpl, x86::kTS, entry)) return fault;
  return to_segment(cpu, entry, selector, cpu.state.seg(x86::kSs));
}

MaybeFault load_task_data(const Cpu& cpu, SegmentRegister reg, u16 selector) {
  if (is_null(selector)) return std::nullopt;
  Entry entry;
  if (auto fault = read_data_entry(cpu, selector, cpu.state.cpl, x86::kTS, entry)) return fault;
  return to_segment(cpu, entry, selector, cpu.state.seg(reg));
}

MaybeFault load_task_segments(const Cpu& cpu, const TaskImage& image) {
  CpuState& state = cpu.state;
  if (auto fault = load_task_ldt(cpu, image.ldt)) return fault;
  if (state.v86()) {
    for (unsigned i = 0; i < x86::kSegmentCount; ++i) state.segment[i] = v86_segment(image.selectors[i]);
    return std::nullopt;
  }
  if (auto fault = load_task_code(cpu, image.selectors[x86::kCs])) return fault;
  if (auto fault = load_task_stack(cpu, image.selectors[x86::kSs])) return fault;
  for (const auto reg : {x86::kDs, x86::kEs, x86::kFs, x86::kGs})
    if (auto fault = load_task_data(cpu, reg, image.selectors[reg])) return fault;
  return std::nullopt;
}

/// What is left in the new task once its registers are loaded.
MaybeFault start_task(const Cpu& cpu, const TaskImage& image, const TssLayout& layout,
                      std::optional<u32> error_code) {
  CpuState& state = cpu.state;
  if (error_code) {
    Stack stack(cpu);
    if (auto fault = stack.push(*error_code, layout.size)) return fault;
    set_stack_pointer(state, stack.pointer(), stack.width());
  }
  if (auto fault = check_target(cpu, state.seg(x86::kCs), state.rip)) return fault;
  if (image.trap) return Fault::db(x86::dr6::BT);
  return std::nullopt;
}

}  // namespace

MaybeFault read_task(const Cpu& cpu, TaskSwitch kind, u16 selector, Vector vector, Entry& entry) {
  if (is_null(selector) || in_ldt(selector)) return selector_fault(cpu, vector, selector);
  if (auto fault = read_entry(cpu, selector, vector, entry)) return fault;
  const bool busy = kind == TaskSwitch::kReturn;
  const u8 type = entry.descriptor.type();
  const bool fits = type == (busy ? x86::kTssBusy : x86::kTssAvailable) ||
                    type == (busy ? x86::kTss16Busy : x86::kTss16Available);
  if (!entry.descriptor.is_system() || !fits) return selector_fault(cpu, vector, selector);
  if (!entry.descriptor.present()) return selector_fault(cpu, x86::kNP, selector);
  return std::nullopt;
}

MaybeFault switch_task(const Cpu& cpu, TaskSwitch kind, const Entry& entry, u64 return_rip, u64 flags,
                       std::optional<u32> error_code) {
  CpuState& state = cpu.state;
  const Segment next = entry.descriptor.to_segment(entry.selector);
  const TssLayout& old_layout = layout_of(state.tr.type());
  const TssLayout& new_layout = layout_of(next.type());
  if (next.limit < new_layout.least_limit) return selector_fault(cpu, x86::kTS, entry.selector);
  // The old TSS may have been loaded by LTR with any limit: registers are not saved beyond it.
  const u64 saved_end = old_layout.segments + u64{old_layout.segment_count} * old_layout.size;
  if (state.tr.unusable || saved_end - 1 > state.tr.limit)
    return selector_fault(cpu, x86::kTS, state.tr.selector);

  TssAccess old_tss(cpu, state.tr.base, old_layout);
  old_tss.probe(AccessKind::kWrite, old_layout.ip, saved_end - old_layout.ip);
  if (old_tss.fault()) return old_tss.fault();
  TssAccess new_tss(cpu, next.base, new_layout);
  if (kind == TaskSwitch::kNested) new_tss.probe(AccessKind::kWrite, 0, sizeof(u16));
  TaskImage image = read_image(new_tss, new_layout);
  if (new_tss.fault()) return new_tss.fault();
  Entry old_entry;
  if (!locate_descriptor(state, state.tr.selector, old_entry.address))
    return selector_fault(cpu, x86::kTS, state.tr.selector);

  if (kind != TaskSwitch::kNested)
    if (auto fault = set_busy(cpu, old_entry, false)) return fault;
  if (kind != TaskSwitch::kReturn)
    if (auto fault = set_busy(cpu, entry, true)) return fault;
  save_task(old_tss, old_layout, state, return_rip,
            kind == TaskSwitch::kReturn ? flags & ~rflags::NT : flags);
  if (old_tss.fault()) return old_tss.fault();
  // A task that switches to its own TSS comes back with what was just saved.
  if (next.base == state.tr.base) image = read_image(new_tss, new_layout);
  if (kind == TaskSwitch::kNested) {
    new_tss.write_selector(0, state.tr.selector);
    image.flags |= rflags::NT;
  }

  state.tr = next;
  state.tr.attributes |= x86::kTssBusy ^ x86::kTssAvailable;
  state.cr0 |= x86::cr0::TS;
  constexpr u64 kLocalEnables = 0x155;  // L0 to L3 and LE (SDM 3B, 17.2.4)
  state.dr7 &= ~kLocalEnables;
  load_image(state, image);
  cpu.mmu.update_privilege();
  if (auto fault = load_task_paging(cpu, image, new_layout)) return fault;
  if (auto fault = load_task_segments(cpu, image)) return fault;
  return start_task(cpu, image, new_layout, error_code);
}

}  // namespace vert::cpu::internal
