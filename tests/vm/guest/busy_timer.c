/* busy_timer ROUNDS: processes in endless loops, each ended by a timer's signal after 50 ms. Prints how late
   the latest of them ended. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int kMilliseconds = 50;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void leave(int signal) {
  (void)signal;
  _exit(0);
}

static void spin(int round) {
  const struct itimerval alarm_at = {.it_value = {.tv_usec = kMilliseconds * 1000}};
  signal(SIGALRM, leave);
  setitimer(ITIMER_REAL, &alarm_at, NULL);
  if (round % 2 != 0)
    __asm__ volatile("nop; 1: nop; jmp 2f; 2: nop; jmp 1b");
  else
    __asm__ volatile("1: jmp 1b");
}

int main(int argc, char** argv) {
  const long rounds = argc == 2 ? strtol(argv[1], NULL, 10) : 20;
  double latest = 0;
  for (int round = 0; round < rounds; ++round) {
    const double begin = now();
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) spin(round);
    int status;
    waitpid(child, &status, 0);
    const double late = now() - begin - kMilliseconds * 1e-3;
    if (late > latest) latest = late;
  }
  printf("busy-timer latest %.0f ms\n", latest * 1e3);
  return 0;
}
