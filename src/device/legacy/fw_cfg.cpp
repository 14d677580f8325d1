#include "device/legacy/fw_cfg.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>

namespace vert::device {
namespace {

constexpr u64 kSelector = 0;
constexpr u64 kData = 1;
constexpr u64 kDmaHigh = 4;
constexpr u64 kDmaLow = 8;
constexpr std::string_view kSignature = "QEMU";
constexpr std::string_view kDmaSignature = "QEMU CFG";
constexpr u32 kInterfaces = 3;  // ports and DMA

constexpr u32 kError = 1U << 0;
constexpr u32 kRead = 1U << 1;
constexpr u32 kSkip = 1U << 2;
constexpr u32 kSelect = 1U << 3;
constexpr u32 kWrite = 1U << 4;

/// In guest memory, all big-endian.
struct DmaAccess {
  u32 control = 0;
  u32 length = 0;
  u64 address = 0;
};
static_assert(sizeof(DmaAccess) == 16);

constexpr std::size_t kNameSize = 56;  // with the final NUL

constexpr const char* kComponent = "fw-cfg";
constexpr u32 kVersion = 1;

template <typename T>
T big_endian(T value) {
  return std::byteswap(value);
}

template <typename T>
void append_big_endian(std::vector<u8>& to, T value) {
  value = big_endian(value);
  const auto* const bytes = reinterpret_cast<const u8*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

}  // namespace

FwCfg::FwCfg(memory::GuestMemory& memory) : memory_(memory) {
  add(fw_cfg_key::kSignature, {kSignature.begin(), kSignature.end()});
  add_integer(fw_cfg_key::kId, kInterfaces);
  add(fw_cfg_key::kFileDirectory, std::vector<u8>(sizeof(u32)));
}

void FwCfg::add(u16 key, std::vector<u8> bytes) {
  std::vector<u8>& kept = owned_[key];
  kept = std::move(bytes);
  items_[key] = kept;
}

void FwCfg::add_view(u16 key, std::span<const u8> bytes) { items_[key] = bytes; }

void FwCfg::add_file(const std::string& name, std::vector<u8> bytes) {
  VERT_CHECK(name.size() < kNameSize && bytes.size() <= ~u32{0});
  const u16 key = static_cast<u16>(fw_cfg_key::kFirstFile + files_++);
  append_big_endian(directory_entries_, static_cast<u32>(bytes.size()));
  append_big_endian(directory_entries_, key);
  append_big_endian(directory_entries_, u16{0});
  directory_entries_.insert(directory_entries_.end(), name.begin(), name.end());
  directory_entries_.resize(directory_entries_.size() + kNameSize - name.size());
  add(key, std::move(bytes));

  std::vector<u8> directory;
  append_big_endian(directory, u32{files_});
  directory.insert(directory.end(), directory_entries_.begin(), directory_entries_.end());
  add(fw_cfg_key::kFileDirectory, std::move(directory));
}

Status FwCfg::map(memory::Bus& ports) { return ports.map(kBase, kPorts, *this, "fw-cfg"); }

u64 FwCfg::read(u64 offset, unsigned size) {
  if (offset >= kDmaHigh) {
    u64 value = 0;
    for (unsigned i = 0; i < size && offset - kDmaHigh + i < kDmaSignature.size(); ++i)
      value |= u64{static_cast<u8>(kDmaSignature[offset - kDmaHigh + i])} << (8 * i);
    return value;
  }
  if (offset > kData || size != 1) return ~u64{0};
  const std::lock_guard lock(mutex_);
  const auto byte = take(1);
  return byte.empty() ? 0 : byte[0];
}

void FwCfg::write(u64 offset, unsigned size, u64 value) {
  const std::lock_guard lock(mutex_);
  if (offset == kSelector && size == 2) return select(static_cast<u16>(value));
  const u64 half = big_endian(static_cast<u32>(value));
  if (offset == kDmaHigh && size == 4) {
    state_.dma_address = half << 32;
  } else if (offset == kDmaLow && size == 4) {
    transfer(state_.dma_address | half);
  } else if (offset == kDmaHigh && size == 8) {
    transfer(big_endian(value));
  }
}

void FwCfg::select(u16 key) {
  state_.key = key;
  state_.offset = 0;
}

std::span<const u8> FwCfg::selected() const {
  const auto found = items_.find(state_.key);
  return found == items_.end() ? std::span<const u8>{} : found->second;
}

/// The next bytes of the selected item, up to its end.
std::span<const u8> FwCfg::take(u64 size) {
  const auto item = selected();
  const auto bytes = item.subspan(state_.offset, std::min<u64>(size, item.size() - state_.offset));
  state_.offset += bytes.size();
  return bytes;
}

void FwCfg::transfer(u64 descriptor) {
  state_.dma_address = 0;
  const auto access = memory_.load<DmaAccess>(Gpa(descriptor));
  if (!access) return;  // there is nowhere to report it
  const bool good = run(big_endian(access->control), big_endian(access->length), big_endian(access->address));
  const u32 answer = big_endian(good ? 0 : kError);
  static_cast<void>(memory_.write(Gpa(descriptor), {reinterpret_cast<const u8*>(&answer), sizeof answer}));
}

bool FwCfg::run(u32 control, u32 length, u64 address) {
  if ((control & kSelect) != 0) select(static_cast<u16>(control >> 16));
  if ((control & kRead) != 0) return copy_out(length, address);
  if ((control & kWrite) != 0) return length == 0;  // all items are read-only
  if ((control & kSkip) != 0) static_cast<void>(take(length));
  return true;
}

bool FwCfg::copy_out(u32 length, u64 address) {
  if (length == 0) return true;
  const auto bytes = take(length);
  const u64 padding = length - bytes.size();
  if (padding > kMaxPadding || memory_.host(Gpa(address), length) == nullptr) return false;
  if (padding == 0) return memory_.write(Gpa(address), bytes);
  std::vector<u8> padded(bytes.begin(), bytes.end());
  padded.resize(length);
  return memory_.write(Gpa(address), padded);
}

base::Document FwCfg::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status FwCfg::restore(const base::Document& document) {
  VERT_ASSIGN(const FwCfgState state, base::restore<FwCfgState>(kComponent, kVersion, document));
  const std::lock_guard lock(mutex_);
  const FwCfgState before = std::exchange(state_, state);
  if (state.offset <= selected().size() && static_cast<u32>(state.dma_address) == 0) return {};
  state_ = before;
  return make_error("saved state of {} is out of range", kComponent);
}

void FwCfg::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vert::device
