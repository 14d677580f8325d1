#include "control/client.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "control/api.hpp"

namespace vert::control {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using nlohmann::json;
using Protocol = asio::local::stream_protocol;

namespace {

constexpr std::size_t kMostBody = std::size_t{256} << 20;  // a listing of much code is long
constexpr std::size_t kMostBuffered = std::size_t{1} << 20;
constexpr unsigned kHttp11 = 11;
constexpr unsigned kSwitchingProtocols = 101;
constexpr unsigned kFirstRefusal = 300;

/// One exchange: a request, and an answer or its header.
class Exchange {
 public:
  Exchange(const std::string& method, const std::string& endpoint, const json& body) : stream_(context_) {
    request_.version(kHttp11);
    request_.method_string(method);
    request_.target(std::string(kApiRoot) + endpoint);
    request_.set(http::field::host, "localhost");
    if (!body.is_null()) {
      request_.set(http::field::content_type, "application/json");
      request_.body() = body.dump(-1, ' ', true, json::error_handler_t::replace);
    }
    request_.prepare_payload();
    parser_.body_limit(kMostBody);
  }

  void ask_for_console() {
    request_.set(http::field::connection, "upgrade");
    request_.set(http::field::upgrade, boost::string_view(kConsoleProtocol.data(), kConsoleProtocol.size()));
    header_only_ = true;
  }

  Status perform(const std::string& socket_path, std::chrono::milliseconds limit) {
    error_code result;
    try {
      const Protocol::endpoint at(socket_path);
      stream_.expires_after(limit);
      stream_.async_connect(at, [&](error_code error) { error ? finish(result, error) : write(result); });
      context_.run();
    } catch (const std::exception& exception) {
      return make_error("cannot reach the VM: {}", exception.what());
    }
    if (result == boost::beast::error::timeout) return make_error("the VM does not answer");
    if (result == asio::error::connection_refused || result == boost::system::errc::no_such_file_or_directory)
      return make_error("cannot reach the VM: it is starting or ending");
    if (result) return make_error("the VM does not answer: {}", result.message());
    return {};
  }

  [[nodiscard]] const http::response<http::string_body>& response() const { return parser_.get(); }
  [[nodiscard]] base::Fd take_socket() { return base::Fd(stream_.release_socket().release()); }
  [[nodiscard]] std::vector<u8> left_over() const {
    const auto* const data = static_cast<const u8*>(buffer_.data().data());
    return {data, data + buffer_.size()};
  }

 private:
  static void finish(error_code& result, error_code error) { result = error; }
  void write(error_code& result) {
    http::async_write(stream_, request_, [&](error_code error, std::size_t) {
      // A refusal may come before all is written.
      if (error && error != asio::error::broken_pipe) return finish(result, error);
      read(result);
    });
  }
  void read(error_code& result) {
    const auto done = [&](error_code error, std::size_t) { finish(result, error); };
    if (header_only_) {
      http::async_read_header(stream_, buffer_, parser_, done);
    } else {
      http::async_read(stream_, buffer_, parser_, done);
    }
  }

  asio::io_context context_{1};
  boost::beast::basic_stream<Protocol> stream_;
  boost::beast::flat_buffer buffer_{kMostBuffered};
  http::request<http::string_body> request_;
  http::response_parser<http::string_body> parser_;
  bool header_only_ = false;
};

Error refusal(unsigned status, const json& body) {
  if (body.is_object())
    if (const auto found = body.find("error"); found != body.end() && found->is_string())
      return {found->get<std::string>()};
  return {fmt::format("the VM refused the request with HTTP status {}", status)};
}

}  // namespace

Result<json> call(const std::string& socket_path, const std::string& method, const std::string& endpoint,
                  const json& body, std::chrono::milliseconds limit) {
  Exchange exchange(method, endpoint, body);
  VERT_TRY(exchange.perform(socket_path, limit));
  const auto& response = exchange.response();
  json answer;
  if (!response.body().empty()) answer = json::parse(response.body(), nullptr, false);
  if (response.result_int() >= kFirstRefusal) return std::unexpected(refusal(response.result_int(), answer));
  if (answer.is_discarded()) return make_error("the VM's answer is not JSON");
  return answer;
}

Result<ConsoleSocket> open_console(const std::string& socket_path) {
  static constexpr std::chrono::seconds kLimit{10};
  Exchange exchange("GET", "vm.console", {});
  exchange.ask_for_console();
  VERT_TRY(exchange.perform(socket_path, kLimit));
  if (const unsigned status = exchange.response().result_int(); status != kSwitchingProtocols) {
    const std::vector<u8> start = exchange.left_over();
    return std::unexpected(refusal(status, json::parse(start.begin(), start.end(), nullptr, false)));
  }
  ConsoleSocket console;
  console.greeting = exchange.left_over();
  console.fd = exchange.take_socket();
  return console;
}

}  // namespace vert::control
