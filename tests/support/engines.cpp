#include "support/engines.hpp"

#include "engine/bt/translator.hpp"
#include "engine/interp/interpreter.hpp"

namespace vert::test {

std::vector<std::string> engine_names() {
  std::vector<std::string> names = {"interp"};
  if (bt::Translator::usable()) names.insert(names.end(), {"bt", "bt_windows"});
  return names;
}

std::unique_ptr<cpu::Engine> make_engine(std::string_view name, const cpu::VcpuContext& context) {
  if (name == "interp") return std::make_unique<interp::Interpreter>(context);
  cpu::VcpuContext chosen = context;
  constexpr std::string_view kNoLooks = "_no_looks";
  chosen.aids.no_looks = name.ends_with(kNoLooks);
  if (chosen.aids.no_looks) name.remove_suffix(kNoLooks.size());
  if (name != "bt" && name != "bt_windows") return nullptr;
  chosen.aids.windows_at_once = name == "bt_windows";
  auto translator = bt::Translator::create(chosen, std::make_unique<interp::Interpreter>(context));
  return translator ? std::move(*translator) : nullptr;
}

}  // namespace vert::test
