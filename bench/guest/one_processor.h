/* Binds a process and its children to one processor, so that bare metal does what a guest with one does: what
 * wakes another process then costs a switch, not a message between processors. */
#ifndef VERT_BENCH_ONE_PROCESSOR_H
#define VERT_BENCH_ONE_PROCESSOR_H

#include <sched.h>

static inline int use_one_processor(void) {
  cpu_set_t set;
  const int processor = sched_getcpu();
  CPU_ZERO(&set);
  CPU_SET(processor < 0 ? 0 : processor, &set);
  return sched_setaffinity(0, sizeof set, &set);
}

#endif
