/* Holds the namespaces of a Pod: waits for a signal, and reaps what is left to it. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void on(int signal) {
  if (signal == SIGCHLD)
    while (waitpid(-1, 0, WNOHANG) > 0)
      ;
  else
    _exit(0);
}

int main(void) {
  signal(SIGINT, on);
  signal(SIGTERM, on);
  signal(SIGCHLD, on);
  for (;;)
    pause();
}
