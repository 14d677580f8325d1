#include "control/server.hpp"

#include <thread>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>

#include "base/post_proof.hpp"
#include "base/thread.hpp"
#include "control/connection.hpp"

namespace vert::control {

namespace asio = boost::asio;

struct Server::Impl {
  Impl(Vm& vm, ConsoleHub& hub, ServerLimits limits) : state(vm, hub, limits) {}

  struct Listener {
    explicit Listener(asio::io_context& context) : acceptor(context), retry(context) {}
    Protocol::acceptor acceptor;
    asio::steady_timer retry;
  };

  [[nodiscard]] Status listen(std::vector<base::Fd> sockets);
  void accept(Listener& listener);
  void take(Protocol::socket socket);

  ServerState state;
  std::list<Listener> listeners;
  std::thread thread;
};

Status Server::Impl::listen(std::vector<base::Fd> sockets) {
  for (base::Fd& socket : sockets) {
    Listener& listener = listeners.emplace_back(state.context);
    error_code error;
    listener.acceptor.assign(Protocol(), socket.get(), error);
    if (error) return make_system_error(error.value(), "cannot serve the control API");
    static_cast<void>(socket.release());
    accept(listener);
  }
  VERT_ASSIGN(thread, base::start_thread("control", [this] { state.context.run(); }));
  return {};
}

void Server::Impl::accept(Listener& listener) {
  listener.acceptor.async_accept([this, &listener](error_code error, Protocol::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (!error) {
      take(std::move(socket));
      return accept(listener);
    }
    // Out of descriptors: not again at once, or this would spin.
    static constexpr std::chrono::milliseconds kRetry{100};
    listener.retry.expires_after(kRetry);
    listener.retry.async_wait([this, &listener](error_code) { accept(listener); });
  });
}

void Server::Impl::take(Protocol::socket socket) {
  const bool full = state.connections >= state.limits.connections;
  // Those that are turned away linger until they have taken the answer; not without bound either.
  if (state.connections >= 2 * state.limits.connections) return;
  const auto connection = std::make_shared<Connection>(state, std::move(socket));
  if (full) {
    connection->turn_away();
  } else {
    connection->read_request();
  }
}

Result<std::unique_ptr<Server>> Server::start(std::vector<base::Fd> listeners, Vm& vm, ConsoleHub& hub,
                                              ServerLimits limits) {
  try {
    auto impl = std::make_unique<Impl>(vm, hub, limits);
    VERT_TRY(impl->listen(std::move(listeners)));
    if (!base::posts_wake(impl->state.context)) {
      // The thread may never wake: it stays behind, with what it uses, until vert exits.
      impl->thread.detach();
      static_cast<void>(impl.release());
      return make_error("cannot serve the control API: epoll is forbidden on this host, or out of watches");
    }
    return std::unique_ptr<Server>(new Server(std::move(impl)));
  } catch (const boost::system::system_error& error) {
    return make_system_error(error.code().value(), "cannot serve the control API");
  }
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  impl_->state.context.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
  for (const auto& console : impl_->state.consoles) console->stop_watching();
  impl_->state.consoles.clear();  // they may not outlive the context
}

void Server::serial_ready() {
  asio::post(impl_->state.context, [state = &impl_->state] {
    // An offer ends no console, so none leaves the list meanwhile.
    for (const auto& console : state->consoles) console->offer();
  });
}

}  // namespace vert::control
