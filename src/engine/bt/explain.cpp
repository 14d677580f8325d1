#include "engine/bt/explain.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "engine/bt/code_names.hpp"
#include "engine/bt/host_registers.hpp"
#include "engine/bt/thunks.hpp"

namespace vert::bt {

namespace {

constexpr std::size_t kExplainerCache = 256 * 1024;
constexpr std::size_t kMaxInsn = 15;
constexpr u32 kToken = 1;
constexpr u32 kSecondToken = 2;

std::string hex(std::span<const u8> bytes) {
  std::string text;
  for (const u8 byte : bytes) text += fmt::format("{:02x} ", byte);
  return text;
}

std::string flag_letters(u16 flags) {
  constexpr std::array<std::pair<u16, char>, 6> kLetters = {
      {{0x001, 'C'}, {0x004, 'P'}, {0x010, 'A'}, {0x040, 'Z'}, {0x080, 'S'}, {0x800, 'O'}}};
  std::string text;
  for (const auto& [bit, letter] : kLetters)
    if ((flags & bit) != 0) text += letter;
  return text.empty() ? "-" : text;
}

std::string guest_text(const ZydisFormatter& formatter, const GuestInsn& guest) {
  if (guest.insn.length == 0) return "(cannot be decoded)";
  std::array<char, 160> buffer{};
  ZydisFormatterFormatInstruction(&formatter, &guest.details.instruction, guest.details.operand_array.data(),
                                  guest.details.instruction.operand_count_visible, buffer.data(),
                                  buffer.size(), guest.rip, nullptr);
  return buffer.data();
}

const ZydisDecodedOperand* context_operand(const ZydisDecodedInstruction& insn,
                                           const ZydisDecodedOperand* operands) {
  for (const ZydisDecodedOperand& operand : std::span(operands, insn.operand_count))
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.mem.segment == ZYDIS_REGISTER_GS)
      return &operand;
  return nullptr;
}

}  // namespace

GuestCode GuestCode::of(const BlockPlan& plan) {
  GuestCode code;
  const auto insns = std::span(plan.insns).first(plan.count);
  if (insns.empty()) return code;
  code.address = std::ranges::min_element(insns, {}, &GuestInsn::rip)->rip;
  for (const GuestInsn& guest : insns) {
    const u64 offset = guest.rip - code.address;
    code.bytes.resize(std::max<std::size_t>(code.bytes.size(), offset + guest.insn.length));
    std::ranges::copy(guest.insn.encoding(), code.bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  return code;
}

Result<std::unique_ptr<Explainer>> Explainer::create(const x86::CpuModel& model) {
  VERT_ASSIGN(auto cache, CodeCache::create(kExplainerCache));
  return std::unique_ptr<Explainer>(new Explainer(model, std::move(cache)));
}

Explainer::Explainer(const x86::CpuModel& model, CodeCache cache)
    : model_(model),
      cache_(std::move(cache)),
      thunks_(make_thunks(cache_, [](Context*) {})),
      first_code_(cache_.position()),
      emitter_(thunks_) {
  ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisFormatterInit(&formatter_, ZYDIS_FORMATTER_STYLE_INTEL);
  ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
  ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE, ZYDIS_PADDING_DISABLED);
  ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_DISP_PADDING, ZYDIS_PADDING_DISABLED);
  ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED);
}

Mode Explainer::linux_mode(bool user, bool code32) {
  Mode mode;
  mode.code32 = code32;
  mode.privilege = user ? cpu::Privilege::kUser : cpu::Privilege::kSmap;
  mode.fpu = fpu::kX87 | fpu::kSse | fpu::kAvx | fpu::kAvx512;
  mode.fs_gs_base = true;
  mode.smap = true;
  return mode;
}

/// Plans the block as Runtime::translate() does; returns the token of the page that it runs into, or 0.
u32 Explainer::plan(const CodeBytes& code, u64 rip, const Mode& mode) {
  const u64 begin = std::max(code.first, rip & ~kPageOffsetMask);
  const u64 available = code.from(begin).size();
  const u64 in_page = std::min(available, kPageSize - (begin & kPageOffsetMask));
  plan_block({code.from(begin).first(in_page), begin}, rip, mode, model_, plan_);
  const u64 room = begin + in_page - rip;
  if (plan_.insn(0).insn.length != 0 || in_page == available || room >= kMaxInsn) return 0;
  const u64 with_next = std::min(available, in_page + kMaxInsn);
  plan_block({code.from(begin).first(with_next), begin}, rip, mode, model_, plan_, 1);
  return kSecondToken;
}

u64 Explainer::block(std::span<const u8> bytes, u64 address, u64 rip, const Mode& mode, std::string& text,
                     ExplainedSum& sum) {
  if (rip - address >= bytes.size()) return 1;
  cache_.rewind(first_code_);
  exits_.assign(1, {});
  marks_.clear();
  x87_.clear();
  const u32 second_token = plan({bytes, address}, rip, mode);
  const Emitter::Request request{plan_, mode, rip, kToken, 0, second_token, false, {}};
  emitter_.emit(request, exits_, x87_);
  placed_ = emitter_.place(cache_, exits_, marks_);
  ExplainedSum own{.blocks = 1, .guest_instructions = plan_.count, .guest_bytes = plan_.length};
  std::string listing;
  const auto both = [&](const Emitter::Boundary& from, const Emitter::Boundary& to) {
    host_instructions_ = 0;
    part(placed_.hot + from.hot, placed_.hot + to.hot, false, listing);
    own.hot_instructions += std::exchange(host_instructions_, 0);
    part(placed_.cold + from.cold, placed_.cold + to.cold, true, listing);
    own.cold_instructions += host_instructions_;
  };
  both({}, emitter_.boundaries()[0]);
  for (unsigned i = 0; i < plan_.count; ++i) {
    const GuestInsn& guest = plan_.insn(i);
    const std::string line =
        fmt::format("{:x}  {:<30} {}", guest.rip, hex(guest.insn.encoding()), guest_text(formatter_, guest));
    listing += fmt::format("{:<76}  ; live flags: {}\n", line, flag_letters(plan_.live_before[i]));
    both(emitter_.boundaries()[i], emitter_.boundaries()[i + 1]);
  }
  both(emitter_.boundaries()[plan_.count], emitter_.boundaries().back());
  own.hot_bytes = emitter_.boundaries().back().hot;
  own.cold_bytes = emitter_.boundaries().back().cold;
  text += fmt::format("{}  ({})\n{}\n", block_name(rip, mode), sum_line(own), listing);

  sum.blocks += own.blocks;
  sum.guest_instructions += own.guest_instructions;
  sum.guest_bytes += own.guest_bytes;
  sum.hot_instructions += own.hot_instructions;
  sum.hot_bytes += own.hot_bytes;
  sum.cold_instructions += own.cold_instructions;
  sum.cold_bytes += own.cold_bytes;
  return run_length();
}

u64 Explainer::run_length() const {
  u64 next = plan_.insn(0).rip;
  for (unsigned i = 0; i < plan_.count && plan_.insn(i).rip == next; ++i) next = plan_.insn(i).next_rip();
  return std::max<u64>(next - plan_.insn(0).rip, 1);
}

/// Host instructions from one offset in the code cache to another.
void Explainer::part(u32 from, u32 to, bool cold, std::string& text) {
  for (u32 at = from; at < to;) {
    ZydisDecodedInstruction insn;
    std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;
    VERT_CHECK(
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, cache_.code(at), to - at, &insn, operands.data())));
    ++host_instructions_;
    const std::string line = fmt::format("    {}  {:>4}  {}", cold ? "cold" : "    ",
                                         fmt::format("+{:x}", at - (cold ? placed_.cold : placed_.hot)),
                                         host_text(insn, operands.data(), at));
    const std::string comment = note(insn, operands.data(), at);
    text += comment.empty() ? line + "\n" : fmt::format("{:<76}  ; {}\n", line, comment);
    at += insn.length;
  }
}

std::string Explainer::target_name(u64 offset) const {
  for (const NamedThunk& thunk : named_thunks(thunks_))
    if (thunk.offset == offset) return std::string(thunk.name);
  if (offset >= placed_.cold) return fmt::format("cold+{:x}", offset - placed_.cold);
  return fmt::format("+{:x}", offset - placed_.hot);
}

std::string Explainer::host_text(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands,
                                 u32 offset) const {
  const bool relative = (insn.attributes & ZYDIS_ATTRIB_IS_RELATIVE) != 0;
  if (relative && operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
    ZyanU64 target = 0;
    ZydisCalcAbsoluteAddress(&insn, operands, offset, &target);
    return fmt::format("{} {}", ZydisMnemonicGetString(insn.mnemonic), target_name(target));
  }
  std::array<char, 160> buffer{};
  ZydisFormatterFormatInstruction(&formatter_, &insn, operands, insn.operand_count_visible, buffer.data(),
                                  buffer.size(), offset, nullptr);
  std::string text = buffer.data();
  // An index times 1 needs no saying.
  for (const char* end : {"*1]", "*1+", "*1-"})
    if (const std::size_t at = text.find(end); at != std::string::npos) text.erase(at, 2);
  const ZydisDecodedOperand* field = context_operand(insn, operands);
  const std::size_t open = text.find("gs:[");
  const std::size_t close = text.find(']', open);
  if (field == nullptr || open == std::string::npos || close == std::string::npos) return text;
  std::string name = context_name(static_cast<u32>(field->mem.disp.value));
  if (field->mem.base != ZYDIS_REGISTER_NONE)
    name += fmt::format("+{}", ZydisRegisterGetString(field->mem.base));
  if (field->mem.index != ZYDIS_REGISTER_NONE)
    name += fmt::format("+{}{}", ZydisRegisterGetString(field->mem.index),
                        field->mem.scale == 1 ? "" : fmt::format("*{}", field->mem.scale));
  return text.replace(open, close + 1 - open, "[" + name + "]");
}

/// What an instruction means, where that can be told from it alone.
std::string Explainer::note(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands,
                            u32 offset) const {
  const auto mark = std::ranges::find(marks_, offset, &Mark::offset);
  if (mark != marks_.end()) return "may fault: precise";
  const auto exit = std::ranges::find(exits_, offset + insn.length - 4, &CodeExit::site);
  const bool jumps = (insn.attributes & ZYDIS_ATTRIB_IS_RELATIVE) != 0;
  if (jumps && exit != exits_.end()) return exit_name(*exit);
  const ZydisDecodedOperand* field = context_operand(insn, operands);
  if (field == nullptr || insn.mnemonic != ZYDIS_MNEMONIC_MOV) return "";
  if (operands[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE) return "";
  const auto at = static_cast<u32>(field->mem.disp.value);
  if (at != offsetof(Context, exit) && at != offsetof(Context, last_return)) return "";
  const u64 index = operands[1].imm.value.u;
  return index < exits_.size() ? exit_name(exits_[index]) : "";
}

std::string Explainer::legend() {
  return "`live flags`: arithmetic flags whose values matter before the instruction.\n"
         "Host code is indented: +offset, then the instruction; `cold` is what usually does not run, and "
         "lies\n"
         "elsewhere.\n"
         "Host registers are the guest's of the same name, but: r15 is the guest's RSP, rsp the stack of "
         "return\n"
         "addresses, r10, r11 and r14 are scratch; the guest's r10, r11, r14 and r15 are in ctx.gpr.\n\n";
}

std::string Explainer::sum_line(const ExplainedSum& sum) {
  const double ratio = sum.guest_instructions == 0 ? 0
                                                   : static_cast<double>(sum.hot_instructions) /
                                                         static_cast<double>(sum.guest_instructions);
  return fmt::format(
      "{} guest instructions in {} bytes; hot: {} instructions in {} bytes, {:.1f} for each; cold: {} in {}",
      sum.guest_instructions, sum.guest_bytes, sum.hot_instructions, sum.hot_bytes, ratio,
      sum.cold_instructions, sum.cold_bytes);
}

}  // namespace vert::bt
