#include "device/virtio/block.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/thread.hpp"

namespace vert::device::virtio {
namespace {

using block::Header;
using block::kSectorSize;

constexpr const char* kComponent = "block-device";
constexpr u32 kStateVersion = 1;

constexpr u8 kPhysicalBlockExponent = 3;  // 4 KiB, of pages and of most file systems

std::vector<iovec> pieces_of(const std::vector<std::span<u8>>& spans) {
  std::vector<iovec> pieces;
  pieces.reserve(spans.size());
  for (const auto& span : spans) pieces.push_back(storage::buffer_of(span));
  return pieces;
}

std::vector<iovec> pieces_of(const std::vector<std::span<const u8>>& spans) {
  std::vector<iovec> pieces;
  pieces.reserve(spans.size());
  for (const auto& span : spans) pieces.push_back(storage::buffer_of(span));
  return pieces;
}

bool is_full(const Status& status) {
  return !status && (status.error().system_error == ENOSPC || status.error().system_error == EDQUOT);
}

}  // namespace

/// Awaited by a request; `co_await` gives whether it is to be tried again.
struct Block::Parked {
  Block& device;
  const Virtqueue* ring;
  bool retry = false;
  std::coroutine_handle<> request = {};

  [[nodiscard]] bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    request = waiting;
    --device.in_flight_;
    device.parked_.push_back(this);
    if (device.options_.on_full) device.options_.on_full();
  }
  [[nodiscard]] bool await_resume() const { return retry; }
};

Result<std::unique_ptr<Block>> Block::create(std::unique_ptr<storage::IoContext> context,
                                             std::unique_ptr<storage::Image> image, Options options) {
  VERT_CHECK(options.queues >= 1 && options.queues <= kMaxQueues && options.serial.size() <= block::kIdSize);
  std::unique_ptr<Block> device(new Block(std::move(context), std::move(image), std::move(options)));
  VERT_ASSIGN(device->thread_, base::start_thread("virtio-blk", [&self = *device] { self.run(); }));
  return device;
}

Block::Block(std::unique_ptr<storage::IoContext> context, std::unique_ptr<storage::Image> image,
             Options options)
    : context_(std::move(context)),
      image_(std::move(image)),
      options_(std::move(options)),
      queue_sizes_(options_.queues, kQueueSize),
      capacity_(image_->size() / kSectorSize),
      writeback_(options_.write_cache),
      queues_(options_.queues) {}

Block::~Block() {
  if (!thread_.joinable()) return;
  reset();
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  context_->wake();
  thread_.join();
}

// What the driver sees.

u64 Block::features() const {
  u64 features = block::feature::kSegmentMax | block::feature::kBlockSize | block::feature::kTopology |
                 block::feature::kMultiQueue;
  if (image_->read_only()) return features | block::feature::kReadOnly;
  features |= block::feature::kDiscard | block::feature::kWriteZeroes;
  if (options_.write_cache) features |= block::feature::kFlush | block::feature::kConfigWriteback;
  return features;
}

void Block::read_config(u32 offset, std::span<u8> to) const {
  const block::Config config = {
      .capacity = capacity_.load(),
      .seg_max = kQueueSize - 2,  // beside the header and the status
      .physical_block_exponent = kPhysicalBlockExponent,
      .min_io_blocks = 1U << kPhysicalBlockExponent,
      .writeback = static_cast<u8>(writeback_.load() ? 1 : 0),
      .queue_count = options_.queues,
      .max_discard_sectors = kMaxSegmentSectors,
      .max_discard_segments = kMaxSegments,
      .discard_sector_alignment = 1U << kPhysicalBlockExponent,
      .max_write_zeroes_sectors = kMaxSegmentSectors,
      .max_write_zeroes_segments = kMaxSegments,
      .write_zeroes_may_unmap = 1,
  };
  std::ranges::fill(to, u8{0});
  if (offset >= sizeof config) return;
  std::memcpy(to.data(), reinterpret_cast<const u8*>(&config) + offset,
              std::min<std::size_t>(to.size(), sizeof config - offset));
}

void Block::write_config(u32 offset, std::span<const u8> from) {
  if (offset == offsetof(block::Config, writeback) && from.size() == 1 && options_.write_cache)
    writeback_ = from[0] != 0;
}

// Calls of other threads.

void Block::call(bool in_quiet, std::function<void()> work) const {
  Command command{std::move(work), in_quiet};
  std::unique_lock lock(mutex_);
  commands_.push_back(&command);
  context_->wake();
  command_done_.wait(lock, [&] { return command.done; });
}

void Block::start(VirtioHost& host, u64 features) {
  call(false, [&] {
    host_ = &host;
    flushes_ = (features & block::feature::kFlush) != 0;
  });
}

void Block::queue_ready(unsigned index, std::unique_ptr<Virtqueue> queue) {
  call(false, [&] { queues_[index] = {.ring = std::move(queue)}; });
}

void Block::queue_notify(unsigned /*index*/) { context_->wake(); }

void Block::pause() {
  call(true, [&] { paused_ = true; });
}

void Block::resume() {
  call(false, [&] {
    paused_ = false;
    end_parked(true, nullptr);
  });
}

void Block::queue_reset(unsigned index) {
  call(true, [&] {
    end_parked(false, queues_[index].ring.get());
    queues_[index] = {};
  });
}

void Block::reset() {
  call(true, [&] {
    end_parked(false, nullptr);
    for (Queue& queue : queues_) queue = {};
    host_ = nullptr;
    reported_ = false;
    writeback_ = options_.write_cache;
  });
}

std::optional<QueueState> Block::queue_state(unsigned index) const {
  std::optional<QueueState> state;
  call(true, [&] {
    const Queue& queue = queues_[index];
    if (queue.ring != nullptr && !queue.broken) state = queue.ring->state();
  });
  return state;
}

Result<base::Document> Block::save() const {
  bool waits = false;
  call(true, [&] { waits = !parked_.empty(); });
  if (waits) return make_error("a disk waits for room on the host; make room and resume, then save");
  return base::save(kComponent, kStateVersion, BlockState{.writeback = writeback_.load()});
}

Status Block::restore(const base::Document& document) {
  VERT_ASSIGN(const BlockState state, base::restore<BlockState>(kComponent, kStateVersion, document));
  if (state.writeback && !options_.write_cache)
    return make_error("saved state of a disk: its write cache is on, but it is to have none");
  writeback_ = state.writeback;
  return {};
}

Status Block::flush() {
  Status flushed;
  call(true, [&] { flushed = context_->complete(image_->flush()); });
  return flushed;
}

Status Block::resize(u64 size) {
  Status resized;
  call(true, [&] {
    resized = context_->complete(image_->resize(size));
    if (!resized) return;
    capacity_ = image_->size() / kSectorSize;
    if (host_ != nullptr) host_->config_changed();
  });
  return resized;
}

// The device's thread.

void Block::run() {
  while (true) {
    const bool quiet_wanted = run_commands();
    {
      const std::lock_guard lock(mutex_);
      if (ended_) break;
    }
    if (!paused_ && !quiet_wanted)
      for (unsigned i = 0; i < queues_.size(); ++i) serve(i);
    signal_queues();
    context_->run_once(storage::IoContext::Wait::kWait);
    signal_queues();
  }
  static_cast<void>(context_->complete(image_->close()));
}

/// Runs those whose time has come; whether one waits for what is in flight.
bool Block::run_commands() {
  std::unique_lock lock(mutex_);
  while (!commands_.empty()) {
    Command& command = *commands_.front();
    if (command.in_quiet && in_flight_ != 0) return true;
    commands_.pop_front();
    lock.unlock();
    command.work();
    lock.lock();
    command.done = true;
    command_done_.notify_all();
  }
  return false;
}

/// Begins with all that the driver made available.
void Block::serve(unsigned index) {
  Queue& queue = queues_[index];
  if (queue.ring == nullptr || queue.broken) return;
  queue.ring->disable_notifications();
  do {
    auto popped = Virtqueue::Pop::kRequest;
    while (popped == Virtqueue::Pop::kRequest) {
      if (in_flight_ >= kMaxInFlight) return;  // the next one that ends brings us back
      popped = begin_next(index);
    }
    if (popped == Virtqueue::Pop::kBroken) {
      queue.broken = true;
      host_->needs_reset();
      return;
    }
  } while (queue.ring->enable_notifications());
}

Virtqueue::Pop Block::begin_next(unsigned index) {
  if (free_.empty()) free_.push_back(std::make_unique<Slot>());
  Request& request = free_.back()->request;
  const Virtqueue::Pop popped = queues_[index].ring->pop(request);
  if (popped != Virtqueue::Pop::kRequest) return popped;
  std::array<u8, sizeof(Header)> bytes{};
  if (request.copy_out(0, bytes) != bytes.size() || request.writable_size == 0)
    return Virtqueue::Pop::kBroken;
  auto slot = std::move(free_.back());
  free_.pop_back();
  ++in_flight_;
  handle(index, std::move(slot), std::bit_cast<Header>(bytes));
  return popped;
}

/// One interrupt for all that ended at once.
void Block::signal_queues() {
  for (unsigned i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    if (std::exchange(queue.pushed, false) && queue.ring->interrupt_wanted()) host_->queue_interrupt(i);
  }
}

void Block::end_parked(bool retry, const Virtqueue* ring) {
  for (Parked* parked : std::exchange(parked_, {})) {
    if (ring != nullptr && parked->ring != ring) {
      parked_.push_back(parked);
      continue;
    }
    parked->retry = retry;
    ++in_flight_;
    parked->request.resume();
  }
}

// Requests.

storage::Detached Block::handle(unsigned index, std::unique_ptr<Slot> slot, Header header) {
  // The queue stays until nothing of it is in flight.
  Queue& queue = queues_[index];
  Answer answer = co_await carry_out(header, *slot);
  bool dropped = false;
  while (answer.full && !dropped) {
    dropped = !co_await Parked{*this, queue.ring.get()};
    if (!dropped) answer = co_await carry_out(header, *slot);
  }
  if (!dropped) {
    const std::array<u8, 1> status = {answer.status};
    static_cast<void>(slot->request.copy_in(slot->request.writable_size - 1, status));
    queue.ring->push(slot->request, answer.written + 1);
    queue.pushed = true;
  }
  free_.push_back(std::move(slot));
  --in_flight_;
}

bool Block::in_range(u64 sector, u64 sectors) const {
  const u64 capacity = capacity_.load(std::memory_order_relaxed);
  return sectors <= capacity && sector <= capacity - sectors;
}

storage::Task<Block::Answer> Block::carry_out(Header header, Slot& slot) {
  switch (header.type) {
    case block::kIn:
    case block::kOut: co_return co_await transfer(header, slot);
    case block::kDiscard:
    case block::kWriteZeroes: co_return co_await clear_segments(header, slot.request);
    case block::kGetId: co_return answer_id(slot.request);
    case block::kFlush: {
      const Status flushed = co_await image_->flush();
      co_return answer_to(flushed);
    }
    default: co_return Answer{.status = block::kUnsupported};
  }
}

storage::Task<Block::Answer> Block::transfer(Header header, Slot& slot) {
  const Request& request = slot.request;
  const bool reads = header.type == block::kIn;
  const u64 size = reads ? request.writable_size - 1 : request.readable_size - sizeof(Header);
  const bool valid = size % kSectorSize == 0 && in_range(header.sector, size / kSectorSize);
  if (!valid || (!reads && image_->read_only())) co_return Answer{.status = block::kIoError};
  const u64 offset = header.sector * kSectorSize;
  if (reads) {
    slot.data = storage::slice(pieces_of(request.writable), 0, size);
    const Status done = co_await image_->read(offset, slot.data);
    co_return answer_to(done, static_cast<u32>(size));
  }
  slot.data = storage::slice(pieces_of(request.readable), sizeof(Header), size);
  const Status done = co_await stable(co_await image_->write(offset, slot.data));
  co_return answer_to(done);
}

/// A driver that does not flush, or that switched the cache off, gets stable writes (virtio 1.2, 5.2.6.2).
storage::Task<Status> Block::stable(Status written) {
  const bool may_be_cached = flushes_ && writeback_.load(std::memory_order_relaxed);
  if (!written || may_be_cached) co_return written;
  co_return co_await image_->flush();
}

storage::Task<Block::Answer> Block::clear_segments(Header header, const Request& request) {
  const bool discards = header.type == block::kDiscard;
  const u64 size = request.readable_size - sizeof(Header);
  const u64 count = size / sizeof(block::Segment);
  if (size % sizeof(block::Segment) != 0 || count > kMaxSegments || image_->read_only())
    co_return Answer{.status = block::kIoError};
  std::array<block::Segment, kMaxSegments> segments;
  std::array<u8, sizeof segments> bytes{};
  static_cast<void>(request.copy_out(sizeof(Header), std::span(bytes).first(size)));
  std::memcpy(segments.data(), bytes.data(), sizeof segments);
  const u32 known_flags = discards ? 0 : block::kUnmapFlag;
  for (const block::Segment& segment : std::span(segments).first(count)) {
    if ((segment.flags & ~known_flags) != 0) co_return Answer{.status = block::kUnsupported};
    if (segment.sectors > kMaxSegmentSectors || !in_range(segment.sector, segment.sectors))
      co_return Answer{.status = block::kIoError};
  }
  Status done;
  for (u64 i = 0; i < count && done; ++i) {
    const u64 offset = segments[i].sector * kSectorSize;
    const u64 length = u64{segments[i].sectors} * kSectorSize;
    if (discards)
      done = co_await image_->discard(offset, length);
    else
      done = co_await image_->write_zeroes(offset, length, (segments[i].flags & block::kUnmapFlag) != 0);
  }
  done = co_await stable(std::move(done));
  co_return answer_to(done);
}

Block::Answer Block::answer_to(const Status& done, u32 written) {
  if (done) return {.written = written};
  const bool full = is_full(done);
  if (!full && !std::exchange(reported_, true) && options_.on_error) options_.on_error(done.error());
  return {.status = block::kIoError, .full = full};
}

Block::Answer Block::answer_id(const Request& request) const {
  std::array<u8, block::kIdSize> id{};
  std::ranges::copy(options_.serial, id.begin());
  const u64 room = std::min<u64>(id.size(), request.writable_size - 1);
  return {.written = static_cast<u32>(request.copy_in(0, std::span(id).first(room)))};
}

}  // namespace vert::device::virtio
