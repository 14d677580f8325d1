// `vert explain`: guest code beside what the translator makes of it.
#include <limits>
#include <string>

#include "cli/commands.hpp"
#include "cli/explain_plan.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  The entry point of a program; a function of one that has symbols:
    vert explain /usr/bin/env
    vert explain ./qsort compare
  A piece of it, or the one block that begins at an address:
    vert explain ./qsort 0x401126-0x401150
    vert explain ./qsort 0x401126
  Instructions as bytes: push rbp; mov rbp, rsp; pop rbp; ret
    vert explain --bytes '55 48 89 e5 5d c3'
  The same as kernel code, and at another address:
    vert explain --bytes '55 48 89 e5 5d c3' --mode kernel --address 0xffffffff81000000

How to read it: each guest instruction is followed by its host's, indented. Most are copies; memory operands get
a check against a table of translated pages. What usually does not run (misses, exits) is marked 'cold'.
The hottest blocks of a machine, in the same form: vert run --debug hot-blocks ...)";

class ExplainCommand final : public Command {
 public:
  explicit ExplainCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("explain", "Show guest code beside its translation")) {
    app_.add_option("PROGRAM", program_, "An ELF program for x86-64 or i386")->type_name("");
    app_.add_option("WHERE", where_,
                    "A function, ADDRESS or ADDRESS-ADDRESS (default: main, else the entry point)")
        ->type_name("");
    app_.add_option("--bytes", bytes_, "Instructions as hexadecimal bytes, instead of a program")
        ->type_name("BYTES");
    app_.add_option("--address", address_, "Where --bytes lie (default 0x401000)")->type_name("ADDRESS");
    app_.add_option("--mode", mode_, "user, kernel or user32 (default: user, or user32 for i386 programs)")
        ->type_name("MODE");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    if (program_.empty() == bytes_.empty())
      return make_error("give either a program or --bytes (see 'vert explain --help')");
    VERT_ASSIGN(const std::string text, bytes_.empty() ? explain_program() : explain_bytes());
    print_out(text);
    return kExitOk;
  }

 private:
  static constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

  Result<std::string> explain_bytes() const {
    VERT_ASSIGN(const std::vector<u8> bytes, parse_hex_bytes(bytes_));
    VERT_ASSIGN(const u64 address, parse_address(address_.empty() ? "0x401000" : address_));
    VERT_ASSIGN(const machine::CodeKind kind, parse_code_kind(mode_.empty() ? "user" : mode_));
    return machine::list_code(bytes, address, kind, kNoLimit);
  }

  Result<std::string> explain_program() const {
    if (!address_.empty()) return make_error("--address is for --bytes; a program's addresses are its own");
    VERT_ASSIGN(const ProgramFile program, ProgramFile::read(program_));
    VERT_ASSIGN(const machine::CodeKind kind, parse_code_kind(!mode_.empty()       ? mode_
                                                              : program.is_64bit() ? "user"
                                                                                   : "user32"));
    VERT_ASSIGN(const ExplainedRange range, choose_code(program, program_, where_));
    std::span<const u8> bytes = program.bytes_at(range.address);
    if (bytes.empty()) return make_error("{} has nothing at {:#x}", program_, range.address);
    if (range.size != 0) bytes = bytes.first(std::min<u64>(range.size, bytes.size()));
    return machine::list_code(bytes, range.address, kind, range.size != 0 ? kNoLimit : 1);
  }

  CLI::App& app_;
  std::string program_;
  std::string where_;
  std::string bytes_;
  std::string address_;
  std::string mode_;
};

}  // namespace

std::unique_ptr<Command> make_explain_command(CLI::App& parent) {
  return std::make_unique<ExplainCommand>(parent);
}

}  // namespace vert::cli
