#include "control/registry.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include <fmt/ranges.h>

namespace vert::control {

namespace {

constexpr const char* kLock = "lock";
constexpr const char* kSocket = "api.sock";
constexpr const char* kLog = "log";
constexpr mode_t kOursAlone = 0700;
constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr unsigned kMostNumbered = 10'000;

/// ${XDG_RUNTIME_DIR}/vert where that folder is there and ours, else /tmp/vert-UID.
std::string registry_path() {
  const char* const runtime = ::getenv("XDG_RUNTIME_DIR");
  struct stat info {};
  if (runtime != nullptr && runtime[0] == '/' && ::stat(runtime, &info) == 0 && S_ISDIR(info.st_mode) &&
      info.st_uid == ::geteuid() && ::access(runtime, W_OK) == 0)
    return std::string(runtime) + "/vert";
  return fmt::format("/tmp/vert-{}", ::geteuid());
}

/// The folder of all machines, made if need be. In /tmp anyone may have made it first.
Result<base::Fd> open_registry() {
  const std::string path = registry_path();
  if (::mkdir(path.c_str(), kOursAlone) != 0 && errno != EEXIST)
    return make_system_error(errno, fmt::format("cannot create {}", path));
  base::Fd folder(::open(path.c_str(), kFolderFlags));
  struct stat info {};
  if (!folder.valid() || ::fstat(folder.get(), &info) != 0)
    return make_system_error(errno, fmt::format("cannot use {}", path));
  if (info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
    return make_error(
        "{} must belong to you and be closed to others; remove it, or set XDG_RUNTIME_DIR to another "
        "directory",
        path);
  return folder;
}

/// Whether the lock is ours now; if not, somebody has it.
Result<bool> take_lock(const base::Fd& lock) {
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return true;
  if (errno == EWOULDBLOCK) return false;
  return make_system_error(errno, fmt::format("cannot lock a file in {}", registry_path()));
}

/// Whether the lock file in the folder of that name is still the one that is open.
bool is_current(const base::Fd& registry, const std::string& name, const base::Fd& lock) {
  struct stat opened {};
  struct stat named {};
  const std::string path = name + "/" + kLock;
  return ::fstat(lock.get(), &opened) == 0 &&
         ::fstatat(registry.get(), path.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

/// With the lock held. The lock's file goes last: without it, nobody knows the folder any more.
void remove_folder(const base::Fd& registry, const std::string& name, const base::Fd& folder) {
  ::unlinkat(folder.get(), kSocket, 0);
  ::unlinkat(folder.get(), kLog, 0);
  ::unlinkat(folder.get(), kLock, 0);
  ::unlinkat(registry.get(), name.c_str(), AT_REMOVEDIR);
}

pid_t read_pid(const base::Fd& lock) {
  std::array<char, 32> text{};
  const ssize_t size = ::pread(lock.get(), text.data(), text.size(), 0);
  pid_t pid = 0;
  if (size > 0) std::from_chars(text.data(), text.data() + size, pid);
  return pid > 0 ? pid : 0;
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return make_error("{}: too long for a socket path; the limit is {} characters", path,
                      sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Status bind_and_listen(const base::Fd& socket, const std::string& path) {
  constexpr int kBacklog = 64;
  constexpr mode_t kOwner = 0600;
  VERT_ASSIGN(const sockaddr_un address, address_of(path));
  // The file gets the mode that the socket has when it is bound.
  if (::fchmod(socket.get(), kOwner) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), kBacklog) != 0)
    return make_system_error(errno, fmt::format("cannot listen at {}", path));
  return {};
}

Result<base::Fd> make_socket() {
  base::Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return make_system_error(errno, "cannot create a socket");
  return socket;
}

/// A path through an open folder, which is short, however long the folder's own is; that one where /proc is
/// hidden.
std::string path_in(const base::Fd& folder, const std::string& machine, const char* name) {
  const std::string open_folder = fmt::format("/proc/self/fd/{}", folder.get());
  if (::access(open_folder.c_str(), F_OK) == 0) return open_folder + "/" + name;
  return registry_path() + "/" + machine + "/" + name;
}

struct Opened {
  base::Fd folder;
  base::Fd lock;
};

/// A folder of a machine with its lock's file, made if `make`; nothing if it is not there, or went meanwhile.
std::optional<Opened> open_machine(const base::Fd& registry, const std::string& name, bool make) {
  if (make) ::mkdirat(registry.get(), name.c_str(), kOursAlone);
  Opened opened;
  opened.folder = base::Fd(::openat(registry.get(), name.c_str(), kFolderFlags));
  if (!opened.folder.valid()) return std::nullopt;
  const int create = make ? O_CREAT : 0;
  opened.lock = base::Fd(
      ::openat(opened.folder.get(), kLock, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | create, 0600));
  if (!opened.lock.valid()) return std::nullopt;
  return opened;
}

/// Makes a name ours; nothing if it is taken. Whoever looks whether a leftover lives holds its lock for a
/// moment: with `wait`, that is not taken for a machine.
Result<std::optional<Opened>> try_claim(const base::Fd& registry, const std::string& name, bool wait) {
  constexpr int kTries = 100;  // each lost to somebody who cleared the folder away meanwhile
  constexpr timespec kMoment = {0, 2'000'000};
  int looks = wait ? 10 : 0;
  int error_number = EAGAIN;
  for (int i = 0; i < kTries; ++i) {
    auto opened = open_machine(registry, name, true);
    if (!opened) {
      error_number = errno;
      continue;
    }
    VERT_ASSIGN(const bool taken, take_lock(opened->lock));
    if (!taken) {
      if (looks-- == 0) return std::nullopt;
      ::nanosleep(&kMoment, nullptr);
      continue;
    }
    if (!is_current(registry, name, opened->lock)) continue;
    ::unlinkat(opened->folder.get(), kSocket, 0);
    ::unlinkat(opened->folder.get(), kLog, 0);
    const std::string pid = fmt::format("{}\n", ::getpid());
    if (::ftruncate(opened->lock.get(), 0) != 0 ||
        ::pwrite(opened->lock.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
      error_number = errno;
      remove_folder(registry, name, opened->folder);
      break;
    }
    return opened;
  }
  return make_system_error(error_number, fmt::format("cannot create the state directory of VM '{}'", name));
}

/// Names in the registry that a machine could have.
std::vector<std::string> names_in(const base::Fd& registry) {
  std::vector<std::string> names;
  const int copy = ::openat(registry.get(), ".", kFolderFlags);
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(copy < 0 ? nullptr : ::fdopendir(copy), &::closedir);
  if (!folder) return names;
  while (const dirent* entry = ::readdir(folder.get()))
    if (check_name(entry->d_name)) names.emplace_back(entry->d_name);
  std::ranges::sort(names);
  return names;
}

Result<std::optional<LivingMachine>> look_at(const base::Fd& registry, const std::string& name) {
  auto opened = open_machine(registry, name, false);
  if (!opened) {
    // Empty, if vert was killed while it made it; else it stays.
    ::unlinkat(registry.get(), name.c_str(), AT_REMOVEDIR);
    return std::nullopt;
  }
  VERT_ASSIGN(const bool taken, take_lock(opened->lock));
  if (!taken) return LivingMachine{name, read_pid(opened->lock), std::move(opened->folder)};
  if (is_current(registry, name, opened->lock)) remove_folder(registry, name, opened->folder);
  return std::nullopt;
}

}  // namespace

Status check_name(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  if (name.empty()) return make_error("a VM name cannot be empty");
  if (name.size() > kLongestName)
    return make_error("VM name '{}...' is too long; the limit is {} characters", name.substr(0, kLongestName),
                      kLongestName);
  if (!std::ranges::all_of(name, allowed) || name[0] == '.' || name[0] == '-')
    return make_error(
        "'{}' is not a valid VM name: use letters, digits, '-', '_' and '.', and do not start with '-' or "
        "'.'",
        name);
  return {};
}

Result<StateFolder> StateFolder::claim(const std::string& name) {
  if (!name.empty()) VERT_TRY(check_name(name));
  VERT_ASSIGN(base::Fd registry, open_registry());
  for (unsigned number = 1; number <= kMostNumbered; ++number) {
    const std::string tried = name.empty() ? fmt::format("vm{}", number) : name;
    VERT_ASSIGN(auto opened, try_claim(registry, tried, !name.empty()));
    if (opened)
      return StateFolder(tried, std::move(registry), std::move(opened->folder), std::move(opened->lock));
    if (!name.empty())
      return make_error("a VM named '{}' is already running; choose another name, or stop it first", name);
  }
  return make_error("all names from vm1 to vm{} are taken; choose one with --name", kMostNumbered);
}

StateFolder::~StateFolder() {
  if (lock_.valid() && is_current(parent_, name_, lock_)) remove_folder(parent_, name_, folder_);
}

Result<base::Fd> StateFolder::listen() const {
  VERT_ASSIGN(base::Fd socket, make_socket());
  VERT_TRY(bind_and_listen(socket, path_in(folder_, name_, kSocket)));
  return socket;
}

Result<base::Fd> StateFolder::open_log() const {
  base::Fd log(::openat(folder_.get(), kLog, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!log.valid()) return make_system_error(errno, "cannot create the VM's log");
  return log;
}

std::string LivingMachine::socket_path() const { return path_in(folder, name, kSocket); }

Result<std::vector<LivingMachine>> living_machines() {
  VERT_ASSIGN(const base::Fd registry, open_registry());
  std::vector<LivingMachine> machines;
  for (const std::string& name : names_in(registry)) {
    VERT_ASSIGN(auto machine, look_at(registry, name));
    if (machine) machines.push_back(std::move(*machine));
  }
  return machines;
}

Result<std::size_t> choose_machine(const std::vector<std::string>& names, std::string_view word) {
  if (names.empty() && word.empty())
    return make_error("no VM is running; start one with 'vert run --detach ...'");
  if (names.empty()) return make_error("no VM named '{}': none is running", word);
  if (const auto exact = std::ranges::find(names, word); exact != names.end())
    return static_cast<std::size_t>(exact - names.begin());
  std::vector<std::size_t> fitting;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i].starts_with(word)) fitting.push_back(i);
  if (fitting.size() == 1) return fitting[0];
  if (word.empty())
    return make_error("{} VMs are running; choose one of: {}", names.size(), fmt::join(names, ", "));
  if (fitting.empty()) return make_error("no VM named '{}'; running: {}", word, fmt::join(names, ", "));
  std::vector<std::string> meant;
  for (const std::size_t i : fitting) meant.push_back(names[i]);
  return make_error("'{}' is ambiguous; it matches: {}", word, fmt::join(meant, ", "));
}

bool lives(const LivingMachine& machine) {
  const base::Fd lock(::openat(machine.folder.get(), kLock, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  return lock.valid() && !take_lock(lock).value_or(false);
}

Status kill_machine(const LivingMachine& machine) {
  constexpr int kPatienceMs = 10'000;
  // The descriptor first, then a look whether the machine still lives: so it stands for no later process.
  const base::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, machine.pid, 0)));
  const int error_number = errno;
  if (!lives(machine)) return {};
  if (machine.pid == 0 || !process.valid())
    return make_system_error(error_number, fmt::format("cannot find the process of '{}'", machine.name));
  if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) != 0)
    return make_system_error(errno, fmt::format("cannot kill '{}' (process {})", machine.name, machine.pid));
  pollfd ended = {process.get(), POLLIN, 0};
  if (::poll(&ended, 1, kPatienceMs) != 1)
    return make_error("'{}' (process {}) was killed but has not ended: it is stuck in the host's kernel",
                      machine.name, machine.pid);
  static_cast<void>(living_machines());  // removes what it left
  return {};
}

Result<SocketFile> SocketFile::listen(const std::string& path) {
  VERT_ASSIGN(const sockaddr_un address, address_of(path));
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode))
      return make_error("{} exists and is not a socket; choose another path", path);
    VERT_ASSIGN(const base::Fd probe, make_socket());
    const bool alive =
        ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
        errno != ECONNREFUSED;
    if (alive) return make_error("{} is in use by another process; choose another path", path);
    ::unlink(path.c_str());
  }
  VERT_ASSIGN(base::Fd socket, make_socket());
  VERT_TRY(bind_and_listen(socket, path));
  base::Fd file(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return make_system_error(errno, fmt::format("cannot listen at {}", path));
  return SocketFile(path, std::move(socket), std::move(file));
}

SocketFile::~SocketFile() {
  if (path_.empty()) return;
  // Between the end of its listener and this, another vert may have taken the place of a dead socket.
  struct stat ours {};
  struct stat there {};
  if (::fstat(file_.get(), &ours) == 0 && ::lstat(path_.c_str(), &there) == 0 &&
      ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
    ::unlink(path_.c_str());
}

}  // namespace vert::control
