// Every constant of QEMU's migration stream that tram writes or reads, under QEMU's own name; see FORMAT.md.

export const QEMU_VM_FILE_MAGIC = 0x5145564d; // "QEVM"
export const QEMU_VM_FILE_VERSION = 3;
export const QEMU_VM_FILE_VERSION_COMPAT = 2;

export const QEMU_VM_EOF = 0x00;
export const QEMU_VM_SECTION_START = 0x01;
export const QEMU_VM_SECTION_PART = 0x02;
export const QEMU_VM_SECTION_END = 0x03;
export const QEMU_VM_SECTION_FULL = 0x04;
export const QEMU_VM_SUBSECTION = 0x05;
export const QEMU_VM_VMDESCRIPTION = 0x06;
export const QEMU_VM_CONFIGURATION = 0x07;
export const QEMU_VM_COMMAND = 0x08;
export const QEMU_VM_SECTION_FOOTER = 0x7e;

export const MIG_CMD_OPEN_RETURN_PATH = 1;
export const MIG_CMD_PING = 2;
export const MIG_CMD_SWITCHOVER_START = 11;

export const MIG_RP_MSG_SHUT = 1;
export const MIG_RP_MSG_PONG = 2;
/** Between two trams only, and only after the source's first PING had TRAM_PING_HELLO. */
export const TRAM_RP_MSG_HELLO = 0x7400;
export const TRAM_RP_MSG_REFUSE = 0x7401;

export const TRAM_PING_HELLO = 0x74720001;
export const TRAM_PING_READY = 0x74720002;

export const RAM_SAVE_FLAG_ZERO = 0x002;
export const RAM_SAVE_FLAG_MEM_SIZE = 0x004;
export const RAM_SAVE_FLAG_PAGE = 0x008;
export const RAM_SAVE_FLAG_EOS = 0x010;
export const RAM_SAVE_FLAG_CONTINUE = 0x020;

export const RAM_SECTION_NAME = "ram";
export const RAM_SECTION_VERSION = 4;
export const TARGET_PAGE_BYTES = 4096;

/** Limits on what a peer may make us hold. */
export const IDSTR_BYTES_MAX = 255;
export const RP_MESSAGE_BYTES_MAX = 65535;
export const VMDESC_BYTES_MAX = 16 << 20;
export const RAM_BLOCKS_MAX = 1024;
export const MACHINE_NAME_BYTES_MAX = 256;
