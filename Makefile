# tram: build, test, demo, bench. `make help` lists the targets.
# Needs Linux x86-64, make, a C compiler, and either npm or bun; everything else it fetches into node_modules/.

CC      ?= cc
BUN     := node_modules/.bin/bun
BIOME   := node_modules/.bin/biome
TSC     := node_modules/.bin/tsc
VERSION := $(shell sed -n 's/^  "version": "\(.*\)",/\1/p' package.json)
V       ?= 0
Q       := $(if $(filter 1,$(V)),,@)

CFLAGS  := -std=gnu11 -O2 -g -Wall -Wextra -Wshadow -Wpointer-arith -Wcast-qual -Wsign-compare -Wwrite-strings -Werror \
           -fvisibility=hidden -fPIC -MMD -MP
# Static, so that the executable needs nothing of its host but libc.
C_LIBS  := -Wl,--exclude-libs,ALL -l:libz.a -l:libzstd.a
C_SRC   := $(wildcard c/*.c)
C_OBJ   := $(C_SRC:c/%.c=build/c/%.o)
TS_SRC  := $(shell find src -name '*.ts' -o -name '*.css')
SCHEMA  := schema/tram-1.schema.json
WORKERS := $(shell find src -name '*-worker.ts')

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

.PHONY: build
build: build/tram ## the executable, build/tram

# --- set-up ---------------------------------------------------------------------------------------------------------

# One line for each thing that is missing, with the Debian package that has it.
need = command -v $(1) >/dev/null 2>&1 || { echo "tram: $(1) is missing: apt-get install $(2)" >&2; exit 1; }

build/.host:
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "tram: needs Linux on x86-64, found $$(uname -sm)" >&2; exit 1; }
	@$(call need,$(CC),gcc)
	@$(call need,ld,binutils)
	@$(call need,objcopy,binutils)
	@echo '#include <linux/kvm.h>' | $(CC) -E - >/dev/null 2>&1 || \
	  { echo "tram: the C headers are missing: apt-get install libc6-dev" >&2; exit 1; }
	@echo '#include <zlib.h>' | $(CC) -E - >/dev/null 2>&1 || \
	  { echo "tram: zlib's headers are missing: apt-get install zlib1g-dev" >&2; exit 1; }
	@echo '#include <zstd.h>' | $(CC) -E - >/dev/null 2>&1 || \
	  { echo "tram: zstd's headers are missing: apt-get install libzstd-dev" >&2; exit 1; }
	@echo '#include <xxhash.h>' | $(CC) -E - >/dev/null 2>&1 || \
	  { echo "tram: xxHash's headers are missing: apt-get install libxxhash-dev" >&2; exit 1; }
	@grep -qw avx2 /proc/cpuinfo || { echo "tram: Bun needs a CPU with AVX2" >&2; exit 1; }
	@mkdir -p build && touch $@

node_modules/.installed: package.json package-lock.json bun.lock | build/.host
	@if command -v npm >/dev/null 2>&1; then npm ci --no-audit --no-fund --loglevel=error; \
	 elif command -v bun >/dev/null 2>&1; then bun install --frozen-lockfile --silent; \
	 else echo "tram: neither npm nor bun is installed: apt-get install npm" >&2; exit 1; fi
	@$(BUN) --version >/dev/null 2>&1 || (cd node_modules/bun && node install.js)
	@touch $@

# --- C: one library, and the walker guest ------------------------------------------------------------------------------

build/c/%.o: c/%.c | build/.host
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

build/libtram.so: $(C_OBJ) c/tram.map
	$(Q)$(CC) -shared -Wl,-s -Wl,-soname,libtram.so -Wl,--version-script=c/tram.map -Wl,-z,defs -o $@ $(C_OBJ) $(C_LIBS)

# Freestanding, general registers only: some hosts run guests in KVM's instruction emulator, which has no SSE.
GUEST_CFLAGS := -std=gnu11 -O2 -Wall -Wextra -Wshadow -Werror -ffreestanding -nostdlib -fno-pic -fno-pie -no-pie \
                -mno-red-zone -mgeneral-regs-only -mno-sse -fno-stack-protector -fno-asynchronous-unwind-tables \
                -fno-jump-tables -mcmodel=small -fcf-protection=none
build/walker.elf: $(wildcard c/guest/*.c c/guest/*.h) c/guest/walker.ld | build/.host
	$(Q)$(CC) $(GUEST_CFLAGS) -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,c/guest/walker.ld -o $@ $(filter %.c,$^)

build/walker.bin: build/walker.elf
	$(Q)objcopy -O binary $< $@

# --- the executable ---------------------------------------------------------------------------------------------------

# Split, so that what one command alone imports (the charts of a report) is not loaded by all, and threads share what they have in common.
COMPILE := --compile --bytecode --splitting --format esm --root src --no-compile-autoload-bunfig --no-compile-autoload-dotenv \
           --define TRAM_VERSION='"$(VERSION)"' --define process.env.NODE_ENV='"production"'
build/tram: $(TS_SRC) $(SCHEMA) package.json build/libtram.so build/walker.bin node_modules/.installed
	$(Q)$(BUN) build $(COMPILE) --outfile $@.new src/main.ts $(WORKERS) >/dev/null
	$(Q)mv $@.new $@

# --- tests --------------------------------------------------------------------------------------------------------------

.PHONY: check
check: node_modules/.installed ## types and lint
	$(Q)$(TSC) -p .
	$(Q)$(BIOME) check --error-on-warnings .

.PHONY: fmt
fmt: node_modules/.installed ## formats and applies safe lint fixes
	$(Q)$(BIOME) check --write .

build/asan/c-test: $(C_SRC) $(wildcard test/c/*.c test/c/*.h c/*.h c/guest/*.h) | build/.host
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all -Ic \
	  -o $@ $(C_SRC) $(wildcard test/c/*.c) $(C_LIBS) -pthread

.PHONY: asan
asan: build/asan/c-test ## C tests under AddressSanitizer and UBSan
	$(Q)./build/asan/c-test

# The Linux guest that QEMU runs in tests, and what it runs.
build/test/init: test/support/guest/init.c | build/.host
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -Wall -Wextra -Wshadow -Werror -static -s -o $@ $<

# Beside busybox in guests with a shell.
build/test/vsock: test/support/guest/vsock.c | build/.host
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -Wall -Wextra -Wshadow -Werror -static -s -o $@ $<

build/test/initramfs.cpio: build/test/init test/support/guest/initramfs.ts node_modules/.installed
	$(Q)$(BUN) test/support/guest/initramfs.ts $< $@

.PHONY: peers
peers: ## fetches QEMU 10.0 and a kernel for tests, into ~/.cache/tram-test
	$(Q)test/support/fetch-peers.sh

.PHONY: test
test: check asan build/tram build/test/initramfs.cpio build/test/vsock ## everything: types, lint, C, unit, contract, KVM, compiled binary
	$(Q)$(BUN) test/run.ts

.PHONY: test-unit
test-unit: node_modules/.installed build/libtram.so build/walker.bin ## the fast part: no KVM
	$(Q)$(BUN) test --timeout 20000 test/unit

.PHONY: demo
demo: build/tram ## moves a busy guest twice and verifies every page
	$(Q)./build/tram demo

.PHONY: bench
bench: build/tram build/bench/bare build/bench/bare-file build/bench/bare-snapshot build/bench/bare-channels build/bench/guest-writer.cpio build/test/initramfs.cpio build/test/vsock ## measures against the bare limit and QEMU; writes test/bench/*.md
	$(Q)$(BUN) test/bench/run.ts
	$(Q)$(BUN) test/bench/files.ts
	$(Q)$(BUN) test/bench/snapshots.ts
	$(Q)$(BUN) test/bench/channels.ts
	$(Q)$(BUN) test/bench/hosts.ts
	$(Q)$(BUN) test/bench/converge.ts
	$(Q)$(BUN) test/bench/stalls.ts
	$(Q)$(BUN) test/bench/free.ts
	$(Q)$(BUN) test/bench/asking.ts
	$(Q)$(BUN) test/bench/linux.ts

.PHONY: bench-files
bench-files: build/tram build/bench/bare-file ## the part of bench that writes QEMU's guests into files, FILES.md
	$(Q)$(BUN) test/bench/files.ts

.PHONY: bench-snapshots
bench-snapshots: build/tram build/bench/bare-snapshot ## the part of bench that saves and restores, SNAPSHOTS.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/snapshots.ts

.PHONY: bench-channels
bench-channels: build/tram build/bench/bare-channels ## the part of bench that moves over several channels, CHANNELS.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/channels.ts

.PHONY: bench-hosts
bench-hosts: build/tram ## the part of bench that moves between two emulated hosts, HOSTS.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/hosts.ts

.PHONY: bench-stalls
bench-stalls: build/tram ## the part of bench that looks at what a guest sees of a move, STALLS.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/stalls.ts

.PHONY: bench-converge
bench-converge: build/tram build/bench/guest-writer.cpio build/test/initramfs.cpio ## the part of bench that moves guests which write fast, CONVERGE.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/converge.ts

.PHONY: bench-qmp
bench-qmp: build/tram ## the part of bench that asks a guest's QMP socket beside others, QMP.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/asking.ts

.PHONY: bench-free
bench-free: build/tram ## the part of bench that moves guests with free memory, FREE.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/free.ts

.PHONY: bench-linux
bench-linux: build/tram build/test/initramfs.cpio build/test/vsock ## the part of bench that boots and moves stock Linux guests, LINUX.md; BENCH_QUICK=1: a small one
	$(Q)$(BUN) test/bench/linux.ts

.PHONY: test-linux
test-linux: build/tram build/test/initramfs.cpio build/test/vsock ## the part of test with stock Linux guests, in emulated hosts
	$(Q)test/support/fetch-peers.sh
	$(Q)$(BUN) test --timeout 300000 test/kvm/linux.test.ts test/kvm/linux-disks.test.ts test/kvm/linux-devices.test.ts

build/bench/guest-writer: test/bench/guest-writer.c | build/.host
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -o $@ $<

build/bench/guest-writer.cpio: build/bench/guest-writer test/support/guest/initramfs.ts node_modules/.installed
	$(Q)$(BUN) test/support/guest/initramfs.ts $< $@

build/bench/%: test/bench/%.c | build/.host
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -pthread -o $@ $<

# The date of the page: of this build, or SOURCE_DATE_EPOCH.
build/tram.1: build/tram
	$(Q)./$< help --man > $@.new
	$(Q)mv $@.new $@

build/completion/%: build/tram
	@mkdir -p $(@D)
	$(Q)./$< completion $* > $@.new
	$(Q)mv $@.new $@

.PHONY: man
man: build/tram.1 ## the manual page, build/tram.1

PREFIX ?= /usr/local
SHARE  := $(DESTDIR)$(PREFIX)/share
.PHONY: install
install: build/tram build/tram.1 build/completion/bash build/completion/zsh build/completion/fish ## tram, its manual page and shell completions, into PREFIX (default /usr/local)
	$(Q)install -D -m 0755 build/tram $(DESTDIR)$(PREFIX)/bin/tram
	$(Q)install -D -m 0644 build/tram.1 $(SHARE)/man/man1/tram.1
	$(Q)install -D -m 0644 build/completion/bash $(SHARE)/bash-completion/completions/tram
	$(Q)install -D -m 0644 build/completion/zsh $(SHARE)/zsh/site-functions/_tram
	$(Q)install -D -m 0644 build/completion/fish $(SHARE)/fish/vendor_completions.d/tram.fish

.PHONY: clean
clean: ## removes build/ (node_modules/ stays)
	rm -rf build

-include $(C_OBJ:.o=.d)
