#include "engine/bt/tlb.hpp"

#include <algorithm>

#include "x86/cpu_model.hpp"

namespace vert::bt {

namespace {

void invalidate(std::array<TlbEntry, kTlbSize>& entries) {
  for (unsigned i = 0; i < kTlbSize; ++i) entries[i].tag = invalid_tag(i);
}

void invalidate(TlbBank& bank, unsigned index) {
  bank.read[index].tag = invalid_tag(index);
  bank.write[index].tag = invalid_tag(index);
}

void clear_tokens(std::array<std::atomic<u64>, kTokenSlots>& tokens) {
  for (auto& token : tokens) token.store(0, std::memory_order_relaxed);
}

bool may_be_large(const Context& context, u64 address) {
  return std::ranges::any_of(std::array{false, true}, [&](bool giant) {
    const LargePagePlace place = large_page_place(address, giant);
    return (context.large_pages[place.set][place.slot / 64] >> (place.slot % 64) & 1) != 0;
  });
}

void set_filter(Context& context, memory::Frame frame) {
  const unsigned bit = write_filter_bit(frame);
  context.write_filter[bit / 64] |= u64{1} << (bit % 64);
}
bool in_filter(const Context& context, memory::Frame frame) {
  const unsigned bit = write_filter_bit(frame);
  return (context.write_filter[bit / 64] >> (bit % 64) & 1) != 0;
}

void flush_tokens_of_address_space(Context& context) {
  if (context.token_fill_count > Context::kTokenFills) {
    for (auto& tokens : context.code_tokens) clear_tokens(tokens);
  } else {
    for (u32 i = 0; i < context.token_fill_count; ++i) {
      const unsigned fill = context.token_fills[i];
      context.code_tokens[fill / kTokenSlots][fill % kTokenSlots].store(0, std::memory_order_relaxed);
    }
  }
  context.token_fill_count = 0;
}

}  // namespace

void init(Context& context, const cpu::VcpuContext& vcpu) {
  memory::GuestMemory& memory = *vcpu.memory;
  const auto regions = memory.regions();
  // Regions beyond those that fit here are left to the interpreter.
  context.ram = {};
  for (std::size_t i = 0; i < std::min(regions.size(), context.ram.size()); ++i)
    context.ram[i] = {regions[i].base.value(), regions[i].size,
                      memory.host(regions[i].base, regions[i].size)};
  context.memory = &memory;
  context.marks = memory.marks();
  context.ram_host = memory.host(regions[0].base, regions[0].size);
  context.physical_mask = (u64{1} << vcpu.model->physical_bits()) - 1;
  context.page_shift_end = vcpu.model->paging_limits().gigabyte_pages ? 31 : 22;
  context.vendor = vcpu.model->vendor();
  flush_all(context);
}

void flush_all(Context& context) {
  for (TlbBank& bank : context.tlb) {
    invalidate(bank.read);
    invalidate(bank.write);
  }
  for (auto& tokens : context.code_tokens) clear_tokens(tokens);
  for (auto& set : context.large_pages) set.fill(0);
  context.write_filter.fill(0);
  context.fill_count = 0;
  context.token_fill_count = 0;
}

bool flush_address_space(Context& context) {
  if (context.fill_count > Context::kFills) {
    flush_all(context);
    return false;
  }
  for (u32 i = 0; i < context.fill_count; ++i) {
    const unsigned fill = context.fills[i];
    invalidate(context.tlb[fill >> kTlbIndexBits], fill % kTlbSize);
  }
  context.fill_count = 0;
  for (const bool giant : {false, true}) context.large_pages[large_page_place(0, giant).set].fill(0);
  flush_tokens_of_address_space(context);
  return true;
}

bool flush_page(Context& context, u64 address) {
  const u64 linear = context.state->long_mode() ? address : address & 0xFFFF'FFFF;
  if (may_be_large(context, linear)) {
    flush_all(context);
    return false;
  }
  for (TlbBank& bank : context.tlb) invalidate(bank, tlb_index(linear));
  for (auto& tokens : context.code_tokens) tokens[token_slot(linear)].store(0, std::memory_order_relaxed);
  return true;
}

void note_large_page(Context& context, u64 address, u64 page_size) {
  if (page_size == kPageSize) return;
  const LargePagePlace place = large_page_place(address, page_size > u64{1} << 22);
  context.large_pages[place.set][place.slot / 64] |= u64{1} << (place.slot % 64);
}

void set_token(Context& context, bool user, u64 linear, u32 token, bool global) {
  const unsigned slot = token_slot(linear);
  context.code_tokens[user ? 1 : 0][slot].store(u64{token} << 32, std::memory_order_release);
  if (global && !user) return;
  if (context.token_fill_count < Context::kTokenFills)
    context.token_fills[context.token_fill_count] = static_cast<u16>(slot + (user ? kTokenSlots : 0));
  if (context.token_fill_count <= Context::kTokenFills) ++context.token_fill_count;
}

void drop_writable(Context& context, memory::Frame frame) {
  if (!in_filter(context, frame)) return;
  // All entries must be looked at: the filter is made anew of what stays.
  context.write_filter.fill(0);
  const u64 host = reinterpret_cast<u64>(context.ram_host);
  for (TlbBank& bank : context.tlb) {
    for (unsigned i = 0; i < kTlbSize; ++i) {
      TlbEntry& entry = bank.write[i];
      if (entry.tag == invalid_tag(i)) continue;
      const auto mapped = static_cast<memory::Frame>((entry.tag + entry.addend - host) >> kPageShift);
      if (mapped == frame)
        entry.tag = invalid_tag(i);
      else
        set_filter(context, mapped);
    }
  }
}

void drop_all_writable(Context& context) {
  for (TlbBank& bank : context.tlb) invalidate(bank.write);
  context.write_filter.fill(0);
}

}  // namespace vert::bt
