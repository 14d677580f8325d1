// The control interface on unix sockets: HTTP/1.1 with JSON, one thread.
//
// Clients are hostile: headers, bodies, connections and time are bounded. What an endpoint does is in
// control/api.hpp; here are connections, the delay of sampling, and the console, which takes a connection
// over. All may type at the console; what they type is mixed as it comes.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "control/console_hub.hpp"
#include "control/vm.hpp"

namespace vert::control {

struct ServerLimits {
  unsigned connections = 32;  // with consoles; more are turned away
  unsigned consoles = 8;
  std::size_t header_bytes = 8 * 1024;
  std::size_t body_bytes = 64 * 1024;
  std::chrono::milliseconds request_time{10'000};  // from its first byte, or from the last answer
  std::chrono::milliseconds answer_time{30'000};   // for a client to take an answer
};

class Server {
 public:
  /// Serves on `listeners` (sockets that listen) from now on. `vm` and `hub` outlive the server.
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(std::vector<base::Fd> listeners, Vm& vm,
                                                             ConsoleHub& hub, ServerLimits limits = {});
  /// Ends all connections, whatever they are at.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// The guest may take typed bytes again. Any thread.
  void serial_ready();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::control
