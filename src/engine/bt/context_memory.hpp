// The memory of one Context and, behind it, of its table of windows (context.hpp).
#pragma once

#include <sys/mman.h>

#include <memory>
#include <new>
#include <span>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "engine/bt/context.hpp"

namespace vert::bt {

class ContextMemory {
 public:
  /// Error: no address space or memory for it.
  [[nodiscard]] static Result<ContextMemory> create() {
    VERT_ASSIGN(auto mapping, base::Mapping::map(kWindowTable + kWindowTableSize, PROT_NONE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
    if (mprotect(mapping.data(), kWindowTable + kPageSize, PROT_READ | PROT_WRITE) != 0)
      return make_error("no memory for a translator's context");
    return ContextMemory(std::move(mapping));
  }

  Context& operator*() const { return *context_; }
  Context* operator->() const { return context_.get(); }
  [[nodiscard]] Context* get() const { return context_.get(); }
  /// By window_index(). All that is there: whatever is not set, to whoever looks it up, is host memory.
  [[nodiscard]] std::span<u64, kWindowTableEntries> windows() const {
    // SAFETY: create() made this part of the mapping accessible; it is aligned to a page.
    auto* table = reinterpret_cast<u64*>(mapping_.data() + kWindowTable);
    return std::span<u64, kWindowTableEntries>(table, kWindowTableEntries);
  }
  /// Whether `host_address` lies in the part of the table that is never there.
  [[nodiscard]] bool beyond_windows(u64 host_address) const {
    const u64 begin = reinterpret_cast<u64>(mapping_.data()) + kWindowTable;
    return host_address - begin < kWindowTableSize;
  }

 private:
  struct Destroy {
    void operator()(Context* context) const { std::destroy_at(context); }
  };
  explicit ContextMemory(base::Mapping mapping)
      : mapping_(std::move(mapping)), context_(new (mapping_.data()) Context) {}

  base::Mapping mapping_;
  std::unique_ptr<Context, Destroy> context_;
};

}  // namespace vert::bt
