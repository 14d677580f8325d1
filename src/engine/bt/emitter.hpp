// Makes a block's host code from its plan. On the vCPU's thread, reused for each block.
//
// Layout: hot, the inner entry, for jumps from the same page, and the instructions; cold, a checked entry,
// which compares the page's token, and what happens on misses, and the ways out. ARCHITECTURE.md tells the
// conventions.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "engine/bt/assembler.hpp"
#include "engine/bt/block_plan.hpp"
#include "engine/bt/code_cache.hpp"
#include "engine/bt/context.hpp"
#include "engine/bt/emitter_requests.hpp"
#include "engine/bt/insn_class.hpp"
#include "engine/bt/x87_notes.hpp"

namespace vert::bt {

/// Why generated code is left: Context::exit is the index of a CodeExit.
enum class ExitKind : u8 {
  kLink,       // to `rip`, by a jump that can be patched once the target is translated
  kInterpret,  // the fallback engine executes the instruction at `rip`
  kAttention,  // another thread wants something; at `rip`
  kLookup,     // the token was not current; at `rip`, the block's start
  kIndirect,   // to Context::rip; the branch itself is at `rip`
  kLoadCr3,    // MOV to CR3 of Context::call_target, at `rip`
  kPause,      // cpu::PauseLoop::kWindow PAUSEs were executed; `rip` is behind the last
  kBudget,     // fewer instructions are left than the block has; at `rip`
};

/// Whether an instruction's 32-bit immediate can stand for it.
[[nodiscard]] constexpr bool fits32(u64 value) {
  return value == static_cast<u64>(static_cast<i64>(static_cast<i32>(value)));
}

/// What executing an instruction does to translations of addresses (kInterpret).
enum class Effect : u8 {
  kOther,  // nothing that is known here
  kPage,   // INVLPG of Context::call_target
};

struct CodeExit {
  ExitKind kind = ExitKind::kInterpret;
  Effect effect = Effect::kOther;
  bool unshared = false;    // kLink: to code that shares no checks
  bool fpu_loaded = false;  // kLink: the host's vector registers are the guest's
  bool declined = false;    // kInterpret: of an instruction that has a translation
  i32 popped = 0;           // kIndirect: bytes that the branch has taken off the stack; a call: negative
  u8 steps = 1;             // kInterpret: how many instructions
  u8 length = 0;            // kLoadCr3, Effect::kPage: of the instruction
  u16 insn = 0;             // in its block
  InsnClass insn_class{};   // kInterpret: for counting
  u32 block = 0;
  u32 site = 0;  // kLink: the displacement to patch, in the code cache
  u32 x87 = 0;   // in X87Notes::unnoted; 0: all is noted
  u64 rip = 0;
};

/// A host instruction that may fault, and the guest's that it stands for.
struct Mark {
  u32 offset = 0;  // in the code cache
  u32 block = 0;
  u16 insn = 0;
  u16 rip_offset = 0;        // from the block's start
  bool flags_saved = false;  // in Context::save_flags, not in the host's
  // Of a host's call: what the guest's has put on its stack already, and whether all that is left of it is to
  // go to kAddress. (It cannot be run again: the stack may be where it found its target.)
  u8 pushed = 0;
  bool indirect = false;
  u32 x87 = 0;  // as CodeExit has it
};

/// Fixed code at the start of the code cache (thunks.hpp), by offset.
struct Thunks {
  u32 enter = 0;
  u32 exit = 0;
  u32 exit_saved = 0;  // as exit, when the guest's registers are in the Context already
  u32 fill = 0;
  u32 load_fpu = 0;
  u32 return_miss = 0;   // with the guest's return address in kAddress
  u32 return_empty = 0;  // as return_miss, when the return stack has run empty
  u32 string = 0;
  u32 state = 0;
  u32 transfer = 0;  // with the next RIP in kAddress and a Transfer in kScratch
};

class Emitter {
 public:
  /// `look_at` is the offset in the Context of the byte that tells whether another thread wants something.
  explicit Emitter(const Thunks& thunks, std::size_t look_at = offsetof(Context, attention))
      : thunks_(thunks), look_at_(look_at) {}

  /// The two that SWAPGS exchanges.
  struct SegmentBases {
    u64 base = 0;
    u64 other = 0;
  };
  struct Request {
    const BlockPlan& plan;
    Mode mode;
    u64 rip = 0;
    u32 token = 0;
    u32 block = 0;
    u32 second_token = 0;  // of the page that the block's one instruction runs into; 0: it does not
    bool trusted = false;  // its page belongs to a CodeSpace
    SegmentBases gs;       // as they are likely to be when the block runs
  };
  /// Makes the code. Exits are appended to `exits`, with their sites still to come, and to `x87` what they
  /// refer to; `request` stays until place().
  void emit(const Request& request, std::vector<CodeExit>& exits, X87Notes& x87);

  [[nodiscard]] std::size_t size() const { return assembler_.size(); }
  /// Request::gs, behind the block.
  [[nodiscard]] const SegmentBases& gs() const { return gs_; }
  /// The way out by the jump at the end of the hot code.
  struct Tail {
    u32 exit = 0;
    Mode mode;  // of what is there
  };
  /// Where things are, once placed in the code cache.
  struct Placed {
    u32 hot = 0;
    u32 hot_end = 0;
    u32 cold = 0;
    u32 cold_end = 0;
    u32 checked_entry = 0;
    u32 inner_entry = 0;
    u32 fpu_entry = 0;  // for jumps from the same page with the vector registers loaded
    u32 stale_exit = 0;
    std::optional<Tail> tail;
  };
  Placed place(CodeCache& cache, std::vector<CodeExit>& exits, std::vector<Mark>& marks);

  /// Sizes of hot and cold code at a border between guest instructions.
  struct Boundary {
    u32 hot = 0;
    u32 cold = 0;
  };
  /// Before each instruction, and after the last; behind that, the block's end.
  [[nodiscard]] std::span<const Boundary> boundaries() const { return boundaries_; }

 private:
  enum class Flags : u8 { kHost, kSaved };
  struct Out {
    Label label;
    bool flags_saved = false;
  };

  // One file each: emitter.cpp (frame, exits, flags), emitter_memory.cpp, emitter_insn.cpp,
  // emitter_x87.cpp, emitter_control.cpp.
  void entry();
  void mark_boundary();
  void check_token(u64 linear, u32 wanted, Label stale);
  [[nodiscard]] std::size_t token_offset(u64 linear) const;
  void checks_before(unsigned i);
  void load_fpu(unsigned i);
  void attention(unsigned i);
  void pause(unsigned i);
  /// RIP behind instruction i; EIP wraps around in 32-bit code.
  [[nodiscard]] u64 behind(unsigned i) const {
    return request_->mode.code32 ? insn(i).next_rip() & 0xFFFFFFFF : insn(i).next_rip();
  }
  void group_check(const Group& group, unsigned i);
  void instruction(unsigned i);

  // emitter_x87.cpp: what x87 instructions leave behind, noted where a run of them ends.
  void after_x87(unsigned i);
  void end_x87_run();
  void note_x87();
  void clear_x87_pointers();
  [[nodiscard]] u32 unnoted_x87();

  void save_flags();
  void restore_flags();
  /// Makes the host's flags free to be changed before instruction i.
  void free_flags(unsigned i);
  /// Makes the host's flags the guest's, if instruction i cares.
  void flags_for(unsigned i);

  u32 add_exit(CodeExit exit);
  void leave(u32 exit);
  void leave_to_interpreter(unsigned i);
  void interpret(unsigned i);
  void leave_for_cr3(unsigned i);
  Label interpret_label(unsigned i);
  u32 link(CodeExit exit, Label stub);
  void go_on(const CodeExit& exit, const Mode& mode);

  [[nodiscard]] const GuestInsn& insn(unsigned i) const { return request_->plan.insn(i); }
  [[nodiscard]] unsigned word() const { return request_->mode.code32 ? 4 : 8; }
  [[nodiscard]] bool wide() const { return !request_->mode.code32; }

  /// The register that holds a guest register for reading: its own, or `scratch`, loaded.
  u8 value_of(u8 guest, u8 scratch);
  static HostMem slot(u8 guest);
  void linear_address(unsigned i, u8 to, bool segment);
  void load_segment_base(u8 segment, u8 to);
  void probe(u32 size, bool write, Label miss);
  HostMem reach(unsigned i, unsigned k);
  HostMem reach_alone(unsigned i, const Access& access);
  void check_alone(unsigned i, const Access& access);
  [[nodiscard]] bool one_lea(unsigned i, const Access& access) const;
  [[nodiscard]] std::optional<i32> offset_from_gs(unsigned i, const Access& access) const;
  HostMem reach_from_gs(unsigned i, const Access& access, i32 offset);
  HostMem reach_constant(unsigned i, const Access& access, u64 address);
  HostMem reach_window(unsigned i, const Access& access);
  void find_window(unsigned i, u8 to, u8 address);
  void find_group_window(const Group& group, unsigned i);
  void group_address(const Group& group);
  void mark(unsigned i);
  void load_guest(unsigned i, u8 to, const HostMem& from, unsigned size = 8);
  void store_guest(unsigned i, const HostMem& to, u8 from, unsigned size = 8);
  void store_guest_imm(unsigned i, const HostMem& to, i32 value, unsigned size = 8);
  void probe_constant(u64 page, std::size_t entry, Label miss);
  HostMem constant_operand(u64 address, u8 difference);
  [[nodiscard]] std::optional<u64> constant_address(unsigned i, const Access& access) const;
  void ask_to_fill(u32 size, bool write, Label retry);
  void access_address(unsigned i, const Access& access, u8 to);
  [[nodiscard]] std::optional<HostMem> direct(unsigned i, const Access& access, u8 index);
  [[nodiscard]] bool is_operand(unsigned i, const Access& access) const;

  void copy(unsigned i);
  void write_copy(unsigned i, HostOperands host);
  void lea(unsigned i);
  void push(unsigned i);
  void pop(unsigned i);
  void leave_frame(unsigned i);
  void push_flags(unsigned i);
  void string(unsigned i);
  void extended_state(unsigned i);
  void time_stamp(unsigned i);
  void read_segment_base(unsigned i);
  void write_segment_base(unsigned i);
  void read_segment(unsigned i);
  void read_control(unsigned i);
  void bit_string(unsigned i);
  void bit_address(unsigned i);
  void access_control(unsigned i);
  [[nodiscard]] static HostMem return_rsp_of(cpu::Privilege privilege);
  void swap_gs();
  void set_interrupt(unsigned i);
  void transfer(unsigned i, Transfer kind);

  void jump(unsigned i);
  void branch(unsigned i);
  void call(unsigned i);
  void call_indirect(unsigned i);
  void jump_indirect(unsigned i);
  void return_near(unsigned i);
  void landing(unsigned i);
  void load_target(unsigned i);
  void push_return_address(unsigned i);
  [[nodiscard]] bool push_keeps_address(unsigned i) const;
  void mark_call(unsigned i, bool indirect);
  void lookup(unsigned i, i32 popped);
  void end(u64 next_rip, const Mode& mode);
  void adjust_stack(i32 by);

  const Thunks thunks_;
  const std::size_t look_at_;
  Assembler assembler_;
  const Request* request_ = nullptr;
  std::vector<CodeExit>* exits_ = nullptr;
  X87Notes* x87_ = nullptr;
  u32 x87_origin_ = 0;  // of the last x87 instruction, in a run of them
  int x87_data_ = -1;   // the last instruction with a memory operand in that run
  u32 x87_unnoted_ = 0;
  Label checked_;
  Label inner_;
  Label fpu_entry_;
  Label stale_;
  SegmentBases gs_;
  std::optional<Tail> tail_;
  bool fpu_checked_ = false;  // the vector registers are the guest's
  Flags flags_ = Flags::kHost;
  int group_ = -1;              // the one whose difference is in kDelta,
  bool group_pointed_ = false;  // or the host address of its lowest byte
  std::vector<Out> interpret_;
  struct Pending {
    u32 exit;
    Assembler::Site site;
  };
  std::vector<Pending> sites_;
  struct PendingMark {
    u32 hot_offset;
    u16 insn;
    bool flags_saved;
    u8 pushed = 0;
    bool indirect = false;
    u32 x87 = 0;
  };
  std::vector<PendingMark> marks_;
  std::vector<Boundary> boundaries_;
};

}  // namespace vert::bt
