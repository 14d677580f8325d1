// A Linux guest with a shell on its console, driven as a user would by typing.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {

enum class UserSpace { k64Bit, k32Bit };

struct GuestConfig {
  std::string kernel = "6.1-cloud";  // a name in the cache
  unsigned cpus = 1;
  std::string engine = "auto";
  std::string memory = "512M";
  std::string append = "console=ttyS0 quiet";
  UserSpace user_space = UserSpace::k64Bit;  // 32-bit: busybox alone
  std::vector<std::string> devices = {};     // for --device
  std::vector<std::string> disks = {};       // for --disk
  std::vector<std::string> modules = {};     // in /modules
  bool load_modules = false;                 // before the shell starts, in their order
  std::vector<std::string> options = {};     // more of vert's
  VertProcess::Console console = VertProcess::Console::kPipes;
  bool from_disk = false;  // kernel and initrd are in /boot of a disk, `append` is not used
};

class LinuxGuest {
 public:
  /// Starts the guest. An error says what this host lacks, which is a reason to skip.
  [[nodiscard]] static Result<std::unique_ptr<LinuxGuest>> start(const GuestConfig& config);
  ~LinuxGuest();
  LinuxGuest(const LinuxGuest&) = delete;
  LinuxGuest& operator=(const LinuxGuest&) = delete;

  /// Waits for the shell's prompt; false if it does not come.
  [[nodiscard]] bool wait_for_shell();
  /// Types a command, waits for its end, and returns what it printed; "TIMEOUT" if it does not end.
  [[nodiscard]] std::string shell(const std::string& command,
                                  std::chrono::seconds limit = std::chrono::seconds(60));
  /// Types `poweroff -f` and waits for vert to end.
  [[nodiscard]] End power_off();
  [[nodiscard]] VertProcess& process() { return *process_; }

 private:
  explicit LinuxGuest(std::string initrd) : initrd_(std::move(initrd)) {}

  std::string initrd_;  // files of our own, removed at the end
  std::string disk_;
  std::unique_ptr<VertProcess> process_;
  unsigned commands_ = 0;
};

}  // namespace vert::vm_test
