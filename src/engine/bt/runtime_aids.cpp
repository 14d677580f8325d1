// What a translator does besides for those who work on it: names for perf, samples, counters.
#include "engine/bt/runtime.hpp"

namespace vert::bt {

Status Runtime::start_aids() {
  if (vcpu_.aids.perf_map) {
    VERT_ASSIGN(perf_map_, PerfMap::open());
    const std::vector<NamedThunk> thunks = named_thunks(thunks_);
    for (std::size_t i = 0; i < thunks.size(); ++i) {
      const u32 end = i + 1 < thunks.size() ? thunks[i + 1].offset : first_code_;
      perf_map_->add(cache_.code(thunks[i].offset), end - thunks[i].offset,
                     fmt::format("vert-thunk:{}", thunks[i].name));
    }
  }
  if (vcpu_.aids.samples) sampler_ = std::make_unique<Sampler>(cache_, thunks_, first_code_, *vcpu_.model);
  return {};
}

/// `block` was just made from `plan_`.
void Runtime::tell_aids(const Block& block, const Emitter::Placed& placed) {
  if (perf_map_) {
    const std::string name = block_name(block.rip, block.mode);
    perf_map_->add(cache_.code(placed.hot), placed.hot_end - placed.hot, name);
    perf_map_->add(cache_.code(placed.cold), placed.cold_end - placed.cold, name);
  }
  if (sampler_) sampler_->block_made(block, placed, plan_);
}

/// If samples are taken since the engine was made, it stays so.
void Runtime::start_sampling() {
  if (sampler_) return;
  sampler_ = std::make_unique<Sampler>(cache_, thunks_, first_code_, *vcpu_.model);
  // What was translated before is not known to it.
  forget_all_code();
}

void Runtime::stop_sampling() {
  if (!vcpu_.aids.samples) sampler_.reset();
}

cpu::SampleReport Runtime::samples(std::size_t hottest) const {
  return sampler_ ? sampler_->report(hottest) : cpu::SampleReport{};
}

}  // namespace vert::bt
