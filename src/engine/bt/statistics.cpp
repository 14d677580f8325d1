#include "engine/bt/statistics.hpp"

#include <algorithm>

namespace vert::bt {

namespace {

using cpu::Counter;
using cpu::CounterGroup;

constexpr std::size_t kMostClasses = 24;

std::string name_of(ExitKind kind) {
  switch (kind) {
    case ExitKind::kLink: return "direct jump, not linked yet";
    case ExitKind::kInterpret: return "instruction for the fallback engine";
    case ExitKind::kAttention: return "event or another thread's wish";
    case ExitKind::kLookup: return "code page not current";
    case ExitKind::kIndirect: return "indirect jump or return, not in the table";
    case ExitKind::kLoadCr3: return "load of CR3";
    case ExitKind::kPause: return "many PAUSEs";
    case ExitKind::kBudget: return "end of the instruction budget";
  }
  return "other";
}

void sort_down(std::vector<Counter>& counters) {
  std::ranges::stable_sort(counters, std::ranges::greater{}, &Counter::value);
}

CounterGroup exits(const Statistics& statistics) {
  CounterGroup group{"exits from generated code", true, {}};
  for (std::size_t kind = 0; kind < statistics.exits.size(); ++kind)
    if (statistics.exits[kind] != 0)
      group.counters.push_back({name_of(static_cast<ExitKind>(kind)), statistics.exits[kind]});
  sort_down(group.counters);
  return group;
}

CounterGroup by_class(std::string name, const Statistics::ByClass& counts) {
  CounterGroup group{std::move(name), true, {}};
  for (const auto& [insn_class, count] : counts) group.counters.push_back({name_of(insn_class), count});
  sort_down(group.counters);
  if (group.counters.size() <= kMostClasses) return group;
  u64 rest = 0;
  for (std::size_t i = kMostClasses; i < group.counters.size(); ++i) rest += group.counters[i].value;
  group.counters.resize(kMostClasses);
  group.counters.push_back({"all others", rest});
  return group;
}

CounterGroup fills(const Context& context) {
  const auto count = [&](bool write, FillResult result) {
    return context.fill_results[write ? 1 : 0][static_cast<std::size_t>(result)];
  };
  CounterGroup group{"TLB misses", true, {}};
  for (const bool write : {false, true}) {
    const std::string what = write ? "write: " : "read: ";
    group.counters.push_back({what + "filled", count(write, FillResult::kFilled)});
    group.counters.push_back({what + "declined", count(write, FillResult::kDeclined)});
    group.counters.push_back({what + "crosses a page's end", count(write, FillResult::kCrosses)});
  }
  std::erase_if(group.counters, [](const Counter& counter) { return counter.value == 0; });
  sort_down(group.counters);
  return group;
}

}  // namespace

std::vector<CounterGroup> describe(const Statistics& statistics, const Context& context,
                                   const Windows::Counts& windows, const CodeCache& cache) {
  std::vector<CounterGroup> groups;
  groups.push_back({"translation",
                    false,
                    {{"blocks translated", statistics.blocks},
                     {"bytes of code made", statistics.code_bytes},
                     {"bytes in the code cache", cache.used()},
                     {"bytes free in the code cache", cache.room()},
                     {"times the code cache was emptied", statistics.cache_flushes},
                     {"code pages forgotten", statistics.pages_forgotten},
                     {"faults of the host in generated code", statistics.faults},
                     {"steps out of code that did not look", statistics.stepped_out}}});
  groups.push_back(exits(statistics));
  const u64 instructions = statistics.exits[static_cast<std::size_t>(ExitKind::kInterpret)];
  groups.push_back({"runs of the fallback engine",
                    true,
                    {{"for one instruction of generated code", instructions},
                     {"for events, and where no code can run", statistics.steps - instructions}}});
  groups.push_back(by_class("instructions without translation", statistics.interpreted));
  groups.push_back(
      by_class("instructions declined (memory, or state, that fast paths leave out)", statistics.declined));
  groups.push_back(fills(context));
  groups.push_back({"windows",
                    false,
                    {{"address spaces that got them", windows.opened},
                     {"and lost them again", windows.closed},
                     {"faults", windows.faults},
                     {"pages shown", windows.pages},
                     {"microseconds for faults", windows.ns / 1000}}});
  std::erase_if(groups, [](const CounterGroup& group) { return group.counters.empty(); });
  return groups;
}

}  // namespace vert::bt
