#include "device/virtio/entropy.hpp"

#include <sys/random.h>

#include <algorithm>
#include <array>

namespace vert::device::virtio {
namespace {

constexpr std::array<u16, 1> kQueueSizes = {16};
constexpr unsigned kQueue = 0;

constexpr const char* kComponent = "entropy-device";
constexpr u32 kStateVersion = 1;

/// Fills the first `most` bytes of the buffer; returns how many there are.
u32 fill(const Request& request, u32 most) {
  u32 done = 0;
  for (const auto& span : request.writable) {
    const auto part = span.first(std::min<std::size_t>(span.size(), most - done));
    // The kernel gives up to 256 bytes whole; more may be cut short by a signal.
    for (std::size_t at = 0; at < part.size();) {
      const ssize_t got = ::getrandom(part.data() + at, std::min<std::size_t>(part.size() - at, 256), 0);
      if (got <= 0) return done;
      at += static_cast<std::size_t>(got);
      done += static_cast<u32>(got);
    }
  }
  return done;
}

}  // namespace

Result<std::unique_ptr<Entropy>> Entropy::create() {
  std::unique_ptr<Entropy> device(new Entropy());
  VERT_ASSIGN(device->worker_, Worker::start("virtio-rng", [&self = *device] { self.work(); }));
  return device;
}

std::span<const u16> Entropy::queue_sizes() const { return kQueueSizes; }
void Entropy::read_config(u32 /*offset*/, std::span<u8> to) const { std::ranges::fill(to, u8{0}); }
void Entropy::write_config(u32 /*offset*/, std::span<const u8> /*from*/) {}

void Entropy::start(VirtioHost& host, u64 /*features*/) {
  const std::lock_guard lock(mutex_);
  host_ = &host;
}

void Entropy::queue_ready(unsigned /*index*/, std::unique_ptr<Virtqueue> queue) {
  const std::lock_guard lock(mutex_);
  queue_.open(*host_, kQueue, std::move(queue));
}

void Entropy::queue_notify(unsigned /*index*/) { worker_->kick(); }
void Entropy::pause() { worker_->pause(); }
void Entropy::resume() { worker_->resume(); }

void Entropy::queue_reset(unsigned /*index*/) {
  const std::lock_guard lock(mutex_);
  queue_.close();
}

void Entropy::reset() {
  const std::lock_guard lock(mutex_);
  queue_.close();
  host_ = nullptr;
}

std::optional<QueueState> Entropy::queue_state(unsigned /*index*/) const {
  const std::lock_guard lock(mutex_);
  return queue_.state();
}

Result<base::Document> Entropy::save() const { return base::save(kComponent, kStateVersion, EntropyState{}); }

Status Entropy::restore(const base::Document& document) {
  VERT_TRY(base::restore<EntropyState>(kComponent, kStateVersion, document));
  return {};
}

void Entropy::work() {
  while (!worker_->must_return() && serve_one()) {
  }
}

/// False if there is nothing to do any more.
bool Entropy::serve_one() {
  const std::lock_guard lock(mutex_);
  if (!queue_.take(request_)) return false;
  queue_.finish(request_, fill(request_, kMaxFill));
  return true;
}

}  // namespace vert::device::virtio
