/* user_loop: an ordinary user's loop of calls that never return, each with its return address thrown away. */
#include <unistd.h>

int main(void) {
  if (setgid(1000) != 0 || setuid(1000) != 0) return 1;
  __asm__ volatile("1: pushfq\n lea 16(%rsp), %rsp\n call 1b");
}
