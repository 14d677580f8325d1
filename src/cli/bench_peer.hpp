// The QEMU that `vert bench` compares with.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace vert::cli {

struct BenchPeer {
  std::string path;
  std::string version;  // as "10.0.2"; "unknown" if it does not say

  bool operator==(const BenchPeer&) const = default;
};

/// The oldest major version that counts as today's QEMU.
inline constexpr unsigned kPeerMajor = 10;

/// The version in the first line of `qemu-system-x86_64 --version`.
[[nodiscard]] std::optional<std::string> parse_qemu_version(const std::string& line);
/// Whether a version is `kPeerMajor` or later.
[[nodiscard]] bool is_current(const BenchPeer& peer);
/// The first that is current, else the first.
[[nodiscard]] std::optional<BenchPeer> choose_peer(const std::vector<BenchPeer>& peers);
/// The first words of a command line: a PC with one vCPU and this much memory, and its serial console on the
/// standard streams.
[[nodiscard]] std::vector<std::string> peer_command(const BenchPeer& peer, std::string_view memory);
/// What is wrong if none is found.
inline constexpr const char* kNoPeer =
    "qemu-system-x86_64 is not installed ('./dev setup' or 'apt install qemu-system-x86')";
/// Asks each qemu-system-x86_64 in PATH for its version, and chooses. Warns of one that is not current.
[[nodiscard]] std::optional<BenchPeer> find_peer();

}  // namespace vert::cli
