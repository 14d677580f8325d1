/* disk_log DEVICE FIRST: steps of disk_log.h from FIRST on, without end; prints `flushed NUMBER` after each
 * flush. */
#include "disk_log.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int carry_out(int disk, uint32_t number, struct disk_log_step step) {
  static uint32_t block[DISK_LOG_BLOCK / sizeof(uint32_t)];
  const uint64_t offset = step.block * DISK_LOG_DISTANCE;
  uint64_t range[2] = {offset, DISK_LOG_BLOCK};
  if (step.action == DISK_LOG_ZERO) return ioctl(disk, BLKZEROOUT, range);
  if (step.action == DISK_LOG_DISCARD) return ioctl(disk, BLKDISCARD, range);
  for (unsigned i = 0; i < DISK_LOG_BLOCK / sizeof(uint32_t); ++i) block[i] = number;
  return pwrite(disk, block, sizeof block, (off_t)offset) == sizeof block ? 0 : -1;
}

int main(int argc, char** argv) {
  const int disk = argc == 3 ? open(argv[1], O_RDWR) : -1;
  if (disk < 0) return 1;
  for (uint32_t number = (uint32_t)strtoul(argv[2], NULL, 10);; ++number) {
    const struct disk_log_step step = disk_log_step_of(number);
    if (carry_out(disk, number, step) != 0) break;
    if (!step.flush) continue;
    if (fsync(disk) != 0) break;
    printf("flushed %u\n", number);
    fflush(stdout);
  }
  perror("disk_log failed");
  return 1;
}
