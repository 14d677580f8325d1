// The block device (virtio 1.2, 5.2): a disk whose sectors are an image's.
//
// A thread of its own does all the work, and everything but the calls of VirtioDevice is on it: it takes
// requests from the queues, has them carried out by the image, many at a time, and gives them back as they
// end. What other threads ask of the device runs there, too, while they wait.
#pragma once

#include <atomic>
#include <condition_variable>
#include <coroutine>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "device/virtio/block_layout.hpp"
#include "device/virtio/device.hpp"
#include "storage/image.hpp"

namespace vert::device::virtio {

struct BlockState {
  bool writeback = true;

  template <typename Archive>
  void fields(Archive& a) {
    a("writeback", writeback);
  }
};

class Block final : public VirtioDevice {
 public:
  static constexpr u16 kMaxQueues = 8;
  static constexpr u16 kQueueSize = 256;

  struct Options {
    std::string serial{};     // at most block::kIdSize bytes
    u16 queues = 1;           // at most kMaxQueues
    bool write_cache = true;  // writes may stay in a cache until the driver flushes
    /// The host's disk is full. The request that found out is carried out again after resume(). On the
    /// device's thread; must not call the device.
    std::function<void()> on_full{};
    /// The image failed, and the driver gets an I/O error: the first time since a reset. As on_full.
    std::function<void(const Error&)> on_error{};
  };

  /// `context` is the image's. Error: the host has no more threads to give.
  [[nodiscard]] static Result<std::unique_ptr<Block>> create(std::unique_ptr<storage::IoContext> context,
                                                             std::unique_ptr<storage::Image> image,
                                                             Options options);
  ~Block() override;

  [[nodiscard]] u16 type() const override { return kBlockDevice; }
  [[nodiscard]] u64 features() const override;
  [[nodiscard]] std::span<const u16> queue_sizes() const override { return queue_sizes_; }
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

  /// All that was written is in the image's file. Any thread but a vCPU's.
  [[nodiscard]] Status flush();
  /// In bytes. Any thread.
  [[nodiscard]] u64 size() const { return capacity_.load() * block::kSectorSize; }
  /// Gives the image and the disk another size, in bytes. Any thread but a vCPU's.
  [[nodiscard]] Status resize(u64 size);

 private:
  static constexpr unsigned kMaxInFlight = 1024;
  static constexpr u32 kMaxSegments = 32;  // of a discard
  static constexpr u32 kMaxSegmentSectors = 1U << 22;

  struct Queue {
    std::unique_ptr<Virtqueue> ring;
    bool broken = false;
    bool pushed = false;  // since the driver was last told
  };
  /// A request under way. Kept for the next one when it is done.
  struct Slot {
    Request request;
    std::vector<iovec> data;
  };
  struct Answer {
    block::RequestStatus status = block::kOk;
    u32 written = 0;  // without the status
    bool full = false;
  };
  /// A request that waits for room on the host's disk.
  struct Parked;
  /// What another thread asks for.
  struct Command {
    std::function<void()> work;
    bool in_quiet;  // only once nothing is in flight; until then nothing new begins
    bool done = false;
  };

  Block(std::unique_ptr<storage::IoContext> context, std::unique_ptr<storage::Image> image, Options options);

  void call(bool in_quiet, std::function<void()> work) const;
  void run();
  [[nodiscard]] bool run_commands();
  void serve(unsigned index);
  /// kBroken also for a request without a header or a status.
  [[nodiscard]] Virtqueue::Pop begin_next(unsigned index);
  void signal_queues();

  storage::Detached handle(unsigned index, std::unique_ptr<Slot> slot, block::Header header);
  [[nodiscard]] storage::Task<Answer> carry_out(block::Header header, Slot& slot);
  [[nodiscard]] storage::Task<Answer> transfer(block::Header header, Slot& slot);
  [[nodiscard]] storage::Task<Answer> clear_segments(block::Header header, const Request& request);
  [[nodiscard]] storage::Task<Status> stable(Status written);
  [[nodiscard]] Answer answer_id(const Request& request) const;
  [[nodiscard]] Answer answer_to(const Status& done, u32 written = 0);
  [[nodiscard]] bool in_range(u64 sector, u64 sectors) const;
  void end_parked(bool retry, const Virtqueue* ring);

  const std::unique_ptr<storage::IoContext> context_;
  const std::unique_ptr<storage::Image> image_;
  const Options options_;
  const std::vector<u16> queue_sizes_;

  std::atomic<u64> capacity_;  // in sectors
  std::atomic<bool> writeback_;

  // The device's thread only.
  VirtioHost* host_ = nullptr;
  std::vector<Queue> queues_;
  std::vector<std::unique_ptr<Slot>> free_;
  std::vector<Parked*> parked_;
  unsigned in_flight_ = 0;
  bool paused_ = false;
  bool reported_ = false;  // an error, to on_error
  bool flushes_ = false;   // the driver does, so writes need not be stable

  mutable std::mutex mutex_;
  mutable std::condition_variable command_done_;
  mutable std::deque<Command*> commands_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace vert::device::virtio
