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
  if (name != "bt" && name != "bt_windows") return nullptr;
  cpu::VcpuContext chosen = context;
  chosen.aids.windows_at_once = name == "bt_windows";
  auto translator = bt::Translator::create(chosen, std::make_unique<interp::Interpreter>(context));
  return translator ? std::move(*translator) : nullptr;
}

}  // namespace vert::test
