// The other end of the control interface: asks a machine of another process, and waits for the answer.
//
// One thread. Waits are bounded, and so are answers.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::control {

/// Asks the machine at that socket. `endpoint` is as "vm.info"; `body` null: none. The result is null where
/// the answer has no body. Error: nobody is there, it does not answer in time, or says no (its words).
[[nodiscard]] Result<nlohmann::json> call(const std::string& socket_path, const std::string& method,
                                          const std::string& endpoint, const nlohmann::json& body = {},
                                          std::chrono::milliseconds limit = std::chrono::seconds(10));

/// A connection that has become the machine's serial console.
struct ConsoleSocket {
  base::Fd fd;               // non-blocking
  std::vector<u8> greeting;  // output that came already
};
[[nodiscard]] Result<ConsoleSocket> open_console(const std::string& socket_path);

}  // namespace vert::control
