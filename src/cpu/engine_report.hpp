// What an engine tells the people who work on it, besides running: counters, and aids that cost something and
// so have to be asked for.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace vert::cpu {

struct Counter {
  std::string name;
  u64 value = 0;
};

struct CounterGroup {
  std::string name;
  bool parts = false;  // the counters are parts of one whole, most first: shares mean something
  std::vector<Counter> counters;
};

/// What an engine does besides, if asked when it is made.
struct EngineAids {
  bool perf_map = false;         // names generated code for perf(1)
  bool samples = false;          // looks a thousand times a second where the vCPU's thread is
  bool windows_at_once = false;  // bt: all of CPL 3 goes through windows from the start; for tests
  bool no_looks = false;         // bt: loops do not look for events, only the look timer does; for tests
};

inline constexpr std::size_t kUsualHottest = 10;

struct SampleReport {
  std::vector<CounterGroup> groups;
  std::string listing;  // the hottest guest code beside its translation
};

}  // namespace vert::cpu
