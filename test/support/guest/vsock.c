// vsock listen PORT PROGRAM [ARGUMENT...]: runs the program for each connection from the host, which is its input and output.
// vsock serve PATH PROGRAM [ARGUMENT...]: the same on a unix socket, for the host.
// vsock connect PORT: standard input and output are a connection to a port of the host's.
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static void copy(int from, int to, int *from_slot) {
  static char buffer[65536];
  ssize_t n = read(from, buffer, sizeof buffer);
  if (n <= 0) {
    shutdown(to, SHUT_WR);
    *from_slot = -1;
  }
  for (ssize_t done = 0, wrote; n > 0 && done < n; done += wrote)
    if ((wrote = write(to, buffer + done, n - done)) <= 0) exit(1);
}

static void serve(int fd, char **program) {
  for (;;) {
    int one = accept(fd, NULL, NULL);
    if (one < 0) continue;
    if (fork() == 0) {
      dup2(one, 0);
      dup2(one, 1);
      close(one);
      execvp(program[0], program);
      _exit(127);
    }
    close(one);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = strtoul(argv[2], NULL, 0)};
  if (!strcmp(argv[1], "serve") && argc > 3) {
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    int local = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(path.sun_path, argv[2], sizeof path.sun_path - 1);
    if (bind(local, (struct sockaddr *)&path, sizeof path) < 0 || listen(local, 64) < 0) return perror("serve"), 1;
    signal(SIGCHLD, SIG_IGN);
    serve(local, argv + 3);
  }
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  signal(SIGCHLD, SIG_IGN);
  if (fd < 0) return perror("socket"), 1;
  if (!strcmp(argv[1], "listen") && argc > 3) {
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 64) < 0) return perror("listen"), 1;
    serve(fd, argv + 3);
  }
  address.svm_cid = VMADDR_CID_HOST;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return perror("connect"), 1;
  struct pollfd ends[2] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
  while (ends[1].fd >= 0) {
    poll(ends, 2, -1);
    if (ends[0].revents) copy(0, fd, &ends[0].fd);
    if (ends[1].revents) copy(fd, 1, &ends[1].fd);
  }
  return 0;
}
