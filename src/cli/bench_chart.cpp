// The bar chart of `vert bench`: ratios to bare metal, logarithmic, as SVG.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "cli/bench_report.hpp"

namespace vert::cli {
namespace {

constexpr double kWidth = 760;
constexpr double kLeft = 120;
constexpr double kRight = 104;
constexpr double kTop = 64;
constexpr double kBar = 18;
constexpr double kGap = 4;
constexpr double kGroupGap = 18;

// The chart brings its own paper, so that it is legible on any page; paper and ink follow the colour scheme.
constexpr std::string_view kStyle = R"(<style>
.paper { fill: #ffffff; }
text { font: 13px sans-serif; fill: #24292f; }
.title { font-weight: bold; font-size: 15px; }
.axis { stroke: #8c959f; stroke-width: 1; }
.grid { stroke: #8c959f; stroke-width: 0.5; stroke-dasharray: 2 3; }
@media (prefers-color-scheme: dark) { .paper { fill: #0d1117; } text { fill: #e6edf3; } }
</style>
)";

std::string_view colour(std::string_view engine) {
  static const std::map<std::string_view, std::string_view> kColours = {
      {"interp", "#d9730d"}, {"qemu", "#3b82f6"}, {"bt", "#16a34a"}, {"kvm", "#8b5cf6"}};
  const auto found = kColours.find(engine);
  return found == kColours.end() ? "#8c959f" : found->second;
}

/// The bars of one program or mean: a ratio for each guest that has one.
struct Group {
  std::string label;
  std::vector<std::optional<double>> ratios;
};

/// A logarithmic axis over whole decades that holds 1 and every ratio.
class Scale {
 public:
  explicit Scale(const std::vector<Group>& groups) {
    for (const Group& group : groups) {
      for (const auto ratio : group.ratios) {
        if (ratio) hold(*ratio);
      }
    }
  }
  [[nodiscard]] double x(double ratio) const {
    return kLeft + (std::log10(ratio) - low_) / (high_ - low_) * (kWidth - kLeft - kRight);
  }
  [[nodiscard]] int low() const { return low_; }
  [[nodiscard]] int high() const { return high_; }

 private:
  void hold(double ratio) {
    low_ = std::min(low_, static_cast<int>(std::floor(std::log10(ratio))));
    high_ = std::max(high_, static_cast<int>(std::ceil(std::log10(ratio))));
  }

  int low_ = 0;
  int high_ = 1;
};

std::string bar(const Scale& scale, double y, double ratio, std::string_view engine) {
  const double from = std::min(scale.x(1), scale.x(ratio));
  const double to = std::max(scale.x(1), scale.x(ratio));
  std::string text =
      fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2" fill="{}"/>)", from, y,
                  std::max(to - from, 1.0), kBar, colour(engine));
  text += fmt::format("\n<text x=\"{:.1f}\" y=\"{:.1f}\">{} {:.{}f}x</text>\n", to + 5, y + kBar - 5, engine,
                      ratio,
                      ratio < 10    ? 2
                      : ratio < 100 ? 1
                                    : 0);
  return text;
}

std::string axis(const Scale& scale, double bottom) {
  std::string text;
  for (int decade = scale.low(); decade <= scale.high(); ++decade) {
    const double x = scale.x(std::pow(10.0, decade));
    text += fmt::format(R"(<line class="{}" x1="{:.1f}" y1="{}" x2="{:.1f}" y2="{:.1f}"/>)",
                        decade == 0 ? "axis" : "grid", x, kTop - 8, x, bottom);
    text += fmt::format("\n<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n", x,
                        bottom + 18, std::pow(10.0, decade));
  }
  return text;
}

std::vector<Group> make_groups(const BenchReport& report, const BenchResult& bare,
                               const std::vector<const BenchResult*>& guests) {
  std::vector<Group> groups;
  for (std::size_t task = 0; task < report.programs.size(); ++task) {
    groups.push_back({std::string(report.programs[task]->name), {}});
    for (const BenchResult* const guest : guests) {
      groups.back().ratios.emplace_back(bench_ratio(*guest, bare, task, report.statistic()));
    }
  }
  if (!report.suite) return groups;
  Group core = {fmt::format("mean of {}", kCorePrograms), {}};
  Group all = {"mean of all", {}};
  for (const BenchResult* const guest : guests) {
    const BenchMeans means = bench_means(*guest, bare, report.statistic());
    core.ratios.push_back(means.core);
    all.ratios.push_back(means.all);
  }
  if (std::ranges::any_of(core.ratios, &std::optional<double>::has_value)) groups.push_back(std::move(core));
  groups.push_back(std::move(all));
  return groups;
}

std::string draw_group(const Scale& scale, double y, const Group& group,
                       const std::vector<const BenchResult*>& guests) {
  std::string text = fmt::format("<text x=\"12\" y=\"{:.1f}\">{}</text>\n", y + kBar - 5, group.label);
  for (std::size_t guest = 0; guest < guests.size(); ++guest) {
    if (group.ratios[guest]) text += bar(scale, y, *group.ratios[guest], guests[guest]->engine);
    y += kBar + kGap;
  }
  return text;
}

}  // namespace

std::string bench_svg(const BenchReport& report) {
  const BenchResult* const bare = find_bare(report.results);
  std::vector<const BenchResult*> guests;
  for (const BenchResult& result : report.results) {
    if (bare != nullptr && &result != bare && result.measured()) guests.push_back(&result);
  }
  const std::vector<Group> groups =
      guests.empty() ? std::vector<Group>{} : make_groups(report, *bare, guests);
  const Scale scale(groups);
  const double group_height = static_cast<double>(guests.size()) * (kBar + kGap) + kGroupGap;
  const double bottom = kTop + static_cast<double>(groups.size()) * group_height;
  std::string text = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {:.0f}" width="{}" height="{:.0f}" role="img">)",
      kWidth, bottom + 32, kWidth, bottom + 32);
  text += "\n<title>Time against bare metal</title>\n";
  text += kStyle;
  text += R"(<rect class="paper" width="100%" height="100%" rx="6"/>)"
          "\n";
  text +=
      R"(<text class="title" x="12" y="24">Time against bare metal (1 = bare metal, less is faster, log scale)</text>)";
  text += "\n" + axis(scale, bottom);
  double y = kTop;
  for (const Group& group : groups) {
    text += draw_group(scale, y, group, guests);
    y += group_height;
  }
  return text + "</svg>\n";
}

}  // namespace vert::cli
