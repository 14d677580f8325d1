// Instructions that run over the end of their page, whose second part cannot be fetched.
#include "insn/system/system_test.hpp"

namespace vert::test {
namespace {

namespace pf = x86::pf;

struct Cut {
  const char* name;
  std::vector<u8> bytes;
};

const std::vector<Cut> kCuts = {
    {"mov eax, imm32", {0xB8, 0x90, 0x90, 0x90, 0x90}},
    {"call rel32", {0xE8, 0x90, 0x90, 0x90, 0x90}},
    {"jz rel32", {0x0F, 0x84, 0x90, 0x90, 0x90, 0x90}},
    {"jz rel8", {0x74, 0x10}},
    {"inc dword [rax + disp32]", {0xFF, 0x80, 0x90, 0x90, 0x90, 0x90}},
    {"add [rsp + rax], imm32", {0x81, 0x04, 0x04, 0x90, 0x90, 0x90, 0x90}},
    {"lock inc dword [rax]", {0xF0, 0xFF, 0x00}},
    {"rep movsb", {0xF3, 0xA4}},
    {"prefixes", {0x66, 0x67, 0x2E, 0x48, 0x90}},
    {"mov rax, imm64", {0x48, 0xB8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}},
    {"movaps xmm0, xmm1", {0x0F, 0x28, 0xC1}},
    {"pshufb xmm0, xmm1", {0x66, 0x0F, 0x38, 0x00, 0xC1}},
    {"vaddps ymm0, ymm0, ymm1", {0xC5, 0xFC, 0x58, 0xC1}},
    {"vfmadd132ps ymm0, ymm0, ymm1", {0xC4, 0xE2, 0x7D, 0x98, 0xC1}},
    {"vaddps zmm0, zmm0, zmm1", {0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1}},
    {"syscall", {0x0F, 0x05}},
    {"int 80h", {0xCD, 0x80}},
    {"undefined FF /7 with disp32", {0xFF, 0xB8, 0x90, 0x90, 0x90, 0x90}},
    {"undefined C7 /1 with disp8 and imm32", {0xC7, 0x48, 0x90, 0x90, 0x90, 0x90, 0x90}},
    {"undefined 66 C6 /7 with imm8", {0x66, 0xC6, 0x38, 0x90}},
    {"undefined 0F BA /0 with imm8", {0x0F, 0xBA, 0x00, 0x90}},
    {"undefined 0F 00 /7 with a SIB and disp32", {0x0F, 0x00, 0xBC, 0x04, 0x90, 0x90, 0x90, 0x90}},
    {"undefined VEX with imm8", {0xC4, 0xE3, 0x7D, 0xFF, 0x40, 0x90, 0x90}},
};

class FetchTest : public SystemTest {
 protected:
  static constexpr u64 kFirst = 0x90'0000;
  static constexpr u64 kSecond = kFirst + kPageSize;

  void SetUp() override {
    SystemTest::SetUp();
    host_ = rig().map(kFirst, 2, {true, true, true});
  }
  /// For each instruction, cut at each byte: that the fault is the second page's, at the instruction's start.
  void expect_page_faults(u32 error_code) {
    for (unsigned ahead : {0U, 4U}) {  // NOPs before it, in the same block
      for (const Cut& cut : kCuts) {
        for (std::size_t size = 1; size < cut.bytes.size(); ++size) {
          const u64 at = kSecond - size;
          std::vector<u8> page(kPageSize, 0x90);
          std::ranges::copy(std::span(cut.bytes).first(size), page.end() - static_cast<std::ptrdiff_t>(size));
          rig().write_host(host_, page);
          cpu::CpuState state = user_state();
          state.rip = at - ahead;
          state.gpr[x86::kRax] = kFirst;
          const Caught caught = run_to_exception(state);
          SCOPED_TRACE(fmt::format("{}, {} bytes of it, {} NOPs before", cut.name, size, ahead));
          EXPECT_EQ(caught.vector, x86::kPF);
          EXPECT_EQ(caught.error_code, error_code);
          EXPECT_EQ(caught.rip, at);
          EXPECT_EQ(caught.cr2, kSecond);
        }
      }
    }
  }

 private:
  u8* host_ = nullptr;
};

TEST_P(FetchTest, PartOnAPageThatIsNotMapped) {
  rig().unmap_page(kSecond);
  expect_page_faults(pf::U | pf::I);
}
TEST_P(FetchTest, PartOnAPageWithoutExecute) {
  *rig().page_entry(kSecond) |= x86::pte::XD;
  expect_page_faults(pf::P | pf::U | pf::I);
}
TEST_P(FetchTest, PartOnAPageOfTheSupervisor) {
  *rig().page_entry(kSecond) &= ~x86::pte::US;
  expect_page_faults(pf::P | pf::U | pf::I);
}

INSTANTIATE_TEST_SUITE_P(Engines, FetchTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test
