#include "cli/cpu_option.hpp"

#include <algorithm>
#include <cctype>
#include <vector>

#include "cli/text.hpp"
#include "x86/cpu_model.hpp"

namespace vert::cli {

namespace {

/// Features that `name` is a slip or a part of, the likeliest first.
std::vector<std::string> near_features(std::string name) {
  constexpr std::size_t kMost = 8;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const auto known = x86::CpuModel::feature_names();
  const std::vector<std::string> features(known.begin(), known.end());
  std::vector<std::string> near;
  if (const auto closest = closest_match(name, features)) near.push_back(*closest);
  for (const std::string& feature : features) {
    if (near.size() == kMost) break;
    const bool related = !name.empty() && (feature.contains(name) || name.contains(feature));
    if (related && std::ranges::find(near, feature) == near.end()) near.push_back(feature);
  }
  return near;
}

Status check_modifier(const std::string& text, const std::string& modifier) {
  if (!modifier.starts_with('+') && !modifier.starts_with('-'))
    return make_error("--cpu {}: '{}' has to be + or - and the name of a feature, as in host,-AVX512F", text,
                      modifier);
  const std::string name = modifier.substr(1);
  const auto known = x86::CpuModel::feature_names();
  if (std::ranges::find(known, name) != known.end()) return {};
  const std::vector<std::string> near = near_features(name);
  if (near.empty()) return make_error("--cpu {}: unknown feature '{}'", text, name);
  return make_error("--cpu {}: unknown feature '{}'; did you mean {}?", text, name, join_alternatives(near));
}

}  // namespace

Status check_cpu_option(const std::string& text) {
  const auto models = x86::CpuModel::names();
  std::size_t at = std::min(text.find(','), text.size());
  VERT_TRY(check_name("CPU model", text.substr(0, at), {models.begin(), models.end()}));
  while (at < text.size()) {
    const std::size_t end = std::min(text.find(',', at + 1), text.size());
    VERT_TRY(check_modifier(text, text.substr(at + 1, end - at - 1)));
    at = end;
  }
  return {};
}

}  // namespace vert::cli
