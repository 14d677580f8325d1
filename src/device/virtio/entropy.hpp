// The entropy device (virtio 1.2, 5.4): fills the driver's buffers with random bytes of the host's.
//
// Its own thread does that. One mutex for all it has, held for one buffer at a time.
#pragma once

#include <mutex>

#include "device/virtio/served_queue.hpp"
#include "device/virtio/worker.hpp"

namespace vert::device::virtio {

/// Nothing but its queue.
struct EntropyState {
  template <typename Archive>
  void fields(Archive& /*a*/) {}
};

class Entropy final : public VirtioDevice {
 public:
  /// Of one buffer, the driver gets at most so much: a larger one is answered in part.
  static constexpr u32 kMaxFill = 64 << 10;

  /// Error: the host has no more threads to give.
  [[nodiscard]] static Result<std::unique_ptr<Entropy>> create();

  [[nodiscard]] u16 type() const override { return kEntropyDevice; }
  [[nodiscard]] u64 features() const override { return 0; }
  [[nodiscard]] std::span<const u16> queue_sizes() const override;
  void read_config(u32 offset, std::span<u8> to) const override;
  void write_config(u32 offset, std::span<const u8> from) override;

  void start(VirtioHost& host, u64 features) override;
  void queue_ready(unsigned index, std::unique_ptr<Virtqueue> queue) override;
  void queue_notify(unsigned index) override;
  void pause() override;
  void resume() override;
  void queue_reset(unsigned index) override;
  void reset() override;
  [[nodiscard]] std::optional<QueueState> queue_state(unsigned index) const override;
  [[nodiscard]] Result<base::Document> save() const override;
  [[nodiscard]] Status restore(const base::Document& document) override;

 private:
  Entropy() = default;
  void work();
  [[nodiscard]] bool serve_one();

  mutable std::mutex mutex_;
  VirtioHost* host_ = nullptr;
  ServedQueue queue_;
  Request request_;
  std::unique_ptr<Worker> worker_;  // the last: it ends before the rest
};

}  // namespace vert::device::virtio
