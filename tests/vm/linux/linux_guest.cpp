#include "vm/linux/linux_guest.hpp"

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>

#include "cli/initramfs.hpp"

namespace vert::vm_test {
namespace {

// Long enough for the slowest engine on a busy host; a guest that hangs is told from a slow one by hand.
constexpr std::chrono::seconds kBootLimit{600};
constexpr std::chrono::seconds kPowerOffLimit{60};

Result<std::string> make_initrd(const GuestConfig& config) {
  const bool is_64bit = config.user_space == UserSpace::k64Bit;
  const auto shell = is_64bit ? busybox() : busybox_i386();
  if (!shell) return make_error("no busybox (./dev fetch gets one)");
  cli::Initramfs archive;
  for (const char* folder : {"bin", "proc", "sys", "dev", "modules"}) archive.add_folder(folder);
  VERT_TRY(archive.add_host_file("bin/busybox", *shell, true));
  VERT_TRY(archive.add_host_file("init", VERT_GUEST_SOURCES "/shell_init.sh", true));
  for (const std::string program :
       {"atomics_futex", "busy_timer", "clock_ticks", "disk_log", "ping_pong", "timer_latency", "user_loop",
        "breakpoints", "control_bits", "fetch_faults", "x87_environment", "xsave_layout", "fast_calls32"}) {
    if (!is_64bit) break;
    VERT_TRY(archive.add_host_file("bin/" + program, VERT_GUEST_FOLDER "/" + program, true));
  }
  for (const std::string& module : config.modules) {
    const auto path = cached_module(config.kernel, module);
    if (!path)
      return make_error("no module {} of the kernel {} (./dev fetch gets it)", module, config.kernel);
    VERT_TRY(archive.add_host_file("modules/" + module + ".ko", *path, false));
  }
  std::string load;
  for (const std::string& module : config.load_modules ? config.modules : std::vector<std::string>())
    load += module + "\n";
  archive.add_text("modules/load", load);
  const std::vector<u8> bytes = std::move(archive).finish();

  std::string path = "/tmp/vert-test-initrd.XXXXXX";
  const base::Fd file(mkstemp(path.data()));
  if (!file.valid()) return make_system_error(errno, path);
  if (write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    unlink(path.c_str());
    return make_error("cannot write {}", path);
  }
  return path;
}

/// An ext4 file system with nothing but the two in /boot.
Result<std::string> make_disk(const std::string& kernel, const std::string& initrd) {
  std::string folder = "/tmp/vert-test-root.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return make_system_error(errno, folder);
  std::string path = initrd + ".disk";
  const std::string command = fmt::format(
      "mkdir {0}/boot {0}/etc && echo 'LABEL=root / ext4' >{0}/etc/fstab && cp '{1}' {0}/boot/vmlinuz-6.1 && "
      "cp '{2}' {0}/boot/initrd.img-6.1 && "
      "PATH=$PATH:/sbin:/usr/sbin mke2fs -q -t ext4 -d {0} '{3}' 256M >/dev/null 2>&1; rc=$?; rm -r {0}; "
      "exit $rc",
      folder, kernel, initrd, path);
  if (std::system(command.c_str()) == 0) return path;
  return make_error("no ext4 image could be made (mke2fs)");
}

}  // namespace

Result<std::unique_ptr<LinuxGuest>> LinuxGuest::start(const GuestConfig& config) {
  const auto kernel = cached_kernel(config.kernel);
  if (!kernel) return make_error("the kernel {} is not in the cache (./dev fetch gets it)", config.kernel);
  VERT_ASSIGN(std::string initrd, make_initrd(config));
  std::unique_ptr<LinuxGuest> guest(new LinuxGuest(std::move(initrd)));
  std::vector<std::string> words = {
      "run", "--cpus", std::to_string(config.cpus), "--engine", config.engine, "--memory", config.memory};
  if (config.from_disk) {
    VERT_ASSIGN(guest->disk_, make_disk(*kernel, guest->initrd_));
    words.push_back(guest->disk_);
  } else {
    words.insert(words.end(), {"--kernel", *kernel, "--initrd", guest->initrd_, "--append", config.append});
  }
  for (const std::string& device : config.devices) words.insert(words.end(), {"--device", device});
  for (const std::string& disk : config.disks) words.insert(words.end(), {"--disk", disk});
  words.insert(words.end(), config.options.begin(), config.options.end());
  guest->process_ = std::make_unique<VertProcess>(std::move(words), config.console);
  return guest;
}

LinuxGuest::~LinuxGuest() {
  unlink(initrd_.c_str());
  if (!disk_.empty()) unlink(disk_.c_str());
}

bool LinuxGuest::wait_for_shell() {
  return process_->expect("vert-guest ready", kBootLimit) && shell("stty -echo") != "TIMEOUT";
}

std::string LinuxGuest::shell(const std::string& command, std::chrono::seconds limit) {
  // The marks are typed in two parts, so that the terminal's echo of the command is not taken for them.
  const std::string number = std::to_string(++commands_);
  const std::size_t before = process_->output().size();
  process_->send("echo be''gin-" + number + "; " + command + "; echo e''nd-" + number + "\r");
  const std::string begin = "begin-" + number + "\n";
  if (!process_->expect(begin, limit) || !process_->expect("end-" + number + "\n", limit)) return "TIMEOUT";
  const std::string text = process_->output().substr(before);
  const auto from = text.find(begin) + begin.size();
  return text.substr(from, text.find("end-" + number + "\n", from) - from);
}

End LinuxGuest::power_off() {
  process_->send("poweroff -f\r");
  return process_->wait(kPowerOffLimit);
}

}  // namespace vert::vm_test
