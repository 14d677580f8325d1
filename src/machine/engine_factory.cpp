#include "machine/engine_factory.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "engine/bt/translator.hpp"
#include "engine/interp/interpreter.hpp"
#include "machine/machine.hpp"

namespace vert::machine {

namespace {

struct EngineEntry {
  std::string_view name;
  /// An error says why this host cannot run it.
  Status (*usable)();
  std::string_view what;
  EngineMaker make;
};

Result<std::unique_ptr<cpu::Engine>> make_interpreter(const cpu::VcpuContext& context) {
  return std::make_unique<interp::Interpreter>(context);
}

Result<std::unique_ptr<cpu::Engine>> make_translator(const cpu::VcpuContext& context) {
  VERT_ASSIGN(auto translator,
              bt::Translator::create(context, std::make_unique<interp::Interpreter>(context)));
  return translator;
}

/// Best first.
constexpr std::array kEngines = {
    EngineEntry{"bt", &bt::Translator::usable, "binary translation: fast, with no hardware support",
                make_translator},
    EngineEntry{"interp", []() -> Status { return {}; }, "the reference interpreter: runs on any x86-64 host",
                make_interpreter},
};

}  // namespace

Result<EngineChoice> find_engine(std::string_view name) {
  const auto found = std::ranges::find_if(kEngines, [&](const EngineEntry& entry) {
    return entry.usable() && (name == "auto" || name == entry.name);
  });
  if (found != kEngines.end()) return EngineChoice{found->name, found->make};
  std::string names = "auto";
  for (const EngineEntry& entry : kEngines)
    if (entry.usable()) names += fmt::format(", {}", entry.name);
  return make_error("there is no engine '{}' here; choose one of: {}", name, names);
}

std::vector<EngineInfo> engines() {
  std::vector<EngineInfo> infos;
  for (const EngineEntry& entry : kEngines)
    if (const Status usable = entry.usable(); usable)
      infos.push_back({entry.name, true, std::string(entry.what)});
    else
      infos.push_back({entry.name, false, usable.error().message});
  return infos;
}

}  // namespace vert::machine
