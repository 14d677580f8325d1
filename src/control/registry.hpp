// The machines of this user, by name: a folder for each, in ${XDG_RUNTIME_DIR}/vert or /tmp/vert-UID, with
//
//   lock      held with flock while its vert lives; the pid is in it
//   api.sock  the control interface
//   log       what a machine in the background had to say
//
// The kernel gives the lock back however vert ends, so a folder whose lock is free is a leftover: whoever
// comes upon it removes it. Nothing here is shared between threads.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vert::control {

inline constexpr std::size_t kLongestName = 32;

/// Letters, digits, '-', '_' and '.', not first '-' or '.', at most kLongestName.
[[nodiscard]] Status check_name(std::string_view name);

/// The folder of a machine of this process. Removed when it goes.
class StateFolder {
 public:
  /// Makes it and takes the lock. An empty name: the first of vm1, vm2, ... that is free. Error: the name is
  /// none or taken, or the host gives no folder that is ours alone.
  [[nodiscard]] static Result<StateFolder> claim(const std::string& name);
  StateFolder(StateFolder&& other) noexcept = default;
  StateFolder& operator=(StateFolder&&) = delete;
  StateFolder(const StateFolder&) = delete;
  ~StateFolder();

  [[nodiscard]] const std::string& name() const { return name_; }
  /// A socket that listens at api.sock.
  [[nodiscard]] Result<base::Fd> listen() const;
  /// The file `log`, open for appending.
  [[nodiscard]] Result<base::Fd> open_log() const;

 private:
  StateFolder(std::string name, base::Fd parent, base::Fd folder, base::Fd lock)
      : name_(std::move(name)),
        parent_(std::move(parent)),
        folder_(std::move(folder)),
        lock_(std::move(lock)) {}
  friend class Registry;

  std::string name_;
  base::Fd parent_;
  base::Fd folder_;
  base::Fd lock_;
};

/// A machine that lives, maybe in another process.
struct LivingMachine {
  std::string name;
  pid_t pid = 0;  // 0: not known yet
  base::Fd folder;

  /// Where its control interface is to be reached while `folder` is open: short enough for any socket.
  [[nodiscard]] std::string socket_path() const;
};

/// All that live, by name; the leftovers of those that do not are removed.
[[nodiscard]] Result<std::vector<LivingMachine>> living_machines();

/// Which of `names` is meant: that name, else the one that begins so; an empty word means the only one there
/// is. The error names those that there are.
[[nodiscard]] Result<std::size_t> choose_machine(const std::vector<std::string>& names,
                                                 std::string_view word);

/// Kills that machine's process if it lives, and waits for its end; then nothing is left of it.
[[nodiscard]] Status kill_machine(const LivingMachine& machine);
/// Whether its vert still holds the lock.
[[nodiscard]] bool lives(const LivingMachine& machine);

/// A socket file anywhere, for --api-socket; removed when this goes, unless another file is there by then.
class SocketFile {
 public:
  /// Takes the place of a socket that nobody listens at any more, but of nothing else.
  [[nodiscard]] static Result<SocketFile> listen(const std::string& path);
  SocketFile(SocketFile&& other) noexcept
      : path_(std::exchange(other.path_, {})), fd_(std::move(other.fd_)), file_(std::move(other.file_)) {}
  SocketFile& operator=(SocketFile&&) = delete;
  SocketFile(const SocketFile&) = delete;
  ~SocketFile();
  /// The listening socket, to be taken once.
  [[nodiscard]] base::Fd take() { return std::move(fd_); }

 private:
  SocketFile(std::string path, base::Fd fd, base::Fd file)
      : path_(std::move(path)), fd_(std::move(fd)), file_(std::move(file)) {}
  std::string path_;
  base::Fd fd_;
  base::Fd file_;  // keeps its inode's number from being used again
};

}  // namespace vert::control
