#include "control/console_hub.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.hpp"

namespace vert::control {

ConsoleHub::ConsoleHub(machine::SerialBackend* local, Limits limits)
    : local_(local), limits_(limits), ring_(limits.ring) {
  VERT_CHECK(limits.ring > limits.replayed);
}

void ConsoleHub::write(std::span<const u8> bytes) {
  const std::span<const u8> all = bytes;
  {
    std::unique_lock lock(mutex_);
    while (!bytes.empty()) {
      const std::size_t fits = room();
      if (fits == 0) {
        const u64 before = consumed_;
        const auto moved = [&] { return consumed_ != before || room() != 0; };
        if (hurries_ != 0 || !changed_.wait_for(lock, limits_.patience, moved)) stall_slowest();
        continue;
      }
      const std::size_t count = std::min(fits, bytes.size());
      append(bytes.first(count));
      bytes = bytes.subspan(count);
    }
  }
  if (local_ != nullptr) local_->write(all);
}

/// How much can be written before a watcher that is not stalled has too much to read.
std::size_t ConsoleHub::room() const {
  std::size_t room = ring_.size();
  for (const Watcher* watcher : watchers_)
    if (!watcher->stalled_) room = std::min(room, most_unread() - std::min(most_unread(), unread(*watcher)));
  return room;
}

void ConsoleHub::hurry(int change) {
  const std::scoped_lock lock(mutex_);
  hurries_ += change;
  changed_.notify_all();
}

void ConsoleHub::stall_slowest() {
  for (Watcher* watcher : watchers_)
    if (unread(*watcher) >= most_unread()) watcher->stalled_ = true;
}

/// With the mutex held. Whatever stalled watchers have not read goes.
void ConsoleHub::append(std::span<const u8> bytes) {
  for (const u8 byte : bytes) ring_[written_++ % ring_.size()] = byte;
  for (Watcher* watcher : watchers_) {
    const bool was_empty = unread(*watcher) == bytes.size();
    if (unread(*watcher) > ring_.size()) {
      const u64 lost = unread(*watcher) - ring_.size();
      watcher->lost_ += lost;
      watcher->position_ += lost;
    }
    if (was_empty) watcher->on_output_();
  }
}

std::unique_ptr<ConsoleHub::Watcher> ConsoleHub::watch(std::function<void()> on_output) {
  std::unique_ptr<Watcher> watcher(new Watcher(*this, std::move(on_output)));
  const std::scoped_lock lock(mutex_);
  watcher->position_ = written_ - std::min<u64>(written_, limits_.replayed);
  watchers_.push_back(watcher.get());
  return watcher;
}

ConsoleHub::Watcher::~Watcher() {
  const std::scoped_lock lock(hub_.mutex_);
  hub_.watchers_.remove(this);
  hub_.changed_.notify_all();
}

std::size_t ConsoleHub::Watcher::peek(std::span<u8> out) {
  const std::scoped_lock lock(hub_.mutex_);
  stalled_ = false;
  if (const u64 lost = std::exchange(lost_, 0); lost != 0)
    note_ += fmt::format("\r\n[vert: {} bytes of the guest's output were lost here]\r\n", lost);
  peeked_at_ = position_;
  if (!note_.empty()) {
    const std::size_t count = std::min(out.size(), note_.size());
    std::copy_n(note_.begin(), count, out.begin());
    return count;
  }
  const std::size_t count = std::min<u64>(out.size(), hub_.unread(*this));
  for (std::size_t i = 0; i < count; ++i) out[i] = hub_.ring_[(position_ + i) % hub_.ring_.size()];
  return count;
}

void ConsoleHub::Watcher::consume(std::size_t count) {
  const std::scoped_lock lock(hub_.mutex_);
  const std::size_t of_note = std::min(count, note_.size());
  note_.erase(0, of_note);
  // What was dropped since it was peeked at is not lost after all.
  const u64 end = peeked_at_ + (count - of_note);
  lost_ -= std::min(position_, end) - peeked_at_;
  position_ = std::max(position_, end);
  hub_.consumed_ += count;
  hub_.changed_.notify_all();
}

void ConsoleHub::drain(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  const auto empty = [this] {
    return std::ranges::all_of(watchers_, [this](const Watcher* watcher) {
      return unread(*watcher) == 0 && watcher->note_.empty();
    });
  };
  while (!empty()) {
    const u64 before = consumed_;
    changed_.wait_for(lock, patience, [&] { return empty() || consumed_ != before; });
    if (consumed_ == before && !empty()) return;
  }
}

}  // namespace vert::control
