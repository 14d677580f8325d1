// What other threads ask of a translator, and how the owner settles it.
//
// A request is put into a list, and `attention` makes generated code leave at its next look. The owner looks
// at the list before it enters generated code; whoever must know that it was settled waits while the owner is
// in generated code.
#include "engine/bt/runtime.hpp"
#include "engine/bt/tlb.hpp"

namespace vert::bt {

namespace {

/// Lists a frame; where there are too many, for a vCPU may sleep long, `all` stands for them.
void add(std::vector<memory::Frame>& list, memory::Frame frame, bool& all) {
  constexpr std::size_t kMost = 4096;
  if (!list.empty() && list.back() == frame) return;
  if (list.size() < kMost)
    list.push_back(frame);
  else
    all = true;
}

}  // namespace

void Runtime::code_written(memory::Frame frame) {
  {
    const std::scoped_lock lock(requests_mutex_);
    add(requests_.written, frame, requests_.written_all);
  }
  has_requests_.store(true, std::memory_order_seq_cst);
  context_->attention.store(1, std::memory_order_seq_cst);
  if (owner_.load(std::memory_order_relaxed) == std::this_thread::get_id())
    return;  // it looks before it goes on
  // Every jump from another page fails its check from now on, so that code which was published after the
  // write is not missed.
  for (auto& tokens : context_->code_tokens)
    for (auto& token : tokens) token.store(0, std::memory_order_relaxed);
}

void Runtime::drop_writable(memory::Frame frame) { request_drop(frame); }
void Runtime::drop_all_writable() { request_drop(std::nullopt); }

/// On the owner's thread.
void Runtime::drop(std::optional<memory::Frame> frame) {
  if (frame) {
    bt::drop_writable(*context_, *frame);
    windows_.drop_writable(*frame);
  } else {
    bt::drop_all_writable(*context_);
    windows_.drop_all_writable();
  }
}

void Runtime::request_drop(std::optional<memory::Frame> frame) {
  if (owner_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
    drop(frame);
    return;
  }
  u64 ticket = 0;
  {
    const std::scoped_lock lock(requests_mutex_);
    if (frame)
      add(requests_.drops, *frame, requests_.drop_all);
    else
      requests_.drop_all = true;
    ticket = ++requests_.asked;
  }
  has_requests_.store(true, std::memory_order_seq_cst);
  context_->attention.store(1, std::memory_order_seq_cst);
  while (in_code_.load(std::memory_order_seq_cst) && settled_.load(std::memory_order_acquire) < ticket)
    std::this_thread::yield();
}

void Runtime::settle_requests() {
  Requests taken;
  {
    const std::scoped_lock lock(requests_mutex_);
    std::swap(taken.written, requests_.written);
    std::swap(taken.drops, requests_.drops);
    taken.drop_all = std::exchange(requests_.drop_all, false);
    taken.written_all = std::exchange(requests_.written_all, false);
    taken.asked = requests_.asked;
    has_requests_.store(false, std::memory_order_seq_cst);
  }
  if (taken.drop_all) drop(std::nullopt);
  for (const memory::Frame frame : taken.drops) drop(frame);
  for (const memory::Frame frame : taken.written) {
    if (code_writes_[frame] != 0xFF) ++code_writes_[frame];
    for (const u32 page : store_.pages_of(frame)) forget_page(page);
  }
  if (taken.written_all) forget_all_code();
  settled_.store(taken.asked, std::memory_order_release);
}

}  // namespace vert::bt
