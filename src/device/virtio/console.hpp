// The console device (virtio 1.2, 5.3) with one port, which Linux calls hvc0.
//
// What the guest prints goes out on the device's own thread, so that a slow reader holds up that thread and
// no vCPU; what is in the ring is all that waits. receive() puts what is typed straight into the driver's
// buffers, on the thread that calls it, and takes no more than there is room for. One mutex for all, not held
// while the output is written: a reset does not wait for the reader.
#pragma once

#include <array>
#include <functional>
#include <mutex>
#include <span>

#include "device/virtio/served_queue.hpp"
#include "device/virtio/worker.hpp"

namespace vert::device::virtio {

struct ConsoleState {
  u64 sent = 0;  // so much of the next request is out already

  template <typename Archive>
  void fields(Archive& a) {
    a("sent", sent);
  }
};

class Console final : public VirtioDevice {
 public:
  static constexpr u64 kSizeFeature = 1U << 0;
  static constexpr u64 kEmergencyWriteFeature = 1U << 2;
  static constexpr unsigned kReceiveQueue = 0;
  static constexpr unsigned kTransmitQueue = 1;
  /// The most that is written out at once.
  static constexpr std::size_t kChunk = 4096;

  using Output = std::function<void(std::span<const u8>)>;

  /// `output` is called with no lock held, on the device's thread; for emergency writes on a vCPU's. It
  /// outlives the device. Error: the host has no more threads to give.
  [[nodiscard]] static Result<std::unique_ptr<Console>> create(Output output);

  /// Whether a driver takes what is typed.
  [[nodiscard]] bool is_driven() const;
  /// Bytes that were typed. Returns how many were taken; when that is not all, the ready callback is called
  /// once there is room. Any thread.
  [[nodiscard]] std::size_t receive(std::span<const u8> bytes);
  /// Also called when is_driven() has changed. On any thread with a lock held: it may only pass that on.
  void set_ready_callback(std::function<void()> on_ready);
  /// The size of the terminal; 0: not known. Any thread.
  void set_size(u16 columns, u16 rows);

  [[nodiscard]] u16 type() const override { return kConsoleDevice; }
  [[nodiscard]] u64 features() const override { return kSizeFeature | kEmergencyWriteFeature; }
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
  explicit Console(Output output) : output_(std::move(output)) {}
  void work();
  [[nodiscard]] bool send_one();
  void announce_room();
  void announce_size();
  void close(unsigned index);

  const Output output_;

  mutable std::mutex mutex_;
  VirtioHost* host_ = nullptr;  // null: there is no driver
  u64 accepted_ = 0;
  std::array<ServedQueue, 2> queues_;
  bool paused_ = false;
  u16 columns_ = 0;
  u16 rows_ = 0;
  bool size_confirmed_ = false;  // announced since the driver takes input
  std::function<void()> on_ready_;
  bool refused_ = false;  // receive() must be offered more
  Request input_;
  Request sending_;
  ConsoleState state_;
  u64 transmit_epoch_ = 0;          // changes when the transmit queue goes
  std::unique_ptr<Worker> worker_;  // the last: it ends before the rest
};

}  // namespace vert::device::virtio
