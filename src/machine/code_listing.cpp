#include "machine/code_listing.hpp"

#include "engine/bt/explain.hpp"
#include "engine/bt/translator.hpp"

namespace vert::machine {

Result<std::string> list_code(std::span<const u8> bytes, u64 address, CodeKind kind,
                              std::size_t most_blocks) {
  VERT_TRY(bt::Translator::usable());
  VERT_ASSIGN(const auto model, x86::CpuModel::make("host"));
  VERT_ASSIGN(const auto explainer, bt::Explainer::create(model));
  const bt::Mode mode = bt::Explainer::linux_mode(kind != CodeKind::kKernel, kind == CodeKind::kUser32);
  std::string text = bt::Explainer::legend();
  bt::ExplainedSum sum;
  for (std::size_t at = 0; at < bytes.size() && sum.blocks < most_blocks;)
    at += explainer->block(bytes, address, address + at, mode, text, sum);
  text += fmt::format("{} {}: {}\n", sum.blocks, sum.blocks == 1 ? "block" : "blocks",
                      bt::Explainer::sum_line(sum));
  return text;
}

}  // namespace vert::machine
