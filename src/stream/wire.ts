// Every constant of QEMU's migration stream that tram writes or reads, under QEMU's own name; see FORMAT.md.

export const QEMU_VM_FILE_MAGIC = 0x5145564d; // "QEVM"
export const QEMU_VM_FILE_VERSION = 3;

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
export const MIG_CMD_POSTCOPY_ADVISE = 3;
export const MIG_CMD_POSTCOPY_RAM_DISCARD = 6;
export const MIG_CMD_PACKAGED = 7;
export const MIG_CMD_ENABLE_COLO = 8;
export const MIG_CMD_SWITCHOVER_START = 11;

export const MIG_RP_MSG_SHUT = 1;
export const MIG_RP_MSG_PONG = 2;
/** Between two trams only, and only after the source's first PING had TRAM_PING_HELLO. */
export const TRAM_RP_MSG_HELLO = 0x7400;
export const TRAM_RP_MSG_REFUSE = 0x7401;
export const TRAM_RP_MSG_ROOT = 0x7402;
export const TRAM_RP_MSG_HASHES = 0x7403;
export const TRAM_RP_MSG_STARTED = 0x7404;

export const TRAM_PING_HELLO = 0x74720001;
/** And the number of channels: the pages come over so many. */
export const TRAM_PING_CHANNELS = 0x74730000;
export const TRAM_PING_READY = 0x74720002;
/** What is the hash of all the pages' hashes; and what are these. Only to a target that has said that it verifies. */
export const TRAM_PING_ROOT = 0x74720003;
export const TRAM_PING_HASHES = 0x74720004;
/** Has the target made the machine? Before any page is sent to it. */
export const TRAM_PING_MACHINE = 0x74720005;

export const RAM_SAVE_FLAG_ZERO = 0x002;
export const RAM_SAVE_FLAG_MEM_SIZE = 0x004;
export const RAM_SAVE_FLAG_PAGE = 0x008;
export const RAM_SAVE_FLAG_EOS = 0x010;
export const RAM_SAVE_FLAG_CONTINUE = 0x020;
export const RAM_SAVE_FLAG_XBZRLE = 0x040;
export const RAM_SAVE_FLAG_COMPRESS_PAGE = 0x100;
export const RAM_SAVE_FLAG_MULTIFD_FLUSH = 0x200;

export const RAM_SECTION_NAME = "ram";
export const RAM_SECTION_VERSION = 4;
export const TARGET_PAGE_BYTES = 4096;

export const CAPABILITY_MAPPED_RAM = "mapped-ram";
export const CAPABILITY_IGNORE_SHARED = "x-ignore-shared";

export const MAPPED_RAM_HDR_VERSION = 1;
/** Where a block's page area begins is a multiple of this. */
export const MAPPED_RAM_FILE_OFFSET_ALIGNMENT = 0x100000;

export const MULTIFD_MAGIC = 0x11223344;
export const MULTIFD_VERSION = 1;
export const MULTIFD_FLAG_SYNC = 0x01;
export const MULTIFD_FLAG_COMPRESSION_MASK = 0x3e;
export const MULTIFD_FLAG_ZLIB = 0x02;
export const MULTIFD_FLAG_ZSTD = 0x04;
export const MULTIFD_FLAG_DEVICE_STATE = 0x40;
export const MULTIFD_PACKET_PAGES_MAX = 128;
export const MULTIFD_CHANNELS_MAX = 255;

/** Limits on what a peer may make us hold. */
export const RP_MESSAGE_BYTES_MAX = 65535;
export const VMDESC_BYTES_MAX = 16 << 20;
export const RAM_BLOCKS_MAX = 1024;
/** Page numbers have 32 bits. */
export const RAM_BYTES_MAX = 2 ** 44;
export const MACHINE_NAME_BYTES_MAX = 256;
export const CAPABILITIES_MAX = 64;
/** The device state behind a stream's RAM: usually far below 1 MiB, a few with large device memory. */
export const TAIL_BYTES_MAX = 64 << 20;
