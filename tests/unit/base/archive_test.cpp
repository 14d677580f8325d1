// The archive: what it keeps, and what it refuses.
#include "base/archive.hpp"

#include <gtest/gtest.h>
#include <limits>

namespace vert::test {
namespace {

using base::Document;

enum class Colour : u8 { kRed, kBlue = 200 };

struct Inner {
  i16 depth = 0;
  template <typename Archive>
  void fields(Archive& a) {
    a("depth", depth);
  }
  bool operator==(const Inner&) const = default;
};

struct Outer {
  bool flag = false;
  u64 large = 0;
  i64 negative = 0;
  Colour colour = Colour::kRed;
  std::string text;
  std::vector<u8> bytes;
  std::array<u32, 3> fixed{};
  std::vector<Inner> list;
  Inner inner;
  template <typename Archive>
  void fields(Archive& a) {
    a("flag", flag);
    a("large", large);
    a("negative", negative);
    a("colour", colour);
    a("text", text);
    a("bytes", bytes);
    a("fixed", fixed);
    a("list", list);
    a("inner", inner);
  }
  bool operator==(const Outer&) const = default;
};

Outer sample() {
  return {true,
          std::numeric_limits<u64>::max(),
          std::numeric_limits<i64>::min(),
          Colour::kBlue,
          "tekst",
          {0, 255, 3},
          {1, 2, 3},
          {{-5}, {7}},
          {-32768}};
}

/// The error of restoring `document`, or nothing.
std::string refusal(const Document& document) {
  const auto restored = base::restore<Outer>("outer", 2, document);
  return restored ? "" : restored.error().message;
}

TEST(Archive, RoundTrip) {
  const Document document = base::save("outer", 2, sample());
  EXPECT_EQ(base::restore<Outer>("outer", 2, document).value(), sample());
  const auto bytes = base::to_bytes(document);
  EXPECT_EQ(base::restore<Outer>("outer", 2, base::from_bytes(bytes).value()).value(), sample());
}

TEST(Archive, EmptyListsSurvive) {
  EXPECT_EQ(base::restore<Outer>("outer", 2, base::save("outer", 2, Outer{})).value(), Outer{});
}

TEST(Archive, RefusesAnotherComponentOrVersion) {
  const Document document = base::save("outer", 2, sample());
  EXPECT_FALSE(base::restore<Outer>("other", 2, document).has_value());
  EXPECT_FALSE(base::restore<Outer>("outer", 3, document).has_value());
  for (const Document& nonsense : {Document(), Document(5), Document::array(), Document::object()})
    EXPECT_NE(refusal(nonsense), "");
  Document no_state = document;
  no_state.erase("state");
  EXPECT_NE(refusal(no_state), "");
  Document flat = document;
  flat["state"] = 7;
  EXPECT_NE(refusal(flat), "");
  Document more = document;
  more["more"] = 7;
  EXPECT_NE(refusal(more), "");
}

TEST(Archive, NamesTheFieldItRefuses) {
  const Document good = base::save("outer", 2, sample());
  const auto with = [&good](const char* pointer, Document value) {
    Document changed = good;
    changed[Document::json_pointer(pointer)] = std::move(value);
    return refusal(changed);
  };
  EXPECT_EQ(with("/state/large", -1), "saved state: outer.large is out of range");
  EXPECT_EQ(with("/state/large", 1.5), "saved state: outer.large is not a whole number");
  EXPECT_EQ(with("/state/colour", 256), "saved state: outer.colour is out of range");
  EXPECT_EQ(with("/state/flag", 1), "saved state: outer.flag is not true or false");
  EXPECT_EQ(with("/state/text", 1), "saved state: outer.text is not a string");
  EXPECT_EQ(with("/state/bytes", "x"), "saved state: outer.bytes is not bytes");
  EXPECT_EQ(with("/state/fixed", Document::array({1, 2})), "saved state: outer.fixed has the wrong length");
  EXPECT_EQ(with("/state/fixed/1", "x"), "saved state: outer.fixed[1] is not a whole number");
  EXPECT_EQ(with("/state/list", 4), "saved state: outer.list is not a list");
  EXPECT_EQ(with("/state/list/1/depth", 40000), "saved state: outer.list[1].depth is out of range");
  EXPECT_EQ(with("/state/list/0", 4), "saved state: outer.list[0] is not a set of fields");
  EXPECT_EQ(with("/state/inner/extra", 4),
            "saved state: outer.inner.extra is not known to this version of vert");
  EXPECT_EQ(with("/state/extra", 4), "saved state: outer.extra is not known to this version of vert");
  Document missing = good;
  missing["state"].erase("negative");
  EXPECT_EQ(refusal(missing), "saved state: outer.negative is missing");
}

TEST(Archive, RefusesDamagedBytes) {
  auto bytes = base::to_bytes(base::save("outer", 2, sample()));
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_FALSE(
        base::from_bytes({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)}).has_value());
  bytes.push_back(0);
  EXPECT_FALSE(base::from_bytes(bytes).has_value());
  EXPECT_FALSE(base::from_bytes({0xFF}).has_value());
  EXPECT_FALSE(base::from_bytes({0x9B, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}).has_value());
}

TEST(Archive, RefusesEndlessNesting) {
  EXPECT_FALSE(base::from_bytes(std::vector<u8>(1'000'000, 0x81)).has_value());
  std::vector<u8> shallow(20, 0x81);
  shallow.push_back(0x05);
  EXPECT_TRUE(base::from_bytes(shallow).has_value());
}

}  // namespace
}  // namespace vert::test
