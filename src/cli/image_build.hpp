// `vert image build`: makes a disk image of a distribution, with mmdebstrap, mke2fs and sfdisk. Main thread.
//
// mmdebstrap installs the packages as root, in a user namespace, or with fakeroot, whichever this user may.
// A script of ours that it runs then configures the system and writes the disk, where files have the owners
// that they are to have.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "storage/image.hpp"

namespace vert::cli {

struct ImageBuild {
  std::string suite = "bookworm";
  u64 size = u64{4} << 30;
  std::vector<std::string> packages{};  // besides those that every image has
  std::string hostname = "debian";
  std::optional<std::string> root_password{};  // none: root logs in on the console without one
  std::string ssh_key{};                       // public keys, as in authorized_keys; empty: no SSH server
  std::string mirror{};                        // empty: Debian's
  bool allow_expired = false;                  // package lists whose date has passed
  std::string output{};
  storage::Format format = storage::Format::kQcow2;
  std::string cache{};  // the folder for downloaded packages
};

/// What mmdebstrap and the script do, in this order.
struct BuildStep {
  std::string_view line;  // how mmdebstrap's message begins
  std::string_view name;
  unsigned percent;  // of the whole, when it begins
};
[[nodiscard]] std::span<const BuildStep> build_steps();

/// Builds it; `progress` is told of each step. Error: a tool is missing, a value is not valid, a package
/// cannot be had, ...; the output is not there then.
[[nodiscard]] Status build_image(const ImageBuild& build,
                                 const std::function<void(const BuildStep&)>& progress);

// For tests.

/// The packages to install.
[[nodiscard]] std::vector<std::string> build_packages(const ImageBuild& build);
/// What the script reads: shell assignments of all that varies. `seconds` is the image's time, since 1970;
/// none: that of the newest file in its packages.
[[nodiscard]] Result<std::string> build_settings(const ImageBuild& build, std::optional<i64> seconds);

}  // namespace vert::cli
