// KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst): how a guest learns the frequency of
// its TSC, and the host's time of day, without measuring against emulated timers. Called on the vCPU's
// thread.
#pragma once

#include "engine/interp/core.hpp"

namespace vert::interp {

/// MSR_KVM_SYSTEM_TIME_NEW was written: if it is enabled, puts this vCPU's clock into the guest's memory. An
/// address that is not RAM stays unwritten.
void write_kvm_clock(Core& core);

/// MSR_KVM_WALL_CLOCK_NEW was written: the time of day when KVM's clock was 0.
void write_kvm_wall_clock(Core& core);

}  // namespace vert::interp
