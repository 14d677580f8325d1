#include "control/connection.hpp"

#include <algorithm>

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>

namespace vert::control {

namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

/// Typed ahead of a guest that does not read: beyond this, nothing more is read from the client.
constexpr std::size_t kMostPending = std::size_t{64} << 10;

constexpr unsigned kHttp11 = 11;
constexpr unsigned kBadRequest = 400;
constexpr unsigned kPayloadTooLarge = 413;
constexpr unsigned kUpgradeRequired = 426;
constexpr unsigned kTooManyRequests = 429;
constexpr unsigned kHeaderTooLarge = 431;
constexpr unsigned kUnavailable = 503;

/// What to answer to a request that could not be read; 0: nobody is there to read it, or it took too long.
unsigned status_for(error_code error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return kHeaderTooLarge;
  if (error == http::error::body_limit) return kPayloadTooLarge;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return 0;
  return error.category() == make_error_code(http::error::bad_method).category() ? kBadRequest : 0;
}

}  // namespace

Connection::Connection(ServerState& state, Protocol::socket socket)
    : state_(state),
      stream_(std::move(socket)),
      buffer_(state.limits.header_bytes + state.limits.body_bytes),
      timer_(state.context) {
  ++state_.connections;
}

Connection::~Connection() { --state_.connections; }

void Connection::turn_away() { send(refuse(kUnavailable, "too many connections; close one first"), false); }

void Connection::read_request() {
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(state_.limits.header_bytes));
  parser_->body_limit(state_.limits.body_bytes);
  stream_.expires_after(state_.limits.request_time);
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](error_code error, std::size_t) { self->on_request(error); });
}

void Connection::on_request(error_code error) {
  if (!error) return perform();
  const unsigned status = status_for(error);
  if (status != 0) send(refuse(status, error.message()), false);
}

ApiAnswer Connection::ask(const ApiRequest& request) {
  const ConsoleHub::Hurry hurry(state_.hub);
  return answer(state_.vm, request);
}

void Connection::perform() {
  const auto& request = parser_->get();
  const std::string_view method(request.method_string().data(), request.method_string().size());
  const std::string_view target(request.target().data(), request.target().size());
  ApiAnswer reply = ask({method, target, request.body(), state_.sampling});
  if (reply.then == ApiAnswer::Then::kConsole) {
    const auto protocol = request[http::field::upgrade];
    if (!http::token_list(request[http::field::connection]).exists("upgrade") ||
        std::string_view(protocol.data(), protocol.size()) != kConsoleProtocol)
      reply = refuse(kUpgradeRequired,
                     fmt::format("send 'Connection: Upgrade' and 'Upgrade: {}'", kConsoleProtocol));
    else if (state_.consoles.size() >= state_.limits.consoles)
      reply = refuse(kTooManyRequests, "too many clients at the console; detach one first");
  }
  if (reply.sampling) return sample(*reply.sampling);
  send(reply, request.keep_alive());
}

void Connection::sample(const ApiAnswer::Sampling& sampling) {
  stream_.expires_never();
  state_.sampling = true;
  timer_.expires_after(sampling.time);
  timer_.async_wait([self = shared_from_this(), hottest = sampling.hottest](error_code) {
    self->state_.sampling = false;
    const ConsoleHub::Hurry hurry(self->state_.hub);
    self->send(finish_sampling(self->state_.vm, hottest), self->parser_->get().keep_alive());
  });
}

void Connection::send(const ApiAnswer& answer, bool keep) {
  response_ = {};
  response_.version(kHttp11);
  response_.result(answer.status);
  response_.set(http::field::server, "vert");
  response_.keep_alive(keep);
  if (answer.status == kUpgradeRequired || answer.then == ApiAnswer::Then::kConsole) {
    response_.set(http::field::upgrade, boost::string_view(kConsoleProtocol.data(), kConsoleProtocol.size()));
    response_.set(http::field::connection, "upgrade");
  }
  if (!answer.allowed.empty())
    response_.set(http::field::allow, boost::string_view(answer.allowed.data(), answer.allowed.size()));
  if (!answer.body.is_null()) {
    response_.set(http::field::content_type, "application/json");
    response_.body() = answer.body.dump() + "\n";
  }
  // RFC 9110, 8.6: no Content-Length with 1xx and 204.
  if (!answer.body.is_null()) response_.prepare_payload();
  stream_.expires_after(state_.limits.answer_time);
  http::async_write(stream_, response_,
                    [self = shared_from_this(), then = answer.then](error_code error, std::size_t) {
                      self->on_sent(error, then);
                    });
}

void Connection::on_sent(error_code error, ApiAnswer::Then then) {
  if (then == ApiAnswer::Then::kShutDown) return state_.vm.shut_down();
  if (error) return;
  if (then == ApiAnswer::Then::kConsole) return become_console();
  if (response_.keep_alive()) return read_request();
  error_code ignored;
  stream_.socket().shutdown(Protocol::socket::shutdown_send, ignored);
}

void Connection::become_console() {
  stream_.expires_never();
  const auto* const left = static_cast<const u8*>(buffer_.data().data());
  std::vector<u8> typed(left, left + buffer_.size());
  state_.consoles.push_back(
      std::make_shared<ConsoleConnection>(state_, std::move(stream_), std::move(typed)));
  state_.consoles.back()->start();
}

ConsoleConnection::ConsoleConnection(ServerState& state, Stream stream, std::vector<u8> typed)
    : state_(state), stream_(std::move(stream)), pending_(std::move(typed)) {
  ++state_.connections;
}

ConsoleConnection::~ConsoleConnection() { --state_.connections; }

void ConsoleConnection::start() {
  watcher_ = state_.hub.watch([this, weak = weak_from_this()] {
    asio::post(state_.context, [weak] {
      if (const auto self = weak.lock()) self->write_output();
    });
  });
  write_output();
  offer();
  read_typed();
}

void ConsoleConnection::stop_watching() { watcher_.reset(); }

void ConsoleConnection::offer() {
  if (pending_.empty()) return;
  const std::size_t taken = state_.vm.type(pending_);
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(taken));
  read_typed();
}

void ConsoleConnection::read_typed() {
  if (pending_.size() > kMostPending || reading_ || ended_) return;
  reading_ = true;
  stream_.async_read_some(asio::buffer(typed_),
                          [self = shared_from_this()](error_code error, std::size_t count) {
                            self->reading_ = false;
                            if (error) return self->end();
                            const auto bytes = std::span(self->typed_).first(count);
                            self->pending_.insert(self->pending_.end(), bytes.begin(), bytes.end());
                            self->offer();
                            self->read_typed();
                          });
}

void ConsoleConnection::write_output() {
  if (writing_ || ended_) return;
  const std::size_t count = watcher_->peek(output_);
  if (count == 0) return;
  writing_ = true;
  asio::async_write(stream_, asio::buffer(output_, count),
                    [self = shared_from_this(), count](error_code error, std::size_t) {
                      self->writing_ = false;
                      if (error) return self->end();
                      self->watcher_->consume(count);
                      self->write_output();
                    });
}

void ConsoleConnection::end() {
  if (std::exchange(ended_, true)) return;
  stream_.close();
  std::erase(state_.consoles, shared_from_this());
}

}  // namespace vert::control
