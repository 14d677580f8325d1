#include "device/virtio/worker.hpp"

#include "base/thread.hpp"

namespace vert::device::virtio {

Result<std::unique_ptr<Worker>> Worker::start(const std::string& name, std::function<void()> work) {
  std::unique_ptr<Worker> worker(new Worker(std::move(work)));
  VERT_ASSIGN(worker->thread_, base::start_thread(name, [&self = *worker] { self.run(); }));
  return worker;
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    must_return_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Worker::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ended_ || (kicked_ && !paused_); });
    if (ended_) return;
    kicked_ = false;
    working_ = true;
    lock.unlock();
    work_();
    lock.lock();
    working_ = false;
    // What it left when it had to return is taken up after resume().
    kicked_ = kicked_ || must_return_;
    changed_.notify_all();
  }
}

void Worker::kick() {
  {
    const std::lock_guard lock(mutex_);
    kicked_ = true;
  }
  changed_.notify_all();
}

void Worker::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  must_return_ = true;
  changed_.wait(lock, [this] { return !working_; });
}

void Worker::resume() {
  {
    const std::lock_guard lock(mutex_);
    paused_ = false;
    must_return_ = ended_;
  }
  changed_.notify_all();
}

}  // namespace vert::device::virtio
