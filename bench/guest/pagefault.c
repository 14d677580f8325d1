/* Fresh memory: maps 16 MiB, writes to each page of 4 KiB for the first time, unmaps it all. */
#include <sys/mman.h>

#include "measure.h"

enum { PAGE = 4096, PAGES = 4096 };

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 250000);
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long done = 0; done < count;) {
    volatile unsigned char* const memory =
        mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return failed("mmap");
    madvise((void*)memory, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE);
    for (size_t page = 0; page < PAGES && done < count; page++, done++) {
      memory[page * PAGE + page % PAGE] = (unsigned char)done;
      hash = hash_step(hash, memory[page * PAGE + page % PAGE] + memory[page * PAGE + (page + 1) % PAGE]);
    }
    if (munmap((void*)memory, (size_t)PAGES * PAGE) != 0) return failed("munmap");
  }
  return report(now_seconds() - begin, hash);
}
