// The bar charts of `vert bench`: ratios to bare metal on a logarithmic scale, as SVG. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace vert::cli {

/// What each group of bars has a bar of.
struct BarSeries {
  std::string name;    // beside the bar
  std::string engine;  // decides the colour
};

/// The bars of one program or mean: a ratio for each series that has one.
struct BarGroup {
  std::string label;
  std::vector<std::optional<double>> ratios;
};

/// Legible on light and dark.
[[nodiscard]] std::string bar_chart_svg(const std::vector<BarSeries>& series,
                                        const std::vector<BarGroup>& groups);

}  // namespace vert::cli
