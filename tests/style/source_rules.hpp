// Rules that hold for every source file: the layers, forbidden headers, length, a comment at the head.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace vert::style {

/// "src/x86/decode.cpp:12: what is wrong", sorted by file; empty if all of the tree under `root` is right.
[[nodiscard]] std::vector<std::string> violations(const std::filesystem::path& root);

}  // namespace vert::style
