// Looks for QEMU in PATH; see bench_peer.hpp.
#include "cli/bench_peer.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include <fmt/format.h>

#include "cli/child_process.hpp"
#include "cli/commands.hpp"

namespace vert::cli {
namespace {

std::optional<std::string> ask_version(const std::string& path) {
  auto child = ChildProcess::start({path, "--version"});
  if (!child) return std::nullopt;
  const auto line = child->read_line(std::chrono::seconds(10));
  return line && *line ? parse_qemu_version((*line)->text) : std::nullopt;
}

}  // namespace

std::optional<std::string> parse_qemu_version(const std::string& line) {
  static const std::string kBefore = "QEMU emulator version ";
  if (!line.starts_with(kBefore)) return std::nullopt;
  const auto end = line.find_first_not_of("0123456789.", kBefore.size());
  std::string version = line.substr(kBefore.size(), end - kBefore.size());
  return version.empty() ? std::nullopt : std::optional(version);
}

bool is_current(const BenchPeer& peer) {
  return std::strtoul(peer.version.c_str(), nullptr, 10) >= kPeerMajor;
}

std::optional<BenchPeer> choose_peer(const std::vector<BenchPeer>& peers) {
  if (peers.empty()) return std::nullopt;
  const auto current = std::ranges::find_if(peers, is_current);
  return current == peers.end() ? peers.front() : *current;
}

std::vector<std::string> peer_command(const BenchPeer& peer, std::string_view memory) {
  return {peer.path,
          "-accel",
          "tcg",
          "-machine",
          "q35",
          "-cpu",
          "max,la57=off",
          "-smp",
          "1",
          "-m",
          std::string(memory),
          "-nodefaults",
          "-no-user-config",
          "-display",
          "none",
          "-no-reboot",
          "-serial",
          "stdio"};
}

std::optional<BenchPeer> find_peer() {
  std::vector<BenchPeer> peers;
  for (std::string& path : find_programs("qemu-system-x86_64")) {
    std::string version = ask_version(path).value_or("unknown");
    peers.push_back({std::move(path), std::move(version)});
  }
  auto peer = choose_peer(peers);
  if (peer && !is_current(*peer)) {
    print_error(fmt::format("vert: QEMU is version {}, not {} or later, to compare with\n", peer->version,
                            kPeerMajor));
  }
  return peer;
}

}  // namespace vert::cli
