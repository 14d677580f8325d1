// The requests that an image is working on: what waits for them to end, and who keeps out of whose way.
//
// On the image's thread. The objects live in the frames of the coroutines they stand for.
#pragma once

#include <algorithm>
#include <list>

#include "storage/async.hpp"

namespace vert::storage::qcow2 {

class Requests {
 public:
  /// One request, numbered as it begins.
  class Request {
   public:
    explicit Request(Requests& all) : all_(all) {}
    ~Request() {
      if (!entered_) return;
      (before_ != nullptr ? before_->behind_ : all_.first_) = behind_;
      (behind_ != nullptr ? behind_->before_ : all_.last_) = before_;
      if (all_.first_ == nullptr) all_.changed_.wake_all();
    }
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    /// True: goes on at once. False: wait for changed(), then ask again.
    [[nodiscard]] bool try_enter() {
      if (all_.excluded_) return false;
      entered_ = true;
      number_ = all_.next_++;
      before_ = std::exchange(all_.last_, this);
      (before_ != nullptr ? before_->behind_ : all_.first_) = this;
      return true;
    }

   private:
    friend class Requests;
    Requests& all_;
    bool entered_ = false;
    u64 number_ = 0;
    Request* before_ = nullptr;  // in the list of those that are active, oldest first
    Request* behind_ = nullptr;
  };

  /// While it lives, and once it has entered, there are no requests.
  class Exclusion {
   public:
    explicit Exclusion(Requests& all) : all_(all) {}
    ~Exclusion() {
      if (!entered_) return;
      all_.excluded_ = false;
      all_.changed_.wake_all();
    }
    Exclusion(const Exclusion&) = delete;
    Exclusion& operator=(const Exclusion&) = delete;
    [[nodiscard]] bool try_enter() {
      if (!entered_) {
        if (all_.excluded_) return false;
        all_.excluded_ = true;
        entered_ = true;
      }
      return all_.first_ == nullptr;
    }

   private:
    Requests& all_;
    bool entered_ = false;
  };

  /// A write to clusters that are allocated, for as long as it takes.
  class Writing {
   public:
    Writing(Requests& all, u64 host, u64 length)
        : all_(all), place_(all.writings_.insert(all.writings_.end(), {host, length})) {}
    ~Writing() { all_.writings_.erase(place_); }
    Writing(const Writing&) = delete;
    Writing& operator=(const Writing&) = delete;

   private:
    Requests& all_;
    std::list<std::pair<u64, u64>>::iterator place_;
  };

  [[nodiscard]] WaitList::Awaiter changed() { return changed_.wait(); }
  /// All requests with a smaller number have ended.
  [[nodiscard]] u64 oldest() const { return first_ == nullptr ? next_ : first_->number_; }
  /// The number that the next request gets.
  [[nodiscard]] u64 next() const { return next_; }
  [[nodiscard]] bool is_written(u64 host, u64 length) const {
    return std::ranges::any_of(writings_, [&](const auto& writing) {
      return writing.first < host + length && host < writing.first + writing.second;
    });
  }

 private:
  Request* first_ = nullptr;
  Request* last_ = nullptr;
  std::list<std::pair<u64, u64>> writings_;
  u64 next_ = 0;
  bool excluded_ = false;
  WaitList changed_;
};

/// Ranges of guest clusters whose place in the file is being changed; those that overlap wait for each other.
class Reservations {
 public:
  class Reservation {
   public:
    Reservation(Reservations& all, u64 first, u64 last) : all_(all), range_{first, last} {}
    ~Reservation() {
      if (!held_) return;
      all_.held_.erase(place_);
      all_.released_.wake_all();
    }
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    /// False: wait for released(), then ask again.
    [[nodiscard]] bool try_take() {
      if (std::ranges::any_of(all_.held_, [this](const Range& other) {
            return range_.first <= other.last && other.first <= range_.last;
          }))
        return false;
      held_ = true;
      place_ = all_.held_.insert(all_.held_.end(), range_);
      return true;
    }

   private:
    struct Range {
      u64 first;
      u64 last;
    };
    friend class Reservations;
    Reservations& all_;
    const Range range_;
    bool held_ = false;
    std::list<Range>::iterator place_;
  };
  [[nodiscard]] WaitList::Awaiter released() { return released_.wait(); }

 private:
  std::list<Reservation::Range> held_;
  WaitList released_;
};

}  // namespace vert::storage::qcow2
