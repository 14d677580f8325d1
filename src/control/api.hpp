// The control interface as functions: from a request to its answer, without a socket. ARCHITECTURE.md lists
// the endpoints; names and shapes are Cloud Hypervisor's where it has such a thing.
//
// Requests are hostile input. On the server's thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "control/vm.hpp"

namespace vert::control {

inline constexpr std::string_view kApiRoot = "/api/v1/";
/// The protocol that vm.console switches to: raw bytes of the serial line, both ways.
inline constexpr std::string_view kConsoleProtocol = "vert-console";
/// The most that vm.explain shows, in bytes of guest code.
inline constexpr u64 kMostExplained = 64 * 1024;
inline constexpr u64 kMostSampledSeconds = 60;
inline constexpr u64 kMostHotBlocks = 100;

struct ApiRequest {
  std::string_view method;
  std::string_view target;
  std::string_view body;
  bool sampling = false;  // samples are being taken for another client
};

struct ApiAnswer {
  unsigned status = 204;
  nlohmann::json body{};       // null: none
  std::string_view allowed{};  // with 405: the method that is
  enum class Then : u8 { kNothing, kShutDown, kConsole } then = Then::kNothing;
  /// Samples are to be taken first, for so long; finish_sampling() is the answer then.
  struct Sampling {
    std::chrono::milliseconds time;
    std::size_t hottest;
  };
  std::optional<Sampling> sampling{};
};

[[nodiscard]] ApiAnswer answer(Vm& vm, const ApiRequest& request);
/// What was seen since Vm::start_sampling(), and ends it.
[[nodiscard]] ApiAnswer finish_sampling(Vm& vm, std::size_t hottest);
[[nodiscard]] ApiAnswer refuse(unsigned status, const std::string& message);

/// Counters and samples as JSON, and back. What comes back is a server's answer: it is checked.
[[nodiscard]] nlohmann::json to_json(const std::vector<cpu::CounterGroup>& groups);
[[nodiscard]] Result<std::vector<cpu::CounterGroup>> groups_from_json(const nlohmann::json& json);

}  // namespace vert::control
