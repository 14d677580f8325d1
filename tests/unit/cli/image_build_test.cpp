#include "cli/image_build.hpp"

#include <algorithm>

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

bool has(const std::vector<std::string>& packages, const std::string& name) {
  return std::ranges::find(packages, name) != packages.end();
}

std::string value_of(const std::string& settings, const std::string& name) {
  const auto at = settings.find("\n" + name + "='");
  if (at == std::string::npos) return "";
  const auto from = at + name.size() + 3;
  return settings.substr(from, settings.find("'\n", from) - from);
}

std::string error_of(const ImageBuild& build) {
  const auto built = build_image(build, [](const BuildStep&) {});
  return built ? "no error" : built.error().message;
}

TEST(ImageBuild, HasTheCloudKernelUnlessAnotherIsNamed) {
  EXPECT_TRUE(has(build_packages({}), "linux-image-cloud-amd64"));
  const auto generic = build_packages({.packages = {"linux-image-amd64", "git"}});
  EXPECT_FALSE(has(generic, "linux-image-cloud-amd64"));
  EXPECT_TRUE(has(generic, "git"));
}

TEST(ImageBuild, AnSshKeyBringsAServer) {
  EXPECT_FALSE(has(build_packages({}), "openssh-server"));
  EXPECT_TRUE(has(build_packages({.ssh_key = "ssh-ed25519 A"}), "openssh-server"));
}

TEST(ImageBuild, TheSameInputsGiveTheSameSettings) {
  const ImageBuild build{.root_password = "secret"};
  const auto first = build_settings(build, 1'700'000'000);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(*first, build_settings(build, 1'700'000'000));
  EXPECT_NE(*first, build_settings(build, 1'700'000'001));
}

TEST(ImageBuild, PasswordsAreHashedAndTextIsQuoted) {
  const auto settings = build_settings({.root_password = "it's", .ssh_key = "ssh-rsa A 'me'"}, 1);
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->find("it's"), std::string::npos);
  EXPECT_TRUE(value_of(*settings, "password_hash").starts_with("$6$"));
  EXPECT_NE(settings->find("ssh_key='ssh-rsa A '\\''me'\\'''"), std::string::npos) << *settings;
  EXPECT_EQ(value_of(*build_settings({}, 1), "password_hash"), "");
}

TEST(ImageBuild, RefusesWhatCannotBe) {
  EXPECT_EQ(error_of({.size = 1 << 20}), "--size: a system needs at least 1G, in whole MiB");
  EXPECT_EQ(error_of({.packages = {"git,vim"}}),
            "--package git,vim: no name of a package; repeat --package for more than one");
  EXPECT_NE(error_of({.packages = {"--customize-hook=rm"}}).find("no name of a package"), std::string::npos);
  EXPECT_NE(error_of({.suite = "book worm"}).find("no name of a suite"), std::string::npos);
  EXPECT_NE(error_of({.hostname = "a b"}).find("--hostname"), std::string::npos);
  EXPECT_NE(error_of({.mirror = "$(x)"}).find("--mirror"), std::string::npos);
}

}  // namespace
}  // namespace vert::cli
