// One client of the server: requests and answers in turn, until it leaves or takes the console.
//
// On the server's thread; kept alive by the operations that are under way for it. Private to control/.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "control/api.hpp"
#include "control/server.hpp"

namespace vert::control {

using Protocol = boost::asio::local::stream_protocol;
using Stream = boost::beast::basic_stream<Protocol>;
using boost::system::error_code;

class ConsoleConnection;

/// What all connections share. Outlives them.
struct ServerState {
  ServerState(Vm& served, ConsoleHub& console, ServerLimits bounds)
      : vm(served), hub(console), limits(bounds) {}
  Vm& vm;
  ConsoleHub& hub;
  const ServerLimits limits;
  unsigned connections = 0;
  bool sampling = false;
  std::vector<std::shared_ptr<ConsoleConnection>> consoles;
  boost::asio::io_context context{1};
};

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerState& state, Protocol::socket socket);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void read_request();
  /// Says that there are too many, and ends.
  void turn_away();

 private:
  void on_request(error_code error);
  void perform();
  [[nodiscard]] ApiAnswer ask(const ApiRequest& request);
  void sample(const ApiAnswer::Sampling& sampling);
  void send(const ApiAnswer& answer, bool keep);
  void on_sent(error_code error, ApiAnswer::Then then);
  void become_console();

  ServerState& state_;
  Stream stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  boost::beast::http::response<boost::beast::http::string_body> response_;
  boost::asio::steady_timer timer_;
};

/// A connection that has become a console: raw bytes both ways. Kept alive by ServerState::consoles too.
class ConsoleConnection final : public std::enable_shared_from_this<ConsoleConnection> {
 public:
  /// `typed` came with the request already.
  ConsoleConnection(ServerState& state, Stream stream, std::vector<u8> typed);
  ~ConsoleConnection();
  ConsoleConnection(const ConsoleConnection&) = delete;
  ConsoleConnection& operator=(const ConsoleConnection&) = delete;

  void start();
  /// The guest may take what is typed.
  void offer();
  /// From now on the hub calls nobody here. The server's thread has ended.
  void stop_watching();

 private:
  void read_typed();
  void write_output();
  void end();

  ServerState& state_;
  Stream stream_;
  std::vector<u8> pending_;  // typed, not yet taken by the guest
  std::array<u8, 1024> typed_{};
  std::array<u8, 16 * 1024> output_{};
  bool reading_ = false;
  bool writing_ = false;
  bool ended_ = false;
  std::unique_ptr<ConsoleHub::Watcher> watcher_;
};

}  // namespace vert::control
