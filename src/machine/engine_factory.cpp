#include "machine/engine_factory.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "engine/interp/interpreter.hpp"
#include "machine/machine.hpp"

namespace vert::machine {

namespace {

struct EngineEntry {
  std::string_view name;
  bool available;
  std::string_view why;
  EngineMaker make;
};

/// Best first.
constexpr std::array kEngines = {
    EngineEntry{"interp", true, "the reference interpreter: runs on any x86-64 host",
                [](const cpu::VcpuContext& context) -> std::unique_ptr<cpu::Engine> {
                  return std::make_unique<interp::Interpreter>(context);
                }},
};

}  // namespace

Result<EngineMaker> find_engine(std::string_view name) {
  const auto found = std::ranges::find_if(kEngines, [&](const EngineEntry& entry) {
    return entry.available && (name == "auto" || name == entry.name);
  });
  if (found != kEngines.end()) return found->make;
  std::string names = "auto";
  for (const EngineEntry& entry : kEngines)
    if (entry.available) names += fmt::format(", {}", entry.name);
  return make_error("there is no engine '{}' here; choose one of: {}", name, names);
}

std::vector<EngineInfo> engines() {
  std::vector<EngineInfo> infos;
  for (const EngineEntry& entry : kEngines)
    infos.push_back({entry.name, entry.available, std::string(entry.why)});
  return infos;
}

}  // namespace vert::machine
