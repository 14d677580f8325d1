#include "diff/harness/decoder.hpp"

#include "x86/cpu_identity.hpp"

namespace vert::diff {

namespace {

const ZydisDecoder& decoder() {
  static const ZydisDecoder kDecoder = [] {
    ZydisDecoder made;
    ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (x86::host_vendor() == x86::Vendor::kAmd)
      ZydisDecoderEnableMode(&made, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
    return made;
  }();
  return kDecoder;
}

}  // namespace

const ZydisDecodedOperand* Decoded::explicit_memory() const {
  for (const auto& operand : all()) {
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
      return &operand;
  }
  return nullptr;
}

std::optional<Decoded> decode(std::span<const u8> bytes) {
  Decoded decoded;
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder(), bytes.data(), bytes.size(), &decoded.insn,
                                           decoded.operands.data())))
    return std::nullopt;
  return decoded;
}

std::string disassemble(std::span<const u8> bytes, u64 address) {
  const auto decoded = decode(bytes);
  if (!decoded) return "(bad)";
  ZydisFormatter formatter;
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  std::array<char, 160> text{};
  ZydisFormatterFormatInstruction(&formatter, &decoded->insn, decoded->operands.data(),
                                  decoded->insn.operand_count_visible, text.data(), text.size(), address,
                                  nullptr);
  return text.data();
}

}  // namespace vert::diff
