#include "engine/bt/translator.hpp"

#include <sys/auxv.h>

#include "engine/bt/runtime.hpp"

namespace vert::bt {

struct Translator::Impl {
  std::unique_ptr<Runtime> runtime;
};

Translator::Translator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Translator::~Translator() = default;

Status Translator::usable() {
  constexpr unsigned long kFsGsBase = 1UL << 1;  // HWCAP2_FSGSBASE
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("bmi2")) return make_error("engine bt needs a host with BMI2 (2013 and later)");
  if ((getauxval(AT_HWCAP2) & kFsGsBase) == 0)
    return make_error("engine bt needs a host kernel that lets programs set GS (Linux 5.9 and later)");
  return {};
}

Result<std::unique_ptr<Translator>> Translator::create(const cpu::VcpuContext& context,
                                                       std::unique_ptr<cpu::FallbackEngine> fallback) {
  VERT_TRY(usable());
  auto impl = std::make_unique<Impl>();
  VERT_ASSIGN(impl->runtime, Runtime::create(context, std::move(fallback)));
  return std::unique_ptr<Translator>(new Translator(std::move(impl)));
}

cpu::ExitInfo Translator::run(cpu::CpuState& state, u64 budget) { return impl_->runtime->run(state, budget); }
void Translator::state_changed() { impl_->runtime->state_changed(); }
std::vector<cpu::CounterGroup> Translator::counters() const { return impl_->runtime->counters(); }
bool Translator::start_sampling() {
  impl_->runtime->start_sampling();
  return true;
}
void Translator::stop_sampling() { impl_->runtime->stop_sampling(); }
cpu::SampleReport Translator::samples(std::size_t hottest) const { return impl_->runtime->samples(hottest); }

}  // namespace vert::bt
