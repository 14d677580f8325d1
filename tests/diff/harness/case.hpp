// One case of the differential test: what goes in, what comes out, and the address space both sides build.
//
// Plain data of fixed size: cases travel to the worker process through shared memory.
#pragma once

#include <array>

#include "base/types.hpp"
#include "cpu/cpu_state.hpp"

namespace vert::diff {

/// The address space of a case. Everything lies below 2^31, so that each address fits a displacement; what is
/// not named is unmapped, among it the pages before and after each region.
inline constexpr u64 kCodeBase = 0x1000'1000;  // two pages, read and execute
inline constexpr u64 kCodeSize = 2 * kPageSize;
inline constexpr u64 kDataBase = 0x2000'1000;  // two pages, read and write
inline constexpr u64 kReadOnlyBase = 0x2000'3000;
inline constexpr u64 kIslandBase = 0x2000'5000;  // one page, read and write, nothing beside it
inline constexpr u64 kStackBase = 0x3000'1000;   // one page, read and write

inline constexpr std::array<u64, 4> kWritablePages = {kDataBase, kDataBase + kPageSize, kIslandBase,
                                                      kStackBase};

using Page = std::array<u8, kPageSize>;

/// Contents of the page at kReadOnlyBase, the same for all cases.
[[nodiscard]] const Page& read_only_page();

struct Registers {
  std::array<u64, x86::kGprCount> gpr{};
  u64 rip = 0;
  u64 rflags = x86::rflags::kFixed1;
  u64 fs_base = 0;
  u64 gs_base = 0;
  cpu::FpuState fpu;
};

struct Input {
  Registers registers;
  std::array<u8, kCodeSize> code{};
  std::array<Page, kWritablePages.size()> data{};
};

/// Why a run ended.
enum class Ending : u32 {
  kException,  // the only one that can be compared
  kTimeout,    // it would not end
  kCrash,      // shutdown of the guest, death of the worker
};

struct Output {
  Ending ending = Ending::kException;
  u32 vector = 0;
  u64 error_code = 0;  // 0 where the exception has none
  u64 cr2 = 0;         // with #PF only
  u64 cs = 0;
  Registers registers;  // at the exception: RIP, RSP and RFLAGS are those that were pushed
  std::array<Page, kWritablePages.size()> data{};
};

/// Runs cases: the host processor in a worker process, or an engine in a rig.
class Executor {
 public:
  virtual ~Executor() = default;
  /// How many cases submit() takes at most.
  [[nodiscard]] virtual std::size_t capacity() const = 0;
  /// Where to build the inputs of the next batch.
  [[nodiscard]] virtual Input& input(std::size_t index) = 0;
  /// Begins to run the first `count` inputs; finish() waits until all are done.
  virtual void submit(std::size_t count) = 0;
  virtual void finish() = 0;
  [[nodiscard]] virtual const Output& output(std::size_t index) const = 0;

  /// One case, at once.
  [[nodiscard]] const Output& run_one(const Input& one) {
    input(0) = one;
    submit(1);
    finish();
    return output(0);
  }
};

}  // namespace vert::diff
