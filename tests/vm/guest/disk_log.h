/* What disk_log does to its disk, for it and for the test that judges what is left of it. */
#ifndef DISK_LOG_H
#define DISK_LOG_H

#include <stdint.h>

#define DISK_LOG_BLOCK 4096
#define DISK_LOG_BLOCKS 1024
/* Blocks lie apart, so that a qcow2 image has to give each its own cluster. */
#define DISK_LOG_DISTANCE 65536

enum disk_log_action { DISK_LOG_WRITE, DISK_LOG_ZERO, DISK_LOG_DISCARD };

struct disk_log_step {
  uint64_t block;
  enum disk_log_action action;
  int flush; /* after it */
};

/* Step `number`, which writes its number all over the block. */
static inline struct disk_log_step disk_log_step_of(uint32_t number) {
  uint64_t mixed = (number + 1) * UINT64_C(0x9E3779B97F4A7C15);
  mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94D049BB133111EB);
  mixed ^= mixed >> 31;
  struct disk_log_step step;
  step.block = mixed % DISK_LOG_BLOCKS;
  const uint64_t kind = (mixed >> 32) % 8;
  step.action = kind == 0 ? DISK_LOG_ZERO : kind == 1 ? DISK_LOG_DISCARD : DISK_LOG_WRITE;
  step.flush = (mixed >> 40) % 16 == 0;
  return step;
}

#endif
