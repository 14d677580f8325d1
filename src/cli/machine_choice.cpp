#include "cli/machine_choice.hpp"

#include <time.h>

#include <array>

namespace vert::cli {

Result<control::LivingMachine> find_machine(const std::string& word) {
  VERT_ASSIGN(std::vector<control::LivingMachine> machines, control::living_machines());
  std::vector<std::string> names;
  for (const control::LivingMachine& machine : machines) names.push_back(machine.name);
  VERT_ASSIGN(const std::size_t chosen, control::choose_machine(names, word));
  return std::move(machines[chosen]);
}

void add_machine_name(CLI::App& app, std::string& name) {
  app.add_option("NAME", name, "VM name or an unambiguous prefix; optional if only one VM is running")
      ->type_name("");
}

std::string text_at(const nlohmann::json& json, const std::string& path) {
  const nlohmann::json::json_pointer pointer(path);
  if (!json.contains(pointer)) return "?";
  const nlohmann::json& found = json.at(pointer);
  if (found.is_string()) return found.get<std::string>();
  return found.dump();
}

u64 number_at(const nlohmann::json& json, const std::string& path) {
  const nlohmann::json::json_pointer pointer(path);
  if (!json.contains(pointer)) return 0;
  const nlohmann::json& found = json.at(pointer);
  return found.is_number_unsigned() ? found.get<u64>() : 0;
}

std::string format_time(u64 seconds_since_1970) {
  const auto seconds = static_cast<time_t>(seconds_since_1970);
  tm local{};
  std::array<char, 64> text{};
  if (::localtime_r(&seconds, &local) == nullptr) return "?";
  return {text.data(), ::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local)};
}

std::string format_duration(u64 seconds) {
  const u64 minutes = seconds / 60;
  const u64 hours = minutes / 60;
  if (minutes == 0) return fmt::format("{} s", seconds);
  if (hours == 0) return fmt::format("{} min", minutes);
  if (hours < 24) return fmt::format("{} h {} min", hours, minutes % 60);
  return fmt::format("{} d {} h", hours / 24, hours % 24);
}

}  // namespace vert::cli
