// Windows: guest user memory where generated code of CPL 3 reaches it with one load more and no check.
//
// A window is a stretch of 512 GiB of the host's address space that shows what one top-level page-table entry
// of one guest address space maps: pages of guest RAM are mapped into it from the memfd, with the rights that
// CPL 3 has, when generated code first faults on them. So the host's own MMU does what the soft TLB does
// elsewhere. A fault costs microseconds, so only address spaces that have run for a while get windows, and
// lose them again if they cost too much. Like a TLB, a window may be behind the page tables until the guest
// says INVLPG, loads CR3, and so on; with PCID, windows stay while other address spaces run.
//
// One for each translator, on the vCPU's thread; fault() runs in its signal handler.
#pragma once

#include <array>
#include <bitset>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/fd.hpp"
#include "engine/bt/block_store.hpp"
#include "engine/bt/context_memory.hpp"
#include "engine/bt/leaf.hpp"
#include "memory/guest_memory.hpp"

namespace vert::bt {

class Windows {
 public:
  struct Policy {
    u64 open_after = 0;    // ns that an address space runs before it gets windows; 0: at once
    u64 allowance = 0;     // ns that windows may cost beyond a share of the time that they are open
    unsigned pages = 0;    // that may be mapped at a time
    unsigned tables = 0;   // page tables that the host may need for them: pages can lie far apart
    unsigned windows = 0;  // at a time, of all address spaces; 0: none ever open
  };
  struct Counts {
    u64 opened = 0;  // address spaces that got windows
    u64 closed = 0;  // and lost them, because they cost too much
    u64 faults = 0;
    u64 pages = 0;  // mapped, all in all
    u64 ns = 0;     // that the faults took
  };

  /// `context` and `memory` outlive this. Where the host has no address space to give, no windows ever open.
  Windows(ContextMemory& context, memory::GuestMemory& memory, const Policy& policy);
  [[nodiscard]] static Policy usual_policy(unsigned vcpus, u64 ram_size);

  /// Whether code of CPL 3 in the present address space is to be translated for windows.
  [[nodiscard]] bool open() const { return current_ != nullptr && current_->open; }

  /// Of the present address space, if it has windows: its number among those that had any, and its place
  /// among those that have, which it keeps for as long as its number.
  [[nodiscard]] CodeSpace space() const { return open() ? current_->number : kNoSpace; }
  [[nodiscard]] unsigned slot() const {
    return open() ? static_cast<unsigned>(current_ - spaces_.data()) + 1 : 0;
  }
  /// The numbers that are out of use since this was last asked.
  [[nodiscard]] std::vector<CodeSpace> take_ended() { return std::exchange(ended_, {}); }
  [[nodiscard]] std::vector<CodeSpace> spaces() const;
  /// Whether translations of the present address space were forgotten as a whole since this was last asked.
  [[nodiscard]] bool take_flushed();

  /// CR3 was loaded with `cr3`; `kept`: what was known of that PCID stays valid (SDM 3A, 4.10.4.1).
  void load_cr3(u64 cr3, bool kept);
  /// INVLPG.
  void flush_page(u64 address);
  /// Everything else that invalidates translations; then the address space is `cr3`'s.
  void flush_all(u64 cr3);
  void drop_writable(memory::Frame frame);
  void drop_all_writable();

  /// The vCPU was found in CPL 3: counts its time, opens windows, closes those that cost too much. To be
  /// called at interrupts.
  void look();
  /// While one of these lives, the vCPU translates: that is not counted as the address space's run. Else the
  /// short programs of which a boot consists would get windows, and their code would be made twice.
  class Uncounted {
   public:
    explicit Uncounted(Windows& windows);
    ~Uncounted();
    Uncounted(const Uncounted&) = delete;
    Uncounted& operator=(const Uncounted&) = delete;

   private:
    Windows& windows_;
    const u64 begin_;
  };
  /// The vCPU stops running for a while, which is nobody's time.
  void pause() { last_look_ = 0; }

  enum class Fault : u8 {
    kForeign,   // not in a window
    kFilled,    // there is a page now: run the instruction again
    kDeclined,  // the interpreter must do it
  };
  /// Generated code faulted at a host address. Async-signal-safe as long as nothing but generated code is
  /// interrupted.
  [[nodiscard]] Fault fault(u64 host_address, bool write);

  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  struct Window {
    unsigned index = 0;  // window_index() of what it shows
    base::Mapping reserved;
    u64 difference = 0;  // host minus guest address
  };
  struct Shown {
    memory::Frame frame = 0;
    u32 pages = 0;  // 1, or those of a large page
    bool writable = false;
  };
  struct Space {
    u64 cr3 = ~u64{0};
    CodeSpace number = kNoSpace;  // while open
    u64 used = 0;                 // when it was last current
    bool open = false;
    bool flushed = false;
    bool inseparable = false;  // pieces of a page that is larger than they: they go together
    unsigned forgets = 0;      // pages hidden one by one
    u64 run = 0;               // ns since it was last opened or closed
    u64 cost = 0;              // ns
    u64 open_after = 0;
    std::vector<Window> windows;
    std::unordered_map<u64, Shown> shown;  // by the first linear address
    // Page tables that the host has for the windows, also of what was hidden piecemeal: the upper bits of the
    // addresses that one translates, and its level.
    std::unordered_set<u64> tables;
  };
  static constexpr std::size_t kSpaces = 12;
  static_assert(kSpaces < Mode::kSpaceSlots);
  static constexpr std::size_t kWindowsEach = 4;
  // Frames that may be writable in a window: yes too often, never too seldom.
  static constexpr unsigned kFilterBits = 1U << 15;
  static constexpr unsigned kFilterStretch = 8;
  [[nodiscard]] static unsigned filter_bit(memory::Frame frame) {
    return frame / kFilterStretch % kFilterBits;
  }

  [[nodiscard]] bool possible() const;
  [[nodiscard]] Space& find_space(u64 cr3);
  void count_time();
  void enter(Space& space);
  void publish(const Space& space, bool shown);
  void open(Space& space);
  void leave(Space& space);
  void judge(Space& space);
  void clear(Space& space);
  void forget(Space& space, u64 linear);
  void widen(Space& space);
  [[nodiscard]] Fault settle(Space& space, u64 host_address, bool write);
  void protect(const Space& space, u64 linear, Shown& shown);
  void note_writable(memory::Frame first, u32 pages);

  [[nodiscard]] bool look_up(u64 linear, PageView& view) const;
  [[nodiscard]] bool may_write(const PageView& view) const;
  [[nodiscard]] bool show(const Window& window, u64 linear, bool write);
  [[nodiscard]] bool show_large(const Window& window, u64 linear, const PageView& view, bool write);
  [[nodiscard]] bool show_around(const Window& window, u64 linear);
  [[nodiscard]] bool map(const Window& window, u64 linear, memory::Frame first, u32 pages, bool writable);
  void note_tables(u64 linear);
  [[nodiscard]] bool marked(memory::Frame frame) const {
    return memory_.marks()[frame].load(std::memory_order_seq_cst) != 0;
  }

  ContextMemory& context_;
  memory::GuestMemory& memory_;
  const Policy policy_;
  base::Mapping nowhere_;  // what entries of the table without a window lead to
  std::array<Space, kSpaces> spaces_;
  Space* current_ = nullptr;
  std::bitset<kFilterBits> filter_;
  std::vector<CodeSpace> ended_;
  CodeSpace next_number_ = kFirstUserSpace;
  u64 uses_ = 0;
  u64 last_look_ = 0;
  unsigned pages_ = 0;
  unsigned tables_ = 0;
  unsigned window_count_ = 0;
  Counts counts_;
};

}  // namespace vert::bt
