#include "device/virtio/console.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace vert::device::virtio {
namespace {

constexpr std::array<u16, 2> kQueueSizes = {64, 64};

struct Config {
  u16 columns = 0;
  u16 rows = 0;
  u32 port_count = 0;
  u32 emergency_write = 0;
};
static_assert(sizeof(Config) == 12);

constexpr const char* kComponent = "console-device";
constexpr u32 kStateVersion = 1;

}  // namespace

Result<std::unique_ptr<Console>> Console::create(Output output) {
  std::unique_ptr<Console> device(new Console(std::move(output)));
  VERT_ASSIGN(device->worker_, Worker::start("virtio-console", [&self = *device] { self.work(); }));
  return device;
}

std::span<const u16> Console::queue_sizes() const { return kQueueSizes; }

void Console::read_config(u32 offset, std::span<u8> to) const {
  std::ranges::fill(to, u8{0});
  const std::lock_guard lock(mutex_);
  const Config config{.columns = columns_, .rows = rows_};
  if (offset >= sizeof config) return;
  std::memcpy(to.data(), reinterpret_cast<const u8*>(&config) + offset,
              std::min<std::size_t>(to.size(), sizeof config - offset));
}

/// The low byte is printed at once, also before there is a driver, so not on the device's thread, which
/// rests then.
void Console::write_config(u32 offset, std::span<const u8> from) {
  if (offset == offsetof(Config, emergency_write)) output_(from.first(1));
}

// Input.

bool Console::is_driven() const {
  const std::lock_guard lock(mutex_);
  return host_ != nullptr && queues_[kReceiveQueue].is_open();
}

std::size_t Console::receive(std::span<const u8> bytes) {
  const std::lock_guard lock(mutex_);
  ServedQueue& queue = queues_[kReceiveQueue];
  std::size_t taken = 0;
  // So many buffers at a time that a guest which offers ever more, without room, does not hold anyone up.
  bool more = !paused_;
  for (unsigned i = 0; more && taken < bytes.size() && i < kQueueSizes[kReceiveQueue]; ++i) {
    more = queue.take(input_);
    if (!more) break;
    const std::size_t count = input_.copy_in(0, bytes.subspan(taken));
    queue.finish(input_, static_cast<u32>(count));
    taken += count;
  }
  refused_ = taken < bytes.size();
  if (refused_ && more) worker_->kick();
  if (taken != 0 && !std::exchange(size_confirmed_, true)) announce_size();
  return taken;
}

void Console::set_ready_callback(std::function<void()> on_ready) {
  const std::lock_guard lock(mutex_);
  on_ready_ = std::move(on_ready);
}

void Console::announce_room() {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(refused_, false)) return;
  if (on_ready_) on_ready_();
}

// Size.

void Console::set_size(u16 columns, u16 rows) {
  const std::lock_guard lock(mutex_);
  columns_ = columns;
  rows_ = rows;
  announce_size();
}

void Console::announce_size() {
  if (host_ != nullptr && (accepted_ & kSizeFeature) != 0 && columns_ != 0) host_->config_changed();
}

// The transport's side.

void Console::start(VirtioHost& host, u64 features) {
  const std::lock_guard lock(mutex_);
  host_ = &host;
  accepted_ = features;
  state_ = {};
}

void Console::queue_ready(unsigned index, std::unique_ptr<Virtqueue> queue) {
  const std::lock_guard lock(mutex_);
  queues_[index].open(*host_, index, std::move(queue));
  if (index != kReceiveQueue) return;
  // Linux reads the size only when it changes. It may not be that far yet, but is once it takes input.
  size_confirmed_ = false;
  announce_size();
  if (on_ready_) on_ready_();
}

void Console::queue_notify(unsigned /*index*/) { worker_->kick(); }

void Console::pause() {
  {
    const std::lock_guard lock(mutex_);
    paused_ = true;
  }
  worker_->pause();
}

void Console::resume() {
  {
    const std::lock_guard lock(mutex_);
    paused_ = false;
  }
  worker_->resume();
  worker_->kick();
}

void Console::close(unsigned index) {
  queues_[index].close();
  if (index == kReceiveQueue) {
    if (on_ready_) on_ready_();
  } else {
    ++transmit_epoch_;
    state_.sent = 0;
  }
}

void Console::queue_reset(unsigned index) {
  const std::lock_guard lock(mutex_);
  close(index);
}

void Console::reset() {
  const std::lock_guard lock(mutex_);
  host_ = nullptr;
  for (unsigned i = 0; i < queues_.size(); ++i) close(i);
}

std::optional<QueueState> Console::queue_state(unsigned index) const {
  const std::lock_guard lock(mutex_);
  return queues_[index].state();
}

Result<base::Document> Console::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kStateVersion, state_);
}

/// `sent` needs no check: what lies beyond the next request means that all of it is out.
Status Console::restore(const base::Document& document) {
  VERT_ASSIGN(const ConsoleState state, base::restore<ConsoleState>(kComponent, kStateVersion, document));
  const std::lock_guard lock(mutex_);
  state_ = state;
  return {};
}

// The device's thread.

void Console::work() {
  announce_room();
  while (!worker_->must_return() && send_one()) {
  }
}

/// False if there is nothing to do any more.
bool Console::send_one() {
  std::array<u8, kChunk> chunk;
  std::unique_lock lock(mutex_);
  ServedQueue& queue = queues_[kTransmitQueue];
  if (!queue.take(sending_)) return false;
  while (state_.sent < sending_.readable_size) {
    if (worker_->must_return()) {
      queue.put_back(sending_);
      return false;
    }
    const std::size_t count = sending_.copy_out(state_.sent, chunk);
    const u64 epoch = transmit_epoch_;
    lock.unlock();
    output_(std::span(chunk).first(count));
    lock.lock();
    if (epoch != transmit_epoch_) return true;  // the driver took the queue away
    state_.sent += count;
  }
  state_.sent = 0;
  queue.finish(sending_, 0);
  return true;
}

}  // namespace vert::device::virtio
