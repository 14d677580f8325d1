// What a translator counts, for people. On the vCPU's thread.
#pragma once

#include <array>
#include <unordered_map>
#include <vector>

#include "cpu/engine_report.hpp"
#include "engine/bt/code_cache.hpp"
#include "engine/bt/emitter.hpp"
#include "engine/bt/windows.hpp"

namespace vert::bt {

struct Statistics {
  using ByClass = std::unordered_map<InsnClass, u64, InsnClassHash>;

  std::array<u64, 8> exits{};  // by ExitKind
  u64 faults = 0;
  u64 stepped_out = 0;  // times that code which did not look was left
  u64 steps = 0;        // instructions and events that the fallback engine settled
  u64 blocks = 0;
  u64 code_bytes = 0;
  u64 cache_flushes = 0;
  u64 pages_forgotten = 0;
  ByClass interpreted;  // instructions that have no translation
  ByClass declined;     // instructions that have one, but not for what they met

  /// Generated code was left with `exit`.
  void count(const CodeExit& exit) {
    ++exits[static_cast<std::size_t>(exit.kind)];
    if (exit.kind == ExitKind::kInterpret) ++(exit.declined ? declined : interpreted)[exit.insn_class];
  }
};

[[nodiscard]] std::vector<cpu::CounterGroup> describe(const Statistics& statistics, const Context& context,
                                                      const Windows::Counts& windows, const CodeCache& cache);

}  // namespace vert::bt
