// Guest code beside its translation, for people. Nothing of it runs.
//
// An Explainer has a code cache of its own, and so needs no guest: it translates what it is given as a vCPU
// would that has just come upon it. One thread at a time.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "engine/bt/code_cache.hpp"
#include "engine/bt/emitter.hpp"
#include "x86/cpu_model.hpp"

namespace vert::bt {

/// Guest code: some bytes, and where they lie.
struct GuestCode {
  std::vector<u8> bytes;
  u64 address = 0;

  /// What `plan` was made of; zeros between.
  [[nodiscard]] static GuestCode of(const BlockPlan& plan);
};

/// Sizes of what was explained.
struct ExplainedSum {
  u64 blocks = 0;
  u64 guest_instructions = 0;
  u64 guest_bytes = 0;
  u64 hot_instructions = 0;
  u64 hot_bytes = 0;
  u64 cold_instructions = 0;
  u64 cold_bytes = 0;
};

class Explainer {
 public:
  /// Error: no memory for code.
  [[nodiscard]] static Result<std::unique_ptr<Explainer>> create(const x86::CpuModel& model);

  /// The block at `rip`, from `bytes` that lie at `address`, as text; `sum` grows. Returns how many bytes
  /// from `rip` on it takes in a row, at least 1. Those at `rip` must be among `bytes`.
  u64 block(std::span<const u8> bytes, u64 address, u64 rip, const Mode& mode, std::string& text,
            ExplainedSum& sum);

  /// What a reader of blocks has to know.
  [[nodiscard]] static std::string legend();
  [[nodiscard]] static std::string sum_line(const ExplainedSum& sum);
  /// A mode in which Linux runs code of that kind, with all that the host has.
  [[nodiscard]] static Mode linux_mode(bool user, bool code32);

 private:
  Explainer(const x86::CpuModel& model, CodeCache cache);
  [[nodiscard]] u32 plan(const CodeBytes& code, u64 rip, const Mode& mode);
  [[nodiscard]] u64 run_length() const;
  void part(u32 from, u32 to, bool cold, std::string& text);
  [[nodiscard]] std::string host_text(const ZydisDecodedInstruction& insn,
                                      const ZydisDecodedOperand* operands, u32 offset) const;
  [[nodiscard]] std::string target_name(u64 offset) const;
  [[nodiscard]] std::string note(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands,
                                 u32 offset) const;

  const x86::CpuModel model_;
  CodeCache cache_;
  Thunks thunks_;
  u32 first_code_;
  Emitter emitter_;
  Emitter::Placed placed_;
  BlockPlan plan_;
  std::vector<CodeExit> exits_;
  X87Notes x87_;
  std::vector<Mark> marks_;
  ZydisDecoder decoder_{};
  ZydisFormatter formatter_{};
  u64 host_instructions_ = 0;  // of the part at hand
};

}  // namespace vert::bt
