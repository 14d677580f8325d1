#include "support/engines.hpp"

#include "engine/bt/translator.hpp"
#include "engine/interp/interpreter.hpp"

namespace vert::test {

std::vector<std::string> engine_names() {
  std::vector<std::string> names = {"interp"};
  if (bt::Translator::usable()) names.emplace_back("bt");
  return names;
}

std::unique_ptr<cpu::Engine> make_engine(std::string_view name, const cpu::VcpuContext& context) {
  if (name == "interp") return std::make_unique<interp::Interpreter>(context);
  if (name != "bt") return nullptr;
  auto translator = bt::Translator::create(context, std::make_unique<interp::Interpreter>(context));
  return translator ? std::move(*translator) : nullptr;
}

}  // namespace vert::test
