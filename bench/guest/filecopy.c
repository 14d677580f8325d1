/* Copying files in tmpfs with read and write: each round 64 small ones and a large one, then removes the
 * copies. */
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "measure.h"

enum { SMALL_FILES = 64, FILES = SMALL_FILES + 1, LARGE_SIZE = 4 * 1024 * 1024, BUFFER = 64 * 1024 };

static char buffer[BUFFER];

static const char* name_of(const char* kind, int file) {
  static char name[32];
  snprintf(name, sizeof name, "%s%d", kind, file);
  return name;
}

static int write_all(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t done = write(fd, bytes, size);
    if (done <= 0) return -1;
    bytes += done;
    size -= (size_t)done;
  }
  return 0;
}

static int make_file(int file, uint64_t* random) {
  size_t left = file == SMALL_FILES ? LARGE_SIZE : 200 + next_random(random) % 16000;
  const int fd = open(name_of("original", file), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) return -1;
  while (left > 0) {
    const size_t part = left < BUFFER ? left : BUFFER;
    for (size_t i = 0; i < part; i++) buffer[i] = (char)(next_random(random) >> 56);
    if (write_all(fd, buffer, part) != 0) return -1;
    left -= part;
  }
  return close(fd);
}

static int copy_file(int file) {
  const int from = open(name_of("original", file), O_RDONLY);
  const int to = open(name_of("copy", file), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (from < 0 || to < 0) return -1;
  ssize_t part;
  while ((part = read(from, buffer, BUFFER)) > 0) {
    if (write_all(to, buffer, (size_t)part) != 0) return -1;
  }
  return part | close(from) | close(to);
}

static int remove_files(const char* kind) {
  for (int file = 0; file < FILES; file++) {
    if (unlink(name_of(kind, file)) != 0) return -1;
  }
  return 0;
}

static uint64_t hash_of_copies(void) {
  uint64_t hash = HASH_START;
  for (int file = 0; file < FILES; file++) {
    const int fd = open(name_of("copy", file), O_RDONLY);
    ssize_t part;
    while ((part = read(fd, buffer, BUFFER)) > 0) hash = hash_step(hash, hash_bytes(buffer, (size_t)part));
    close(fd);
  }
  return hash;
}

/* A folder of its own, in tmpfs, as the working directory. */
static int enter_folder(char* folder) {
  struct statfs info;
  if (mkdtemp(folder) == NULL || chdir(folder) != 0 || statfs(".", &info) != 0) return -1;
  errno = EMEDIUMTYPE;
  return info.f_type == TMPFS_MAGIC ? 0 : -1;
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 160);
  char folder[] = "/dev/shm/vert-bench-XXXXXX";
  uint64_t random = 1;
  if (enter_folder(folder) != 0) return failed("no tmpfs at /dev/shm");
  for (int file = 0; file < FILES; file++) {
    if (make_file(file, &random) != 0) return failed("make files");
  }
  const double begin = now_seconds();
  for (unsigned long round = 0; round < count; round++) {
    if (round > 0 && remove_files("copy") != 0) return failed("remove copies");
    for (int file = 0; file < FILES; file++) {
      if (copy_file(file) != 0) return failed("copy");
    }
  }
  const double seconds = now_seconds() - begin;
  const uint64_t hash = hash_of_copies();
  if (remove_files("copy") != 0 || remove_files("original") != 0 || rmdir(folder) != 0) {
    return failed("remove files");
  }
  return report(seconds, hash);
}
