#include "support/engines.hpp"

#include "engine/interp/interpreter.hpp"

namespace vert::test {

std::vector<std::string> engine_names() { return {"interp"}; }

std::unique_ptr<cpu::Engine> make_engine(std::string_view name, const cpu::VcpuContext& context) {
  if (name == "interp") return std::make_unique<interp::Interpreter>(context);
  return nullptr;
}

}  // namespace vert::test
