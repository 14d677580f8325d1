#include "diff/harness/native.hpp"

#include <linux/futex.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/fd.hpp"
#include "diff/harness/xsave_image.hpp"
#include "x86/exception.hpp"

// launch.S
extern "C" {
extern vert::u8 vert_diff_area[];
extern vert::u64 vert_diff_gpr[];
extern vert::u64 vert_diff_rip;
extern vert::u64 vert_diff_rflags;
extern vert::u64 vert_diff_fs;
extern vert::u64 vert_diff_gs;
void vert_diff_launch();
void vert_diff_handler(int signal, siginfo_t* info, void* context);
void vert_diff_capture(const ucontext_t* context);
[[noreturn]] void vert_diff_worker_died(int signal, siginfo_t* info, const ucontext_t* context);
}

namespace vert::diff {

namespace {

constexpr std::size_t kBatch = 32;
constexpr unsigned long kHwcapFsgsbase = 2;  // AT_HWCAP2 (Documentation/arch/x86/x86_64/fsgs.rst)
constexpr int kSignals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

/// What parent and worker share.
struct Channel {
  std::atomic<u32> submitted = 0;  // cases to run; 0 tells the parent that all are done
  std::atomic<u32> completed = 0;
  std::array<Input, kBatch> inputs;
  std::array<Output, kBatch> outputs;
};

void futex_wait(std::atomic<u32>& word, u32 expected, const timespec* timeout) {
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, timeout, nullptr, 0);
}

void futex_wake(std::atomic<u32>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

[[noreturn]] void die(const char* text) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
  _exit(1);
}

/// The worker: everything below runs in the child process only.
class Worker {
 public:
  explicit Worker(Channel& channel) : channel_(channel) { current = this; }

  [[noreturn]] void serve() {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    map_address_space();
    install_handlers();
    for (;;) {
      const u32 count = channel_.submitted.load(std::memory_order_acquire);
      if (count == 0) {
        futex_wait(channel_.submitted, 0, nullptr);
        continue;
      }
      for (u32 i = channel_.completed.load(std::memory_order_relaxed); i < count; ++i) {
        run(channel_.inputs[i], channel_.outputs[i]);
        channel_.completed.store(i + 1, std::memory_order_release);
      }
      channel_.submitted.store(0, std::memory_order_release);
      futex_wake(channel_.submitted);
    }
  }

  /// The state at the exception that ended the case.
  void capture(const ucontext_t& context) {
    Output& output = *output_;
    const auto& from = context.uc_mcontext.gregs;
    const auto reg = [&](int index) { return static_cast<u64>(from[index]); };
    constexpr std::array kOrder = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    output.ending = Ending::kException;
    output.vector = static_cast<u32>(reg(REG_TRAPNO));
    output.error_code = reg(REG_ERR);
    output.cr2 = output.vector == x86::kPF ? reg(REG_CR2) : 0;
    output.cs = reg(REG_CSGSFS) & 0xFFFF;
    for (std::size_t i = 0; i < kOrder.size(); ++i) output.registers.gpr[i] = reg(kOrder[i]);
    output.registers.rip = reg(REG_RIP);
    output.registers.rflags = reg(REG_EFL);
    output.registers.fs_base = vert_diff_fs;
    output.registers.gs_base = vert_diff_gs;
    output.registers.fpu = unpack(reinterpret_cast<const u8*>(context.uc_mcontext.fpregs));
  }

  static Worker* current;

 private:
  static void map(u64 address, u64 size, int protection) {
    // SAFETY: a fixed address that this fresh process does not use; the kernel refuses it otherwise.
    void* at = mmap(reinterpret_cast<void*>(address), size, protection,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != reinterpret_cast<void*>(address)) die("diff worker: its addresses are taken\n");
  }

  static u8* at(u64 address) { return reinterpret_cast<u8*>(address); }

  void map_address_space() {
    map(kReadOnlyBase, kPageSize, PROT_READ | PROT_WRITE);
    std::memcpy(at(kReadOnlyBase), read_only_page().data(), kPageSize);
    mprotect(at(kReadOnlyBase), kPageSize, PROT_READ);
    for (const u64 page : kWritablePages) map(page, kPageSize, PROT_READ | PROT_WRITE);
    // Code is executable at its own address only, and written through another.
    const int fd = memfd_create("code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, kCodeSize) != 0) die("diff worker: no memory for code\n");
    void* alias = mmap(nullptr, kCodeSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    void* code = mmap(at(kCodeBase), kCodeSize, PROT_READ | PROT_EXEC,
                      MAP_SHARED | MAP_POPULATE | MAP_FIXED_NOREPLACE, fd, 0);
    if (alias == MAP_FAILED || code != at(kCodeBase)) die("diff worker: no memory for code\n");
    code_ = static_cast<u8*>(alias);
  }

  static void install_handlers() {
    constexpr std::size_t kStackSize = std::size_t{256} << 10;
    stack_t stack{};
    stack.ss_sp = mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack.ss_size = kStackSize;
    struct sigaction action {};
    action.sa_sigaction = vert_diff_handler;
    // The handler leaves by a jump, not by sigreturn: nothing may stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, nullptr) != 0) die("diff worker: no signal stack\n");
    for (const int signal : kSignals) sigaction(signal, &action, nullptr);
  }

  void run(const Input& input, Output& output) {
    output_ = &output;
    std::memcpy(code_, input.code.data(), kCodeSize);
    for (std::size_t i = 0; i < kWritablePages.size(); ++i)
      std::memcpy(at(kWritablePages[i]), input.data[i].data(), kPageSize);
    pack(input.registers.fpu, image_);
    std::memcpy(vert_diff_area, image_.bytes.data(), image_.bytes.size());
    std::memcpy(vert_diff_gpr, input.registers.gpr.data(), sizeof input.registers.gpr);
    vert_diff_rip = input.registers.rip;
    vert_diff_rflags = input.registers.rflags;
    vert_diff_fs = input.registers.fs_base;
    vert_diff_gs = input.registers.gs_base;
    vert_diff_launch();
    for (std::size_t i = 0; i < kWritablePages.size(); ++i)
      std::memcpy(output.data[i].data(), at(kWritablePages[i]), kPageSize);
  }

  Channel& channel_;
  u8* code_ = nullptr;
  Output* output_ = nullptr;
  XsaveImage image_;
};

Worker* Worker::current = nullptr;

}  // namespace

struct NativeExecutor::Impl {
  base::Mapping mapping;
  Channel* channel = nullptr;
  pid_t worker = -1;
  u32 count = 0;

  void start() {
    worker = fork();
    VERT_CHECK(worker >= 0);
    if (worker == 0) Worker(*channel).serve();
  }

  void stop() {
    if (worker <= 0) return;
    kill(worker, SIGKILL);
    waitpid(worker, nullptr, 0);
    worker = -1;
  }

  /// The worker hangs in a case, or died of it: notes that, and goes on behind it.
  void skip_case(Ending ending) {
    stop();
    const u32 bad = channel->completed.load(std::memory_order_acquire);
    if (bad < count) {
      channel->outputs[bad].ending = ending;
      channel->completed.store(bad + 1, std::memory_order_release);
    }
    start();
  }

  void wait() {
    constexpr timespec kSlice = {1, 0};
    u32 last = channel->completed.load(std::memory_order_acquire);
    for (;;) {
      const u32 submitted = channel->submitted.load(std::memory_order_acquire);
      if (submitted == 0) return;
      futex_wait(channel->submitted, submitted, &kSlice);
      if (channel->submitted.load(std::memory_order_acquire) == 0) return;
      const u32 done = channel->completed.load(std::memory_order_acquire);
      if (waitpid(worker, nullptr, WNOHANG) == worker) {
        worker = -1;
        skip_case(Ending::kCrash);
      } else if (done == last) {
        skip_case(Ending::kTimeout);
      }
      last = channel->completed.load(std::memory_order_acquire);
    }
  }
};

Result<std::unique_ptr<NativeExecutor>> NativeExecutor::create() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return make_error("under a sanitizer the host's address space is full of shadow memory: build without");
#endif
  if ((getauxval(AT_HWCAP2) & kHwcapFsgsbase) == 0)
    return make_error(
        "the host cannot set segment bases in user mode (FSGSBASE): Linux 5.9 or newer is needed");
  const std::size_t size = (sizeof(Channel) + kPageSize - 1) & ~kPageOffsetMask;
  auto impl = std::make_unique<Impl>();
  VERT_ASSIGN(impl->mapping,
              base::Mapping::map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  impl->channel = new (impl->mapping.data()) Channel;
  impl->start();
  return std::unique_ptr<NativeExecutor>(new NativeExecutor(std::move(impl)));
}

NativeExecutor::NativeExecutor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NativeExecutor::~NativeExecutor() { impl_->stop(); }

std::size_t NativeExecutor::capacity() const { return kBatch; }
Input& NativeExecutor::input(std::size_t index) { return impl_->channel->inputs[index]; }
const Output& NativeExecutor::output(std::size_t index) const { return impl_->channel->outputs[index]; }

void NativeExecutor::submit(std::size_t count) {
  impl_->count = static_cast<u32>(count);
  impl_->channel->completed.store(0, std::memory_order_relaxed);
  impl_->channel->submitted.store(impl_->count, std::memory_order_release);
  futex_wake(impl_->channel->submitted);
}

void NativeExecutor::finish() { impl_->wait(); }

}  // namespace vert::diff

// SAFETY: both are called by vert_diff_handler in the worker only, on the signal stack, with the worker's own
// FS base; they touch the worker's static memory and the signal frame.
void vert_diff_capture(const ucontext_t* context) { vert::diff::Worker::current->capture(*context); }

void vert_diff_worker_died(int, siginfo_t*, const ucontext_t*) { vert::diff::die("diff worker: crashed\n"); }
