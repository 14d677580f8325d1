#include "machine/disk_boot/block_service.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vert::machine::disk_boot {

namespace {

struct Request {
  u64 offset = 0;
  u64 length = 0;
};

/// Ahead of the bytes, or of the error's text.
struct ReplyHead {
  u64 failed = 0;
};

constexpr std::size_t kMaxReply = sizeof(ReplyHead) + kMaxRequest;

/// A packet is read or written whole.
template <typename Call>
ssize_t retry(const Call& call) {
  ssize_t result = 0;
  do result = call();
  while (result < 0 && errno == EINTR);
  return result;
}

std::vector<u8> make_reply(BlockReader& disk, const Request& request) {
  std::vector<u8> reply(sizeof(ReplyHead) + request.length);
  const Status read = disk.read(request.offset, std::span(reply).subspan(sizeof(ReplyHead)));
  ReplyHead head;
  if (!read) {
    head.failed = 1;
    const std::string text = read.error().message.substr(0, kMaxRequest);
    reply.resize(sizeof head);
    reply.insert(reply.end(), text.begin(), text.end());
  }
  std::memcpy(reply.data(), &head, sizeof head);
  return reply;
}

bool fits(const Request& request, u64 size) {
  return request.length > 0 && request.length <= kMaxRequest && request.offset <= size &&
         request.length <= size - request.offset;
}

}  // namespace

Result<ServiceSockets> make_service_sockets() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return make_system_error(errno, "cannot make a pair of sockets");
  return ServiceSockets{base::Fd(pair[0]), base::Fd(pair[1])};
}

Result<std::span<const u8>> RemoteReader::chunk(u64 number) {
  Chunk& chunk = chunks_[number % chunks_.size()];
  if (chunk.valid && chunk.number == number) return std::span<const u8>(chunk.bytes);
  const Request request{number * kMaxRequest, std::min(kMaxRequest, size_ - number * kMaxRequest)};
  // read(2) and write(2), which the system call filter allows.
  if (retry([&] { return ::write(socket_, &request, sizeof request); }) != sizeof request)
    return make_system_error(errno, "cannot ask for the disk");
  std::vector<u8> reply(kMaxReply);
  const ssize_t got = retry([&] { return ::read(socket_, reply.data(), reply.size()); });
  if (got < static_cast<ssize_t>(sizeof(ReplyHead))) return make_error("the disk is gone");
  reply.resize(static_cast<std::size_t>(got));
  ReplyHead head;
  std::memcpy(&head, reply.data(), sizeof head);
  reply.erase(reply.begin(), reply.begin() + sizeof head);
  if (head.failed != 0) return make_error("{}", std::string(reply.begin(), reply.end()));
  if (reply.size() != request.length) return make_error("the disk is gone");
  chunk = {true, number, std::move(reply)};
  return std::span<const u8>(chunk.bytes);
}

Status RemoteReader::read(u64 offset, std::span<u8> bytes) {
  if (offset > size_ || bytes.size() > size_ - offset) return make_error("beyond the end of the disk");
  while (!bytes.empty()) {
    VERT_ASSIGN(const auto whole, chunk(offset / kMaxRequest));
    const auto rest = whole.subspan(offset % kMaxRequest);
    const std::size_t length = std::min(rest.size(), bytes.size());
    std::copy_n(rest.begin(), length, bytes.begin());
    bytes = bytes.subspan(length);
    offset += length;
  }
  return {};
}

Result<Served> serve_request(BlockReader& disk, int socket) {
  Request request;
  const ssize_t got =
      retry([&] { return ::recv(socket, &request, sizeof request, MSG_DONTWAIT | MSG_TRUNC); });
  if (got < 0 && errno == EAGAIN) return Served::kNothing;
  if (got <= 0) return Served::kEnd;
  if (got != sizeof request || !fits(request, disk.size()))
    return make_error("reading it made an impossible request");
  const std::vector<u8> reply = make_reply(disk, request);
  const ssize_t sent =
      retry([&] { return ::send(socket, reply.data(), reply.size(), MSG_DONTWAIT | MSG_NOSIGNAL); });
  if (sent == static_cast<ssize_t>(reply.size())) return Served::kAnswer;
  if (errno == EPIPE || errno == ECONNRESET) return Served::kEnd;
  // Who waits for each answer before the next request has room for it.
  return make_error("reading it made requests without taking the answers");
}

}  // namespace vert::machine::disk_boot
