#include "cli/initramfs.hpp"

#include <map>

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

struct Entry {
  u32 mode = 0;
  std::string content;
};

/// Reads an archive back by the format's own words; every header and content begins on a multiple of 4.
std::map<std::string, Entry> read_archive(const std::vector<u8>& bytes) {
  std::map<std::string, Entry> entries;
  std::size_t at = 0;
  const auto text = [&](std::size_t from, std::size_t count) {
    return std::string(reinterpret_cast<const char*>(bytes.data()) + from, count);
  };
  while (at + 110 <= bytes.size()) {
    EXPECT_EQ(text(at, 6), "070701");
    const auto field = [&](std::size_t index) {
      return std::stoul(text(at + 6 + 8 * index, 8), nullptr, 16);
    };
    const std::size_t size = field(6);
    const std::size_t name_size = field(11);
    const std::string name = text(at + 110, name_size - 1);
    EXPECT_EQ(bytes[at + 110 + name_size - 1], 0);
    if (name == "TRAILER!!!") break;
    const std::size_t content = (at + 110 + name_size + 3) / 4 * 4;
    entries[name] = {static_cast<u32>(field(1)), text(content, size)};
    at = (content + size + 3) / 4 * 4;
  }
  return entries;
}

TEST(Initramfs, HoldsWhatWasAdded) {
  Initramfs archive;
  archive.add_folder("dev");
  archive.add_text("init", "#!/bin/sh\n", true);
  archive.add_text("plan", "sum 1", false);
  archive.add_link("bin", "usr/bin");
  const auto entries = read_archive(std::move(archive).finish());
  ASSERT_EQ(entries.size(), 4U);
  EXPECT_EQ(entries.at("dev").mode, 0040755U);
  EXPECT_EQ(entries.at("init").mode, 0100755U);
  EXPECT_EQ(entries.at("init").content, "#!/bin/sh\n");
  EXPECT_EQ(entries.at("plan").mode, 0100644U);
  EXPECT_EQ(entries.at("plan").content, "sum 1");
  EXPECT_EQ(entries.at("bin").mode, 0120777U);
  EXPECT_EQ(entries.at("bin").content, "usr/bin");
}

TEST(Initramfs, MissingHostFileIsAnError) {
  Initramfs archive;
  const Status status = archive.add_host_file("a", "/nonexistent/a", false);
  ASSERT_FALSE(status.has_value());
  EXPECT_NE(status.error().message.find("/nonexistent/a"), std::string::npos);
}

}  // namespace
}  // namespace vert::cli
