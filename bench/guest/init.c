/* Process 1 of the benchmark's guest: runs what /plan says, reports each run as a line, powers off.
 *
 * A line of /plan is `PROGRAM COUNT`, one run. Around each it prints, on the console,
 *   vert-bench begin PROGRAM COUNT
 *   vert-bench end PROGRAM SECONDS CHECKSUM      (or: vert-bench failed PROGRAM STATUS)
 * and at last `vert-bench done`, so that the host can also take the time by its own clock. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void report(const char* line) {
  if (write(STDOUT_FILENO, line, strlen(line)) < 0) reboot(RB_POWER_OFF);
}

/* Runs /PROGRAM COUNT; its standard output goes to `output` as a string. Returns its wait status. */
static int run_program(const char* program, const char* count, char* output, size_t size) {
  char path[64];
  int ends[2];
  snprintf(path, sizeof path, "/%s", program);
  output[0] = '\0';
  if (pipe(ends) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl(path, program, count, (char*)NULL);
    _exit(127);
  }
  close(ends[1]);
  size_t used = 0;
  ssize_t got = 0;
  while (used + 1 < size && (got = read(ends[0], output + used, size - 1 - used)) > 0) used += (size_t)got;
  output[used] = '\0';
  close(ends[0]);
  output[strcspn(output, "\n")] = '\0';
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return status;
}

static void measure(const char* program, const char* count) {
  char line[256];
  char result[64];
  snprintf(line, sizeof line, "vert-bench begin %s %s\n", program, count);
  report(line);
  const int status = run_program(program, count, result, sizeof result);
  if (status == 0) {
    snprintf(line, sizeof line, "vert-bench end %s %s\n", program, result);
  } else {
    snprintf(line, sizeof line, "vert-bench failed %s %d\n", program, status);
  }
  report(line);
}

int main(void) {
  /* The kernel opens /dev/console itself only if the initramfs has that node. */
  const int console = open("/dev/console", O_RDWR);
  if (console >= 0) {
    for (int fd = 0; fd <= 2; fd++) dup2(console, fd);
  }
  report("vert-bench boot\n");
  /* For filecopy, as bare metal has it. */
  mkdir("/dev/shm", 0755);
  if (mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) != 0) report("vert-bench: no tmpfs at /dev/shm\n");
  FILE* plan = fopen("/plan", "re");
  if (plan != NULL) {
    char program[32];
    char count[32];
    while (fscanf(plan, "%31s %31s", program, count) == 2) measure(program, count);
    fclose(plan);
  }
  report("vert-bench done\n");
  reboot(RB_POWER_OFF);
  return 1;
}
