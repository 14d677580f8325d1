#include "diff/harness/campaign.hpp"

#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "diff/harness/compare.hpp"
#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr unsigned kBytesPercent = 20;
constexpr u8 kInt3 = 0xCC;

/// How many instructions of a sequence ran, about: those before the one that ended it, loops counted once.
u64 steps_run(const Sequence& sequence, const Output& output) {
  const u64 rip = output.registers.rip;
  const auto step = std::ranges::find(sequence.steps, rip, &Step::address);
  return step == sequence.steps.end() ? sequence.steps.size()
                                      : static_cast<u64>(step - sequence.steps.begin());
}

/// The input with all instructions from `step` on replaced by INT3.
void truncate(const Input& from, const Sequence& sequence, std::size_t step, Input& to) {
  to = from;
  if (step >= sequence.steps.size()) return;
  const u64 start = sequence.steps[step].address - kCodeBase;
  std::fill(to.code.begin() + static_cast<std::ptrdiff_t>(start), to.code.end(), kInt3);
}

/// The instruction's own bytes, as far as they lie on the code pages.
std::span<const u8> code_of(const Input& input, const Step& step) {
  const u64 offset = step.address - kCodeBase;
  return std::span(input.code).subspan(offset, std::min<u64>(step.length, kCodeSize - offset));
}

std::string mnemonic_of(const Input& input, const Step& step) {
  const std::string text = disassemble(code_of(input, step), step.address);
  return text.substr(0, text.find(' '));
}

std::string hex(std::span<const u8> bytes) {
  std::string text;
  for (const u8 byte : bytes) text += fmt::format("{:02x} ", byte);
  return text;
}

std::string describe_ending(const Output& output) {
  return fmt::format("vector {} error {:x} cr2 {:x} rip {:x}", output.vector, output.error_code, output.cr2,
                     output.registers.rip);
}

}  // namespace

Result<Mix> parse_classes(std::string_view text) {
  Mix mix;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const std::string_view name = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    bool found = name == "bytes";
    if (found) mix.bytes = kBytesPercent;
    for (std::size_t i = 0; i < kInsnClassCount; ++i) {
      if (name != name_of(static_cast<InsnClass>(i))) continue;
      mix.weight[i] = 1;
      found = true;
    }
    if (!found)
      return make_error(
          "no class of instructions is called '{}': choose among int, x87, mmx, sse, avx, "
          "avx512 and bytes",
          name);
  }
  return mix;
}

CampaignResult Campaign::run(const Progress& progress) {
  u64 seed = options_.seed;
  unsigned batches = 0;
  while (result_.instructions < options_.instructions) {
    const std::size_t count = oracle_.capacity();
    run_batch(seed, count);
    seed += count;
    if (++batches % 256 == 0 && progress) progress(result_);
  }
  return std::move(result_);
}

CampaignResult Campaign::replay(u64 seed) {
  run_batch(seed, 1);
  return std::move(result_);
}

void Campaign::run_batch(u64 first_seed, std::size_t count) {
  std::vector<Sequence> sequences;
  for (std::size_t i = 0; i < count; ++i)
    sequences.push_back(generator_.generate(first_seed + i, oracle_.input(i)));
  oracle_.submit(count);
  std::vector<std::size_t> suspects;
  // The engine works while the worker does, then both are compared.
  std::vector<Output> guest_outputs(count);
  for (std::size_t i = 0; i < count; ++i) guest_outputs[i] = guest_.run_one(oracle_.input(i));
  oracle_.finish();
  for (std::size_t i = 0; i < count; ++i) {
    const Output& native = oracle_.output(i);
    ++result_.cases;
    if (native.ending == Ending::kTimeout) {
      ++result_.timeouts;
      continue;
    }
    ++result_.endings[native.vector];
    result_.instructions += steps_run(sequences[i], native);
    if (!unexplained(oracle_.input(i), native, guest_outputs[i],
                     sequences[i].undefined_at(native.registers.rip))
             .empty())
      suspects.push_back(i);
  }
  // A report runs cases of its own, which overwrite the batch: keep the inputs first.
  std::vector<std::unique_ptr<Input>> inputs;
  for (const std::size_t i : suspects) inputs.push_back(std::make_unique<Input>(oracle_.input(i)));
  for (std::size_t i = 0; i < suspects.size(); ++i) {
    const Output native = oracle_.run_one(*inputs[i]);
    examine(sequences[suspects[i]], *inputs[i], native, guest_outputs[suspects[i]]);
  }
}

/// What remains of the differences once the explained ones are taken out.
std::vector<std::string> Campaign::unexplained(const Input& input, const Output& native, const Output& guest,
                                               u64 undefined) const {
  auto lines = differences(native, guest, undefined);
  if (lines.empty()) return lines;
  const auto left = std::make_unique<Output>(native);
  const auto right = std::make_unique<Output>(guest);
  waive(input, options_.tolerance, *left, *right);
  return differences(*left, *right, undefined);
}

void Campaign::examine(const Sequence& sequence, const Input& input, const Output& native,
                       const Output& guest) {
  const auto lines = unexplained(input, native, guest, sequence.undefined_at(native.registers.rip));
  if (lines.empty()) return;
  ++result_.failed_cases;
  report(sequence, input, lines);
}

std::vector<std::string> Campaign::compare(const Input& input, u64 undefined_any, const Sequence& sequence,
                                           Output& native) {
  native = oracle_.run_one(input);
  const Output guest = guest_.run_one(input);
  if (native.ending == Ending::kTimeout) return {};
  return unexplained(input, native, guest, sequence.undefined_at(native.registers.rip) | undefined_any);
}

void Campaign::report(const Sequence& sequence, const Input& input, const std::vector<std::string>& whole) {
  // The first instruction with which the outputs differ: all from there on is INT3 in the runs before.
  auto cut = std::make_unique<Input>(input);
  auto before = std::make_unique<Output>();
  auto native = std::make_unique<Output>();
  std::size_t bad = sequence.steps.size() - 1;
  std::vector<std::string> lines = whole;
  for (std::size_t i = 0; i < sequence.steps.size(); ++i) {
    truncate(input, sequence, i + 1, *cut);
    lines = compare(*cut,
                    i + 1 < sequence.steps.size() ? sequence.steps[i + 1].undefined : sequence.undefined_end,
                    sequence, *native);
    bad = i;
    if (!lines.empty()) break;
    *before = *native;
  }
  if (lines.empty()) lines = whole;
  const Step& step = sequence.steps[bad];
  const std::string mnemonic = mnemonic_of(input, step);
  const u64 earlier = result_.failures_by_instruction[mnemonic]++;
  if (result_.failures.size() >= options_.max_failures || earlier >= 2) return;

  std::string text = fmt::format("seed {}: differs first at instruction {} of {}\n", sequence.seed, bad,
                                 sequence.steps.size());
  for (std::size_t i = bad < 6 ? 0 : bad - 6; i <= bad; ++i)
    text += fmt::format("  {} {:x}: {:46} {}\n", i == bad ? '>' : ' ', sequence.steps[i].address,
                        hex(code_of(input, sequence.steps[i])),
                        disassemble(code_of(input, sequence.steps[i]), sequence.steps[i].address));
  const Registers& entry = bad == 0 ? input.registers : before->registers;
  const bool vectors = std::ranges::any_of(lines, [](const std::string& line) {
    return line.starts_with("zmm") || line.starts_with("st") || line.starts_with("mxcsr") ||
           line.starts_with("k") || line.starts_with("f");
  });
  text += "before it:\n" + describe(entry, vectors);
  text += fmt::format("native ended with {}\n", describe_ending(*native));
  for (const std::string& line : lines) text += "  " + line + "\n";
  result_.failures.push_back({sequence.seed, mnemonic, std::move(text)});
}

}  // namespace vert::diff
