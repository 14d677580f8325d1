#include "engine/bt/windows.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <ctime>
#include <fstream>

#include "engine/bt/leaf.hpp"
#include "x86/paging.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

namespace {

constexpr u64 kMillisecond = 1'000'000;
constexpr u64 kOpenAfter = 10 * kMillisecond;
constexpr u64 kAllowance = 5 * kMillisecond;
/// The share of an open space's time that its windows may cost.
constexpr u64 kCostShare = 10;
/// How much longer a space must run until it gets windows once more.
constexpr u64 kPatience = 8;

constexpr u64 kWindowSize = u64{1} << kWindowShift;
/// On both sides of a window: more than a displacement can jump, and an access is long.
constexpr u64 kMargin = u64{4} << 30;
constexpr u64 kReserved = kMargin + kWindowSize + kMargin;

constexpr u64 kPcid = 0xFFF;  // of CR3 (SDM 3A, 4.10.1)

constexpr unsigned kLargeShift = 21;
constexpr u32 kLargePages = 1U << (kLargeShift - kPageShift);
constexpr u64 kLargeSize = u64{1} << kLargeShift;
/// Levels of the host's page tables below its root, and bits of an address that each of them takes.
constexpr unsigned kLevels = 3;
constexpr unsigned kTableBits = 9;
/// How many pages around one that is needed are shown with it.
constexpr u64 kAround = 16;

/// What a signal costs besides what its handler does.
constexpr u64 kSignalCost = 2'000;

u64 now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<u64>(time.tv_sec) * 1'000'000'000 + static_cast<u64>(time.tv_nsec);
}

Result<base::Mapping> reserve() {
  return base::Mapping::map(kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
}

u64 difference_of(const base::Mapping& reserved, unsigned index) {
  return reinterpret_cast<u64>(reserved.data()) + kMargin - (u64{index} << kWindowShift);
}

bool holds(const base::Mapping& mapping, u64 host_address) {
  return host_address - reinterpret_cast<u64>(mapping.data()) < mapping.size();
}

/// Makes [host, host + size) inaccessible again. SAFETY: the range lies in a mapping that a Window reserved.
bool hide(u64 host, u64 size) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses are computed across two address spaces.
  return mmap(reinterpret_cast<void*>(host), size, PROT_NONE, kFlags, -1, 0) != MAP_FAILED;
}

/// The host's limit on mappings in one process (vm.max_map_count), or its default.
unsigned host_map_limit() {
  unsigned limit = 65530;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  return limit;
}

}  // namespace

Windows::Policy Windows::usual_policy(unsigned vcpus, u64 ram_size) {
  // A page may take two mappings, itself and the hole behind it; others need some, too.
  constexpr unsigned kOthers = 8192;
  const unsigned limit = std::min(host_map_limit(), 1U << 20);
  const unsigned mappings = limit <= kOthers ? 0 : (limit - kOthers) / 2 / vcpus;
  // What a guest makes the host spend follows from the RAM that it was given: it may map each page of that
  // again and again, and share tables that it has written once.
  constexpr u64 kSpacesEach = 4;   // that show all RAM
  constexpr u64 kTableShare = 32;  // of RAM, for all vCPUs
  constexpr u64 kFewestTables = 128;
  const u64 ram_pages = ram_size / kPageSize;
  const auto pages = static_cast<unsigned>(std::min<u64>(mappings, kSpacesEach * ram_pages));
  const auto tables = static_cast<unsigned>(std::max(kFewestTables, ram_pages / kTableShare / vcpus));
  // All vCPUs' windows take less than half of the host's 128 TiB, however many processes the guest has.
  constexpr unsigned kMostWindows = 96;
  constexpr unsigned kMostVcpus = 48;  // each has one more, nowhere_
  const unsigned windows = vcpus > kMostVcpus ? 0 : kMostWindows / vcpus;
  return {.open_after = kOpenAfter,
          .allowance = kAllowance,
          .pages = pages,
          .tables = tables,
          .windows = windows};
}

Windows::Windows(ContextMemory& context, memory::GuestMemory& memory, const Policy& policy)
    : context_(context), memory_(memory), policy_(policy) {
  if (policy_.windows != 0) {
    auto nowhere = reserve();
    if (nowhere) nowhere_ = std::move(*nowhere);
  }
  // Entries beyond the lower half are looked up, too, by bases from which a displacement leads back into it.
  for (unsigned index = 0; index < kWindowTableEntries; ++index)
    context_.windows()[index] = difference_of(nowhere_, index);
}

bool Windows::possible() const {
  const cpu::CpuState& state = *context_->state;
  return nowhere_.data() != nullptr && policy_.pages > 4 * kAround && state.long_mode() &&
         (state.cr4 & x86::cr4::LA57) == 0;
}

Windows::Space& Windows::find_space(u64 cr3) {
  const auto found = std::ranges::find(spaces_, cr3, &Space::cr3);
  if (found != spaces_.end()) return *found;
  Space& oldest = *std::ranges::min_element(spaces_, {}, &Space::used);
  leave(oldest);
  oldest = Space{};
  oldest.cr3 = cr3;
  oldest.open_after = policy_.open_after;
  return oldest;
}

/// Lets the table lead to `space`'s windows, or nowhere.
void Windows::publish(const Space& space, bool shown) {
  for (const Window& window : space.windows)
    context_.windows()[window.index] = shown ? window.difference : difference_of(nowhere_, window.index);
}

void Windows::enter(Space& space) {
  if (current_ != &space) {
    if (current_ != nullptr) publish(*current_, false);
    current_ = &space;
    publish(space, space.open);
  }
  space.used = ++uses_;
  if (policy_.open_after == 0 && !space.open && possible()) open(space);
}

void Windows::load_cr3(u64 cr3, bool kept) {
  count_time();
  if (current_ != nullptr) judge(*current_);
  const bool pcids = (context_->state->cr4 & x86::cr4::PCIDE) != 0;
  if (!kept || !pcids) {
    for (Space& space : spaces_) {
      if (pcids && ((space.cr3 ^ cr3) & kPcid) != 0) continue;
      if (space.cr3 == cr3 && current_ == &space)
        clear(space);
      else
        leave(space);
    }
  }
  enter(find_space(cr3));
}

void Windows::flush_all(u64 cr3) {
  for (Space& space : spaces_) clear(space);
  enter(find_space(cr3));
}

void Windows::flush_page(u64 address) {
  for (Space& space : spaces_)
    if (!space.shown.empty()) forget(space, address & ~kPageOffsetMask);
}

std::vector<CodeSpace> Windows::spaces() const {
  std::vector<CodeSpace> numbers;
  for (const Space& space : spaces_)
    if (space.open) numbers.push_back(space.number);
  return numbers;
}

bool Windows::take_flushed() { return open() && std::exchange(current_->flushed, false); }

void Windows::open(Space& space) {
  widen(space);
  if (space.windows.empty()) return;
  space.open = true;
  space.number = next_number_++;
  space.run = 0;
  space.cost = 0;
  publish(space, current_ == &space);
  ++counts_.opened;
}

/// The space, which may be the current one, goes on without windows.
void Windows::leave(Space& space) {
  clear(space);
  if (current_ == &space) publish(space, false);
  window_count_ -= static_cast<unsigned>(space.windows.size());
  space.windows.clear();
  if (space.open) ended_.push_back(space.number);
  space.open = false;
  space.flushed = false;
  space.run = 0;
  space.cost = 0;
}

Windows::Uncounted::Uncounted(Windows& windows) : windows_(windows), begin_(now_ns()) {}

Windows::Uncounted::~Uncounted() {
  if (windows_.last_look_ != 0) windows_.last_look_ += now_ns() - begin_;
}

/// Adds the time since this was last asked to the present space's.
void Windows::count_time() {
  const u64 now = now_ns();
  const u64 since = std::exchange(last_look_, now);
  if (since != 0 && current_ != nullptr) current_->run += now - since;
}

void Windows::look() {
  count_time();
  if (current_ == nullptr) return;
  Space& space = *current_;
  if (space.open)
    judge(space);
  else if (space.run >= space.open_after && possible())
    open(space);
}

/// Closes what costs too much.
void Windows::judge(Space& space) {
  if (!space.open || space.cost <= policy_.allowance + space.run / kCostShare) return;
  leave(space);
  space.open_after = std::max<u64>(space.open_after, 1) * kPatience;
  ++counts_.closed;
}

void Windows::drop_writable(memory::Frame frame) {
  if (!filter_.test(filter_bit(frame))) return;
  // All pages must be looked at: the filter is made anew of what stays.
  filter_.reset();
  for (Space& space : spaces_) {
    for (auto& [linear, shown] : space.shown) {
      if (!shown.writable) continue;
      if (frame - shown.frame < shown.pages)
        protect(space, linear, shown);
      else
        note_writable(shown.frame, shown.pages);
    }
  }
}

void Windows::drop_all_writable() {
  for (Space& space : spaces_) clear(space);
  filter_.reset();
}

void Windows::protect(const Space& space, u64 linear, Shown& shown) {
  const auto window = std::ranges::find(space.windows, window_index(linear), &Window::index);
  VERT_CHECK(window != space.windows.end());
  shown.writable = false;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses are computed across two address spaces.
  auto* host = reinterpret_cast<void*>(linear + window->difference);
  // Policy::pages keeps below the host's limit on mappings.
  VERT_CHECK(mprotect(host, u64{shown.pages} * kPageSize, PROT_READ) == 0);
}

void Windows::note_writable(memory::Frame first, u32 pages) {
  for (memory::Frame frame = first; frame < first + pages; frame += kFilterStretch)
    filter_.set(filter_bit(frame));
  filter_.set(filter_bit(first + pages - 1));
}

/// Nothing is shown any more.
void Windows::clear(Space& space) {
  space.inseparable = false;
  space.forgets = 0;
  space.flushed = true;
  if (space.tables.empty()) return;
  const u64 begin = now_ns();
  pages_ -= static_cast<unsigned>(space.shown.size());
  tables_ -= static_cast<unsigned>(space.tables.size());
  space.shown.clear();
  space.tables.clear();
  for (const Window& window : space.windows)
    VERT_CHECK(hide(window.difference + (u64{window.index} << kWindowShift), kWindowSize));
  space.cost += now_ns() - begin;
}

void Windows::forget(Space& space, u64 linear) {
  // The host keeps page tables of what is hidden piecemeal.
  constexpr unsigned kMostForgets = 4096;
  if (space.inseparable || space.forgets > kMostForgets) return clear(space);
  for (const u64 first : {linear, linear & ~(kLargeSize - 1)}) {
    const auto found = space.shown.find(first);
    if (found == space.shown.end() || linear - first >= u64{found->second.pages} * kPageSize) continue;
    const auto window = std::ranges::find(space.windows, window_index(first), &Window::index);
    VERT_CHECK(window != space.windows.end());
    const u64 begin = now_ns();
    if (!hide(first + window->difference, u64{found->second.pages} * kPageSize)) return clear(space);
    space.shown.erase(found);
    ++space.forgets;
    --pages_;
    space.cost += now_ns() - begin;
  }
}

/// Gives the space windows for what its root table maps for CPL 3.
void Windows::widen(Space& space) {
  const u64 root = space.cr3 & x86::pte::kAddressMask;
  constexpr u64 kWanted = x86::pte::P | x86::pte::US;
  for (unsigned index = 0; index < kWindowIndexes && space.windows.size() < kWindowsEach; ++index) {
    const auto entry = memory_.load<u64>(Gpa(root + index * sizeof(u64)));
    if (!entry || (*entry & kWanted) != kWanted) continue;
    if (std::ranges::find(space.windows, index, &Window::index) != space.windows.end()) continue;
    if (window_count_ == policy_.windows) return;
    auto reserved = reserve();
    if (!reserved) return;
    ++window_count_;
    const u64 difference = difference_of(*reserved, index);
    space.windows.push_back({index, std::move(*reserved), difference});
    if (space.open && current_ == &space) context_.windows()[index] = difference;
  }
}

/// Whatever comes of a fault, the space whose code met it pays for it.
Windows::Fault Windows::fault(u64 host_address, bool write) {
  if (current_ == nullptr || !current_->open)
    return context_.beyond_windows(host_address) || holds(nowhere_, host_address) ? Fault::kDeclined
                                                                                  : Fault::kForeign;
  const u64 begin = now_ns();
  const Fault result = settle(*current_, host_address, write);
  ++counts_.faults;
  const u64 cost = now_ns() - begin + kSignalCost;
  current_->cost += cost;
  counts_.ns += cost;
  return result;
}

Windows::Fault Windows::settle(Space& space, u64 host_address, bool write) {
  if (context_.beyond_windows(host_address)) return Fault::kDeclined;
  if (holds(nowhere_, host_address)) {
    widen(space);
    return Fault::kDeclined;
  }
  const auto window = std::ranges::find_if(
      space.windows, [&](const Window& each) { return holds(each.reserved, host_address); });
  if (window == space.windows.end()) return Fault::kForeign;
  const u64 linear = host_address - window->difference;
  const bool inside = window_index(linear) == window->index;
  return inside && show(*window, linear & ~kPageOffsetMask, write) ? Fault::kFilled : Fault::kDeclined;
}

bool Windows::may_write(const PageView& view) const {
  return view.writable && !marked(memory_.frame_of(view.host));
}

/// Shows the page at `linear`, and its neighbours if they come cheap.
bool Windows::show(const Window& window, u64 linear, bool write) {
  PageView view;
  if (!look_up(linear, view) || (write && !may_write(view))) return false;
  if (pages_ + kAround > policy_.pages || tables_ + kLevels > policy_.tables)
    for (Space& space : spaces_) clear(space);
  if (view.shift != kPageShift) {
    if (show_large(window, linear, view, write)) return true;
    current_->inseparable = true;
    return map(window, linear, memory_.frame_of(view.host), 1, may_write(view));
  }
  return show_around(window, linear);
}

bool Windows::look_up(u64 linear, PageView& view) const {
  return leaf_look_up(context_.get(), linear, static_cast<u32>(cpu::Privilege::kUser), &view) &&
         view.readable && view.host != nullptr;
}

/// The 2 MiB around `linear`, of a page that is at least that large.
bool Windows::show_large(const Window& window, u64 linear, const PageView& view, bool write) {
  const u8* host = memory_.host(Gpa(view.page & ~(kLargeSize - 1)), kLargeSize);
  if (host == nullptr) return false;
  const memory::Frame first = memory_.frame_of(host);
  bool writable = view.writable;
  for (memory::Frame frame = first; writable && frame < first + kLargePages; ++frame)
    writable = !marked(frame);
  if (write && !writable) return false;
  if (view.shift != kLargeShift) current_->inseparable = true;
  const u64 begin = linear & ~(kLargeSize - 1);
  for (u32 i = 0; i < kLargePages; ++i)
    pages_ -= static_cast<unsigned>(current_->shown.erase(begin + i * kPageSize));
  return map(window, begin, first, kLargePages, writable);
}

/// The page at `linear` and those of its neighbours that are not shown yet, in runs that one mapping serves.
bool Windows::show_around(const Window& window, u64 linear) {
  const u64 begin = linear & ~(kAround * kPageSize - 1);
  const u64 end = begin + kAround * kPageSize;
  bool done = false;
  for (u64 at = begin; at < end;) {
    PageView view;
    if ((at != linear && current_->shown.contains(at)) || !look_up(at, view) || view.shift != kPageShift) {
      at += kPageSize;
      continue;
    }
    const memory::Frame first = memory_.frame_of(view.host);
    const bool writable = may_write(view);
    u32 pages = 1;
    for (u64 next = at + kPageSize; next < end; next += kPageSize, ++pages) {
      if ((next != linear && current_->shown.contains(next)) || !look_up(next, view) ||
          view.shift != kPageShift || memory_.frame_of(view.host) != first + pages ||
          may_write(view) != writable)
        break;
    }
    const bool wanted = linear - at < pages * kPageSize;
    const bool mapped = map(window, at, first, pages, writable);
    done = done || (wanted && mapped);
    at += pages * kPageSize;
  }
  return done;
}

/// The host's page tables for the page at `linear`, all but the root.
void Windows::note_tables(u64 linear) {
  for (unsigned level = 0; level < kLevels; ++level)
    if (current_->tables.insert(linear >> (kLargeShift + level * kTableBits) << 2 | level).second) ++tables_;
}

/// SAFETY: `linear` and all pages behind it lie in the window, and the frames in guest RAM. They are
/// translated by one page table.
bool Windows::map(const Window& window, u64 linear, memory::Frame first, u32 pages, bool writable) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses are computed across two address spaces.
  auto* host = reinterpret_cast<void*>(linear + window.difference);
  const u64 size = u64{pages} * kPageSize;
  note_tables(linear);
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  if (mmap(host, size, protection, MAP_SHARED | MAP_FIXED | MAP_POPULATE, memory_.memfd(),
           static_cast<off_t>(u64{first} << kPageShift)) == MAP_FAILED) {
    // The kernel may have taken the reservation away before it failed.
    VERT_CHECK(hide(linear + window.difference, size));
    current_->cost += policy_.allowance;  // out of mappings: it is not worth it
    return false;
  }
  // Whoever marks a page asks afterwards that it be made read-only: either it finds this, or the mark is seen
  // here.
  for (memory::Frame frame = first; writable && frame < first + pages; ++frame) writable = !marked(frame);
  if ((protection & PROT_WRITE) != 0 && !writable) VERT_CHECK(mprotect(host, size, PROT_READ) == 0);
  if (writable) note_writable(first, pages);
  const bool large = pages == kLargePages;
  for (u32 i = 0; i < (large ? 1 : pages); ++i) {
    const Shown shown{first + i, large ? kLargePages : 1, writable};
    if (current_->shown.insert_or_assign(linear + i * kPageSize, shown).second) ++pages_;
  }
  counts_.pages += pages;
  return true;
}

}  // namespace vert::bt
