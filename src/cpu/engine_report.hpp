// What an engine tells the people who work on it, besides running: counters, and aids that cost something and
// so have to be asked for.
#pragma once

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

}  // namespace vert::cpu
