// `vert explain`: shows guest code with its translation, from a program or a running VM.
#include <limits>
#include <string>

#include "cli/commands.hpp"
#include "cli/explain_plan.hpp"
#include "cli/explain_vm.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  The entry point of a program, or a function by name:
    vert explain /usr/bin/env
    vert explain ./qsort compare
  A range of addresses, or the single block at an address:
    vert explain ./qsort 0x401126-0x401150
    vert explain ./qsort 0x401126
  Instructions as bytes (push rbp; mov rbp, rsp; pop rbp; ret):
    vert explain --bytes '55 48 89 e5 5d c3'
  The same, as kernel code at another address:
    vert explain --bytes '55 48 89 e5 5d c3' --mode kernel --address 0xffffffff81000000
  Sample a running VM for three seconds (--seconds), then list its hottest blocks:
    vert explain --vm web --hottest 5
  Code in a running VM's memory, as one of its vCPUs sees it:
    vert explain --vm web --range 0xffffffff81000000..0xffffffff81000040

Each guest instruction is followed by its host instructions, indented. Most are plain copies; memory operands are
looked up in the soft TLB first. Code that rarely runs (misses, exits) is marked 'cold'.
To profile a VM over its whole life, use 'vert run --debug hot-blocks ...'.)";

class ExplainCommand final : public Command {
 public:
  explicit ExplainCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("explain", "Show guest code with its translation")) {
    app_.add_option("PROGRAM", program_, "ELF program for x86-64 or i386")->type_name("");
    app_.add_option("WHERE", where_,
                    "Function, ADDRESS or ADDRESS-ADDRESS (default: main, else the entry point)")
        ->type_name("");
    app_.add_option("--bytes", bytes_, "Instructions as hexadecimal bytes, instead of a program")
        ->type_name("BYTES");
    app_.add_option("--address", address_, "Address of --bytes (default 0x401000)")->type_name("ADDRESS");
    app_.add_option("--mode", mode_,
                    "Translate as user, kernel or user32 code (default: user, or user32 for i386 programs)")
        ->type_name("MODE");
    vm_option_ = app_.add_option("--vm", vm_.name, "Running VM (the name is optional if there is only one)")
                     ->type_name("[NAME]")
                     ->expected(0, 1);
    app_.add_option("--hottest", vm_.hottest, "With --vm: number of hot blocks to show (default 10)")
        ->type_name("K");
    app_.add_option("--seconds", vm_.seconds, "With --vm: seconds to sample (default 3)")->type_name("S");
    app_.add_option("--range", vm_.range, "With --vm: code from address A to B, or the block at A")
        ->type_name("A..B");
    app_.add_option("--vcpu", vm_.vcpu, "With --range: the vCPU whose address space to use (default 0)")
        ->type_name("N");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    const bool of_vm = vm_option_->count() != 0;
    if (!of_vm && !(vm_.hottest + vm_.seconds + vm_.range + vm_.vcpu).empty())
      return make_error("--hottest, --seconds, --range and --vcpu need --vm");
    if ((program_.empty() ? 0 : 1) + (bytes_.empty() ? 0 : 1) + (of_vm ? 1 : 0) != 1)
      return make_error("name a program, or use --bytes or --vm (see 'vert explain --help')");
    if (of_vm) return explain_running();
    VERT_ASSIGN(const std::string text, bytes_.empty() ? explain_program() : explain_bytes());
    print_out(text);
    return kExitOk;
  }

 private:
  static constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

  Result<int> explain_running() {
    vm_.mode = mode_;
    VERT_ASSIGN(const std::string text, explain_vm(vm_));
    print_out(text);
    return kExitOk;
  }

  Result<std::string> explain_bytes() const {
    VERT_ASSIGN(const std::vector<u8> bytes, parse_hex_bytes(bytes_));
    VERT_ASSIGN(const u64 address, parse_address(address_.empty() ? "0x401000" : address_));
    VERT_ASSIGN(const machine::CodeKind kind, parse_code_kind(mode_.empty() ? "user" : mode_));
    return machine::list_code(bytes, address, kind, kNoLimit);
  }

  Result<std::string> explain_program() const {
    if (!address_.empty()) return make_error("--address needs --bytes; a program has its own addresses");
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
  CLI::Option* vm_option_ = nullptr;
  ExplainVmRequest vm_;
};

}  // namespace

std::unique_ptr<Command> make_explain_command(CLI::App& parent) {
  return std::make_unique<ExplainCommand>(parent);
}

}  // namespace vert::cli
