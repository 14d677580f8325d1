#include "cli/cpu_option.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "x86/cpu_model.hpp"

namespace vert::cli {
namespace {

std::string refusal(const std::string& text) {
  const Status status = check_cpu_option(text);
  return status ? "accepted" : status.error().message;
}

TEST(CpuOption, TakesEachFeatureWithEachModel) {
  for (const std::string_view model : x86::CpuModel::names()) {
    EXPECT_TRUE(check_cpu_option(std::string(model)).has_value());
    for (const std::string_view feature : x86::CpuModel::feature_names())
      EXPECT_TRUE(check_cpu_option(fmt::format("{},+{},-{}", model, feature, feature)).has_value());
  }
}

TEST(CpuOption, NamesAnUnknownModelAndTheNearest) {
  EXPECT_EQ(refusal("x86-64-v5,+AES"), "unknown CPU model 'x86-64-v5'; did you mean 'x86-64-v2'?");
}

TEST(CpuOption, NamesAnUnknownFeatureAndThoseThatComeNear) {
  EXPECT_EQ(refusal("host,+MONITR"), "--cpu host,+MONITR: unknown feature 'MONITR'; did you mean MONITOR?");
  EXPECT_EQ(refusal("host,-avx2"), "--cpu host,-avx2: unknown feature 'avx2'; did you mean AVX2 or AVX?");
  EXPECT_EQ(refusal("host,+QZW"), "--cpu host,+QZW: unknown feature 'QZW'");
  const std::string many = refusal("host,-AVX512");
  EXPECT_NE(many.find("AVX512F"), std::string::npos) << many;
  EXPECT_EQ(std::ranges::count(many, '\n'), 0);
}

TEST(CpuOption, SaysWhatAModifierLooksLike) {
  for (const char* text : {"host,", "host,AES", "host,+AES,", "host,=AES"})
    EXPECT_NE(refusal(text).find("host,-AVX512F"), std::string::npos) << text;
  EXPECT_EQ(refusal("host,+"), "--cpu host,+: unknown feature ''");
}

}  // namespace
}  // namespace vert::cli
