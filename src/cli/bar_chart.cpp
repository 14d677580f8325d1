#include "cli/bar_chart.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>

#include <fmt/format.h>

namespace vert::cli {
namespace {

constexpr double kWidth = 760;
constexpr double kLeft = 140;
constexpr double kRight = 130;
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

/// A logarithmic axis over whole decades that holds 1 and every ratio.
class Scale {
 public:
  explicit Scale(const std::vector<BarGroup>& groups) {
    for (const BarGroup& group : groups) {
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

std::string bar(const Scale& scale, double y, double ratio, const BarSeries& series) {
  const double from = std::min(scale.x(1), scale.x(ratio));
  const double to = std::max(scale.x(1), scale.x(ratio));
  std::string text =
      fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2" fill="{}"/>)", from, y,
                  std::max(to - from, 1.0), kBar, colour(series.engine));
  text += fmt::format("\n<text x=\"{:.1f}\" y=\"{:.1f}\">{} {:.{}f}x</text>\n", to + 5, y + kBar - 5,
                      series.name, ratio,
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

std::string draw_group(const Scale& scale, double y, const BarGroup& group,
                       const std::vector<BarSeries>& series) {
  std::string text = fmt::format("<text x=\"12\" y=\"{:.1f}\">{}</text>\n", y + kBar - 5, group.label);
  for (std::size_t i = 0; i < series.size(); ++i) {
    if (group.ratios[i]) text += bar(scale, y, *group.ratios[i], series[i]);
    y += kBar + kGap;
  }
  return text;
}

}  // namespace

std::string bar_chart_svg(const std::vector<BarSeries>& series, const std::vector<BarGroup>& groups) {
  const Scale scale(groups);
  const double group_height = static_cast<double>(series.size()) * (kBar + kGap) + kGroupGap;
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
  for (const BarGroup& group : groups) {
    text += draw_group(scale, y, group, series);
    y += group_height;
  }
  return text + "</svg>\n";
}

}  // namespace vert::cli
