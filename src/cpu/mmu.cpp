#include "cpu/mmu.hpp"

#include <algorithm>
#include <bit>

#include "cpu/local_apic.hpp"
#include "x86/paging.hpp"

namespace vert::cpu {

namespace {

/// Copies with one host access for each naturally sized piece. memcpy() of a size unknown to the compiler
/// may store a byte twice, and another vCPU's store in between would be lost (SDM 3A, 8.1.1).
void copy_exactly(u8* to, const u8* from, std::size_t size) {
  if (size > 64) {
    std::memcpy(to, from, size);
    return;
  }
  const auto piece = [&]<typename T>(T value) {
    std::memcpy(&value, from, sizeof(T));
    std::memcpy(to, &value, sizeof(T));
    to += sizeof(T);
    from += sizeof(T);
    size -= sizeof(T);
  };
  while (size >= 8) piece(u64{});
  if (size >= 4) piece(u32{});
  if (size >= 2) piece(u16{});
  if (size >= 1) piece(u8{});
}

/// The largest naturally aligned access of at most 8 bytes at `address` that fits in `left` bytes.
unsigned bus_piece(Gpa address, std::size_t left) {
  const u64 aligned = std::min<u64>(8, u64{1} << std::min(3, std::countr_zero(address.value() | 8)));
  return static_cast<unsigned>(std::min<u64>(aligned, std::bit_floor(left)));
}

/// Registers of the APIC page lie 16 bytes apart and are 32 bits wide (SDM 3A, 10.4.1). Narrower and wider
/// reads see the register and zeroes after it; writes of another size or alignment are ignored.
constexpr u64 kApicRegisterStride = 16;

void apic_read(LocalApic& apic, Gpa address, std::span<u8> to) {
  u64 loaded = ~u64{0};
  u32 value = 0;
  for (std::size_t i = 0; i < to.size(); ++i) {
    const u64 offset = (address + i).page_offset();
    const u64 base = offset & ~(kApicRegisterStride - 1);
    const u64 byte = offset - base;
    if (byte < sizeof value && base != loaded) {
      value = apic.mmio_read(static_cast<u32>(base));
      loaded = base;
    }
    to[i] = byte < sizeof value ? static_cast<u8>(value >> (byte * 8)) : u8{0};
  }
}

void apic_write(LocalApic& apic, Gpa address, std::span<const u8> from) {
  u32 value = 0;
  if (from.size() != sizeof value || address.page_offset() % kApicRegisterStride != 0) return;
  std::memcpy(&value, from.data(), sizeof value);
  apic.mmio_write(static_cast<u32>(address.page_offset()), value);
}

}  // namespace

void Mmu::attach(CpuState& state) {
  state_ = &state;
  flush();
  update_privilege();
}

void Mmu::update_privilege() {
  const bool smap = (state_->cr4 & x86::cr4::SMAP) != 0 && (state_->rflags & x86::rflags::AC) == 0;
  if (state_->cpl == 3)
    privilege_ = Privilege::kUser;
  else
    privilege_ = smap ? Privilege::kSmap : Privilege::kSupervisor;
}

void Mmu::flush() {
  ++epoch_;
  for (auto& slots : large_pages_) slots.reset();
  if (++generation_ <= kPageOffsetMask) return;
  generation_ = 1;
  tlb_ = {};
}

void Mmu::flush_page(Gla address) {
  const Gla masked = wrapped(address);
  for (std::size_t i = 0; i < kLargePageShifts.size(); ++i) {
    if (large_pages_[i].test(large_page_slot(i, masked))) return flush();
  }
  ++epoch_;
  for (auto& by_privilege : tlb_) {
    for (auto& bank : by_privilege) bank[masked.page_number() % kSize] = {};
  }
}

Gla Mmu::wrapped(Gla address) const {
  return state_->long_mode() ? address : Gla(address.value() & 0xFFFFFFFF);
}

bool Mmu::check_canonical(Gla address, u64 size) {
  if (!state_->long_mode()) return true;
  const unsigned width = state_->linear_bits();
  if (x86::is_canonical(address.value(), width) && x86::is_canonical((address + (size - 1)).value(), width))
    return true;
  fault_ = x86::Fault::gp();
  return false;
}

void Mmu::remember_large_page(Gla address, u64 page_size) {
  const std::size_t i = page_size <= u64{1} << kLargePageShifts[0] ? 0 : 1;
  large_pages_[i].set(large_page_slot(i, address));
}

bool Mmu::translate(AccessKind kind, Privilege privilege, Gla address, Target& target) {
  const u64 offset = address.page_offset();
  if (u8* hit = lookup(kind, privilege, address, 1)) {
    target = {hit, context_.memory->gpa_of(hit)};
    return true;
  }
  Translation translation;
  if (!walk(*state_, *context_.memory, context_.model->paging_limits(), address, kind, privilege, translation,
            fault_))
    return false;
  u8* page = context_.memory->host(translation.page, kPageSize);
  target = {page != nullptr ? page + offset : nullptr, translation.page + offset};
  if (page == nullptr || watched_page(address)) return true;
  if (translation.page_size != kPageSize) remember_large_page(address, translation.page_size);
  const Entry entry{tag_of(address), page};
  entry_for(kind, privilege, address) = entry;
  if (kind == AccessKind::kRead && translation.writable)
    entry_for(AccessKind::kWrite, privilege, address) = entry;
  if (kind == AccessKind::kWrite) entry_for(AccessKind::kRead, privilege, address) = entry;
  return true;
}

bool Mmu::translate_range(AccessKind kind, Privilege privilege, Gla address, u64 size, Range& range) {
  if (!check_canonical(address, size)) return false;
  range.first_size = std::min(size, kPageSize - address.page_offset());
  if (!translate(kind, privilege, wrapped(address), range.first)) return false;
  if (range.first_size == size) return true;
  return translate(kind, privilege, wrapped(address + range.first_size), range.second);
}

void Mmu::read_target(const Target& target, std::span<u8> to) {
  if (target.host != nullptr) return copy_exactly(to.data(), target.host, to.size());
  if (context_.apic != nullptr && context_.apic->claims(target.gpa.page_base()))
    return apic_read(*context_.apic, target.gpa, to);
  Gpa address = target.gpa;
  while (!to.empty()) {
    const unsigned size = bus_piece(address, to.size());
    const u64 value = context_.mmio->read(address.value(), size);
    std::memcpy(to.data(), &value, size);
    to = to.subspan(size);
    address = address + size;
  }
}

void Mmu::write_target(const Target& target, std::span<const u8> from) {
  if (target.host != nullptr) {
    copy_exactly(target.host, from.data(), from.size());
    context_.memory->written(target.host, from.size());
    return;
  }
  if (context_.apic != nullptr && context_.apic->claims(target.gpa.page_base()))
    return apic_write(*context_.apic, target.gpa, from);
  Gpa address = target.gpa;
  while (!from.empty()) {
    const unsigned size = bus_piece(address, from.size());
    u64 value = 0;
    std::memcpy(&value, from.data(), size);
    context_.mmio->write(address.value(), size, value);
    from = from.subspan(size);
    address = address + size;
  }
}

bool Mmu::slow_read(Privilege privilege, Gla address, std::span<u8> to) {
  if (to.size() > kPageSize && !probe(AccessKind::kRead, privilege, address, to.size())) return false;
  while (!to.empty()) {
    const u64 size = std::min<u64>(to.size(), kPageSize);
    Range range;
    if (!translate_range(AccessKind::kRead, privilege, address, size, range)) return false;
    read_target(range.first, to.first(range.first_size));
    if (range.first_size < size)
      read_target(range.second, to.subspan(range.first_size, size - range.first_size));
    note_access(AccessKind::kRead, address, size);
    to = to.subspan(size);
    address = address + size;
  }
  return true;
}

bool Mmu::slow_write(Privilege privilege, Gla address, std::span<const u8> from) {
  if (from.size() > kPageSize && !probe(AccessKind::kWrite, privilege, address, from.size())) return false;
  while (!from.empty()) {
    const u64 size = std::min<u64>(from.size(), kPageSize);
    Range range;
    if (!translate_range(AccessKind::kWrite, privilege, address, size, range)) return false;
    write_target(range.first, from.first(range.first_size));
    if (range.first_size < size)
      write_target(range.second, from.subspan(range.first_size, size - range.first_size));
    note_access(AccessKind::kWrite, address, size);
    from = from.subspan(size);
    address = address + size;
  }
  return true;
}

bool Mmu::probe(AccessKind kind, Privilege privilege, Gla address, u64 size) {
  if (size != 0 && !check_canonical(address, size)) return false;
  while (size != 0) {
    const u64 piece = std::min(size, kPageSize - address.page_offset());
    Target target;
    if (!translate(kind, privilege, wrapped(address), target)) return false;
    address = address + piece;
    size -= piece;
  }
  return true;
}

bool Mmu::slow_prepare_rmw(Gla address, unsigned size, u8*& host) {
  Range range;
  host = nullptr;
  if (!translate_range(AccessKind::kWrite, privilege_, address, size, range)) return false;
  const bool contiguous =
      range.first_size == size ||
      (range.first.host != nullptr && range.second.host == range.first.host + range.first_size);
  if (contiguous) host = range.first.host;
  note_access(AccessKind::kWrite, address, size);
  return true;
}

void Mmu::set_watches(const std::array<Watch, 4>& watches) {
  watches_ = watches;
  watching_ = std::ranges::any_of(watches, [](const Watch& watch) { return watch.size != 0; });
  flush();
}

bool Mmu::watched_page(Gla address) const {
  if (!watching_) return false;
  // An aligned breakpoint of at most 8 bytes lies in one page.
  return std::ranges::any_of(watches_, [address](const Watch& watch) {
    return watch.size != 0 && watch.address.page_number() == address.page_number();
  });
}

void Mmu::note_access(AccessKind kind, Gla address, u64 size) {
  if (!watching_) return;
  for (unsigned i = 0; i < watches_.size(); ++i) {
    const Watch& watch = watches_[i];
    if (kind == AccessKind::kRead && !watch.reads) continue;
    if (watch.address - address < size || address - watch.address < watch.size) watch_hits_ |= 1U << i;
  }
}

bool Mmu::translate_code(Gla address, CodePage& page) {
  // SMAP does not concern fetches: both supervisor privileges share one bank.
  const Privilege privilege = privilege_ == Privilege::kUser ? Privilege::kUser : Privilege::kSupervisor;
  Target target;
  if (!check_canonical(address, 1) || !translate(AccessKind::kExecute, privilege, wrapped(address), target))
    return false;
  page = {target.host != nullptr ? target.host - address.page_offset() : nullptr, target.gpa.page_base()};
  return true;
}

std::optional<Gpa> Mmu::translate_for_debug(Gla address) const {
  if (state_->long_mode() && !x86::is_canonical(address.value(), state_->linear_bits())) return std::nullopt;
  const auto page = debug_walk(*state_, *context_.memory, context_.model->paging_limits(), wrapped(address));
  if (!page) return std::nullopt;
  return *page + address.page_offset();
}

std::mutex& split_lock_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace vert::cpu
