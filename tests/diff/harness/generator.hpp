// Makes random instruction sequences with inputs. The same seed gives the same case, on the same host.
#pragma once

#include <array>
#include <vector>

#include "diff/harness/case.hpp"
#include "diff/harness/templates.hpp"
#include "support/random.hpp"

namespace vert::diff {

/// How often each class comes up; 0 leaves it out.
struct Mix {
  std::array<unsigned, kInsnClassCount> weight{};
  unsigned bytes = 0;  // in percent of all cases: one instruction of random bytes instead of a sequence
};

/// One instruction of a sequence.
struct Step {
  u64 address = 0;
  u8 length = 0;
  /// Status flags that may be undefined when it begins.
  u64 undefined = 0;
};

struct Sequence {
  u64 seed = 0;
  std::vector<Step> steps;
  /// Status flags that may be undefined anywhere in it, or at its end.
  u64 undefined_any = 0;
  u64 undefined_end = 0;

  /// Flags not to compare if the run ended with this RIP.
  [[nodiscard]] u64 undefined_at(u64 rip) const;
};

class Generator {
 public:
  Generator(const TemplateTable& table, Mix mix) : table_(table), mix_(mix) {}

  /// Fills `input` and says what it is made of.
  [[nodiscard]] Sequence generate(u64 seed, Input& input) const;

 private:
  const TemplateTable& table_;
  Mix mix_;
};

}  // namespace vert::diff
