// A Context over a PagingRig.
#pragma once

#include <memory>
#include <string_view>

#include "engine/bt/leaf.hpp"
#include "engine/bt/tlb.hpp"
#include "unit/cpu_mmu/paging_rig.hpp"
#include "x86/cpu_model.hpp"

namespace vert::test {

class TlbRig {
 public:
  explicit TlbRig(Mode mode, std::string_view cpu = "host")
      : paging(mode), model(x86::CpuModel::make(cpu).value()) {
    paging.limits = model.paging_limits();
    vcpu.memory = paging.memory.get();
    vcpu.model = &model;
    context->state = &paging.state;
    bt::init(*context, vcpu);
  }

  [[nodiscard]] bool fill(u64 address, bool write, cpu::Privilege privilege) {
    return bt::leaf_fill_tlb(context.get(), address, write ? 1 : 0, static_cast<u32>(privilege));
  }
  /// As generated code looks an address up; null on a miss.
  [[nodiscard]] u8* lookup(u64 address, bool write, cpu::Privilege privilege, u64 size = 1) {
    const bt::TlbBank& bank = context->tlb[static_cast<unsigned>(privilege)];
    const bt::TlbEntry& entry = (write ? bank.write : bank.read)[bt::tlb_index(address)];
    if ((address ^ entry.tag) > kPageSize - size) return nullptr;
    return reinterpret_cast<u8*>(address + entry.addend);
  }

  PagingRig paging;
  x86::CpuModel model;
  cpu::VcpuContext vcpu;
  std::unique_ptr<bt::Context> context = std::make_unique<bt::Context>();
};

}  // namespace vert::test
