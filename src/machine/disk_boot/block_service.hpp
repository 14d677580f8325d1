// How a confined child reads a disk: it asks its parent, by one packet each way. So the child needs no
// descriptor of the image, and the parent may read it however it likes.
#pragma once

#include <array>
#include <vector>

#include "base/fd.hpp"
#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot {

/// What one request may be for: less than any host's socket buffers.
inline constexpr u64 kMaxRequest = 32768;

struct ServiceSockets {
  base::Fd parent;
  base::Fd child;
};

[[nodiscard]] Result<ServiceSockets> make_service_sockets();

/// The child's side. Keeps what it has read lately.
class RemoteReader : public BlockReader {
 public:
  RemoteReader(int socket, u64 size) : socket_(socket), size_(size) {}

  [[nodiscard]] u64 size() const override { return size_; }
  Status read(u64 offset, std::span<u8> bytes) override;

 private:
  struct Chunk {
    bool valid = false;
    u64 number = 0;
    std::vector<u8> bytes;
  };

  Result<std::span<const u8>> chunk(u64 number);

  int socket_;
  u64 size_;
  std::array<Chunk, 128> chunks_;  // each has one place, by its number
};

enum class Served { kAnswer, kNothing, kEnd };

/// The parent's side: answers a request that is waiting, if one is. Never blocks but for the disk. Error: the
/// request is none that RemoteReader makes.
[[nodiscard]] Result<Served> serve_request(BlockReader& disk, int socket);

}  // namespace vert::machine::disk_boot
