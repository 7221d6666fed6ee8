// Passes every packet that an interface receives on to the kernel, by an XDP program in the driver: xdp-pass INTERFACE. A veth
// interface with one takes pages into packets of its own, and so its peer's side of the kernel need not copy what was sent
// to it without a copy, as it does otherwise between two processes of one host. Says "attached", and lasts until its standard
// input ends.
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(enum bpf_cmd command, union bpf_attr *attributes) {
  return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static int load(void) {
  const struct bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
      {.code = BPF_JMP | BPF_EXIT},
  };
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_XDP;
  attributes.insns = (uintptr_t)program;
  attributes.insn_cnt = sizeof program / sizeof *program;
  attributes.license = (uintptr_t) "Apache-2.0";
  return bpf(BPF_PROG_LOAD, &attributes);
}

static int attach(int program, unsigned interface) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.link_create.prog_fd = (uint32_t)program;
  attributes.link_create.target_ifindex = interface;
  attributes.link_create.attach_type = BPF_XDP;
  attributes.link_create.flags = XDP_FLAGS_DRV_MODE;
  return bpf(BPF_LINK_CREATE, &attributes);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: xdp-pass INTERFACE\n");
    return 2;
  }
  unsigned interface = if_nametoindex(argv[1]);
  int program = interface ? load() : -1;
  if (program < 0 || attach(program, interface) < 0) { // the attachment goes with the process
    fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
    return 1;
  }
  puts("attached");
  fflush(stdout);
  for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
  }
  return 0;
}
